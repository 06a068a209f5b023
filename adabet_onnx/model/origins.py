"""The origins of weights that were computed in the original graph, recorded in the model's metadata.

The entry ``adabet_onnx.folded`` is an object that maps an initializer's name to ``{"from": [names], "through":
[operators]}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .metadata import get_metadata, set_metadata

_KEY = "folded"
_FORMULAS = frozenset({"Sin", "Cos"})
_MOST = 12  # names listed, at most
# torch: a parametrised weight is computed from conv.parametrizations.weight.original0, ...original1
_PARAMETRISED = re.compile(r"(^|.*[./])parametrizations\.(?P<name>[^./]+)\..*")


@dataclass(frozen=True)
class Origin:
    """The origin of a computed weight.

    Attributes:
        names: names of the initializers it was computed from that may be weights.
        through: the operators involved, in graph order.
    """

    names: tuple[str, ...]
    through: tuple[str, ...]

    @property
    def learned(self) -> bool:
        """Whether the result may be a weight.

        True if it is computed from a tensor of numbers. False for the results of formulas: computed only from sizes,
        ranges and single numbers, or through a sine or cosine, as positions are.
        """
        return bool(self.names) and not _FORMULAS & set(self.through)

    def __str__(self) -> str:
        listed = ", ".join(self.names[:_MOST]) or "constants"
        more = f" and {len(self.names) - _MOST} more" if len(self.names) > _MOST else ""
        return f"{listed}{more} through {', '.join(self.through[:_MOST])}"


def add_origins(model: ir.Model, new: Mapping[str, Origin]) -> None:
    """Record the origins of weights, in place, in addition to those already recorded."""
    known = origins(model) | dict(new)
    if known:
        entry = {name: {"from": list(origin.names), "through": list(origin.through)} for name, origin in known.items()}
        set_metadata(model, _KEY, entry)


def origins(model: ir.Model) -> dict[str, Origin]:
    """The recorded origins of existing initializers; invalid entries are ignored."""
    entry = get_metadata(model, _KEY)
    valid = {}
    for name, stored in entry.items() if isinstance(entry, dict) else ():
        if name not in model.graph.initializers or not isinstance(stored, dict):
            continue
        names, through = _strings(stored.get("from")), _strings(stored.get("through"))
        if names is not None and through is not None:
            valid[name] = Origin(names, through)
    return valid


def _strings(entry: object) -> tuple[str, ...] | None:
    fits = isinstance(entry, list) and all(isinstance(item, str) for item in entry)
    return tuple(entry) if fits and isinstance(entry, list) else None


def naming_parameters(name: str, origin: Origin | None) -> tuple[str, ...]:
    """The names that identify a parameter's layer: its own, or those of the initializers it was computed from."""
    if origin is None or not origin.names:
        return (name,)
    return tuple(_PARAMETRISED.sub(r"\1\g<name>", source) for source in origin.names)


def untied_weight_notes(model: ir.Model, parameters: Sequence[str]) -> Iterator[str]:
    """Notes on weights that were tied through a common origin, and are trained separately now."""
    known = origins(model)
    dependents_of: dict[str, dict[str, None]] = {}
    for name in parameters:
        for root in known[name].names if name in known else (name,):
            dependents_of.setdefault(root, {})[name] = None
    for root, names in dependents_of.items():
        if len(names) > 1:
            listed = ", ".join(map(repr, names))
            yield f"{listed} are computed from {root!r}, which ties them in the file: they are trained separately here"
