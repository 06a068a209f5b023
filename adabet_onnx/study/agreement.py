"""How far two rankings of the same layers agree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b of two lists of scores: 1 for the same order, 0 for none in common, -1 for the reverse.

    Ties are accounted for (M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945). Where one
    of the lists has one value only the coefficient is undefined; it is then 1 if the other has as well, else 0.
    """
    from scipy.stats import kendalltau

    constant = [len(set(scores)) < 2 for scores in (first, second)]
    if any(constant):
        return 1.0 if all(constant) else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(kendalltau(first, second).statistic)


def top(scores: Sequence[float], count: int) -> frozenset[int]:
    """Positions of the ``count`` highest scores, ties in order."""
    return frozenset(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def overlap(first: Sequence[float], second: Sequence[float], count: int) -> float:
    """The share of the ``count`` highest that two lists of scores have in common."""
    return len(top(first, count) & top(second, count)) / count


def overlap_by_chance(layers: int, count: int) -> float:
    """What `overlap` is on average for two random rankings."""
    return count / layers


def every_pair(groups: Sequence[Sequence[float]], count: int) -> list[tuple[float, float]]:
    """(tau, overlap) of every pair of lists."""
    arrays = [np.asarray(scores, np.float64).tolist() for scores in groups]
    return [
        (kendall_tau(first, second), overlap(first, second, count))
        for i, first in enumerate(arrays)
        for second in arrays[i + 1 :]
    ]
