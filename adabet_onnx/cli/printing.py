"""Output of commands: results on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from .translate import translate, translated

if TYPE_CHECKING:
    from rich.console import RenderableType


def show(renderable: RenderableType, quiet: bool = False) -> None:
    """Print readable output on stdout."""
    if not quiet:
        from rich.console import Console, Group
        from rich.text import Text

        console = Console(highlight=False, markup=False, emoji=False)  # names may hold [brackets] and :colons:
        # Files and pipes have no width: make tables wide enough that names are not folded.
        if not console.is_terminal:
            console = Console(highlight=False, markup=False, emoji=False, width=160)
        for part in map(_spoken, renderable.renderables if isinstance(renderable, Group) else [renderable]):
            # Lines written to a file are never broken, so that text can be searched for.
            whole = isinstance(part, str) or (isinstance(part, Text) and not console.is_terminal)
            console.print(part, soft_wrap=whole)


def _spoken(part: RenderableType) -> RenderableType:
    """Translate lines from parameters of the API into options."""
    from rich.text import Text

    if isinstance(part, Text):
        text = translate(part.plain)
        return part if text == part.plain else Text(text, style=part.style)
    return translate(part) if isinstance(part, str) else part


def show_json(value: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(translated(value), indent=1, ensure_ascii=False, allow_nan=False))


class ProgressLines:
    """Progress for files and pipes, on stderr: a line when an epoch or round ends, and when any other task starts."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, task: str, done: int, total: int) -> None:
        """Write a line if an epoch or round ended, or another task started."""
        epoch = re.match(r"(?:epoch|round) (\d+)/(\d+)", task)
        if epoch is None:
            begins, self._last = task != self._last, task
            if begins:
                finished = f"{task} ({done} of {total})" if done < total else task
                click.echo(finished if done else f"{task} ...", err=True)
        elif done * int(epoch[2]) == int(epoch[1]) * total:
            self._last = task
            click.echo(task, err=True)


@contextlib.contextmanager
def progress_bar(quiet: bool, *, lines: bool = False) -> Iterator[Callable[[str, int, int], None] | None]:
    """Provide a progress callback that draws a bar on stderr if that is a terminal.

    Args:
        quiet: whether to report no progress.
        lines: whether to write `ProgressLines` if stderr is not a terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield ProgressLines() if lines and not quiet else None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield update
