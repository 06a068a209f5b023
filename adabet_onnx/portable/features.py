"""The kept values of samples, from which a training step starts; the frozen graph computes them once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np


class Features(Mapping[str, np.ndarray]):
    """Arrays by name, with the samples along the first axis of each.

    Args:
        arrays: arrays by the names of the manifest's boundary; at least one.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of this name."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """The number of arrays."""
        return len(self._arrays)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return min(len(array) for array in self._arrays.values())

    def at(self, indices: np.ndarray | slice) -> Features:
        """The features of some of the samples."""
        return Features({name: array[indices] for name, array in self._arrays.items()})
