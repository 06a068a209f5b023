"""How far two rankings of the same layers agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kendall import kendall_tau


def same_order(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau of two lists of scores; if it is undefined, 1 if both lists are constant, else 0."""
    tau = kendall_tau(first, second)
    if tau is None:
        return 1.0 if len(set(first)) == len(set(second)) == 1 else 0.0
    return tau


def top(scores: Sequence[float], count: int) -> frozenset[int]:
    """Positions of the ``count`` highest scores; ties are broken by position."""
    return frozenset(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def overlap(first: Sequence[float], second: Sequence[float], count: int) -> float:
    """The share of the ``count`` highest that two lists of scores have in common."""
    return len(top(first, count) & top(second, count)) / count


def every_pair(groups: Sequence[Sequence[float]], count: int) -> list[tuple[float, float]]:
    """(tau, overlap) of every pair of lists."""
    arrays = [np.asarray(scores, np.float64).tolist() for scores in groups]
    return [
        (same_order(first, second), overlap(first, second, count))
        for i, first in enumerate(arrays)
        for second in arrays[i + 1 :]
    ]
