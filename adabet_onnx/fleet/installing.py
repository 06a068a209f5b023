"""Installation of the files that a client receives once: a model to vote on, or the artifacts that it trains."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import TrainingError
from ..files import replacing_folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def packed(files: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Return files as arrays of bytes, by name."""
    return {name: np.frombuffer(path.read_bytes(), np.uint8) for name, path in files.items()}


def key_of(files: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 that identifies these files."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{data.size}\0".encode() + data.tobytes())
    return digest.hexdigest()


def install(folder: Path, key: str, files: Mapping[str, np.ndarray]) -> Path:
    """Write files to a client's folder, atomically.

    Args:
        folder: folder of the client.
        key: expected key of the files.
        files: files from the server.

    Returns:
        The folder that they are in.

    Raises:
        TrainingError: the files do not match the key, or a name is not a valid file name.
        OutputError: they cannot be written.
    """
    wrong = [name for name in files if not _NAME.match(name)]
    if wrong or any(array.dtype != np.uint8 for array in files.values()) or key_of(files) != key:
        raise TrainingError(f"the files that the server sent are damaged (expected the SHA-256 {key}).")
    target = installed(folder, key)
    if target.is_dir():
        return verified(folder, key)
    with replacing_folder(target, ".none") as part:
        for name, array in files.items():
            (part / name).write_bytes(array.tobytes())
    return target


def verified(folder: Path, key: str) -> Path:
    """Return the folder of the files with a key, after verifying them, since others may be able to write there.

    Raises:
        TrainingError: the files are missing or were changed.
    """
    target = installed(folder, key)
    if not target.is_dir() or key_of(packed({path.name: path for path in target.iterdir() if path.is_file()})) != key:
        raise TrainingError("the files that the server sent are missing or were changed.")
    return target


def installed(folder: Path, key: str) -> Path:
    """Return the folder for files with a key.

    Raises:
        TrainingError: the key is invalid.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise TrainingError("the server's request has no key of 64 hexadecimal digits.")
    return folder / key[:32]
