"""A comparison as a terminal table and in Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..files import replacing
from ..showing import counted
from ..sizes import size_text
from ..study.compare import Comparison
from ..study.results import Summary, ranked, ties_sentence

HEADINGS = ("strategy", "accuracy", "trained", "frozen pass", "kept per sample", "step time", "step memory", "update")


def comparison_table(comparison: Comparison) -> RenderableType:
    """A table with one row per strategy, the best first, and which differences are ties."""
    trainings, samples = counted(len(comparison.results), "training"), counted(comparison.test_samples, "test sample")
    table = Table(title=f"{trainings}, measured on {samples}")
    old = comparison.source_before is not None
    for heading in (*HEADINGS, *(("old domain",) if old else ()), "against the best"):
        table.add_column(heading, justify="left" if heading in ("strategy", "against the best") else "right")
    for summary in ranked(comparison.summaries):
        table.add_row(
            *cells(summary, _everything(comparison.summaries), old),
            summary.verdict(),
            style="bold" if summary.best else None,
        )
    lines = []
    if comparison.before is not None:
        lines.append(
            Text(f"before: {comparison.before:.1%}" + (f"; old domain {comparison.source_before:.1%}" if old else ""))
        )
    lines += [Text(f"warning: {text}") for text in comparison.warnings]
    lines.append(Text(ties_sentence(comparison.summaries)))
    return Group(table, *lines)


def markdown(comparison: Comparison) -> str:
    """The same table in Markdown."""
    old = comparison.source_before is not None
    headings = [*HEADINGS, *(["old domain"] if old else []), "against the best"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for summary in ranked(comparison.summaries):
        lines.append(f"| {' | '.join([*cells(summary, _everything(comparison.summaries), old), summary.verdict()])} |")
    return "\n".join(lines) + "\n"


def _everything(summaries: Sequence[Summary]) -> Summary | None:
    return next((summary for summary in summaries if summary.setting.strategy == "all"), None)


def cells(summary: Summary, everything: Summary | None, old: bool) -> list[str]:
    """The cells of a row under HEADINGS.

    Args:
        summary: summary of a strategy.
        everything: summary of training all layers, to which time and memory are also given relative; or None.
        old: whether there is a column for the old domain.
    """
    time, memory = f"{summary.step_seconds * 1000:.3g} ms", size_text(summary.step_memory_bytes)
    if everything is not None:
        time += f" ({summary.step_seconds / everything.step_seconds:.2f}x)"
        memory += f" ({summary.step_memory_bytes / everything.step_memory_bytes:.2f}x)"
    row = [
        str(summary.setting),
        summary.reached(),
        f"{summary.trainable_share:.1%}",
        f"{summary.frozen_seconds * 1000:.3g} ms" if summary.stored_bytes else "-",
        size_text(summary.stored_bytes) if summary.stored_bytes else "-",
        time,
        memory,
        size_text(summary.update_bytes),
    ]
    if old:
        row.append("-" if summary.source_accuracy is None else f"{summary.source_accuracy:.1%}")
    return row


def write_markdown(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the table to a file atomically."""
    with replacing(path) as part:
        Path(part).write_text(f"{markdown(comparison)}\n{ties_sentence(comparison.summaries)}\n", encoding="utf-8")
