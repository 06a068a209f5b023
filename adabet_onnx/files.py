"""Atomic writing of files and folders.

Everything is written next to its destination and renamed when complete, so an interrupted or failed write leaves the
previous content in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import OutputError, UsageError

_PROBE_BYTES = 1 << 20  # bytes


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def _cannot_write(path: Path, reason: str) -> OutputError:
    return OutputError(f"cannot write {path}: {reason}. Choose another output path or free some space.")


def check_output(path: str | os.PathLike[str]) -> Path:
    """Check that a file can be written at ``path``, before long work whose result goes there.

    Raises:
        OutputError: the path is a folder or device, or its folder does not exist or is not writable.
    """
    target = _target(path)
    _try_out(_beside(target), target)
    return target


def keep_apart(path: str | os.PathLike[str], read: Iterable[Any], what: str = "the output") -> None:
    """Check that an output does not overwrite an input.

    Args:
        path: path of the output.
        read: the inputs; values that are not paths of existing files are ignored.
        what: name of the output in messages.

    Raises:
        UsageError: the output is the same file as an input.
    """
    for given in read:
        with contextlib.suppress(OSError, ValueError):
            if isinstance(given, str | os.PathLike) and os.path.samefile(path, given):
                raise UsageError(
                    f"{what} is {path}, which is also an input and would be overwritten. Give another output path."
                )


def _try_out(file: Path, target: Path) -> None:
    """Create and remove an empty file, the only reliable test of permissions, read-only disks and long names."""
    try:
        file.touch(exist_ok=False)
        file.unlink()
    except OSError as error:
        raise _cannot_write(target, error.strerror or str(error)) from error


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if os.path.isdir(target):
        raise _cannot_write(target, "it is a folder")
    if os.path.exists(target) and not os.path.isfile(target):
        raise _cannot_write(target, "it is a device or pipe, which cannot be replaced by a file")
    if not os.path.isdir(target.parent):
        reason = "is not a folder" if os.path.exists(target.parent) else "does not exist"
        raise _cannot_write(target, f"the folder {target.parent} {reason}")
    return target


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` if the block succeeds.

    Raises:
        OutputError: the folder does not exist or is not writable, the disk is full, or a size limit is reached.
    """
    target = _target(path)
    part = _beside(target)
    try:
        yield part
        os.replace(part, target)
    except OSError as error:
        raise _cannot_write(target, error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str], marker: str) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``; rename it to ``path`` if the block succeeds.

    An existing folder is replaced only if it is empty or contains a file named ``marker``, that is, if an earlier run
    created it.

    Raises:
        OutputError: the folder contains other files, or cannot be written.
    """
    target = Path(path)
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise _cannot_write(target, "it exists and is not a folder")
    try:
        foreign = os.path.isdir(target) and any(target.iterdir()) and not (target / marker).is_file()
    except OSError as error:
        raise _cannot_write(target, error.strerror or str(error)) from error
    if foreign:
        raise OutputError(
            f"cannot write {target}: the folder contains other files (but no {marker}). Give a new folder, or one that "
            "this command created."
        )
    part = _beside(target.absolute())
    old = _beside(target.absolute())
    new_parents = [folder for folder in target.absolute().parents if not os.path.lexists(folder)]
    try:
        part.mkdir(parents=True)
        yield part
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(part, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    except OSError as error:
        raise _cannot_write(target, error.strerror or str(error)) from error
    finally:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for folder in new_parents:  # the innermost first; a folder that is not empty stays
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a temporary folder, which is deleted at the end.

    When the disk is full, a library may truncate a file and fail with an unrelated message. Any exception raised inside
    while no space is left is therefore replaced by one about space.

    Raises:
        OutputError: the folder cannot be created, or there is not enough space.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="adabet-onnx-", ignore_cleanup_errors=True) as folder:
            try:
                yield Path(folder)
            except (OSError, OutputError):
                raise
            except Exception:
                _check_free_space(Path(folder))
                raise
    except OSError as error:
        raise OutputError(
            f"cannot write temporary files in {tempfile.gettempdir()}: {error.strerror or error}. Free some space "
            "there, or set TMPDIR to a folder with enough space."
        ) from error


def _check_free_space(folder: Path) -> None:
    """Raise OSError if there is no space for another file; truncated files are still present."""
    with (folder / "room").open("xb") as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Check that a folder can be written at ``path``, before long work whose results go there.

    Raises:
        OutputError: the path or one of its parents is a file, or is not writable.
    """
    folder = Path(path)
    new = [part for part in (folder, *folder.absolute().parents) if not os.path.lexists(part)]
    try:
        make_folder(folder)
        _try_out(_beside(folder / "any"), folder)
    finally:
        for part in new:
            with contextlib.suppress(OSError):
                part.rmdir()
    return folder


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder and its missing parents.

    Raises:
        OutputError: the folder cannot be created, or is a file.
    """
    folder = Path(path)
    existing = next((part for part in (folder, *folder.absolute().parents) if os.path.lexists(part)), folder)
    if os.path.lexists(existing) and not os.path.isdir(existing):
        raise _cannot_write(folder, f"{existing} is not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error.strerror or str(error)) from error
    return folder


def remove_folder(folder: Path) -> None:
    """Delete a folder atomically: it is renamed first."""
    renamed = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(renamed, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.replace(folder, renamed)
    shutil.rmtree(renamed, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as part:
        part.write_bytes(data)


def sha256_of_files(paths: Sequence[Path]) -> str:
    """Return the SHA-256, in hexadecimal, of the concatenated contents of several files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
