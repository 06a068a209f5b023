"""Commands in messages keep the options that were given: a message asks for one more, and not for one instead."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import AdabetError
from .bindings import told

_COMMAND = re.compile(r"(adabet-onnx import .+? -o \S+\.onnx)((?:(?![;)]|\.(?:\s|$)|, or ).)*)")


def given_options(
    logits: str | None, dims: Mapping[str, int] | None, bind: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """What a model is opened with, as options of ``adabet-onnx import``.

    Args:
        logits: name of a value, or None.
        dims: sizes by dimension.
        bind: values by input, as results note them.
    """
    chosen = [] if logits is None else [f"--logits {shlex.quote(logits)}"]
    sizes = [f"--dim {shlex.quote(f'{key}={size}')}" for key, size in (dims or {}).items()]
    values = [f"--input {shlex.quote(f'{key}={told(value)}')}" for key, value in (bind or {}).items()]
    return (*chosen, *sizes, *values)


def with_given(text: str, given: tuple[str, ...]) -> str:
    """A message in which ``adabet-onnx import`` has the given options, and those that the message asks for."""

    def complete(found: re.Match[str]) -> str:
        missing = [option for option in given if not _has(found[2], option)]
        return " ".join([found[1], *missing]) + found[2]

    return _COMMAND.sub(complete, text) if given else text


def _has(command: str, option: str) -> bool:
    """Whether a command gives an option: of --logits any, of the others that of the same name."""
    key = "--logits " if option.startswith("--logits ") else option.partition("=")[0] + "="
    return key in command


@contextlib.contextmanager
def commands_keep(given: tuple[str, ...]) -> Iterator[None]:
    """Let the commands in messages of errors that are raised inside keep the given options."""
    try:
        yield
    except AdabetError as error:
        error.args = tuple(with_given(part, given) if isinstance(part, str) else part for part in error.args)
        raise
