"""First Betti numbers: from a Gram matrix to distances to the number of loops.

b1 is the number of bars with death > birth in dimension 1 of the Vietoris-Rips persistence of the points, with
coefficients mod 2 and no threshold: how many loops the points form at some scale (AdaBet, arXiv 2510.03101).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError


def distances(gram: np.ndarray) -> np.ndarray:
    """Euclidean distances of points from their Gram matrix, in double precision.

    d_ij^2 = g_ii + g_jj - 2 g_ij. The points should be centred (see `probes`), or float32 rounding of the Gram
    matrix drowns the distances.

    Args:
        gram: (N, N), symmetric.

    Returns:
        float64 (N, N), symmetric, zero diagonal.

    Raises:
        DataError: it has NaN or infinite entries.
    """
    gram = np.asarray(gram, np.float64)
    if not np.isfinite(gram).all():
        raise DataError("activations are NaN or infinite (or so large that their products are)")
    squares = np.diag(gram)
    squared = squares[:, np.newaxis] + squares[np.newaxis, :] - (gram + gram.T)
    result = np.sqrt(np.maximum(squared, 0))
    np.fill_diagonal(result, 0)
    return np.asarray(result)


def first_betti_number(distance: np.ndarray) -> int:
    """b1 of the points with these distances.

    Args:
        distance: (N, N), symmetric, zero diagonal.

    Returns:
        The number of dimension-1 bars with death > birth; 0 for fewer than 4 points.
    """
    if len(distance) < 4:
        return 0
    from ripser import ripser  # a second to import (it brings scikit-learn), which most commands need not wait for

    bars = ripser(distance, maxdim=1, distance_matrix=True)["dgms"][1]
    return int(np.count_nonzero(bars[:, 1] > bars[:, 0]))


def betti_numbers(distance: np.ndarray, subsets: Sequence[np.ndarray]) -> list[int]:
    """b1 of each subset of the points.

    Args:
        distance: (N, N), symmetric, zero diagonal.
        subsets: indices of the points of each.
    """
    return [first_betti_number(distance[np.ix_(subset, subset)]) for subset in subsets]
