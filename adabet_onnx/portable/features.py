"""What is kept of samples: the values from which a training step goes on, computed once by the frozen graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np


class Features(Mapping[str, np.ndarray]):
    """Arrays by name, the samples along the first axis of each.

    Args:
        arrays: by the names that the manifest's boundary gives; at least one.
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
        """How many arrays there are."""
        return len(self._arrays)

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return min(len(array) for array in self._arrays.values())

    def at(self, indices: np.ndarray | slice) -> Features:
        """The features of some of the samples."""
        return Features({name: array[indices] for name, array in self._arrays.items()})
