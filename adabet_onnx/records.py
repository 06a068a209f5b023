"""Versioned JSON files (scores, selection, manifest): written atomically, read with every entry checked."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from .errors import RecordError
from .files import write_bytes


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_record(path: str | os.PathLike[str], form: str, version: int, made_by: str) -> dict[str, Any]:
    """Read a versioned JSON file and check its format and version.

    Args:
        path: the file.
        form: expected value of its ``format`` entry.
        version: the newest version that this release can read.
        made_by: the command that writes such files, for the error message.

    Raises:
        RecordError: the file is unreadable, not JSON, or of another format or a newer version.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes(), parse_constant=finite, parse_float=finite)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not valid JSON ({error}). Make it again with {made_by}.") from error
    form_found = value.get("format") if isinstance(value, dict) else None
    if form_found != form:
        raise RecordError(f"{path}: expected a file of format {form!r}, found {form_found!r}. {made_by} writes one.")
    if type(value.get("version")) is not int or not 1 <= value["version"] <= version:
        raise RecordError(
            f"{path}: version {value.get('version')!r} of {form!r} is not known to this release, which reads up to "
            f"version {version}. Update adabet-onnx or make the file again with {made_by}."
        )
    return dict(value)


class Entries:
    """The entries of a record, each checked when it is read.

    Args:
        content: the result of `read_record`, or an object inside it.
        where: name of the record in messages.
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
        """Return the exception to raise."""
        return RecordError(f"{self._where} is damaged: {what}. Make it again with {self._made_by}.")

    def take(self, key: str, *kinds: type) -> Any:
        """Return the entry's value, of one of these types; a float may be a whole number, a bool is only a bool.

        Raises:
            RecordError: the entry is missing or of another type.
        """
        if key not in self._content:
            raise self.damaged(f"{key!r} is missing")
        value = self._content[key]
        accepted = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join("null" if kind is type(None) else _JSON_NAMES[kind] for kind in kinds)
            raise self.damaged(f"{key!r} must be {expected}, found {_short(value)}")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise self.damaged(f"{key!r} is too large a number")
        return value

    def get_optional(self, key: str, default: Any, *kinds: type) -> Any:
        """Return the entry's value as `take` does, or a default if it is missing."""
        return self.take(key, *kinds) if key in self._content else default

    def take_list(self, key: str, kind: type) -> list[Any]:
        """Return a list whose items are all of one type.

        Raises:
            RecordError: the entry is missing or not such a list.
        """
        value: list[Any] = self.take(key, list)
        wrong = [item for item in value if not isinstance(item, kind) or isinstance(item, bool)]
        if wrong:
            raise self.damaged(f"the items of {key!r} must each be {_JSON_NAMES[kind]}, found {_short(wrong[0])}")
        if any(isinstance(item, int) and abs(item) > _LARGEST for item in value):
            raise self.damaged(f"a number in {key!r} is too large")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        return tuple(self.take_list(key, str))

    def inside(self, key: str) -> Entries:
        """Return an entry that is itself an object."""
        return Entries(self.take(key, dict), f"{self._where}, {key!r},", self._made_by)


_LARGEST = 10**300  # the largest accepted whole number, within the range of a float
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
    """Parse a JSON number; reject NaN, Infinity and what rounds to infinity, which Python would accept."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
