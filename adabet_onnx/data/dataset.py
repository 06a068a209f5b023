"""Datasets as the rest of the package uses them: rows that can be fetched by index, with optional labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .. import seeds
from ..errors import DataError
from ..showing import clipped, counted, file_name, one_line
from .reading import AS_IT_IS, Reading
from .stored import StoredArray

_BLOCK = 16 << 20  # bytes


@dataclass(frozen=True)
class Form:
    """Shape and type of samples.

    Attributes:
        shape: shape of one sample, without the batch.
        dtype: dtype of its numbers.
        files: whether samples come from image files, which are read at the size and with the channels requested.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    files: bool = False


class Rows(Protocol):
    """Raw samples by index."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The samples with these indices by input name (``""``: the model's only input), batch axis first."""
        ...

    @property
    def forms(self) -> dict[str, Form]:
        """Shape and type of the samples as `fetch` returns them, by input name."""
        ...


Array = np.ndarray | StoredArray


@dataclass(frozen=True)
class ArrayRows:
    """Samples in memory or in a file: arrays by input name, sample axis first."""

    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return int(next(iter(self.arrays.values())).shape[0])

    def __repr__(self) -> str:
        return one_line(self, *_described(self))

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of every array."""
        return {name: array[indices] for name, array in self.arrays.items()}

    @property
    def forms(self) -> dict[str, Form]:
        """Shape and dtype of every array."""
        return {name: Form(array.shape[1:], array.dtype) for name, array in self.arrays.items()}


@dataclass(frozen=True)
class Dataset:
    """Rows with labels.

    Attributes:
        rows: raw samples.
        labels: one per row (int64 class indices, or float targets), or None.
        classes: class names, or None.
        name: the name used in messages.
        reading: the user's options for the layout of axes and for resizing.
    """

    rows: Rows
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    name: str = "the data"
    reading: Reading = AS_IT_IS

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        name = None if self.name == Dataset.name else file_name(self.name)
        labels = "no labels" if self.labels is None else f"labels {self.labels.dtype}"
        classes = None if self.classes is None else f"{len(self.classes)} classes"
        return one_line(self, name, *_described(self.rows), labels, classes)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The dataset restricted to these rows, in this order."""
        chosen = np.asarray(indices, np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, rows=ChosenRows(self.rows, chosen), labels=labels)

    def need_labels(self, why: str) -> np.ndarray:
        """Return the labels.

        Raises:
            DataError: there are no labels.
        """
        if self.labels is None:
            raise DataError(
                f"{self.name} has no labels, which {why} needs: add y (or y_train, y_test) to the .npz, or give arrays "
                "as a pair of x and y. (Where the model has an input called y, labels are called labels.)"
            )
        return self.labels


@dataclass(frozen=True)
class Splits:
    """Training data and, if the source has any, test data for the final figures."""

    train: Dataset
    test: Dataset | None

    def __repr__(self) -> str:
        test = "no test part" if self.test is None else counted(len(self.test), "test sample")
        return one_line(self, counted(len(self.train), "training sample"), test, *_described(self.train.rows)[1:])

    @property
    def for_evaluation(self) -> Dataset:
        """The test data or, without any, all data."""
        return self.train if self.test is None else self.test

    def read_as(self, reading: Reading) -> Splits:
        """The same data with other reading options."""
        test = None if self.test is None else replace(self.test, reading=reading)
        return Splits(replace(self.train, reading=reading), test)


@dataclass(frozen=True)
class ChosenRows:
    """A subset of other rows, by index."""

    rows: Rows
    indices: np.ndarray

    def __repr__(self) -> str:
        return one_line(self, *_described(self))

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows with these indices within the subset."""
        return self.rows.fetch(self.indices[indices])

    @property
    def forms(self) -> dict[str, Form]:
        """Forms of the underlying rows."""
        return self.rows.forms


def _described(rows: Rows) -> list[str]:
    """The number of samples and the form of each input, as text."""
    parts = [counted(len(rows), "sample")]
    for name, form in rows.forms.items():
        shape = " x ".join(map(str, form.shape)) or "one number"
        kind = "image files" if form.files else f"{shape} {form.dtype}"
        parts.append(f"{clipped(name)}: {kind}" if name else kind)
    return parts


def in_blocks(dataset: Dataset, most: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield all samples in order, as `Rows.fetch` returns them, in blocks of at most ``most`` samples and 16 MiB."""
    width = sum(math.prod(form.shape) * form.dtype.itemsize for form in dataset.rows.forms.values())
    rows = min(most, max(1, _BLOCK // max(width, 1)))
    for start in range(0, len(dataset), rows):
        yield dataset.rows.fetch(np.arange(start, min(start + rows, len(dataset))))


def split_off(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Split off a seeded random ``fraction`` as validation data: (remaining data, validation data or None).

    At least one sample remains.
    """
    rows, held = split_rows(len(dataset), fraction, seed)
    return (dataset, None) if held is None else (dataset.subset(rows), dataset.subset(held))


def split_rows(samples: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Like `split_off`, but returns indices, each array ascending."""
    count = min(round(fraction * samples), samples - 1)
    if count == 0:
        return np.arange(samples), None
    order = seeds.validation(seed).permutation(samples)
    return np.sort(order[count:]), np.sort(order[:count])
