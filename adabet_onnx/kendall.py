"""Kendall's tau and W: how far two, or several, lists of numbers have the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b: 1 for the same order, 0 for none in common, -1 for the reverse.

    Ties are accounted for (M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945). Where one
    of the lists has fewer than two different values the coefficient is undefined: None.
    """
    from scipy.stats import kendalltau  # slow to import

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(kendalltau(first, second).statistic)


def midranks(numbers: Sequence[float]) -> np.ndarray:
    """Ranks, 1 for the highest; equal numbers share the mean of their places."""
    from scipy.stats import rankdata  # slow to import

    return np.asarray(rankdata(-np.asarray(numbers, np.float64)), np.float64)


def kendall_w(rankings: np.ndarray, weights: Sequence[float] | None = None) -> float | None:
    """Kendall's coefficient of concordance: 1 for rankings that are all the same, near 0 for unrelated ones.

    It is the variance of the mean ranks over that of each ranking: with equal weights the usual coefficient, ties
    accounted for (M. G. Kendall, "Rank Correlation Methods", 1948, ch. 6).

    Args:
        rankings: (M, L) midranks of L things by M who rank them.
        weights: of each ranking; None: all alike.

    Returns:
        The coefficient; None for fewer than two rankings, or where all things are equal in each.
    """
    if len(rankings) < 2:
        return None
    away = np.asarray(rankings, np.float64) - (rankings.shape[1] + 1) / 2
    within = float(np.average((away**2).sum(1), weights=weights))
    between = float((np.average(away, axis=0, weights=weights) ** 2).sum())
    return None if within == 0 else between / within
