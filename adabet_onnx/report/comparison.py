"""A comparison as a table, in Markdown, and as plots."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..files import replacing
from ..selection.budget import megabytes
from ..study.compare import Comparison
from ..study.results import Summary
from .plots import check_plot_path, save_figure

_HEADINGS = ("strategy", "accuracy", "trained", "step time", "step memory", "update")


def comparison_table(found: Comparison) -> RenderableType:
    """One row a strategy, the best first, and which differences are ties."""
    table = Table(title=f"{len(found.results)} trainings, measured on {found.test_samples} test samples")
    old = found.source_before is not None
    for heading in (*_HEADINGS, *(("old domain",) if old else ()), "against the best"):
        table.add_column(heading, justify="left" if heading in ("strategy", "against the best") else "right")
    for summary in ranked(found.summaries):
        table.add_row(*_cells(summary, found, old), _verdict(summary), style="bold" if summary.best else None)
    lines = []
    if found.before is not None:
        lines.append(Text(f"before: {found.before:.1%}" + (f"; old domain {found.source_before:.1%}" if old else "")))
    lines.append(Text(ties_sentence(found.summaries)))
    return Group(table, *lines)


def markdown(found: Comparison) -> str:
    """The same table in Markdown."""
    old = found.source_before is not None
    headings = [*_HEADINGS, *(["old domain"] if old else []), "against the best"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for summary in ranked(found.summaries):
        lines.append(f"| {' | '.join([*_cells(summary, found, old), _verdict(summary)])} |")
    return "\n".join(lines) + "\n"


def ranked(summaries: Sequence[Summary]) -> list[Summary]:
    """The best mean first."""
    return sorted(summaries, key=lambda summary: -summary.mean)


def ties_sentence(summaries: Sequence[Summary]) -> str:
    """Which differences mean nothing."""
    best = next((summary for summary in summaries if summary.best), None)
    if best is None:
        return "no training succeeded: try lower learning rates (--lr)"
    ties = [str(summary.setting) for summary in summaries if summary.ties and not summary.best]
    if not ties:
        return f"{best.setting} is best, and no other ties with it"
    return f"{best.setting} has the highest mean, but its lead over {', '.join(ties)} is within chance"


def _verdict(summary: Summary) -> str:
    if summary.best:
        return "best"
    if not summary.accuracies:
        return "failed"
    failed = f" ({summary.failed} failed)" if summary.failed else ""
    return ("tie" if summary.ties else "behind") + failed


def _cells(summary: Summary, found: Comparison, old: bool) -> list[str]:
    everything = next((other for other in found.summaries if other.setting.strategy == "all"), None)
    time, memory = f"{summary.step_seconds * 1000:.3g} ms", megabytes(summary.step_memory_bytes)
    if everything is not None:
        time += f" ({summary.step_seconds / everything.step_seconds:.2f}x)"
        memory += f" ({summary.step_memory_bytes / everything.step_memory_bytes:.2f}x)"
    cells = [
        str(summary.setting),
        f"{summary.mean:.1%} ± {100 * summary.deviation:.1f}" if summary.accuracies else "-",
        f"{summary.trainable_share:.1%}",
        time,
        memory,
        megabytes(summary.update_bytes),
    ]
    if old:
        cells.append("-" if summary.source_accuracy is None else f"{summary.source_accuracy:.1%}")
    return cells


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
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels: tuple[tuple[str, Callable[[Summary], float]], ...] = (
        ("step memory, MB", lambda summary: summary.step_memory_bytes / 1e6),
        ("step time, ms", lambda summary: summary.step_seconds * 1e3),
    )
    for axis, (label, value) in zip(axes, panels, strict=True):
        for summary in found.summaries:
            if not summary.accuracies:
                continue
            x, y = value(summary), 100 * summary.mean
            axis.errorbar(
                x, y, yerr=100 * summary.deviation, fmt="o", color="tab:orange" if summary.best else "tab:blue"
            )
            axis.annotate(str(summary.setting), (x, y), xytext=(4, 4), textcoords="offset points", fontsize="x-small")
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy, %")
    save_figure(figure, path)
