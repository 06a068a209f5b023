"""The layers that may be selected at all, and the layers that patterns match."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence

from ..errors import UsageError
from ..scoring.record import Scores
from .rankings import Ranking, by_name


@dataclasses.dataclass(frozen=True)
class Pool:
    """The layers that may be selected.

    Attributes:
        layers: their indices.
        left_out: why other layers cannot be trained, by name.
        head_added: whether the head is always selected.
    """

    layers: list[int]
    left_out: dict[str, str]
    head_added: bool


def layer_pool(scores: Scores, head: str) -> Pool:
    """Determine the layers that may be selected.

    Raises:
        UsageError: there are none.
    """
    rule = ("always" if scores.new_head else "pool") if head == "auto" else head
    allowed = [i for i, layer in enumerate(scores.layers) if rule != "never" or layer.name != scores.head]
    if not allowed:
        raise UsageError("the head is the only layer, and head='never' leaves it out: nothing to select.")
    pool = [i for i in allowed if scores.layers[i].untrainable is None]
    left_out = {layer.name: layer.untrainable for layer in scores.layers if layer.untrainable is not None}
    if not pool:
        raise UsageError(f"no layer can be trained, so nothing can be selected: {next(iter(left_out.values()))}")
    return Pool(pool, left_out, rule == "always")


def named_layers(scores: Scores, patterns: Sequence[str], pool: Pool) -> tuple[Pool, Ranking]:
    """The layers of the pool that patterns match.

    Raises:
        UsageError: there are none.
    """
    named = matching([layer.name for layer in scores.layers], patterns)
    kept, names = [i for i in named if i in pool.layers], {scores.layers[i].name for i in named}
    left_out = {name: reason for name, reason in pool.left_out.items() if name in names}
    if not kept and left_out:
        name, reason = next(iter(left_out.items()))
        raise UsageError(f"the layers that {', '.join(patterns)} matches cannot be trained. Layer {name!r}: {reason}")
    if not kept:
        raise UsageError(f"{', '.join(patterns)} matches only the head, and head='never' leaves it out.")
    return dataclasses.replace(pool, left_out=left_out), by_name(kept, ", ".join(patterns))


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[int]:
    """Indices of the layers that shell patterns match, in the patterns' order.

    Raises:
        UsageError: a pattern matches no layer.
    """
    chosen: list[int] = []
    for pattern in patterns:
        matches = [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            examples = ", ".join(names[-3:])
            raise UsageError(f"no layer matches {pattern!r}. Layers are called, for example, {examples}.")
        chosen += [i for i in matches if i not in chosen]
    return chosen
