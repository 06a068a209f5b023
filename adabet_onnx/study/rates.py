"""Choosing a learning rate: the best of a grid, which grows where its best is at an edge.

A grid that ends too early favours strategies that like its middle. So while the best rate is the highest or the lowest
one that was tried, the next one in its direction is tried too, up to EXTENSIONS times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXTENSIONS = 3


@dataclass(frozen=True)
class Outcome:
    """Of a training with some rate, on validation data: accuracy (0 to 1; 0 where the loss has none) and loss."""

    accuracy: float
    loss: float


def best_rate(tried: Mapping[float, Outcome | None]) -> float | None:
    """The rate with the highest accuracy (without one, the lowest loss); the lower rate in a tie; None if all failed.

    Args:
        tried: by rate; None: the training failed.
    """
    found = [(-outcome.accuracy, outcome.loss, rate) for rate, outcome in tried.items() if outcome is not None]
    return min(found)[2] if found else None


def next_rate(tried: Mapping[float, Outcome | None]) -> float | None:
    """The rate to try next: beyond the edge that the best one is at; lower where all failed; else None."""
    best, lowest, highest = best_rate(tried), min(tried), max(tried)
    if best is None or best == lowest:
        return step(lowest, up=False)
    return step(highest, up=True) if best == highest else None


def step(rate: float, *, up: bool) -> float:
    """About half a decade away, with one digit: 0.001, 0.003, 0.01, 0.03, ..."""
    return float(f"{rate * 3.3 if up else rate / 3:.0e}")
