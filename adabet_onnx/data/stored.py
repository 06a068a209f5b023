"""Arrays that stay in their file: rows are read on access, so data may be larger than memory.

In an uncompressed ``.npz`` (`numpy.savez`) or an ``.npy``, an array is stored after a header exactly as in memory. Rows
are read with plain reads, not through a memory mapping: the pages do not count as memory of the process, the offset
needs no alignment, and truncating the file meanwhile raises an error where a mapping would crash the process. Arrays in
Fortran order, whose rows are scattered over the file, are mapped for the duration of one access.

A file that has changed since it was opened (size, modification time, or another file in its place) is rejected.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..showing import file_name, one_line

IN_MEMORY = 64 << 20  # bytes; larger arrays stay in their file


@dataclass(frozen=True)
class Stamp:
    """The state of a file when it was opened: size in bytes, modification time, and inode number."""

    size: int
    changed: int
    number: int

    @classmethod
    def of(cls, descriptor: int) -> Stamp:
        """The stamp of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, sample axis first.

    Attributes:
        path: path of the file.
        offset: position of its first number.
        shape: its shape.
        dtype: its dtype, in the byte order of the file.
        fortran: whether the first axis varies fastest.
        stamp: state of the file when it was opened.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    stamp: Stamp

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return one_line(self, f"{' x '.join(map(str, self.shape))} {self.dtype}", f"in {file_name(str(self.path))}")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The rows with these indices, in memory.

        Raises:
            DataError: the file cannot be read or has changed.
        """
        chosen = np.asarray(indices, np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"rows {chosen.min()} to {chosen.max()} of {len(self)}")
        try:
            with self.path.open("rb", buffering=0) as file:
                if Stamp.of(file.fileno()) != self.stamp:
                    raise self._changed()
                if self.fortran:
                    mapped = np.memmap(file, self.dtype, "r", self.offset, self.shape, "F")
                    return np.array(mapped[chosen], order="C", subok=False)
                return self._read(file, chosen)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}.") from error

    def _read(self, file: FileIO, chosen: np.ndarray) -> np.ndarray:
        """Read the rows, with one read per run of consecutive rows."""
        rows = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        if rows.size == 0:
            return rows
        width = rows.nbytes // len(chosen)
        buffer = rows.reshape(-1).view(np.uint8).data
        cuts = np.flatnonzero(np.diff(chosen) != 1) + 1
        for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(chosen)], strict=True):
            rest = buffer[start * width : end * width]
            file.seek(self.offset + int(chosen[start]) * width)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise self._changed()
                rest = rest[count:]
        return rows

    def _changed(self) -> DataError:
        return DataError(
            f"{self.path} has changed since it was opened, and its samples are read when they are needed. Start again, "
            "and do not change the file during the run."
        )
