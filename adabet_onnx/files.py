"""Writing and reading files so that nobody ever sees half of one.

Everything is written beside its destination and renamed when complete, so an interrupted or failed write
leaves what was there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import OutputError, RecordError


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


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_record(path: str | os.PathLike[str], form: str, version: int, made_by: str) -> dict[str, Any]:
    """Read one of our versioned JSON files and check that it is what it should be.

    Args:
        path: the file.
        form: expected value of its ``format`` entry.
        version: the newest version this release understands.
        made_by: the command that writes such files, for the error message.

    Raises:
        RecordError: unreadable, not JSON, another format, or a newer version.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not valid JSON ({error}). Make it again with {made_by}.") from error
    found = value.get("format") if isinstance(value, dict) else None
    if found != form:
        raise RecordError(f"{path}: expected a file of format {form!r}, found {found!r}. {made_by} writes one.")
    if type(value.get("version")) is not int or not 1 <= value["version"] <= version:
        raise RecordError(
            f"{path}: version {value.get('version')!r} of {form!r} is not known to this release, which reads "
            f"up to version {version}. Update adabet-onnx or make the file again with {made_by}."
        )
    return dict(value)


class Entries:
    """The entries of a record, checked one by one as they are taken out.

    Args:
        content: what `read_record` gave, or an object inside it.
        where: what messages call it.
        made_by: the command that writes such files.
    """

    def __init__(self, content: Any, where: str, made_by: str) -> None:
        self._where, self._made_by = where, made_by
        if not isinstance(content, dict):
            raise self.damaged(f"expected an object, found {_short(content)}")
        self._content: dict[str, Any] = content

    def damaged(self, what: str) -> RecordError:
        """The exception to raise."""
        return RecordError(f"{self._where} is damaged: {what}. Make it again with {self._made_by}.")

    def take(self, key: str, *kinds: type) -> Any:
        """The entry's value, of one of these types; a whole number counts as a float, and a bool as nothing else.

        Raises:
            RecordError: it is missing or of another type.
        """
        if key not in self._content:
            raise self.damaged(f"{key!r} is missing")
        value = self._content[key]
        accepted = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("null" if kind is type(None) else _JSON_NAMES[kind] for kind in kinds)
            raise self.damaged(f"{key!r} must be {wanted}, found {_short(value)}")
        return value

    def take_if_there(self, key: str, default: Any, *kinds: type) -> Any:
        """The same, but a missing entry has a default."""
        return self.take(key, *kinds) if key in self._content else default

    def take_list(self, key: str, kind: type) -> list[Any]:
        """A list whose items are all of one type.

        Raises:
            RecordError: it is missing or something else.
        """
        value: list[Any] = self.take(key, list)
        wrong = [item for item in value if not isinstance(item, kind) or isinstance(item, bool)]
        if wrong:
            raise self.damaged(f"the items of {key!r} must each be {_JSON_NAMES[kind]}, found {_short(wrong[0])}")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self.take_list(key, str))

    def inside(self, key: str) -> Entries:
        """An entry that is itself an object."""
        return Entries(self.take(key, dict), f"{self._where}, {key!r},", self._made_by)


_JSON_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _finite(text: str) -> float:
    """A JSON number; what Python reads beyond JSON (NaN, Infinity) or rounds to infinity is refused."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def sha256_of_files(paths: Sequence[Path]) -> str:
    """SHA-256, as hexadecimal digits, of the contents of several files one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
