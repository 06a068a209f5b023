"""What a weight was computed from before it became a tensor of its own, kept in the model's metadata.

The entry ``adabet_onnx.folded`` is an object: an initializer's name to ``{"from": [names], "through": [operators]}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .metadata import get_metadata, set_metadata

_KEY = "folded"
_FORMULAS = frozenset({"Sin", "Cos"})
_MOST = 12  # names that are listed
# torch: a parametrised weight is computed from conv.parametrizations.weight.original0, ...original1
_PARAMETRISED = re.compile(r"(^|.*[./])parametrizations\.(?P<name>[^./]+)\..*")


@dataclass(frozen=True)
class Origin:
    """What a weight was computed from.

    Attributes:
        names: of the initializers that may be weights.
        through: operators, in the order of the graph.
    """

    names: tuple[str, ...]
    through: tuple[str, ...]

    @property
    def learned(self) -> bool:
        """Whether it may be a weight.

        Accepted is what is computed from a tensor of numbers. Rejected is what a formula gives: what is computed from
        sizes, ranges and single numbers alone, and what goes through a sine or cosine, as positions do.
        """
        return bool(self.names) and not _FORMULAS & set(self.through)

    def __str__(self) -> str:
        made = ", ".join(self.names[:_MOST]) or "constants"
        more = f" and {len(self.names) - _MOST} more" if len(self.names) > _MOST else ""
        return f"{made}{more} through {', '.join(self.through[:_MOST])}"


def add_origins(model: ir.Model, found: Mapping[str, Origin]) -> None:
    """Write down what weights were computed from, in place; what is known already stays."""
    known = origins(model) | dict(found)
    if known:
        entry = {name: {"from": list(made.names), "through": list(made.through)} for name, made in known.items()}
        set_metadata(model, _KEY, entry)


def origins(model: ir.Model) -> dict[str, Origin]:
    """What is written down of initializers that are there; entries that make no sense are left out."""
    entry = get_metadata(model, _KEY)
    found = {}
    for name, made in entry.items() if isinstance(entry, dict) else ():
        if name not in model.graph.initializers or not isinstance(made, dict):
            continue
        names, through = _words(made.get("from")), _words(made.get("through"))
        if names is not None and through is not None:
            found[name] = Origin(names, through)
    return found


def _words(entry: object) -> tuple[str, ...] | None:
    fits = isinstance(entry, list) and all(isinstance(word, str) for word in entry)
    return tuple(entry) if fits and isinstance(entry, list) else None


def naming_parameters(name: str, made: Origin | None) -> tuple[str, ...]:
    """The names by which a parameter tells its layer: its own, or those of what it was computed from."""
    if made is None or not made.names:
        return (name,)
    return tuple(_PARAMETRISED.sub(r"\1\g<name>", word) for word in made.names)


def parted(model: ir.Model, parameters: Sequence[str]) -> Iterator[str]:
    """Sentences on weights that were tied by what they are computed from, and are trained apart now."""
    known = origins(model)
    of: dict[str, dict[str, None]] = {}
    for name in parameters:
        for root in known[name].names if name in known else (name,):
            of.setdefault(root, {})[name] = None
    for root, names in of.items():
        if len(names) > 1:
            listed = ", ".join(map(repr, names))
            yield f"{listed} come from {root!r}, which ties them in the file: here they are trained apart"
