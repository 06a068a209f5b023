"""What was given to open a model, put into the commands that a message tells to run: they are run as they stand."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import AdabetError

_COMMAND = r"(adabet-onnx import {} -o \S+\.onnx)((?:(?![;)]|\.(?:\s|$)|, or ).)*)"


@contextlib.contextmanager
def repeated(
    name: str, logits: str | None, dims: Mapping[str, int] | None, bind: Mapping[str, Any] | None
) -> Iterator[None]:
    """Let `adabet-onnx import` in a message that is raised inside have the options that were given, too.

    Args:
        name: of the model, as commands have it.
        logits, dims, bind: as given to `open_model`; values of inputs that are arrays are left out.
    """
    try:
        yield
    except AdabetError as error:
        options = [f"--dim {key}={size}" for key, size in (dims or {}).items()]
        options += [f"--input {key}={shlex.quote(str(value))}" for key, value in (bind or {}).items() if _short(value)]
        options += [] if logits is None else [f"--logits {shlex.quote(logits)}"]
        error.args = (_with(str(error), name, options), *error.args[1:])
        raise


def _with(message: str, name: str, options: list[str]) -> str:
    """The message with options in its commands, each where the command does not have it."""

    def complete(match: re.Match[str]) -> str:
        missing = [option for option in options if not _has(match[2], option)]
        return " ".join([match[1], *missing]) + match[2]

    return re.sub(_COMMAND.format(re.escape(name)), complete, message)


def _has(command: str, option: str) -> bool:
    """Whether a command gives an option: of --logits any, of the others that of the same name."""
    key = "--logits " if option.startswith("--logits ") else option.partition("=")[0] + "="
    return key in command


def _short(value: Any) -> bool:
    return isinstance(value, str | int | float)
