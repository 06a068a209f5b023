"""Writing and reading files so that nobody ever sees half of one.

Everything is written beside its destination and renamed when complete, so an interrupted or failed write
leaves what was there before.
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

_ROOM = 1 << 20  # bytes


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def _cannot_write(path: Path, reason: str) -> OutputError:
    return OutputError(f"cannot write {path}: {reason}. Choose another output path or free some space.")


def check_output(path: str | os.PathLike[str]) -> Path:
    """See that a file can be put at ``path``: call it before long work whose result goes there.

    Raises:
        OutputError: a folder or device is in its place, or its folder does not exist or takes no files.
    """
    target = _target(path)
    _try_out(_beside(target), target)
    return target


def keep_apart(path: str | os.PathLike[str], read: Iterable[Any], what: str = "the output") -> None:
    """See that what is written does not take the place of what is read.

    Args:
        path: of what is written.
        read: what is read; what is no path, or is not there, does not count.
        what: messages call the output so.

    Raises:
        UsageError: it is one of them, by whatever name.
    """
    for given in read:
        with contextlib.suppress(OSError, ValueError):
            if isinstance(given, str | os.PathLike) and os.path.samefile(path, given):
                raise UsageError(
                    f"{what} is {path}, which is read as well and would be lost. Give another path to write."
                )


def _try_out(file: Path, target: Path) -> None:
    """Make and remove an empty file: permissions, read-only disks and long names show no other way."""
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
    """Give a temporary path beside ``path``; rename it to ``path`` when the block ends well.

    Raises:
        OutputError: the folder does not exist, is not writable, or the disk or a size limit is full.
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
    """Give a temporary folder beside ``path``; rename it to ``path`` when the block ends well.

    An existing folder is replaced only if it is empty or holds a file named ``marker``, that is, if an earlier
    run made it.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
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
            f"cannot write {target}: the folder holds other files (no {marker} in it). "
            "Give a new folder, or one that this command made before."
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
        for folder in new_parents:  # the innermost first; one with something in it stays
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder among the system's temporary files, which goes at the end.

    A library that finds no room there may cut a file short and fail over it in words of its own: whatever is raised
    inside where no room is left is an error that says so.

    Raises:
        OutputError: the folder cannot be made, or what is put there finds no room.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="adabet-onnx-", ignore_cleanup_errors=True) as folder:
            try:
                yield Path(folder)
            except (OSError, OutputError):
                raise
            except Exception:
                _need_room(Path(folder))
                raise
    except OSError as error:
        raise OutputError(
            f"cannot write temporary files in {tempfile.gettempdir()}: {error.strerror or error}. Free some space "
            "there, or have TMPDIR name a folder with room."
        ) from error


def _need_room(folder: Path) -> None:
    """Raise OSError where a file finds no room; those that were cut short are still there."""
    with (folder / "room").open("xb") as file:
        file.write(bytes(_ROOM))
        file.flush()
        os.fsync(file.fileno())


def check_folder(path: str | os.PathLike[str]) -> Path:
    """See that a folder can lie at ``path``: call it before long work whose results go there.

    Raises:
        OutputError: it, or a folder that it lies in, is a file or cannot be written to.
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
    """Create a folder and its parents where missing.

    Raises:
        OutputError: it cannot be created or is a file.
    """
    folder = Path(path)
    there = next((part for part in (folder, *folder.absolute().parents) if os.path.lexists(part)), folder)
    if os.path.lexists(there) and not os.path.isdir(there):
        raise _cannot_write(folder, f"{there} is not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error.strerror or str(error)) from error
    return folder


def remove_folder(folder: Path) -> None:
    """Delete a folder so that half of it is never found in its place."""
    gone = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def sha256_of_files(paths: Sequence[Path]) -> str:
    """SHA-256, as hexadecimal digits, of the contents of several files one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
