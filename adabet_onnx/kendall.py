"""Kendall's tau and W: agreement of two or more lists of numbers in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau-b: 1 for the same order, 0 for unrelated orders, -1 for the reverse.

    Ties are accounted for (M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945). If one of
    the lists has fewer than two different values, the coefficient is undefined: None.
    """
    from scipy.stats import kendalltau  # slow to import

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(kendalltau(first, second).statistic)


def midranks(numbers: Sequence[float]) -> np.ndarray:
    """Return ranks, 1 for the highest; equal numbers share the mean of their ranks."""
    from scipy.stats import rankdata  # slow to import

    return np.asarray(rankdata(-np.asarray(numbers, np.float64)), np.float64)


def kendall_w(rankings: np.ndarray, weights: Sequence[float] | None = None) -> float | None:
    """Return Kendall's coefficient of concordance: 1 for identical rankings, near 0 for unrelated ones.

    It is the variance of the mean ranks divided by the mean variance within rankings: with equal weights the usual
    coefficient with ties accounted for (M. G. Kendall, "Rank Correlation Methods", 1948, ch. 6).

    Args:
        rankings: (M, L) midranks of L items by M rankers.
        weights: weight of each ranking; None: equal weights.

    Returns:
        The coefficient; None for fewer than two rankings, or if all items are tied in each.
    """
    if len(rankings) < 2:
        return None
    deviations = np.asarray(rankings, np.float64) - (rankings.shape[1] + 1) / 2
    within = float(np.average((deviations**2).sum(1), weights=weights))
    between = float((np.average(deviations, axis=0, weights=weights) ** 2).sum())
    return None if within == 0 else between / within
