"""Safetensors files that are identical byte for byte in every language, and are checked when they are read.

The header keeps the given order, with tensors stored consecutively from 0, and is padded with spaces so that the data
begins at a multiple of 64 bytes. Any valid safetensors file can be read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize

from ..errors import RecordError
from ..files import write_bytes

_FLOAT = np.dtype("<f4")
_ALIGNED, _LENGTH = 64, 8  # bytes: alignment of the data, and size of the field for the header's length
_LONGEST = 100_000_000  # maximum size of a header in bytes, as in the safetensors format


@dataclass(frozen=True)
class Content:
    """The content of a safetensors file.

    Attributes:
        tensors: float32 tensors by name, in the order of the file.
        metadata: strings by key.
        sha256: SHA-256 of all bytes after the header, in hexadecimal digits.
    """

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    sha256: str


def data_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes after the header."""
    return b"".join(np.ascontiguousarray(array, _FLOAT).tobytes() for array in tensors.values())


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], data: bytes
) -> None:
    """Write a file atomically.

    Args:
        path: path of the file.
        tensors: float32 tensors, in the order of the file.
        metadata: strings by key.
        data: `data_bytes` of the tensors.

    Raises:
        OutputError: the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in tensors.items():
        end = start + array.size * _FLOAT.itemsize
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH) % _ALIGNED)
    write_bytes(path, len(text).to_bytes(_LENGTH, "little") + text + data)


def read_tensors(path: str | os.PathLike[str]) -> Content:
    """Read a file of float32 tensors.

    Raises:
        RecordError: the file cannot be read, is not a valid safetensors file, or has tensors of another type.
    """
    path = Path(path)
    data = _bytes_of(path)
    length = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or length > min(_LONGEST, len(data) - _LENGTH):
        raise RecordError(
            f"{path} is not a safetensors file, or was cut short: its header should have {length} bytes, but "
            f"{max(0, len(data) - _LENGTH)} follow (at most {_LONGEST} are read). Copy it again."
        )
    try:
        parts = deserialize(data)  # type: ignore[no-untyped-call]
        header = json.loads(data[_LENGTH : _LENGTH + length])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not a valid safetensors file ({error}). Copy it again.") from error
    tensors = {}
    for name, part in sorted(parts, key=lambda item: header[item[0]]["data_offsets"]):
        if part["dtype"] != "F32":
            raise RecordError(f"{path}: tensor {name!r} is {part['dtype']}, expected F32 (float32). Save it again.")
        tensors[name] = np.frombuffer(part["data"], _FLOAT).astype(np.float32).reshape(part["shape"])
    digest = hashlib.sha256(memoryview(data)[_LENGTH + length :]).hexdigest()
    return Content(tensors, dict(header.get("__metadata__") or {}), digest)


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise RecordError(f"{path} does not exist or is not a file. Give the path of a .safetensors file.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}.") from error
