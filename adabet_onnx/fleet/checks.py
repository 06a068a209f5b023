"""What a reply must be before anything of it is aggregated.

A device may be broken, out of date or hostile; what it sends is looked at as a whole, and one fault drops it, with one
line that says which. NaN is averaged in silence by whoever does not look, and a shape that broadcasts as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..showing import clipped
from .messages import Reply, Tensors

FARTHEST = 10.0  # times the norm of what was sent (at least 1): an update farther from it is none
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Dropped:
    """A reply that does not count.

    Attributes:
        client: who sent it, as far as that is known.
        why: in a line.
    """

    client: int
    why: str

    def to_json(self) -> dict[str, Any]:
        """For fleet.jsonl."""
        return {"client": self.client, "why": self.why}


@dataclass(frozen=True)
class Wanted:
    """What replies of a round are held against.

    Attributes:
        number: of the round.
        model_sha256: of the model.
        tensors: what was sent: replies have these names and shapes.
        asked: the clients that were asked.
        max_norm: of the difference from what was sent; None: `FARTHEST`.
        partial: whether a reply may say that it has but a part of them.
    """

    number: int
    model_sha256: str
    tensors: Tensors
    asked: Collection[int]
    max_norm: float | None = None
    partial: bool = True


def accepted(replies: Iterable[Reply], wanted: Wanted) -> tuple[list[Reply], list[Dropped]]:
    """The replies that count, by client in ascending order; and the others, with the reason.

    Args:
        replies: in any order.
        wanted: what they should be.
    """
    good: dict[int, Reply] = {}
    bad: list[Dropped] = []
    for reply in replies:
        why = problem(reply, wanted)
        if why is None and reply.client in good:
            why = "it has replied to this round already"
        if why is None:
            good[reply.client] = reply
        else:
            bad.append(Dropped(reply.client, clipped(why, 300)))
    return [good[client] for client in sorted(good)], bad


def problem(reply: Reply, wanted: Wanted) -> str | None:
    """What is wrong with a reply; None where nothing is."""
    if reply.error is not None:
        return reply.error
    if reply.client not in wanted.asked:
        return "it was not asked"
    if reply.number != wanted.number:
        return f"it is of round {reply.number}, expected {wanted.number}"
    if reply.model_sha256 != wanted.model_sha256:
        return f"it is of another model, with the SHA-256 {clipped(reply.model_sha256)}, expected {wanted.model_sha256}"
    return (
        samples_problem(reply.samples)
        or _figures_problem(reply)
        or _tensors_problem(reply, wanted)
        or norm_problem(reply.tensors, wanted.tensors, wanted.max_norm)
    )


def samples_problem(samples: Any) -> str | None:
    """What is wrong with a number of samples; None where nothing is."""
    if isinstance(samples, bool) or not isinstance(samples, int | float | np.integer | np.floating):
        return f"it counts by {clipped(samples)!r}, expected a number of samples"
    if not math.isfinite(samples) or not 0 < samples <= MOST_SAMPLES:
        return f"it counts as {samples} samples, expected more than 0 and at most {MOST_SAMPLES}"
    return None


def _figures_problem(reply: Reply) -> str | None:
    for name, value in reply.figures.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if value is not None and not number:
            return f"its {clipped(name)} is {clipped(value)!r}, expected a finite number"
    return None


def _tensors_problem(reply: Reply, wanted: Wanted) -> str | None:
    for name, array in reply.tensors.items():
        if name not in wanted.tensors:
            return f"it has a tensor {clipped(name)!r}, which was not sent"
        shape = wanted.tensors[name].shape
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            return f"tensor {clipped(name)!r} is {found}, expected float32"
        if array.shape != shape:
            return f"tensor {clipped(name)!r} has the shape {list(array.shape)}, expected {list(shape)}"
        if not np.isfinite(array).all():
            return f"tensor {clipped(name)!r} has numbers that are not finite"
    missing = [name for name in wanted.tensors if name not in reply.tensors]
    if missing and (not reply.partial or not wanted.partial or len(missing) == len(wanted.tensors)):
        return f"it lacks {len(missing)} of {len(wanted.tensors)} tensors, such as {clipped(missing[0])!r}"
    return None


def norm_problem(tensors: Tensors, sent: Tensors, most: float | None) -> str | None:
    """Say that an update is too large; None where it is not.

    Args:
        tensors: that came back.
        sent: what they were trained from.
        most: how far they may be from it; None: `FARTHEST`.
    """
    if most is None:
        most = FARTHEST * max(1.0, distance(sent, None))
    norm = distance(tensors, sent)
    if norm <= most:
        return None
    return f"it is {norm:.3g} away from what was sent, expected at most {most:.3g} (`max_norm`)"


def distance(tensors: Tensors, other: Tensors | None) -> float:
    """Euclidean, over all tensors; from zero where there is no other."""
    total = 0.0
    for name, array in tensors.items():
        away = array.astype(np.float64) - (0 if other is None else other[name])
        total += float((away**2).sum())
    return math.sqrt(total)
