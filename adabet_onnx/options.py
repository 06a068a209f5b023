"""Type checks of options and arguments against their annotations, and options overridden by keyword arguments.

Values from callers are checked where they enter the package, by the existing annotations: text instead of a number, a
dict instead of an options object, a float for a count. NumPy scalars become Python numbers, so that they can be written
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
from .option_places import option_places

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
_SEQUENCES = (tuple, collections.abc.Sequence, collections.abc.Collection)
# Beginnings of annotations whose values have their own, more specific checks: models, scores and selections.
_CHECKED_ELSEWHERE = ("ModelSource", "Scores |", "Selection |", "Costs |")


def with_given(options: Options, **given: Any) -> Options:
    """Return the options with the given values (those that are not None) in place of their own.

    Args:
        options: an instance of a frozen dataclass.
        given: values by field name.

    Raises:
        UsageError: the resulting options are invalid.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(options, **changes) if changes else options  # type: ignore[type-var]


def check_fields(options: Any) -> None:
    """Check the fields of a frozen dataclass against their annotations; called from its ``__post_init__``.

    Raises:
        UsageError: a value has another type.
    """
    space = vars(sys.modules[type(options).__module__])
    for field in dataclasses.fields(options):
        hint = _hint(str(field.type), space)
        if hint is not None:
            object.__setattr__(options, field.name, fitted(field.name, getattr(options, field.name), hint))


def typed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a public function so that its arguments are checked against their annotations.

    Args:
        function: the function; it then raises UsageError if a value has another type, and TypeError if the call does
            not match its signature.
    """
    signature = inspect.signature(function)
    space = vars(sys.modules[function.__module__])

    @functools.wraps(function)
    def inner(*arguments: _P.args, **options: _P.kwargs) -> _R:
        try:
            bound = signature.bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}() {error}{_remedy(error, signature, options, space)}") from None
        for name, value in bound.arguments.items():
            hint = _hint(str(signature.parameters[name].annotation), space)
            if hint is not None:
                bound.arguments[name] = fitted(name, value, hint)
        return function(*bound.args, **bound.kwargs)

    return inner


def _remedy(error: TypeError, signature: inspect.Signature, given: Mapping[str, Any], space: dict[str, Any]) -> str:
    """Where an unexpected keyword argument belongs; empty if no options class has it."""
    unknown = next((name for name in given if f"unexpected keyword argument {name!r}" in str(error)), None)
    if unknown is None:
        return ""
    parameters = ((name, str(parameter.annotation), space) for name, parameter in signature.parameters.items())
    places = option_places(unknown, parameters)
    return f". Give {' or '.join(places)}" if places else ""


def check_word(what: str, value: object, known: Iterable[str]) -> None:
    """Check that a value is one of the known words.

    Args:
        what: name of the setting, for messages.
        value: the given value.
        known: the known words.

    Raises:
        UsageError: the value is not one of them.
    """
    words = tuple(known)
    if value not in words:
        raise UsageError(f"unknown {what} {value!r}: choose one of {', '.join(words)}.")


def fitted(name: str, value: Any, hint: Any) -> Any:
    """Convert a value to the type of an annotation: NumPy scalars to Python numbers, sequences to tuples.

    Args:
        name: name of the parameter, for messages.
        value: the given value.
        hint: the annotation.

    Raises:
        UsageError: the value has another type.
    """
    plain = _plain(value)
    for kind in _kinds(hint):
        fits, converted = _converted(plain, kind)
        if fits:
            return converted
    raise UsageError(f"`{name}` must be {_listed(hint)}, not {_shown(plain)}.")


def _hint(text: str, space: dict[str, Any]) -> Any:
    """Evaluate an annotation; None if values are not checked against it.

    Plain text is checked by the code that knows the valid words, sizes and shares by the code that parses them.
    """
    if text in ("Any", "<class 'inspect._empty'>") or text.startswith(_CHECKED_ELSEWHERE):
        return None
    kinds = set(text.split(" | ")) - {"None"}
    return None if kinds <= {"str", "int", "float"} and "str" in kinds else eval(text, space)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _plain(value: Any) -> Any:
    """Convert a NumPy scalar (or an array without axes) to a Python number."""
    scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if scalar else value


def _converted(value: Any, kind: Any) -> tuple[bool, Any]:
    """Return whether a value is of a kind, and the value converted to it."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (int, float):
        number = numbers.Integral if origin is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool), value
    if origin in _SEQUENCES:
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
            return False, value
        items = [_converted(_plain(item), arguments[0]) for item in value]
        return all(fits for fits, _ in items), tuple(item for _, item in items)
    if origin is collections.abc.Callable:
        return callable(value), value
    return isinstance(value, type(None) if kind is None else origin), value


def _listed(hint: Any) -> str:
    words = [word for kind in _kinds(hint) for word in _words(kind)]
    *words, last = dict.fromkeys(words)
    return f"{', '.join(words)} or {last}" if words else last


def _words(kind: Any) -> tuple[str, ...]:
    """Return the names of a kind in messages; several if there are alternatives."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin = typing.get_origin(kind) or kind
    if origin in _SEQUENCES:
        return ("a list of texts" if typing.get_args(kind)[0] is str else "a list of numbers",)
    return _WORDS.get(origin) or (f"{origin.__name__}(...)",)


def _shown(value: Any) -> str:
    text, name = repr(value), type(value).__name__
    if value is None or (isinstance(value, str | bytes | int | float | list | tuple) and len(text) < 80):
        return text
    if dataclasses.is_dataclass(value):
        return f"{name}(...)"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
