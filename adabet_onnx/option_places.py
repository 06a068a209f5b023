"""Where an option belongs that was given to a function which does not take it: in which options class."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterable, Iterator
from typing import Any

_MISSING = dataclasses.MISSING


def option_places(name: str, parameters: Iterable[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Return the ways to pass an option, the shortest first: ``adapting=Adapting(settings=Settings(epochs=...))``.

    Args:
        name: name of the option.
        parameters: for each parameter of the function its name, its annotation as text, and the names that the
            annotation may use.
    """
    places = []
    level = [(f"{parameter}=", kind) for parameter, text, space in parameters for kind in _classes(text, space)]
    while level:
        deeper = []
        for before, kind in level:
            for field in dataclasses.fields(kind):
                inside = f"{before}{kind.__name__}({field.name}="
                if field.name == name:
                    places.append(f"{inside}...{')' * inside.count('(')}")
                    continue
                deeper += [(inside, each) for each in _classes(str(field.type), vars(sys.modules[kind.__module__]))]
        level = deeper
    return places


def _classes(annotation: str, space: dict[str, Any]) -> Iterator[Any]:
    """The options classes that an annotation names: dataclasses all of whose fields have defaults."""
    try:
        hint = eval(annotation, space)
    except (NameError, TypeError, SyntaxError, AttributeError):
        return
    for kind in typing.get_args(hint) or (hint,):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            fields = dataclasses.fields(kind)
            if all(field.default is not _MISSING or field.default_factory is not _MISSING for field in fields):
                yield kind
