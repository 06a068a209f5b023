"""Opening a device package: device.json is read and checked, and files are held against their size and SHA-256."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import RecordError
from ..files import sha256_of_files
from ..records import read_record
from .consistent import check_consistent
from .parts import Device, PackageFile
from .reading import MADE_BY, read_device

FORMAT, VERSION = "adabet-onnx/device", 1
FILE = "device.json"
_LONGEST = 100_000_000  # bytes of device.json
_AGAIN = "Copy the package again, or make it again."


def is_device(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a device package: it has a device.json."""
    return (Path(folder) / FILE).is_file()


def load_device(folder: str | os.PathLike[str], *, verify: bool = True) -> Device:
    """Read and check a device package.

    Args:
        folder: the package.
        verify: also hold every file against its size and SHA-256.

    Raises:
        RecordError: it is none, or damaged; the message names the file and entry, what was expected and found.

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
    """Hold files of a package against the size and SHA-256 that device.json names.

    Of the file that a personal model reads (``selected``) the size alone: it is written anew for each.

    Args:
        device: the package.
        names: of files; None: all of them.

    Raises:
        RecordError: one is missing, a link out of the folder, or another than when the package was made.
    """
    wanted = None if names is None else set(names)
    personal = {entry.selected for entry in device.entries}
    for file in device.files:
        if wanted is None or file.name in wanted:
            _verify(device.folder, file, content=file.name not in personal)


def file_path(device: Device, name: str) -> Path:
    """The path of a file of the package, which is held against its size and SHA-256 first.

    Raises:
        RecordError: it is missing or another.
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
        found = sha256_of_files([path])
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}.") from error
    if found != file.sha256:
        raise RecordError(f"{path} was changed: its SHA-256 is {found}, expected {file.sha256}. {_AGAIN}")


def _keep_inside(folder: Path, path: Path) -> None:
    """A link may not lead out of the folder: ONNX Runtime would refuse the weights, and it is nothing to send on."""
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise RecordError(
            f"{path} is a link to {path.resolve().parent}, but the files of a package lie in its folder. Copy the "
            "package with what its links point to (cp -rL)."
        )
