"""Arrays that stay in their file: rows are read when they are asked for, so that data may be larger than memory.

An array of an ``.npz`` that is not compressed (`numpy.savez`) lies in the file as it would in memory, after a header;
that of an ``.npy`` likewise. Rows are read at their place with plain reads and not through a mapping: what is read does
not count as memory of the process, the place needs no alignment, and a file that is cut short meanwhile gives an error
where a mapping would end the process. Arrays in Fortran order, whose rows lie scattered over the file, are mapped for
the length of one access.

A file that has changed since it was opened (size, time of change, or another file in its place) is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..showing import file_name, one_line

IN_MEMORY = 64 << 20  # bytes up to which an array is read at once


@dataclass(frozen=True)
class Stamp:
    """What a file was when it was opened."""

    size: int
    changed: int
    number: int

    @classmethod
    def of(cls, descriptor: int) -> Stamp:
        """Of an open file."""
        found = os.fstat(descriptor)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, first axis the samples.

    Attributes:
        path: of the file.
        offset: where its first number is.
        shape: of it.
        dtype: of its numbers, in the byte order of the file.
        fortran: whether the first axis is the one that runs fastest.
        stamp: of the file.
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
        """How many axes it has."""
        return len(self.shape)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The rows of these indices, in memory.

        Raises:
            DataError: the file cannot be read, or is not what it was.
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
        """One read for each run of rows that follow each other."""
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        if found.size == 0:
            return found
        width = found.nbytes // len(chosen)
        bytes_of = found.reshape(-1).view(np.uint8).data
        cuts = np.flatnonzero(np.diff(chosen) != 1) + 1
        for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(chosen)], strict=True):
            place, room = self.offset + int(chosen[start]) * width, bytes_of[start * width : end * width]
            file.seek(place)
            while room:
                count = file.readinto(room)
                if not count:
                    raise self._changed()
                room = room[count:]
        return found

    def _changed(self) -> DataError:
        return DataError(
            f"{self.path} has changed since it was opened, and its samples are read when they are needed. Leave it as "
            "it is until the work is done, and start again."
        )
