"""Sketches of samples, collected batch by batch, and their Gram matrix."""

from __future__ import annotations

import sys

import numpy as np

_UPPER = 1 if sys.byteorder == "little" else 0  # the half of a float32 with the sign, exponent and leading digits


class Sketches:
    """The sketches of one layer.

    Only the difference to the first sample is kept, so that no precision is lost to what all samples have in common.

    Args:
        samples: expected number of samples.
        size: size of a sketch.
        half: keep the upper half of each float32 (bfloat16: 8 bits of precision; the rounding of thousands of numbers
            averages out in a distance).
    """

    def __init__(self, samples: int, size: int, *, half: bool) -> None:
        self._rows = np.zeros((samples, size), np.uint16 if half else np.float32)
        self._first: np.ndarray | None = None
        self._half, self._count = half, 0

    @property
    def bytes(self) -> int:
        """The memory of the sketches."""
        return self._rows.nbytes

    def add(self, batch: np.ndarray) -> None:
        """Add the sketches (n, K), float32, of the next samples."""
        if self._first is None:
            self._first = batch[0].copy()
        place = self._rows[self._count : self._count + len(batch)]
        with np.errstate(over="ignore", invalid="ignore"):  # infinite values are detected when distances are computed
            if self._half:
                place[:] = (batch - self._first).view(np.uint16)[:, _UPPER::2]
            else:
                np.subtract(batch, self._first, out=place)
        self._count += len(batch)

    def gram(self) -> np.ndarray:
        """Return the centred Gram matrix of the samples, float32 (N, N)."""
        kept = self._rows[: self._count]
        rows = (kept.astype(np.uint32) << 16).view(np.float32) if self._half else kept.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            rows -= rows.mean(0, dtype=np.float64).astype(np.float32)
            return np.asarray(rows @ rows.T)
