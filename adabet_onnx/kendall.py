"""Kendall's tau: how far two lists of numbers have the same order."""

from __future__ import annotations

from collections.abc import Sequence


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b: 1 for the same order, 0 for none in common, -1 for the reverse.

    Ties are accounted for (M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33, 1945). Where one
    of the lists has fewer than two different values the coefficient is undefined: None.
    """
    from scipy.stats import kendalltau  # slow to import

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(kendalltau(first, second).statistic)
