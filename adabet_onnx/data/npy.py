"""Data from ``.npy`` files: a folder with files such as ``x.npy`` and ``y.npy``, or a single file.

The files are named like the arrays of an ``.npz``: ``x``, ``y``; or ``x_train``, ``y_train``, ``x_test``, ``y_test``;
or after the model's inputs; ``classes`` is optional. Large arrays are not loaded into memory (see `stored`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import DataError
from . import stored
from .dataset import Array
from .stored import Stamp, StoredArray

SUFFIX = ".npy"
MAGIC_PREFIX = np.lib.format.MAGIC_PREFIX
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """The header of an ``.npy``.

    Attributes:
        shape, dtype, fortran: shape, dtype and memory order of the array.
        offset: the position where the array begins.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def stored(self, path: Path, offset: int, stamp: Stamp) -> StoredArray:
        """The array as a `StoredArray`, which stays in its file."""
        return StoredArray(path, offset, self.shape, self.dtype, self.fortran and len(self.shape) > 1, stamp)


def read_header(stream: IO[bytes], length: int, what: str) -> Header:
    """Read the header and check that the array has the length that the header gives.

    Args:
        stream: a stream at the beginning of the file or member.
        length: total length in bytes.
        what: the name used in messages.

    Raises:
        DataError: the length differs, or the array does not hold plain numbers.
        ValueError: the stream is not an .npy.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise DataError(f"{what} does not hold plain numbers. Save plain arrays.")
    shape, fortran, dtype = _HEADERS[version](stream)
    header = Header(shape, dtype, fortran, stream.tell())
    if dtype.hasobject or length - header.offset != header.size:
        kind = "pickled objects" if dtype.hasobject else f"{length - header.offset} bytes"
        raise DataError(
            f"{what} should be {dtype} of shape {shape}, {header.size} bytes, but holds {kind}: it is damaged, cut "
            "short, or contains pickled objects. Save plain arrays with numpy.savez."
        )
    return header


def open_npy(path: Path, *, rows: bool = True) -> Array:
    """Open the array of an ``.npy``: in memory if it is small or ``rows`` is false, else as a `StoredArray`.

    Raises:
        DataError: the file cannot be read or is damaged.
    """
    try:
        with path.open("rb") as stream:
            stamp = Stamp.of(stream.fileno())
            header = read_header(stream, stamp.size, str(path))
            if rows and header.shape and header.size > stored.IN_MEMORY:
                return header.stored(path, header.offset, stamp)
            stream.seek(0)
            array: np.ndarray = np.load(stream, allow_pickle=False)
            return array
    except DataError:
        raise
    except Exception as error:  # numpy does not validate its files and raises errors of many types
        raise DataError(
            f"{path} cannot be read as an .npy file ({str(error)[:200]}): it is damaged, cut short, or contains "
            "pickled objects. Save a plain array with numpy.save."
        ) from error


def arrays_in(folder: Path, known: Iterable[str]) -> dict[str, Path]:
    """The ``.npy`` files of a folder whose names are known names of data arrays, by name without the suffix."""
    return {name: folder / f"{name}{SUFFIX}" for name in known if (folder / f"{name}{SUFFIX}").is_file()}


def labels_next_to(path: Path) -> Path | None:
    """The file of labels in the same folder for ``x.npy``, ``x_train.npy`` or ``x_test.npy``, if it exists."""
    if path.stem not in ("x", "x_train", "x_test"):
        return None
    labels = path.with_name(f"y{path.stem[1:]}{SUFFIX}")
    return labels if labels.is_file() else None
