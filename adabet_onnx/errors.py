"""Every exception adabet-onnx raises on purpose.

    AdabetError                    catch this one to catch them all
    ├── UsageError                 the call itself is wrong: an option, a combination, a name
    ├── ModelError                 a model file cannot be read, or its graph cannot be handled
    ├── DataError                  data, labels or images do not fit
    ├── RecordError                scores, selection or manifest: damaged, or made for another model
    ├── RuntimeMissingError        an ONNX Runtime package is missing or two are in each other's way
    ├── TrainingError              training cannot go on (loss not finite, nothing to resume, ...)
    ├── CheckError                 a result failed its own check (outputs or gradients differ)
    └── OutputError                a file or folder cannot be written

Each message says what was wrong, where, what was expected and found, and what to do. The command line prints
the message and exits with ``exit_code``: 2 where the call is at fault, 1 otherwise.
"""

from __future__ import annotations


class AdabetError(Exception):
    """Base class of all errors that adabet-onnx raises on purpose."""

    exit_code = 1


class UsageError(AdabetError):
    """The call is wrong: an unknown name, an impossible combination, a value out of range."""

    exit_code = 2


class ModelError(AdabetError):
    """A model cannot be read or its graph cannot be handled."""


class DataError(AdabetError):
    """Data, labels or images do not fit the model or the task."""


class RecordError(AdabetError):
    """A scores, selection or manifest file is damaged, or belongs to another model."""


class RuntimeMissingError(AdabetError):
    """An ONNX Runtime package is missing, too old, or two of them overwrite each other."""


class TrainingError(AdabetError):
    """Training cannot start or go on."""


class CheckError(AdabetError):
    """A result did not pass its own check, so it is not handed out."""


class OutputError(AdabetError):
    """A file or folder cannot be written."""
