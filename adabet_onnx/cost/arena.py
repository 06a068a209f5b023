"""A simulation of ONNX Runtime's memory arena for the CPU (its BFCArena with the default settings).

Memory comes in regions whose sizes are powers of two of megabytes. A request takes the smallest free piece that is
large enough, and splits it if it is at least twice as large; neighbouring free pieces are merged again. Regions are
never released, and a page is resident once it has been written to, so resident memory depends on which pages were ever
part of a piece in use.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np

_ROUND = 256  # bytes; sizes of pieces are multiples of it
_FIRST = 1 << 20  # size of the first region, in bytes
_LARGEST = 1 << 30  # maximum size of a region
_DEAD = 1 << 27  # a piece with at least this much unused space is always split
_PAGE = 4096
_HANDLE = 8  # bytes per _ROUND of a region, for the arena's own table


@dataclass(eq=False)
class Piece:
    """A piece of a region: its start and size in bytes, its neighbours, and whether it is in use."""

    region: int
    start: int
    size: int
    used: bool = False
    before: Piece | None = None
    after: Piece | None = None

    @property
    def key(self) -> tuple[int, int, int]:
        """The order in which free pieces are tried: by size, then by address (later regions are at lower addresses)."""
        return self.size, -self.region, self.start


class Arena:
    """The arena, with `allocate`, `free` and its resident size."""

    def __init__(self) -> None:
        self._free: list[tuple[tuple[int, int, int], Piece]] = []
        self._touched: list[np.ndarray] = []
        self._next = _FIRST

    @property
    def resident(self) -> int:
        """Bytes of all pages that were ever written to, plus the arena's tables."""
        pages = sum(int(np.count_nonzero(touched)) for touched in self._touched)
        return pages * _PAGE + self.reserved // _ROUND * _HANDLE

    @property
    def reserved(self) -> int:
        """Total bytes of all regions."""
        return sum(len(touched) - 1 for touched in self._touched) * _PAGE

    def allocate(self, size: int, *, written: bool = True) -> Piece:
        """Allocate a piece.

        Args:
            size: size in bytes.
            written: whether all of it will be written to.
        """
        size = max(_ROUND, math.ceil(size / _ROUND) * _ROUND)
        at = self._position((size, -len(self._touched), 0))
        if at == len(self._free):
            self._insert(self._extend(size))
            at = self._position((size, -len(self._touched), 0))
        piece = self._free.pop(at)[1]
        if piece.size >= 2 * size or piece.size - size >= _DEAD:
            self._split(piece, size)
        piece.used = True
        if written:
            self._touched[piece.region][piece.start // _PAGE : (piece.start + size - 1) // _PAGE + 1] = True
        return piece

    def free(self, piece: Piece) -> None:
        """Free a piece."""
        piece.used = False
        if piece.after is not None and not piece.after.used:
            self._remove(piece.after)
            self._join(piece, piece.after)
        if piece.before is not None and not piece.before.used:
            before = piece.before
            self._remove(before)
            self._join(before, piece)
            piece = before
        self._insert(piece)

    def _extend(self, size: int) -> Piece:
        grown = False
        while size > self._next:
            self._next, grown = 2 * self._next, True
        region = len(self._touched)
        self._touched.append(np.zeros(self._next // _PAGE + 1, np.bool_))
        piece = Piece(region, 0, self._next)
        if not grown and 2 * self._next < _LARGEST:
            self._next *= 2
        return piece

    def _split(self, piece: Piece, size: int) -> None:
        rest = Piece(piece.region, piece.start + size, piece.size - size, before=piece, after=piece.after)
        if rest.after is not None:
            rest.after.before = rest
        piece.size, piece.after = size, rest
        self._insert(rest)

    def _join(self, first: Piece, second: Piece) -> None:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first

    def _insert(self, piece: Piece) -> None:
        bisect.insort(self._free, (piece.key, piece), key=lambda entry: entry[0])

    def _remove(self, piece: Piece) -> None:
        del self._free[self._position(piece.key)]

    def _position(self, key: tuple[int, int, int]) -> int:
        return bisect.bisect_left(self._free, key, key=lambda entry: entry[0])
