"""Near-duplicate samples, by their features: they must be left out of a fit together.

Of two photographs from the same series, one predicts the other. Two samples of a class are near-duplicates if the
distance between their features is below 0.4 of each sample's median distance to its class, and below half of its
distance to the nearest sample of another class: if features hardly separate the classes, closeness means nothing. All
pairs in a group must satisfy this (complete linkage). In experiments, a bound of 0.6 or more, or single-linkage chains,
grouped a tenth of a class and more in ordinary data, and made the predictions for left-out samples far worse than on
test data.
"""

from __future__ import annotations

import numpy as np

CLOSE, CLOSER = 0.4, 0.5
_MOST = 1_500  # larger classes are not checked: among more samples, a few duplicates do not matter
_OTHERS = 5_000  # most samples of other classes to compare with


def near_duplicates(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return a group number for each sample, the same for near-duplicates.

    Args:
        features: (N, D), one row per sample.
        classes: (N,), the class of each sample; only samples of the same class are grouped.
    """
    numbers, after = np.arange(len(features)), 0
    rows = features - features.mean(0, dtype=np.float64)
    for value in np.unique(classes):
        members, others = np.flatnonzero(classes == value), np.flatnonzero(classes != value)
        others = others[:: -(-len(others) // _OTHERS) or 1]
        groupable = 2 < len(members) <= _MOST
        groups = _groups(rows[members], rows[others]) if groupable else np.arange(len(members))
        numbers[members] = groups + after
        after += int(groups.max()) + 1
    return numbers


def _groups(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return group numbers from 0 for the samples of one class."""
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import
    from scipy.spatial.distance import squareform

    distances = _distances(rows, rows)
    np.fill_diagonal(distances, 0)
    bound = CLOSE * np.median(distances, axis=1)  # the zero distance to itself hardly matters
    size = float(np.sqrt((rows**2).sum(1).max(initial=0.0)))
    near = (distances < bound[:, None]).sum(1) > 1
    if near.any() and len(others):
        bound[near] = np.minimum(bound[near], CLOSER * _distances(rows[near], others).min(1))
    bound = np.maximum(bound, 1e-6 * size)  # samples that are equal up to rounding are duplicates
    ratios = distances / np.maximum(np.minimum(bound[:, None], bound), np.finfo(float).tiny)
    np.fill_diagonal(ratios, 0)
    if not (ratios + 2 * np.eye(len(rows)) < 1).any():
        return np.arange(len(rows))
    linked = linkage(squareform((ratios + ratios.T) / 2, checks=False), "complete")
    return np.asarray(fcluster(linked, 1, "distance"), np.int64) - 1


def _distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    squares = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)))
