"""Data from ``.npy`` files: a folder with ``x.npy`` and ``y.npy``, or the like, or one such file.

The files are called as the arrays of an ``.npz`` are: ``x``, ``y``; or ``x_train``, ``y_train``, ``x_test``,
``y_test``; or as a model's inputs are; ``classes`` optional. Large ones stay where they are (see `stored`).
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
    """What the beginning of an ``.npy`` says.

    Attributes:
        shape, dtype, fortran: of the array.
        offset: where it begins.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def stored(self, path: Path, offset: int, stamp: Stamp) -> StoredArray:
        """The array, left in its file."""
        return StoredArray(path, offset, self.shape, self.dtype, self.fortran and len(self.shape) > 1, stamp)


def read_header(stream: IO[bytes], length: int, what: str) -> Header:
    """Read the header, and see that an array is as long as it says.

    Args:
        stream: at the beginning of the file or member.
        length: bytes of it in all.
        what: messages call it.

    Raises:
        DataError: it is not, or holds no plain numbers.
        ValueError: it is no .npy.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise DataError(f"{what} is of a kind that holds no plain numbers. Save plain arrays.")
    shape, fortran, dtype = _HEADERS[version](stream)
    found = Header(shape, dtype, fortran, stream.tell())
    if dtype.hasobject or length - found.offset != found.size:
        kind = "pickled objects" if dtype.hasobject else f"{length - found.offset} bytes"
        raise DataError(
            f"{what} should be {dtype} of shape {shape}, {found.size} bytes, but holds {kind}: damaged, cut short, or "
            "with pickled objects in it. Save plain arrays with numpy.savez."
        )
    return found


def open_npy(path: Path, *, rows: bool = True) -> Array:
    """The array of an ``.npy``: in memory if it is small, or ``rows`` are not what is asked for, else in its file.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as stream:
            stamp = Stamp.of(stream.fileno())
            header = read_header(stream, stamp.size, str(path))
            if rows and header.shape and header.size > stored.IN_MEMORY:
                return header.stored(path, header.offset, stamp)
            stream.seek(0)
            found: np.ndarray = np.load(stream, allow_pickle=False)
            return found
    except DataError:
        raise
    except Exception as error:  # numpy trusts its files, and fails in many ways where it should not
        raise DataError(
            f"{path} cannot be read as an .npy file ({str(error)[:200]}): damaged, cut short, or with pickled objects "
            "in it. Save a plain array with numpy.save."
        ) from error


def arrays_in(folder: Path, known: Iterable[str]) -> dict[str, Path]:
    """The ``.npy`` files of a folder that are called as arrays of data are, by name without the suffix."""
    return {name: folder / f"{name}{SUFFIX}" for name in known if (folder / f"{name}{SUFFIX}").is_file()}


def labels_beside(path: Path) -> Path | None:
    """For ``x.npy``, ``x_train.npy`` and ``x_test.npy`` the file of labels in the same folder, if there is one."""
    if path.stem not in ("x", "x_train", "x_test"):
        return None
    found = path.with_name(f"y{path.stem[1:]}{SUFFIX}")
    return found if found.is_file() else None
