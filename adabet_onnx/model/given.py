"""Commands in messages keep the options that were given: a message asks for one more, and not for one instead."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import AdabetError
from .bindings import told

_IMPORT = re.compile(r"(adabet-onnx import .+? -o \S+\.onnx)(?= --)")


def given_options(logits: str | None, dims: Mapping[str, int] | None, bind: Mapping[str, Any] | None) -> str:
    """What a model is opened with, as options of ``adabet-onnx import``.

    Args:
        logits: name of a value, or None.
        dims: sizes by dimension.
        bind: values by input, as results note them.
    """
    words = [] if logits is None else ["--logits", logits]
    for key, size in (dims or {}).items():
        words += ["--dim", f"{key}={size}"]
    for key, value in (bind or {}).items():
        words += ["--input", f"{key}={told(value)}"]
    return shlex.join(words)


def with_given(text: str, given: str) -> str:
    """A message in which ``adabet-onnx import`` has the given options, and those that the message asks for."""
    if not given:
        return text

    def keep(found: re.Match[str]) -> str:
        asked = found.string[found.end() :].split()
        mine = given
        if asked[0] == "--logits":  # another one
            mine = re.sub(r"--logits ('[^']*'|\S+) ?", "", given).strip()
        return f"{found[1]} {mine}".rstrip()

    return _IMPORT.sub(keep, text)


@contextlib.contextmanager
def commands_keep(given: str) -> Iterator[None]:
    """Let the commands in messages of errors that are raised inside keep the given options."""
    try:
        yield
    except AdabetError as error:
        error.args = tuple(with_given(part, given) if isinstance(part, str) else part for part in error.args)
        raise
