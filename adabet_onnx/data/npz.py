"""Data from .npz files: ``x``, ``y``; or ``x_train``, ``y_train``, ``x_test``, ``y_test``; ``classes`` optional."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .dataset import ArrayRows, Dataset, Splits


def read_npz(path: Path) -> Splits:
    """Read training and test data.

    Raises:
        DataError: not an .npz, damaged, arrays missing, of the wrong type, or of different lengths.
    """
    try:
        with path.open("rb") as stream:  # opened here: numpy leaves a damaged file open
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path} is a single .npy array; save it as an .npz with x= and y=.")
            with archive:
                arrays = {key: archive[key] for key in archive.files if key in _KNOWN}
                found = sorted(archive.files)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as an .npz file ({str(error)[:200]}): damaged, cut short, or with pickled "
            "objects in it. Save plain arrays with numpy.savez."
        ) from error
    classes = as_classes(arrays.get("classes"), str(path))
    if "x_train" in arrays:
        train = _dataset(arrays, "x_train", "y_train", classes, path)
        test = _dataset(arrays, "x_test", "y_test", classes, path) if "x_test" in arrays else None
        if test is not None and test.rows.fetch(np.arange(1))[""].shape != train.rows.fetch(np.arange(1))[""].shape:
            raise DataError(f"{path}: samples of x_train and x_test have different shapes.")
        return Splits(train, test)
    if "x" in arrays:
        return Splits(_dataset(arrays, "x", "y", classes, path), None)
    if "x_test" in arrays:
        return Splits(_dataset(arrays, "x_test", "y_test", classes, path), None)
    raise DataError(f"{path} has neither x nor x_train; it holds {', '.join(found) or 'nothing'}. Rename its arrays.")


_KNOWN = frozenset({"x", "y", "x_train", "y_train", "x_test", "y_test", "classes"})


def _dataset(arrays: dict[str, np.ndarray], x: str, y: str, classes: list[str] | None, path: Path) -> Dataset:
    data = arrays[x]
    if data.ndim < 2:
        raise DataError(
            f"{path}: {x} must have a first axis of samples and at least one more; it has shape {data.shape}."
        )
    if data.dtype.kind not in "uif":
        raise DataError(f"{path}: {x} must hold numbers (uint8 images or floats), not {data.dtype}.")
    if len(data) == 0:
        raise DataError(f"{path}: {x} has no samples.")
    labels = as_labels(arrays[y], len(data), f"{path}: {y}") if y in arrays else None
    return Dataset(ArrayRows({"": data}), labels, classes, str(path))


def as_labels(labels: Any, count: int, what: str) -> np.ndarray:
    """Labels as int64 class indices (from any integer type, (N,) or (N, 1)) or float32 targets.

    Raises:
        DataError: the number of labels differs from ``count``, or they are not numbers.
    """
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"{what} must be one array, a label per sample: {error}") from error
    if array.ndim == 0 or len(array) != count:
        found = len(array) if array.ndim else "one"
        raise DataError(f"{what} has {found} labels for {count} samples; give one label per sample.")
    if array.dtype.kind in "iu":
        return array.reshape(count).astype(np.int64) if array.size == count else array.astype(np.int64)
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    raise DataError(f"{what} must be integers (class indices from 0) or float targets, not {array.dtype}.")


def as_classes(names: Any, where: str) -> list[str] | None:
    """Class names as a list of strings; None stays None.

    Raises:
        DataError: they are not a list of names.
    """
    if names is None:
        return None
    array = np.asarray(names)
    if array.ndim != 1:
        raise DataError(f"{where}: classes must be a list of names, one per class; it has shape {array.shape}.")
    return [str(name) for name in array]
