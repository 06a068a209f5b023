"""The rows that a linear head is fitted to: features, targets and weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST = 4_096  # limit of min(rows, features) for solving in closed form


@dataclass(frozen=True)
class FitTable:
    """Rows of features with their targets.

    Attributes:
        features: (R, D), float32 or float64.
        targets: (R, K); for classes, 1 in the column of the class and 0 elsewhere.
        groups: group number of each row, from 0; rows of a group are left out together.
        weights: weight of each row, above 0; their mean is 1.
        intercept: whether the head has a bias.
    """

    features: np.ndarray
    targets: np.ndarray
    groups: np.ndarray
    weights: np.ndarray
    intercept: bool = True

    @property
    def members(self) -> list[np.ndarray]:
        """The rows of each group."""
        order = np.argsort(self.groups, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.groups[order])) + 1)

    def mean(self, of: np.ndarray) -> np.ndarray:
        """Return the weighted mean of rows, which is subtracted before fitting; zeros for a head without bias."""
        if not self.intercept:
            return np.zeros(of.shape[1])
        return np.asarray(np.average(of, axis=0, weights=self.weights), np.float64)

    def at(self, rows: np.ndarray) -> FitTable:
        """Select rows; weights are rescaled to a mean of 1."""
        weights = self.weights[rows]
        return FitTable(
            self.features[rows], self.targets[rows], self.groups[rows], weights / weights.mean(), self.intercept
        )


def table(
    features: np.ndarray,
    targets: np.ndarray,
    samples: np.ndarray,
    weights: np.ndarray | None,
    *,
    intercept: bool = True,
) -> FitTable:
    """Make a table of the rows with a weight above 0.

    Args:
        features: (R, D).
        targets: (R, K).
        samples: the sample (or group of samples) of each row.
        weights: weight of each row, 0 or more; None: all equal. Rows of weight 0 are omitted.
        intercept: whether the head has a bias.
    """
    given = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
    counts = given > 0
    if not counts.all():
        features, targets, samples, given = features[counts], targets[counts], samples[counts], given[counts]
    groups = np.unique(samples, return_inverse=True)[1].reshape(-1)
    return FitTable(features, np.asarray(targets, np.float64), groups, given / given.mean(), intercept)
