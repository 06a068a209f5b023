"""Plots of a fleet's rounds: accuracy and loss by round, and rounds with dropped replies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..drawing import finished, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACCURACIES = (("eval_accuracy", "server, held-out data", "tab:orange"), ("client_accuracy", "clients", "tab:blue"))
_LOSSES = (("loss", "clients, training", "tab:blue"), ("eval_loss", "server, held-out data", "tab:orange"))


def draw_rounds(axes: Sequence[Axes], rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss and accuracy by round, and mark rounds in which replies were dropped.

    Args:
        axes: two axes, for loss and accuracy.
        rows: rows of fleet.jsonl.
    """
    from matplotlib.ticker import MaxNLocator

    for axis, lines, times, label in ((axes[0], _LOSSES, 1.0, "loss"), (axes[1], _ACCURACIES, 100.0, "accuracy, %")):
        for key, name, colour in lines:
            points = [(row["round"], times * row[key]) for row in rows if row[key] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=name, color=colour)
        plain(axis, label)
        dropped = [row["round"] for row in rows if row["dropped"]]
        if dropped:
            low = axis.get_ylim()[0]
            axis.plot(dropped, [low] * len(dropped), "kx", clip_on=False, label="replies dropped")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize="small")
    axes[-1].set_xlabel("round")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_rounds(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str] | None = None) -> Figure:
    """Return a figure of the rounds, and write it if a path is given.

    Args:
        rows: rows of fleet.jsonl.
        path: path of a .png, .svg or .pdf file.

    Raises:
        UsageError: the path has another suffix.
        OutputError: the file cannot be written.
    """
    figure = new_figure(6.4, 6.0)
    draw_rounds(figure.subplots(2, 1, sharex=True), rows)
    return finished(figure, path)
