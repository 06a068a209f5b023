"""A comparison as a table and in Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..files import replacing
from ..sizes import size_text
from ..study.compare import Comparison
from ..study.results import Summary, ranked, ties_sentence

HEADINGS = ("strategy", "accuracy", "trained", "frozen pass, kept", "step time", "step memory", "update")


def comparison_table(found: Comparison) -> RenderableType:
    """One row a strategy, the best first, and which differences are ties."""
    table = Table(title=f"{len(found.results)} trainings, measured on {found.test_samples} test samples")
    old = found.source_before is not None
    for heading in (*HEADINGS, *(("old domain",) if old else ()), "against the best"):
        table.add_column(heading, justify="left" if heading in ("strategy", "against the best") else "right")
    for summary in ranked(found.summaries):
        table.add_row(
            *cells(summary, _everything(found.summaries), old),
            summary.verdict(),
            style="bold" if summary.best else None,
        )
    lines = []
    if found.before is not None:
        lines.append(Text(f"before: {found.before:.1%}" + (f"; old domain {found.source_before:.1%}" if old else "")))
    lines += [Text(f"warning: {text}") for text in found.warnings]
    lines.append(Text(ties_sentence(found.summaries)))
    return Group(table, *lines)


def markdown(found: Comparison) -> str:
    """The same table in Markdown."""
    old = found.source_before is not None
    headings = [*HEADINGS, *(["old domain"] if old else []), "against the best"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for summary in ranked(found.summaries):
        lines.append(f"| {' | '.join([*cells(summary, _everything(found.summaries), old), summary.verdict()])} |")
    return "\n".join(lines) + "\n"


def _everything(summaries: Sequence[Summary]) -> Summary | None:
    return next((summary for summary in summaries if summary.setting.strategy == "all"), None)


def cells(summary: Summary, everything: Summary | None, old: bool) -> list[str]:
    """Of a row under HEADINGS.

    Args:
        summary: of a strategy.
        everything: of all layers, which time and memory are also given in multiples of; or None.
        old: whether there is a column for the old domain.
    """
    time, memory = f"{summary.step_seconds * 1000:.3g} ms", size_text(summary.step_memory_bytes)
    if everything is not None:
        time += f" ({summary.step_seconds / everything.step_seconds:.2f}x)"
        memory += f" ({summary.step_memory_bytes / everything.step_memory_bytes:.2f}x)"
    found = [
        str(summary.setting),
        summary.reached(),
        f"{summary.trainable_share:.1%}",
        _frozen(summary),
        time,
        memory,
        size_text(summary.update_bytes),
    ]
    if old:
        found.append("-" if summary.source_accuracy is None else f"{summary.source_accuracy:.1%}")
    return found


def _frozen(summary: Summary) -> str:
    """Time of the frozen pass over a batch, and what is kept of a sample."""
    if not summary.stored_bytes:
        return "-"
    return f"{summary.frozen_seconds * 1000:.3g} ms, {size_text(summary.stored_bytes)}"


def write_markdown(found: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the table as a file, whole or not at all."""
    with replacing(path) as part:
        Path(part).write_text(f"{markdown(found)}\n{ties_sentence(found.summaries)}\n", encoding="utf-8")
