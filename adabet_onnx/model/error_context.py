"""Translate whatever onnx, onnx_ir and onnxruntime raise for a user's file into a `ModelError`.

These libraries raise many kinds of errors: from protobuf and C++, from nested checks, assertions, index errors. The
translated error names the file, the operation that failed, and what to do about it.
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
_MOST = 300  # characters of a reason, at most
EXPORT_AGAIN = "The file is damaged or uses an unknown form: copy or export it again."


@contextlib.contextmanager
def error_context(name: str, doing: str, remedy: str = EXPORT_AGAIN) -> Iterator[None]:
    """Turn whatever is raised inside the block into a `ModelError`.

    Args:
        name: of the model, for messages.
        doing: the operation inside, in a form that fits before the name: ``opening``.
        remedy: what to do about a failure.

    Raises:
        ModelError: something other than an `AdabetError` or an error of the file system was raised inside.
    """
    with during(f"{doing} {name}"), _as_model_error(name, doing, remedy):
        yield


@contextlib.contextmanager
def _as_model_error(name: str, doing: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (AdabetError, OSError):
        raise
    except MemoryError as error:
        raise ModelError(
            f"{name}: {doing} it needed more memory than is available. Is a size in the graph wrong?"
        ) from error
    except Exception as error:  # see the docstring of the module
        raise ModelError(f"{name}: {doing} it failed: {reason_of(error)}. {remedy}") from error


def guarded(doing: str, remedy: str = EXPORT_AGAIN) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function whose first argument is a model, opened or given by path, with an `error_context`."""

    def guard(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def inner(*arguments: _P.args, **options: _P.kwargs) -> _R:
            try:
                signature.bind(*arguments, **options)
            except TypeError as error:  # a mistake of the caller, not in the model
                raise TypeError(f"{function.__name__}() {error}") from None
            model = arguments[0] if arguments else options.get("model")
            with _as_model_error(name_of(model)[:_MOST], doing, remedy):
                return function(*arguments, **options)

        return inner

    return guard


def name_of(model: object) -> str:
    """The name of a model in messages: its path, the name it was opened with, or its type."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    if isinstance(model, bytes | bytearray | memoryview):
        return "<bytes>"
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else f"<{type(model).__name__}>"


def reason_of(error: BaseException) -> str:
    """The root cause of a chain of errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())[:_MOST].rstrip(".")
    return text or type(error).__name__
