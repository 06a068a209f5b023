"""Display of results in Python: one line for `repr`, and a table for notebooks.

Names may come from untrusted models, so they are shortened, kept on one line, and escaped. Tables set no colours, so
that they are readable in light and dark notebooks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePath
from typing import Any

MOST_NAMES = 3
_MOST = 300  # characters in a repr
_NAME, _CELL = 40, 120  # characters of a name in a repr, and in a table cell
_ROWS = 30


def clipped(text: object, most: int = _NAME) -> str:
    """Return a text on one line; a text longer than ``most`` loses part of its middle and keeps more of its end."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())
    if len(line) <= most:
        return line
    front = (most - 1) // 3
    return f"{line[:front]}…{line[front + 1 - most :]}"


def shortened(name: str, most: int = _NAME) -> str:
    """Shorten a dotted name by reducing parts to a letter, from the left, until it fits: ``t.e.layers.11.dense``.

    Numbers are kept because they distinguish layers. If the result is still too long, it is `clipped`.
    """
    parts = re.split(r"([./])", name)
    for at, part in enumerate(parts[:-1]):
        if sum(map(len, parts)) <= most:
            break
        if not part.isdigit():
            parts[at] = part[:1]
    return clipped("".join(parts), most)


def file_name(path: str) -> str:
    """Return the last part of a path, for a `repr`; other texts are unchanged."""
    return clipped(PurePath(path).name or path)


def one_line(kind: object, *parts: str | None) -> str:
    """Return ``Kind(one, another)`` for `repr`, at most 300 characters; parts that are None or empty are omitted.

    Args:
        kind: the object.
        parts: texts that describe it.
    """
    inside = ", ".join(part for part in parts if part)
    room = _MOST - len(type(kind).__name__) - 2
    return f"{type(kind).__name__}({inside if len(inside) <= room else inside[: room - 1] + '…'})"


def changed(options: Any) -> str:
    """Return the `repr` of an options object, with the values that differ from the defaults.

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
    """Return the first names, and how many more there are.

    If only one more remains, it is written out: that is as short as "and 1 more".
    """
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def named(names: Sequence[str]) -> str:
    """Return the first names, shortened, and how many more there are, for a `repr`."""
    return listed([shortened(name) for name in names])


def counted(count: int, what: str) -> str:
    """Return a count with its noun: ``1 layer``, ``1,234 layers``."""
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
    """Return a table as HTML, with everything escaped.

    Args:
        title: the title above the table.
        headings: headings of the columns.
        rows: cells of each row; numbers, and texts that start with a digit, are right-aligned. At most 30 rows are
            shown.
        lines: sentences below the table.
        ends: whether to show the first and last of too many rows instead of the first.
        what: noun for a row in the text about omitted rows.
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
