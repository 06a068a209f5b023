"""The one door through which a user's file goes into onnx, onnx_ir and onnxruntime.

Each of them raises errors of many kinds of its own: of protobuf and C++, of checks that wrap other checks, assertions,
lists out of range. Behind the door there is one kind, that says which file it was, what was done, and what to do.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from ..errors import AdabetError, ModelError
from ..isolation import during

_P = ParamSpec("_P")
_R = TypeVar("_R")
_MOST = 300  # characters of a reason
EXPORT_AGAIN = "The file is damaged, or made in a way that is not known here: copy it again, or export it anew."


@contextlib.contextmanager
def through(name: str, doing: str, remedy: str = EXPORT_AGAIN) -> Iterator[None]:
    """Turn whatever is raised inside into an error of ours.

    Args:
        name: of the model, for messages.
        doing: what is done inside, as after "while" and before the name: ``opening``.
        remedy: what to do about it.

    Raises:
        ModelError: something other than an error of ours, or of the file system, was raised inside.
    """
    with during(f"{doing} {name}"), _ours(name, doing, remedy):
        yield


@contextlib.contextmanager
def _ours(name: str, doing: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (AdabetError, OSError):
        raise
    except MemoryError as error:
        raise ModelError(f"{name}: {doing} it took more memory than there is. Is a size in the graph wrong?") from error
    except Exception as error:  # see the module
        raise ModelError(f"{name}: {doing} it failed: {reason_of(error)}. {remedy}") from error


def guarded(doing: str, remedy: str = EXPORT_AGAIN) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let a function whose first argument is a model, opened or named by a path, go `through` the door."""

    def guard(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def inner(*arguments: _P.args, **options: _P.kwargs) -> _R:
            try:
                signature.bind(*arguments, **options)
            except TypeError as error:  # the caller's mistake, and not the model's
                raise TypeError(f"{function.__name__}() {error}") from None
            model = arguments[0] if arguments else options.get("model")
            with _ours(name_of(model)[:_MOST], doing, remedy):
                return function(*arguments, **options)

        return inner

    return guard


def name_of(model: object) -> str:
    """What messages call a model: the path, the name it was opened by, or its kind."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    if isinstance(model, bytes | bytearray | memoryview):
        return "<bytes>"
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else f"<{type(model).__name__}>"


def reason_of(error: BaseException) -> str:
    """What lies at the bottom of a chain of errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())[:_MOST].rstrip(".")
    return text or type(error).__name__
