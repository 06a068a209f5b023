"""Our versioned JSON files (scores, selection, manifest): written whole, read with every entry checked."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from .errors import RecordError
from .files import write_bytes


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
        value = json.loads(path.read_bytes(), parse_constant=finite, parse_float=finite)
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

    def __contains__(self, key: str) -> bool:
        return key in self._content

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
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise self.damaged(f"{key!r} is too large a number")
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
        if any(isinstance(item, int) and abs(item) > _LARGEST for item in value):
            raise self.damaged(f"a number in {key!r} is too large")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self.take_list(key, str))

    def inside(self, key: str) -> Entries:
        """An entry that is itself an object."""
        return Entries(self.take(key, dict), f"{self._where}, {key!r},", self._made_by)


_LARGEST = 10**300  # of whole numbers; a float can hold it
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


def finite(text: str) -> float:
    """A JSON number; what Python reads beyond JSON (NaN, Infinity) or rounds to infinity is refused."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
