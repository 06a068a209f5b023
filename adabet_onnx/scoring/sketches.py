"""Sketches of samples, gathered batch by batch, and Gram matrices of all of them."""

from __future__ import annotations

import sys

import numpy as np

_UPPER = 1 if sys.byteorder == "little" else 0  # the half of a float32 with sign, exponent and first digits


class Sketches:
    """Sketches of one layer.

    Kept is the difference to the first sample, so that what all samples have in common takes no digits.

    Args:
        samples: how many will come.
        size: numbers of each.
        half: keep the upper half of each float32 (bfloat16: 8 bits of precision; the rounding of thousands of numbers
            averages out in a distance).
    """

    def __init__(self, samples: int, size: int, *, half: bool) -> None:
        self._rows = np.zeros((samples, size), np.uint16 if half else np.float32)
        self._first: np.ndarray | None = None
        self._half, self._count = half, 0

    @property
    def bytes(self) -> int:
        """That the sketches take."""
        return self._rows.nbytes

    def add(self, batch: np.ndarray) -> None:
        """Add the sketches (n, K), float32, of the next samples."""
        if self._first is None:
            self._first = batch[0].copy()
        place = self._rows[self._count : self._count + len(batch)]
        with np.errstate(over="ignore", invalid="ignore"):  # what is infinite is found where distances are taken
            if self._half:
                place[:] = (batch - self._first).view(np.uint16)[:, _UPPER::2]
            else:
                np.subtract(batch, self._first, out=place)
        self._count += len(batch)

    def gram(self) -> np.ndarray:
        """Centred Gram matrix of the samples, float32 (N, N)."""
        kept = self._rows[: self._count]
        rows = (kept.astype(np.uint32) << 16).view(np.float32) if self._half else kept.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            rows -= rows.mean(0, dtype=np.float64).astype(np.float32)
            return np.asarray(rows @ rows.T)
