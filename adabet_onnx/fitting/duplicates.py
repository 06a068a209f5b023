"""Samples that are nearly the same, by their features: what is left out of a fit must leave with them.

Of two photographs of one series, one tells all about the other. Two samples of a class are near-duplicates where their
features lie closer to each other than 0.4 of the distance that either has, in the median, to the samples of its class,
and than half of that to the nearest sample of another class: where features hardly tell classes apart, to be close
means nothing. A group holds only such pairs (complete linkage). Measured, a bound of 0.6 or more, or groups of chains,
makes of ordinary data groups of a tenth of a class and more, and the predictions for those left out far worse than on
test data.
"""

from __future__ import annotations

import numpy as np

CLOSE, CLOSER = 0.4, 0.5
_MOST = 1_500  # samples of a class whose distances are looked at: among more, a few duplicates do not matter
_OTHERS = 5_000  # samples of other classes


def near_duplicates(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """A number for each sample, the same for near-duplicates.

    Args:
        features: (N, D), one row per sample.
        classes: (N,), of each sample; only samples of one class are grouped.
    """
    found, after = np.arange(len(features)), 0
    rows = features - features.mean(0, dtype=np.float64)
    for value in np.unique(classes):
        members, others = np.flatnonzero(classes == value), np.flatnonzero(classes != value)
        others = others[:: -(-len(others) // _OTHERS) or 1]
        known = 2 < len(members) <= _MOST
        groups = _groups(rows[members], rows[others]) if known else np.arange(len(members))
        found[members] = groups + after
        after += int(groups.max()) + 1
    return found


def _groups(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of one class, numbers from 0."""
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import
    from scipy.spatial.distance import squareform

    distances = _distances(rows, rows)
    np.fill_diagonal(distances, 0)
    bound = CLOSE * np.median(distances, axis=1)  # its own zero hardly counts
    size = float(np.sqrt((rows**2).sum(1).max(initial=0.0)))
    near = (distances < bound[:, None]).sum(1) > 1
    if near.any() and len(others):
        bound[near] = np.minimum(bound[near], CLOSER * _distances(rows[near], others).min(1))
    bound = np.maximum(bound, 1e-6 * size)  # what is equal up to rounding is the same
    ratios = distances / np.maximum(np.minimum(bound[:, None], bound), np.finfo(float).tiny)
    np.fill_diagonal(ratios, 0)
    if not (ratios + 2 * np.eye(len(rows)) < 1).any():
        return np.arange(len(rows))
    linked = linkage(squareform((ratios + ratios.T) / 2, checks=False), "complete")
    return np.asarray(fcluster(linked, 1, "distance"), np.int64) - 1


def _distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    squares = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)))
