"""Progress reports of long work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # current activity, steps done, total steps


def silent(activity: str, done: int, total: int) -> None:
    """Report nothing."""
