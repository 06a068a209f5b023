"""Many names with few reasons: a line for each reason, so that what matters stays on the screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_NUMBER = re.compile(r"\b\d+\b")


def by_reason(reasons: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names by reason, both in the order in which they come.

    Args:
        reasons: the reason by name, or pairs of name and reason.
    """
    found: dict[str, list[str]] = {}
    for name, reason in reasons.items() if isinstance(reasons, Mapping) else reasons:
        found.setdefault(reason, []).append(name)
    return found


def without_numbers(reason: str) -> str:
    """A reason as it is but for its whole numbers: what several reasons of one kind have in common."""
    return _NUMBER.sub("#", reason)


def in_common(reasons: Sequence[str]) -> str:
    """Reasons that differ in whole numbers alone, as one: ``applied 10 to 21 times``."""
    columns = zip(*(map(int, _NUMBER.findall(reason)) for reason in reasons), strict=True)
    spans = iter(
        [str(min(column)) if len(set(column)) == 1 else f"{min(column)} to {max(column)}" for column in columns]
    )
    return _NUMBER.sub(lambda _: next(spans), reasons[0])
