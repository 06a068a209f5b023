"""Which strengths are tried, in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

STRONGEST, WEAKEST = 3, -6  # powers of ten
Found = TypeVar("Found")


def best_strength(tried: Callable[[float], tuple[float, Found]]) -> tuple[float, float, Found]:
    """The strength of the lowest error, what that is, and what came with it.

    Powers of ten first, from the strongest; then the half powers beside the best one.

    Args:
        tried: gives the error of a strength, and anything else.
    """
    found = {power: tried(10.0**power) for power in map(float, range(STRONGEST, WEAKEST - 1, -1))}
    best = min(found, key=lambda power: found[power][0])
    found |= {power: tried(10.0**power) for power in (best - 0.5, best + 0.5)}
    best = min(found, key=lambda power: found[power][0])
    return 10.0**best, *found[best]
