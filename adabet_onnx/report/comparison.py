"""A comparison as a table, in Markdown, and as plots."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..files import replacing
from ..sizes import size_text
from ..study.compare import Comparison
from ..study.results import Summary
from .plots import check_plot_path, label_points, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADINGS = ("strategy", "accuracy", "trained", "step time", "step memory", "update")


def comparison_table(found: Comparison) -> RenderableType:
    """One row a strategy, the best first, and which differences are ties."""
    table = Table(title=f"{len(found.results)} trainings, measured on {found.test_samples} test samples")
    old = found.source_before is not None
    for heading in (*HEADINGS, *(("old domain",) if old else ()), "against the best"):
        table.add_column(heading, justify="left" if heading in ("strategy", "against the best") else "right")
    for summary in ranked(found.summaries):
        table.add_row(
            *cells(summary, _everything(found.summaries), old), verdict(summary), style="bold" if summary.best else None
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
        lines.append(f"| {' | '.join([*cells(summary, _everything(found.summaries), old), verdict(summary)])} |")
    return "\n".join(lines) + "\n"


def ranked(summaries: Sequence[Summary]) -> list[Summary]:
    """The highest mean first; without accuracies, the lowest loss."""
    return sorted(summaries, key=lambda summary: (-summary.mean, math.inf if summary.loss is None else summary.loss))


def ties_sentence(summaries: Sequence[Summary]) -> str:
    """Which differences mean nothing."""
    best = next((summary for summary in summaries if summary.best), None)
    losses = [summary for summary in ranked(summaries) if summary.loss is not None]
    if best is None and losses:
        return (
            f"{losses[0].setting} has the lowest test loss, {losses[0].loss:.4g} (there is no accuracy with this loss, "
            "and what is within chance is not said)"
        )
    if best is None:
        return "no training succeeded: try lower learning rates (`rates`)"
    ties = [str(summary.setting) for summary in summaries if summary.ties and not summary.best]
    if not ties:
        return f"{best.setting} is best, and no other ties with it"
    return f"{best.setting} has the highest mean, but its lead over {', '.join(ties)} is within chance"


def _everything(summaries: Sequence[Summary]) -> Summary | None:
    return next((summary for summary in summaries if summary.setting.strategy == "all"), None)


def verdict(summary: Summary) -> str:
    """Against the best: best, tie, behind or failed."""
    if summary.best:
        return "best"
    if not summary.accuracies and summary.loss is None:
        return "failed"
    if not summary.accuracies:
        return "-" if not summary.failed else f"{summary.failed} failed"
    failed = f" ({summary.failed} failed)" if summary.failed else ""
    return ("tie" if summary.ties else "behind") + failed


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
        _reached(summary),
        f"{summary.trainable_share:.1%}",
        time,
        memory,
        size_text(summary.update_bytes),
    ]
    if old:
        found.append("-" if summary.source_accuracy is None else f"{summary.source_accuracy:.1%}")
    return found


def _reached(summary: Summary) -> str:
    if summary.accuracies:
        return f"{summary.mean:.1%} ± {100 * summary.deviation:.1f}"
    return "-" if summary.loss is None else f"loss {summary.loss:.4g}"


def write_markdown(found: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the table as a file, whole or not at all."""
    with replacing(path) as part:
        Path(part).write_text(f"{markdown(found)}\n{ties_sentence(found.summaries)}\n", encoding="utf-8")


def plot_comparison(found: Comparison, path: str | os.PathLike[str]) -> None:
    """Accuracy against step memory and against step time, a point a strategy, with deviations over seeds.

    Args:
        found: what to draw.
        path: ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    check_plot_path(path)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels: tuple[tuple[str, Callable[[Summary], float]], ...] = (
        ("step memory, MB", lambda summary: summary.step_memory_bytes / 1e6),
        ("step time, ms", lambda summary: summary.step_seconds * 1e3),
    )
    for axis, (label, value) in zip(axes, panels, strict=True):
        draw_against(axis, found.summaries, value)
        axis.set_xlabel(label)
    axes[0].set_ylabel("test accuracy, %")
    for axis, (_, value) in zip(axes, panels, strict=True):
        label_points(
            axis, [(value(row), 100 * row.mean, str(row.setting)) for row in found.summaries if row.accuracies]
        )
    save_figure(figure, path)


def draw_against(axis: Axes, summaries: Sequence[Summary], value: Callable[[Summary], float]) -> None:
    """Accuracy with its deviation against something else, a point a strategy."""
    for row in summaries:
        if row.accuracies:
            colour = "tab:orange" if row.best else "tab:blue" if row.ties else "tab:grey"
            axis.errorbar(value(row), 100 * row.mean, yerr=100 * row.deviation, fmt="o", color=colour, markersize=5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.15)
