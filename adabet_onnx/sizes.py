"""Parsing and formatting of sizes in bytes and shares: 64MB, 2GiB, 0.5x."""

from __future__ import annotations

import math
import re

from .errors import UsageError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_size(value: int | float | str, what: str = "a size") -> int:
    """Parse a number of bytes.

    Args:
        value: bytes, or text with a unit: 500MB, 2GB, 64MiB, 200k.
        what: name of the value in messages.

    Raises:
        UsageError: the value is not a size of at least one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*([kmg]i?)?b?\s*", str(value).lower())
    count = 0.0 if match is None or isinstance(value, bool) else float(match[1]) * _UNITS[match[2] or ""]
    if not 1 <= count < math.inf:
        raise UsageError(f"{what} must be a size of at least one byte, such as 500MB or 2GiB, not {value!r}.")
    return round(count)


def parse_share(value: float | str, what: str = "a share") -> float:
    """Parse a multiple of the cost of training all layers.

    Args:
        value: a number, or text: 0.5x.
        what: name of the value in messages.

    Raises:
        UsageError: the value is not a number above 0.
    """
    text = str(value).strip().lower()
    try:
        share = float(text.removesuffix("x"))
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf or isinstance(value, bool):
        raise UsageError(
            f"{what} must be above 0, as a multiple of the cost of training all layers, such as 0.5x, not {value!r}."
        )
    return share


def size_text(count: float) -> str:
    """Format a number of bytes: 512 B, 3.2 KB, 64 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= 0.9995 * size:  # otherwise it would round to 1000 of the next smaller unit
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
