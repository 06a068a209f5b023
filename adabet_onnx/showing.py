"""What results look like in Python: one line for `repr`, and a table for notebooks.

Names come from models that anyone may have made: they are cut where they are long, kept on one line, and escaped.
A table has no colours of its own, so that it can be read in light and in dark notebooks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePath
from typing import Any

MOST_NAMES = 3
_MOST = 300  # characters of a repr
_NAME, _CELL = 40, 120  # characters of a name in it; in a table
_ROWS = 30


def clipped(text: object, most: int = _NAME) -> str:
    """A text on one line, its middle left out where it is longer than ``most``; of a path, the end tells most."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())
    if len(line) <= most:
        return line
    front = (most - 1) // 3
    return f"{line[:front]}…{line[front + 1 - most :]}"


def shortened(name: str, most: int = _NAME) -> str:
    """A name in parts, from the left one after the other reduced to a letter until it fits: ``t.e.layers.11.dense``.

    Numbers stay: they tell layers apart. What is still too long is `clipped`.
    """
    parts = re.split(r"([./])", name)
    for at, part in enumerate(parts[:-1]):
        if sum(map(len, parts)) <= most:
            break
        if not part.isdigit():
            parts[at] = part[:1]
    return clipped("".join(parts), most)


def file_name(path: str) -> str:
    """Of a path, the last part, for a `repr`; what is no path stays as it is."""
    return clipped(PurePath(path).name or path)


def one_line(kind: object, *parts: str | None) -> str:
    """``Kind(one, another)`` for `repr`, of at most 300 characters; parts that are None or empty are left out.

    Args:
        kind: the object.
        parts: what is said of it.
    """
    inside = ", ".join(part for part in parts if part)
    room = _MOST - len(type(kind).__name__) - 2
    return f"{type(kind).__name__}({inside if len(inside) <= room else inside[: room - 1] + '…'})"


def changed(options: Any) -> str:
    """An options object as it is written down: what differs from the defaults.

    Args:
        options: an instance of a dataclass.
    """
    given = []
    for item in dataclasses.fields(options):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        value = getattr(options, item.name)
        if value != default:
            given.append(f"{item.name}={value!r}")
    return one_line(options, *given)


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """The first names, and how many more there are.

    One more name is written out: it takes no more room than "and 1 more".
    """
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def named(names: Sequence[str]) -> str:
    """The same of names as they stand in models, for a `repr`."""
    return listed([shortened(name) for name in names])


def counted(count: int, what: str) -> str:
    """``1 layer``, ``1,234 layers``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def html_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    lines: Sequence[str] = (),
    ends: bool = False,
    what: str = "row",
) -> str:
    """A table as HTML, everything escaped.

    Args:
        title: above it.
        headings: of the columns.
        rows: their cells; numbers, and texts that begin like one, stand on the right. Of more than 30, 30 are shown.
        lines: sentences below it.
        ends: of many rows, show the first and the last; else the first.
        what: a row is called, where some are left out.
    """
    columns = range(len(headings))
    right = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in columns]
    body = ["".join(_cell("td", row[column], right[column]) for column in columns) for row in rows]
    if len(body) > _ROWS:
        front = _ROWS // 2 if ends else _ROWS
        left_out = f"… {counted(len(body) - _ROWS, f'more {what}')} …"
        gap = f'<td colspan="{len(headings)}" style="text-align: center">{escape(left_out)}</td>'
        body = [*body[:front], gap, *body[len(body) - _ROWS + front :]]
    head = "".join(_cell("th", headings[column], right[column]) for column in columns)
    return (
        f"<div><p><b>{escape(clipped(title, 2 * _CELL))}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"
        f"{''.join(f'<p>{escape(clipped(line, 5 * _CELL))}</p>' for line in lines)}</div>"
    )


def _cell(tag: str, content: object, right: bool) -> str:
    text = f"{content:,}" if isinstance(content, int) else str(content)
    return f'<{tag} style="text-align: {"right" if right else "left"}">{escape(clipped(text, _CELL))}</{tag}>'


def _is_number(content: object) -> bool:
    return isinstance(content, int | float) or str(content)[:1].isdigit() or content in ("", "-")
