"""Options and arguments: of the types that their annotations name, and single options replaced by keyword arguments.

What a caller hands over is checked where it comes in, by the annotation that is there anyway: text where a number is
meant, a dict in place of options, a float for a count. NumPy's numbers become Python's, so that they can be written
to JSON.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from .errors import UsageError

Options = TypeVar("Options")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_WORDS: dict[Any, tuple[str, ...]] = {
    int: ("a whole number",),
    float: ("a number",),
    bool: ("True", "False"),
    str: ("text",),
    type(None): ("None",),
    os.PathLike: ("a path",),
    collections.abc.Mapping: ("a dict",),
    collections.abc.Callable: ("a function",),
}
_SEVERAL = (tuple, collections.abc.Sequence, collections.abc.Collection)
# What has a check of its own, which can say more: models, scores and selections, by what the annotation begins with.
_DOORS = ("ModelSource", "Scores |", "Selection |", "Costs |")


def with_given(options: Options, **given: Any) -> Options:
    """The options, with what is given (is not None) in place of their own values.

    Args:
        options: an instance of a frozen dataclass.
        given: by the names of its fields.

    Raises:
        UsageError: what the options then are is not possible.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(options, **changes) if changes else options  # type: ignore[type-var]


def check_fields(options: Any) -> None:
    """See that the fields of a frozen dataclass have the types of their annotations; it calls this after its making.

    Raises:
        UsageError: a value is of another type.
    """
    space = vars(sys.modules[type(options).__module__])
    for field in dataclasses.fields(options):
        hint = _hint(str(field.type), space)
        if hint is not None:
            object.__setattr__(options, field.name, fitted(field.name, getattr(options, field.name), hint))


def typed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a public function see that its arguments have the types of their annotations.

    Args:
        function: it then raises UsageError where a value is of another type, and TypeError where the call has other
            parameters than the function.
    """
    signature = inspect.signature(function)
    space = vars(sys.modules[function.__module__])

    @functools.wraps(function)
    def inner(*arguments: _P.args, **options: _P.kwargs) -> _R:
        try:
            bound = signature.bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}() {error}") from None
        for name, value in bound.arguments.items():
            hint = _hint(str(signature.parameters[name].annotation), space)
            if hint is not None:
                bound.arguments[name] = fitted(name, value, hint)
        return function(*bound.args, **bound.kwargs)

    return inner


def check_word(what: str, value: object, known: Iterable[str]) -> None:
    """See that a word is one of those there are.

    Args:
        what: it is for.
        value: what was given.
        known: the words.

    Raises:
        UsageError: it is another one.
    """
    words = tuple(known)
    if value not in words:
        raise UsageError(f"unknown {what} {value!r}: choose one of {', '.join(words)}.")


def fitted(name: str, value: Any, hint: Any) -> Any:
    """A value as an annotation wants it: a number of NumPy's as Python's, several values as a tuple.

    Args:
        name: of the parameter, for messages.
        value: what was given.
        hint: the annotation.

    Raises:
        UsageError: it is of another type.
    """
    plain = _plain(value)
    for kind in _kinds(hint):
        fits, found = _as(plain, kind)
        if fits:
            return found
    raise UsageError(f"`{name}` must be {_listed(hint)}, not {_said(plain)}.")


def _hint(text: str, space: dict[str, Any]) -> Any:
    """The annotation that a text is; None where there is none to hold a value against.

    Plain text is left to whoever knows which words there are, sizes and shares to who reads them.
    """
    if text in ("Any", "<class 'inspect._empty'>") or text.startswith(_DOORS):
        return None
    kinds = set(text.split(" | ")) - {"None"}
    return None if kinds <= {"str", "int", "float"} and "str" in kinds else eval(text, space)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _plain(value: Any) -> Any:
    """A number of NumPy's (also in an array without axes) as Python's."""
    scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if scalar else value


def _as(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether a value is of a kind, and the value as that kind."""
    origin, inside = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (int, float):
        number = numbers.Integral if origin is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool), value
    if origin in _SEVERAL:
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
            return False, value
        found = [_as(_plain(item), inside[0]) for item in value]
        return all(fits for fits, _ in found), tuple(item for _, item in found)
    if origin is collections.abc.Callable:
        return callable(value), value
    return isinstance(value, type(None) if kind is None else origin), value


def _listed(hint: Any) -> str:
    words = [word for kind in _kinds(hint) for word in _words(kind)]
    *words, last = dict.fromkeys(words)
    return f"{', '.join(words)} or {last}" if words else last


def _words(kind: Any) -> tuple[str, ...]:
    """What a kind is called; several words where it is one of several things."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin = typing.get_origin(kind) or kind
    if origin in _SEVERAL:
        return ("a list of texts" if typing.get_args(kind)[0] is str else "a list of numbers",)
    return _WORDS.get(origin) or (f"{origin.__name__}(...)",)


def _said(value: Any) -> str:
    text, name = repr(value), type(value).__name__
    if value is None or (isinstance(value, str | bytes | int | float | list | tuple) and len(text) < 80):
        return text
    if dataclasses.is_dataclass(value):
        return f"{name}(...)"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
