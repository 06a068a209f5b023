"""Handling of edges of equal length, for which counting loops needs more than nearest neighbours; see `betti`.

A triangle of diameter l is a vector mod 2 over its edges of length l. A triangle with a single such edge means that the
edge does not count; `betti` handles that. A triangle with two or three of them is a sum, and this module computes the
rank of these sums over the edges that still count. With real-valued lengths there are hardly any.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_NONE = -1  # no edge; the last pair, which has every bit set
_Triangles = tuple[np.ndarray, np.ndarray, np.ndarray]


def pair_rows(points: int) -> np.ndarray:
    """Return offsets into an ordered list of all pairs: pair i < j is at rows[i] + j, for j up to ``points`` itself.

    Example:
        >>> from adabet_onnx.scoring.equal_lengths import pair_rows
        >>> rows = pair_rows(2)
        >>> [int(rows[i] + j) for i, j in [(0, 1), (0, 2), (1, 2), (2, 2)]]
        [0, 1, 2, 2]
    """
    first = np.arange(points + 1)
    return first * (2 * points + 1 - first) // 2 - first - 1


class EqualLengths:
    """The triangles of a group of points whose two longest edges are equal.

    Args:
        lengths: float32 (N, N), symmetric, zero diagonal.
        nearer: for each pair, the points nearer to both, as bits (see `betti`).
    """

    def __init__(self, lengths: np.ndarray, nearer: np.ndarray) -> None:
        self._lengths, self._nearer, self._rows = lengths, nearer, pair_rows(len(lengths))
        in_order = np.sort(lengths, axis=1)
        self._apexes = np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1))

    def ranks(self, inside: np.ndarray, bits: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Return the rank of the triangles in each subset, over the edges that count.

        Args:
            inside: which points are in each subset, (subsets, N).
            bits: the same as bits, (words, subsets).
            most: an upper bound of the rank in each subset; the search ends there.

        Returns:
            int (subsets,).
        """
        ranks = np.zeros(len(inside), np.intp)
        bases: list[dict[int, set[int]]] = [{} for _ in inside]
        for apex in self._apexes:
            subsets = np.flatnonzero(inside[:, apex] & (ranks < most))
            for subset, vector in self._sums(apex, subsets, inside[subsets], bits[:, subsets]):
                if ranks[subset] < most[subset]:
                    ranks[subset] += _added(bases[subset], vector)
        return ranks

    def _sums(
        self, apex: np.intp, subsets: np.ndarray, inside: np.ndarray, bits: np.ndarray
    ) -> Iterator[tuple[int, set[int]]]:
        """Yield the triangles at a point in each subset, as the sets of their edges that count."""
        first, second, third = self._isosceles(apex)
        row, triangle = np.nonzero(inside[:, first] & inside[:, second])
        edges = np.stack(
            [self._pair(apex, first), self._pair(apex, second), np.where(third, self._pair(first, second), _NONE)]
        )[:, triangle]
        free = ~(self._nearer[:, edges] & bits[:, np.newaxis, row]).any(axis=0)
        edges = np.where(free, edges, _NONE)
        nonempty = (edges != _NONE).any(axis=0)
        for subset, triple in zip(subsets[row[nonempty]].tolist(), edges[:, nonempty].T.tolist(), strict=True):
            yield subset, {edge for edge in triple if edge != _NONE}

    def _isosceles(self, apex: np.intp) -> _Triangles:
        """Return the triangles with two equal longest edges that meet in a point.

        Returns:
            The other two points of each, and whether all three edges are equal; such triangles are only returned at
            their first point.
        """
        row = self._lengths[apex]
        order = np.argsort(row)
        again = row[order[1:]] == row[order[:-1]]
        ends = np.sort(order[np.append(again, False) | np.append(False, again)])
        ends = ends[ends != apex]
        equal = (row[ends, np.newaxis] == row[ends]) & (self._lengths[np.ix_(ends, ends)] <= row[ends])
        first, second = (ends[place] for place in np.nonzero(np.triu(equal, 1)))
        third = self._lengths[first, second] == row[first]
        once = ~third | (apex < first)
        return first[once], second[once], third[once]

    def _pair(self, first: np.ndarray | np.intp, second: np.ndarray) -> np.ndarray:
        return np.asarray(self._rows[np.minimum(first, second)] + np.maximum(first, second))


def _added(basis: dict[int, set[int]], vector: set[int]) -> int:
    """Add a vector to a basis in echelon form; return 1, or 0 if it already lies in the span."""
    while vector:
        last = max(vector)
        if last not in basis:
            basis[last] = vector
            return 1
        vector = vector ^ basis[last]
    return 0
