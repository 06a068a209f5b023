"""First Betti numbers: from a Gram matrix to distances to the number of loops.

b1 is the number of bars with death > birth in dimension 1 of the Vietoris-Rips persistence of the points, with
coefficients mod 2 and no threshold: the number of loops that the points form at any scale (AdaBet, arXiv 2510.03101).
Programs for persistent homology, such as ripser, reduce a matrix of triangles to find the bars themselves. Counting
them is much less work and gives the same number. (The estimator ``batches``, which follows the paper exactly, still
uses ripser.)

Let X be the complex before the edges of length l are added, and Y the complex with them. The number of bars that are
born at l and live longer is dim coker(H1(X) -> H1(Y)). By the long exact sequence of the pair

    H1(X) -> H1(Y) -> H1(Y, X) -> H0(X) -> H0(Y) -> 0

that is dim H1(Y, X) minus the number of component merges by edges of length l, which over all lengths is n - 1 for n
points. And H1(Y, X) is the space of the edges of length l modulo the triangles of diameter l, in which only the edges
of length l count. So

    b1 = sum over l of (edges of length l - rank of the triangles of diameter l) - (n - 1).

If all lengths differ, a triangle has one longest edge, and the rank is 1 if there is a triangle whose other edges are
shorter, else 0. The edges without such a triangle are the relative neighbourhood graph (G. T. Toussaint, "The relative
neighbourhood graph of a finite planar set", Pattern Recognition 12, 1980), and b1 = its edges - (n - 1). For equal
lengths see `equal_lengths`. Lengths are compared as float32, as in ripser, so that the numbers equal ripser's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .equal_lengths import EqualLengths, pair_rows

_PAIRS = 1 << 15  # pairs of points processed together: what fits a processor's cache


def distances(gram: np.ndarray) -> np.ndarray:
    """Compute Euclidean distances of points from their Gram matrix, in double precision.

    d_ij^2 = g_ii + g_jj - 2 g_ij. The points should be centred (see `probes`), or float32 rounding of the Gram
    matrix drowns the distances.

    Args:
        gram: (N, N), symmetric.

    Returns:
        float64 (N, N), symmetric, zero diagonal.

    Raises:
        DataError: the matrix has NaN or infinite entries.
    """
    gram = np.asarray(gram, np.float64)
    if not np.isfinite(gram).all():
        raise DataError("activations are NaN or infinite (or so large that their products are)")
    squares = np.diag(gram)
    squared = squares[:, np.newaxis] + squares[np.newaxis, :] - (gram + gram.T)
    result = np.sqrt(np.maximum(squared, 0))
    np.fill_diagonal(result, 0)
    return np.asarray(result)


class Loops:
    """Counts the loops of a group of points for many of its subsets.

    For each pair of points, a set of bits says which points are nearer to both than they are to each other. A pair is
    in the relative neighbourhood graph of a subset if none of these points is in the subset.

    Args:
        distance: (N, N), symmetric, zero diagonal; only the upper triangle is used.

    Example:
        >>> import numpy as np
        >>> from adabet_onnx.scoring.betti import Loops
        >>> square = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])
        >>> Loops(square).count([[0, 1, 2, 3], [0, 1, 2, 2]])
        [1, 0]
    """

    def __init__(self, distance: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # lengths that overflow float32 become infinite, longer than all others
            lengths = np.triu(np.asarray(distance).astype(np.float32), 1)
        lengths += lengths.T
        self._place, kept = _merge_duplicates(lengths)
        lengths = lengths[np.ix_(kept, kept)]
        self._points = len(kept)
        self._nearer = _nearer(lengths)
        self._equal = EqualLengths(lengths, self._nearer)

    def count(self, subsets: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> list[int]:
        """Return b1 of each subset.

        Args:
            subsets: indices of points, the same number in each.
        """
        chosen = np.sort(self._place[np.asarray(subsets, np.intp)], axis=1)
        chosen[:, 1:][chosen[:, 1:] == chosen[:, :-1]] = self._points  # a dummy point: every pair with it is excluded
        chosen.sort(axis=1)
        rows = pair_rows(self._points)[chosen]
        first, second = np.triu_indices(chosen.shape[1], 1)
        step = max(1, _PAIRS // max(1, len(first)))
        numbers: list[int] = []
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            inside = _inside(part, self._points)
            bits = _as_bits(inside)
            pairs = rows[start : start + step, first] + part[:, second]
            blocked = self._nearer[0][pairs] & bits[0][:, np.newaxis]
            for nearer, present in zip(self._nearer[1:], bits[1:], strict=True):
                blocked |= nearer[pairs] & present[:, np.newaxis]
            free = pairs.shape[1] - np.count_nonzero(blocked, axis=1)
            bound = free - (np.count_nonzero(inside, axis=1) - 1)
            numbers += (bound - self._equal.ranks(inside, bits, bound)).tolist()
        return numbers


def first_betti_number(distance: np.ndarray) -> int:
    """Return b1 of the points with these distances.

    Args:
        distance: (N, N), symmetric, zero diagonal.

    Returns:
        The number of dimension-1 bars with death > birth; 0 for fewer than 4 points.
    """
    return Loops(distance).count([np.arange(len(distance))])[0]


def betti_numbers(distance: np.ndarray, subsets: Sequence[np.ndarray]) -> list[int]:
    """Return b1 of each subset of the points.

    Args:
        distance: (N, N), symmetric, zero diagonal.
        subsets: indices of the points of each, the same number in each.
    """
    return Loops(distance).count(subsets)


def loops_by_ripser(distance: np.ndarray) -> int:
    """Return b1 of the points with these distances as in the paper, by counting the bars that ripser finds.

    Args:
        distance: (N, N), symmetric, zero diagonal.

    Returns:
        As `first_betti_number`.
    """
    if len(distance) < 4:
        return 0
    from ripser import ripser  # takes a second to import (with scikit-learn), which most commands do not need

    bars = ripser(distance, maxdim=1, distance_matrix=True)["dgms"][1]
    return int(np.count_nonzero(bars[:, 1] > bars[:, 0]))


def _merge_duplicates(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge duplicate points: return (each point's position among those kept, indices of those kept).

    Points at distance 0 with equal distances to all others (a duplicated sample) form no additional loops: both are
    joined to the same points at the same lengths, and the complex with both contracts to the complex with one.
    """
    every = np.arange(len(lengths))
    if np.count_nonzero(lengths) == lengths.size - len(lengths):
        return every, every
    _, kept, place = np.unique(lengths, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(kept)
    return np.argsort(order)[place.reshape(-1)], kept[order]


def _nearer(lengths: np.ndarray) -> np.ndarray:
    """Return, for each pair, the points nearer to both than they are to each other, as bits: uint64, (words, pairs).

    Pairs are indexed by `pair_rows`. Pairs with the dummy point N have every bit set.
    """
    count = len(lengths)
    words, used = -(-count // 64), -(-count // 8)
    packed = np.full((count * (count + 1) // 2, 8 * words), 255, np.uint8)
    for i, row in enumerate(pair_rows(count)[: count - 1].tolist()):
        others = lengths[i + 1 :]
        nearer = np.maximum(lengths[i], others) < others[:, i, np.newaxis]
        packed[row + i + 1 : row + count] = 0
        packed[row + i + 1 : row + count, :used] = np.packbits(nearer, axis=1)
    return np.ascontiguousarray(packed.view(np.uint64).T)


def _inside(chosen: np.ndarray, points: int) -> np.ndarray:
    """Return which points are in each subset: booleans, (subsets, points)."""
    inside = np.zeros((len(chosen), points + 1), bool)
    inside[np.arange(len(chosen))[:, np.newaxis], chosen] = True
    return inside[:, :points]


def _as_bits(inside: np.ndarray) -> np.ndarray:
    """Return the same as bits: uint64, (words, subsets)."""
    count, points = inside.shape
    packed = np.zeros((count, 8 * -(-points // 64)), np.uint8)
    packed[:, : -(-points // 8)] = np.packbits(inside, axis=1)
    return np.ascontiguousarray(packed.view(np.uint64).T)
