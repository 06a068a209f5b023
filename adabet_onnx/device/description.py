"""Open a device package: read and check device.json, and verify the size and SHA-256 of files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import RecordError
from ..files import sha256_of_files
from ..records import read_record
from .consistent import check_consistent
from .description_reader import MADE_BY, read_device
from .parts import Device, PackageFile

FORMAT, VERSION = "adabet-onnx/device", 1
FILE = "device.json"
_LONGEST = 100_000_000  # maximum size of device.json in bytes
_AGAIN = "Copy the package again, or make it again."


def is_device(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a device package: it has a device.json."""
    return (Path(folder) / FILE).is_file()


def load_device(folder: str | os.PathLike[str], *, verify: bool = True) -> Device:
    """Read and check a device package.

    Args:
        folder: the package.
        verify: also verify the size and SHA-256 of every file.

    Raises:
        RecordError: the folder is not a device package or is damaged; the message names the file and entry, and the
            expected and actual values.

    Example:
        >>> from adabet_onnx.device.description import load_device
        >>> load_device("artifacts")
        Traceback (most recent call last):
        adabet_onnx.errors.RecordError: artifacts is not a device package (it has no device.json). ...
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise RecordError(f"{folder} is not a device package (it has no {FILE}). Give the folder of one.")
    _keep_inside(folder, path)
    if path.stat().st_size > _LONGEST:
        raise RecordError(f"{path} has {path.stat().st_size} bytes, expected at most {_LONGEST}. {_AGAIN}")
    device = read_device(folder, read_record(path, FORMAT, VERSION, MADE_BY), path)
    check_consistent(device, path)
    if verify:
        verify_files(device)
    return device


def verify_files(device: Device, names: Iterable[str] | None = None) -> None:
    """Verify that files of a package have the size and SHA-256 in device.json.

    For the file that a personal model reads (``selected``), only the size is verified: its content differs for each.

    Args:
        device: the package.
        names: names of files; None: all of them.

    Raises:
        RecordError: a file is missing, is a link out of the folder, or has changed since the package was made.
    """
    checked = None if names is None else set(names)
    personal = {entry.selected for entry in device.entries}
    for file in device.files:
        if checked is None or file.name in checked:
            _verify(device.folder, file, content=file.name not in personal)


def file_path(device: Device, name: str) -> Path:
    """The path of a file of the package, after verifying its size and SHA-256.

    Raises:
        RecordError: the file is missing or has changed.
    """
    verify_files(device, [name])
    return device.folder / name


def _verify(folder: Path, file: PackageFile, *, content: bool) -> None:
    path = folder / file.name
    if not path.is_file():
        raise RecordError(f"{path} is missing, expected a file of {file.bytes} bytes. {_AGAIN}")
    _keep_inside(folder, path)
    size = path.stat().st_size
    if size != file.bytes:
        raise RecordError(f"{path} has {size} bytes, expected {file.bytes}: it was changed or cut short. {_AGAIN}")
    if not content:
        return
    try:
        digest = sha256_of_files([path])
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}.") from error
    if digest != file.sha256:
        raise RecordError(f"{path} was changed: its SHA-256 is {digest}, expected {file.sha256}. {_AGAIN}")


def _keep_inside(folder: Path, path: Path) -> None:
    """Reject links out of the folder: ONNX Runtime would reject the weights, and the package would be incomplete."""
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise RecordError(
            f"{path} is a link to {path.resolve().parent}, but the files of a package must be in its folder. Copy the "
            "package with the targets of its links (cp -rL)."
        )
