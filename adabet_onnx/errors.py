"""All exceptions that adabet-onnx raises deliberately.

    AdabetError                    catch this one to catch them all
    ├── UsageError                 the call itself is wrong: an option, a combination, a name
    ├── ModelError                 a model file cannot be read, or its graph cannot be handled
    ├── DataError                  data, labels or images do not fit
    ├── RecordError                scores, selection or manifest: damaged, or made for another model
    ├── RuntimeMissingError        an ONNX Runtime package is missing, or two packages conflict
    ├── TrainingError              training cannot continue (loss not finite, nothing to resume, ...)
    ├── CheckError                 a result failed its own check (outputs or gradients differ)
    └── OutputError                a file or folder cannot be written

and one warning, `ProviderWarning`, for valid settings that are probably not intended.

Each message states the problem, where it is, what was expected and found, and what to do. The command line prints the
message and exits with ``exit_code``: 2 if the call is wrong, 1 otherwise.
"""

from __future__ import annotations


class AdabetError(Exception):
    """Base class of all errors that adabet-onnx raises deliberately.

    Example:
        >>> from adabet_onnx import AdabetError, open_model
        >>> try:
        ...     model = open_model("missing.onnx")
        ... except AdabetError as error:
        ...     print(error)
        missing.onnx does not exist or is not a file. Give the path of an .onnx file.
    """

    exit_code = 1


class UsageError(AdabetError):
    """The call is wrong: an unknown name, an impossible combination, a value out of range.

    Example:
        >>> from adabet_onnx import Choosing
        >>> Choosing(rho=2)
        Traceback (most recent call last):
        adabet_onnx.errors.UsageError: rho must be above 0 and at most 1 (a fraction of the layers), not 2.
    """

    exit_code = 2


class ModelError(AdabetError):
    """A model cannot be read or its graph cannot be handled.

    Example:
        >>> from adabet_onnx import open_model
        >>> open_model(b"")
        Traceback (most recent call last):
        adabet_onnx.errors.ModelError: <bytes> is empty (0 bytes). Export or copy the model again.
    """


class DataError(AdabetError):
    """Data, labels or images do not fit the model or the task.

    Example:
        >>> from adabet_onnx import score
        >>> score("model.onnx", [])
        Traceback (most recent call last):
        adabet_onnx.errors.DataError: the data gave no batches. ...
    """


class RecordError(AdabetError):
    """A scores, selection or manifest file is damaged, or belongs to another model.

    Example:
        >>> from adabet_onnx import load_scores
        >>> load_scores("model.onnx")
        Traceback (most recent call last):
        adabet_onnx.errors.RecordError: model.onnx is not JSON ...
    """


class RuntimeMissingError(AdabetError):
    """An ONNX Runtime package is missing, too old, or two of them overwrite each other; or another package is missing.

    Example:
        >>> from adabet_onnx import RuntimeMissingError, make_artifacts, select
        >>> chosen = select("model.onnx", strategy="head")
        >>> try:
        ...     manifest = make_artifacts("model.onnx", chosen, "artifacts", backend="ort")
        ... except RuntimeMissingError as error:
        ...     print(error)  # where onnxruntime-training is not installed
    """


class TrainingError(AdabetError):
    """Training cannot start or continue.

    Example:
        >>> from adabet_onnx import Choices, Trainer, make_artifacts, select
        >>> chosen, choices = select("model.onnx", strategy="all"), Choices(optimizer="sgd")
        >>> manifest = make_artifacts("model.onnx", chosen, "artifacts", choices=choices)
        >>> Trainer("artifacts").fit("new_domain.npz", learning_rate=1e30)
        Traceback (most recent call last):
        adabet_onnx.errors.TrainingError: the loss became nan in epoch 1. ...
    """


class CheckError(AdabetError):
    """A result failed its own check and is not returned.

    Example:
        >>> from adabet_onnx import CheckError, make_artifacts, select
        >>> try:
        ...     manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        ... except CheckError as error:
        ...     print(error)  # nothing was written; an earlier folder is still there
    """


class OutputError(AdabetError):
    """A file or folder cannot be written.

    Example:
        >>> from adabet_onnx import save_model
        >>> save_model("model.onnx", "no_such_folder/model.onnx")
        Traceback (most recent call last):
        adabet_onnx.errors.OutputError: cannot write no_such_folder/model.onnx: ...
    """


class ProviderWarning(UserWarning):
    """An execution provider runs only a small part of a model, and the CPU runs most of it.

    Example:
        >>> import warnings
        >>> from adabet_onnx import ProviderWarning, Runtime, predict
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", ProviderWarning)  # an error rather than a line on stderr
        ...     rows = predict("model.onnx", "new_domain.npz", threads=Runtime(provider="cpu"))
    """
