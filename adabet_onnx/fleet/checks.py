"""Validation of replies before they are aggregated.

A device may be broken, out of date or malicious. A reply is checked as a whole, and a single fault drops it, with one
line that gives the reason. Without these checks, NaN values or shapes that broadcast would be averaged silently.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..showing import clipped
from .messages import Reply, Tensors

FARTHEST = 10.0  # default limit of an update's distance, in multiples of the norm of the sent values (at least 1)
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Dropped:
    """A rejected reply.

    Attributes:
        client: number of the client that sent it, as far as known.
        why: the reason, in one line.
    """

    client: int
    why: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that fleet.jsonl holds."""
        return {"client": self.client, "why": self.why}


@dataclass(frozen=True)
class Expectations:
    """The properties that replies of a round must have.

    Attributes:
        number: number of the round.
        model_sha256: SHA-256 of the model.
        tensors: the tensors that were sent, whose names and shapes replies must have.
        asked: the clients that were asked.
        max_norm: largest norm of the difference from the sent tensors; None: see `FARTHEST`.
        partial: whether replies may have only some of the tensors.
    """

    number: int
    model_sha256: str
    tensors: Tensors
    asked: Collection[int]
    max_norm: float | None = None
    partial: bool = True


def accepted(replies: Iterable[Reply], expected: Expectations) -> tuple[list[Reply], list[Dropped]]:
    """Return the accepted replies in ascending order of clients, and the rejected ones with the reason.

    Args:
        replies: replies in any order.
        expected: the properties that they must have.
    """
    good: dict[int, Reply] = {}
    bad: list[Dropped] = []
    for reply in replies:
        why = problem(reply, expected)
        if why is None and reply.client in good:
            why = "it has already replied in this round"
        if why is None:
            good[reply.client] = reply
        else:
            bad.append(Dropped(reply.client, clipped(why, 300)))
    return [good[client] for client in sorted(good)], bad


def problem(reply: Reply, expected: Expectations) -> str | None:
    """Return the reason to reject a reply, or None."""
    if reply.error is not None:
        return reply.error
    if reply.client not in expected.asked:
        return "it was not asked"
    if reply.number != expected.number:
        return f"it is of round {reply.number}, expected {expected.number}"
    if reply.model_sha256 != expected.model_sha256:
        sha256 = clipped(reply.model_sha256)
        return f"it is of another model, with the SHA-256 {sha256}, expected {expected.model_sha256}"
    return (
        samples_problem(reply.samples)
        or _figures_problem(reply)
        or _tensors_problem(reply, expected)
        or norm_problem(reply.tensors, expected.tensors, expected.max_norm)
    )


def samples_problem(samples: Any) -> str | None:
    """Return the reason to reject a number of samples, or None."""
    if isinstance(samples, bool) or not isinstance(samples, int | float | np.integer | np.floating):
        return f"its number of samples is {clipped(samples)!r}, expected a number"
    if not math.isfinite(samples) or not 0 < samples <= MOST_SAMPLES:
        return f"its number of samples is {samples}, expected more than 0 and at most {MOST_SAMPLES}"
    return None


def _figures_problem(reply: Reply) -> str | None:
    for name, value in reply.figures.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if value is not None and not number:
            return f"its {clipped(name)} is {clipped(value)!r}, expected a finite number"
    return None


def _tensors_problem(reply: Reply, expected: Expectations) -> str | None:
    for name, array in reply.tensors.items():
        if name not in expected.tensors:
            return f"it has a tensor {clipped(name)!r}, which was not sent"
        shape = expected.tensors[name].shape
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            return f"tensor {clipped(name)!r} is {kind}, expected float32"
        if array.shape != shape:
            return f"tensor {clipped(name)!r} has the shape {list(array.shape)}, expected {list(shape)}"
        if not np.isfinite(array).all():
            return f"tensor {clipped(name)!r} has values that are not finite"
    missing = [name for name in expected.tensors if name not in reply.tensors]
    if missing and (not reply.partial or not expected.partial or len(missing) == len(expected.tensors)):
        return f"it lacks {len(missing)} of {len(expected.tensors)} tensors, such as {clipped(missing[0])!r}"
    return None


def norm_problem(tensors: Tensors, sent: Tensors, most: float | None) -> str | None:
    """Return the reason to reject an update that is too large, or None.

    Args:
        tensors: the tensors of the reply.
        sent: the tensors that were sent.
        most: the largest accepted distance; None: see `FARTHEST`.
    """
    if most is None:
        most = FARTHEST * max(1.0, distance(sent, None))
    norm = distance(tensors, sent)
    if norm <= most:
        return None
    return f"its distance from the values that were sent is {norm:.3g}, expected at most {most:.3g} (`max_norm`)"


def distance(tensors: Tensors, other: Tensors | None) -> float:
    """Return the Euclidean distance over all tensors, or the norm if there is no other."""
    total = 0.0
    for name, array in tensors.items():
        difference = array.astype(np.float64) - (0 if other is None else other[name])
        total += float((difference**2).sum())
    return math.sqrt(total)
