"""Telling how far long work is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # what is going on, steps done, steps in all


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""
