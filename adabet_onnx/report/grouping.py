"""Group names by reason, so that output has one line per reason and stays readable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_NUMBER = re.compile(r"\b\d+\b")


def by_reason(reasons: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names by reason, both in their original order.

    Args:
        reasons: the reason by name, or pairs of name and reason.
    """
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items() if isinstance(reasons, Mapping) else reasons:
        groups.setdefault(reason, []).append(name)
    return groups


def without_numbers(reason: str) -> str:
    """A reason with its integers masked, which makes reasons of the same kind equal."""
    return _NUMBER.sub("#", reason)


def in_common(reasons: Sequence[str]) -> str:
    """Merge reasons that differ only in their integers: ``applied 10 to 21 times``."""
    columns = zip(*(map(int, _NUMBER.findall(reason)) for reason in reasons), strict=True)
    spans = iter(
        [str(min(column)) if len(set(column)) == 1 else f"{min(column)} to {max(column)}" for column in columns]
    )
    return _NUMBER.sub(lambda _: next(spans), reasons[0])
