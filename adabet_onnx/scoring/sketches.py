"""Sketches of samples, gathered batch by batch, and Gram matrices of all of them."""

from __future__ import annotations

import math

import numpy as np

_LARGEST = 3e4  # in half precision; the format ends at 65,504


class Sketches:
    """Sketches of one layer.

    Kept is the difference to the first sample, so that what all samples have in common takes no digits from half
    precision or from sums.

    Args:
        samples: how many will come.
        size: numbers of each.
        half: keep them in half precision, scaled by a power of two so that they fit.
    """

    def __init__(self, samples: int, size: int, *, half: bool) -> None:
        self._rows = np.zeros((samples, size), np.float16 if half else np.float32)
        self._first: np.ndarray | None = None
        self._half, self._scale, self._count = half, 0.0, 0

    def add(self, batch: np.ndarray) -> None:
        """Add the sketches (n, K) of the next samples."""
        if self._first is None:
            self._first = batch[0].copy()
        rows = batch - self._first
        if self._half:
            rows = self._scaled(rows)
        self._rows[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def gram(self) -> np.ndarray:
        """Centred Gram matrix of the samples, float32 (N, N)."""
        rows = self._rows[: self._count].astype(np.float32)
        rows -= rows.mean(0, dtype=np.float64).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            gram = rows @ rows.T
        return np.asarray(gram / np.float32(self._scale**2) if self._scale else gram, np.float32)

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        """The rows times the scale, which is made smaller where they would not fit."""
        largest = float(np.max(np.abs(rows), initial=0))
        if not math.isfinite(largest):
            return rows  # NaN or infinite in half precision too
        if largest and not self._scale:
            self._scale = 2.0 ** -math.ceil(math.log2(largest))
        if largest * self._scale > _LARGEST:
            smaller = 2.0 ** -math.ceil(math.log2(largest))
            self._rows[: self._count] *= np.float16(smaller / self._scale)
            self._scale = smaller
        return np.asarray(rows * np.float32(self._scale or 1))
