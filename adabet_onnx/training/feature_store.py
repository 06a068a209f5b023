"""A file of arrays, one row per sample, that is only used if it is complete and has the expected key.

    0           8 bytes     ADABETFT
    8           8 bytes     length of the header, little-endian
    16          32 bytes    SHA-256 of the header
    48          header      JSON: format "adabet-onnx/features", version 1, key (64 hexadecimal digits: a hash of
                            everything the values depend on), samples, and arrays: name, dtype, shape (of one sample),
                            offset, bytes, sha256
    offset      bytes       of each array: its numbers, little-endian, the samples first; zeros between arrays, each
                            of which begins at a multiple of 4096

The file is written under a temporary name, synced to disk and renamed, so a file with the final name is always
complete. Opening it checks everything: that it is a regular file and not a link, its length, header and key, and the
SHA-256 of each array. Then it is mapped into memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files import replacing
from ..portable.features import Features

FORMAT, VERSION = "adabet-onnx/features", 1
SUFFIX = ".features"
_MAGIC, _LEAD, _ALIGNED, _BLOCK = b"ADABETFT", 48, 4096, 1 << 20
# Do not follow links, and do not block on anything that is not a regular file.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Field:
    """One array of a store.

    Attributes:
        name: name of the array.
        dtype: NumPy's name of its type.
        shape: shape of one sample.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def kind(self) -> np.dtype:
        """The dtype in which the array is stored."""
        kind: np.dtype = np.dtype(self.dtype).newbyteorder("<")
        return kind

    @property
    def bytes(self) -> int:
        """Bytes of one sample."""
        return self.kind.itemsize * math.prod(self.shape)


class Store:
    """A file that is mapped into memory.

    Attributes:
        path: path of the file.
        features: its arrays.
    """

    def __init__(self, path: Path, view: mmap.mmap, arrays: Mapping[str, np.ndarray]) -> None:
        self.path, self._view = path, view
        self.features = Features(arrays)

    def close(self, *, remove: bool) -> None:
        """Unmap the file; it must not be read afterwards.

        Args:
            remove: also delete it.
        """
        self.features = Features({"": np.empty((0,), np.float32)})
        with contextlib.suppress(BufferError):  # an array is still referenced
            self._view.close()
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()


def filled(fields: Sequence[Field], samples: int, chunks: Iterable[Mapping[str, np.ndarray]]) -> Features:
    """Collect the arrays in memory only.

    Args:
        fields: the arrays.
        samples: number of samples.
        chunks: consecutive batches of arrays, by name.
    """
    arrays = {field.name: np.empty((samples, *field.shape), field.dtype) for field in fields}
    start = 0
    for chunk in chunks:
        count = len(next(iter(chunk.values())))
        for field in fields:
            arrays[field.name][start : start + count] = chunk[field.name]
        start += count
    return Features(arrays)


def write_store(
    path: Path, key: str, fields: Sequence[Field], samples: int, chunks: Iterable[Mapping[str, np.ndarray]]
) -> None:
    """Write a file atomically.

    Args:
        path: path of the file.
        key: a hash of everything the values depend on.
        fields: the arrays.
        samples: number of samples.
        chunks: consecutive batches of arrays, by name.

    Raises:
        OutputError: the file cannot be written, or there is no room for it.
    """
    places, end = _places(fields, samples)
    digests = {field.name: hashlib.sha256() for field in fields}
    with replacing(path) as part, part.open("xb") as file:
        _reserve(file, end)
        done = dict.fromkeys(places, 0)
        for chunk in chunks:
            for field in fields:
                data = chunk[field.name].astype(field.kind, copy=False).tobytes()
                digests[field.name].update(data)
                file.seek(places[field.name] + done[field.name])
                file.write(data)
                done[field.name] += len(data)
        file.seek(0)
        file.write(_head(key, fields, samples, {name: digest.hexdigest() for name, digest in digests.items()}))
        file.truncate(end)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def open_store(path: Path, key: str, fields: Sequence[Field], samples: int) -> Store | None:
    """Map a file into memory; None if it does not exist or does not match exactly.

    Args:
        path: path of the file.
        key: a hash of everything the values depend on.
        fields: the arrays.
        samples: number of samples.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError:
        return None
    places, end = _places(fields, samples)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or path.is_symlink() or status.st_size != end:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        digests = {field.name: _digest(file, places[field.name], samples * field.bytes) for field in fields}
        begin, head = 0, _head(key, fields, samples, digests)
        for field in fields:  # the bytes before each array
            file.seek(begin)
            if file.read(places[field.name] - begin) != head.ljust(places[field.name] - begin, b"\0"):
                return None
            begin, head = places[field.name] + samples * field.bytes, b""
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {
        field.name: np.ndarray((samples, *field.shape), field.kind, buffer=view, offset=places[field.name])
        for field in fields
    }
    return Store(path, view, arrays)


def file_bytes(fields: Sequence[Field], samples: int) -> int:
    """The size of a file."""
    return _places(fields, samples)[1]


def _places(fields: Sequence[Field], samples: int) -> tuple[dict[str, int], int]:
    """Return the offset of each array, and the size of the file."""
    placeholder = "0" * 64
    head = _LEAD + len(
        _header(placeholder, fields, samples, dict.fromkeys((field.name for field in fields), placeholder))
    )
    places, end = {}, head + 20 * len(fields)  # reserve room for the offsets, of at most 20 digits each
    for field in fields:
        places[field.name] = -(-end // _ALIGNED) * _ALIGNED
        end = places[field.name] + samples * field.bytes
    return places, end


def _header(
    key: str, fields: Sequence[Field], samples: int, digests: Mapping[str, str], places: Mapping[str, int] | None = None
) -> bytes:
    arrays: list[dict[str, Any]] = [
        {
            "name": field.name,
            "dtype": field.dtype,
            "shape": list(field.shape),
            "offset": (places or {}).get(field.name, 0),
            "bytes": samples * field.bytes,
            "sha256": digests[field.name],
        }
        for field in fields
    ]
    content = {"format": FORMAT, "version": VERSION, "key": key, "samples": samples, "arrays": arrays}
    return json.dumps(content).encode()


def _head(key: str, fields: Sequence[Field], samples: int, digests: Mapping[str, str]) -> bytes:
    """The beginning of the file; it is the same for the same content, so it can be compared as a whole."""
    header = _header(key, fields, samples, digests, _places(fields, samples)[0])
    return _MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserve disk space, so that a lack of room is reported before anything is computed."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _digest(file: BinaryIO, offset: int, count: int) -> str:
    digest = hashlib.sha256()
    file.seek(offset)
    while count > 0 and (block := file.read(min(_BLOCK, count))):
        digest.update(block)
        count -= len(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Sync a new file name to disk, on systems where folders can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
