"""The search for the best penalty strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

STRONGEST, WEAKEST = 3, -6  # powers of ten
Result = TypeVar("Result")


def best_strength(evaluate: Callable[[float], tuple[float, Result]]) -> tuple[float, float, Result]:
    """Return the strength with the lowest error, that error, and the result that came with it.

    Powers of ten are tried first, from the strongest; then the half powers next to the best one.

    Args:
        evaluate: returns the error of a strength, and any other result.
    """
    results = {power: evaluate(10.0**power) for power in map(float, range(STRONGEST, WEAKEST - 1, -1))}
    best = min(results, key=lambda power: results[power][0])
    results |= {power: evaluate(10.0**power) for power in (best - 0.5, best + 0.5)}
    best = min(results, key=lambda power: results[power][0])
    return 10.0**best, *results[best]
