"""Plots of the rows of metrics.jsonl: loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..drawing import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOSSES = (("train_loss", "training", "tab:blue"), ("eval_loss", "validation", "tab:orange"))


def draw_loss(axis: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw training and validation loss by epoch."""
    for key, label, colour in _LOSSES:
        _line(axis, metrics, key, 1.0, label=label, color=colour)
    plain(axis, "loss")
    _epochs(axis)
    axis.legend(frameon=False, fontsize="small")


def draw_accuracy(axis: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw validation accuracy by epoch, in percent; nothing if it is unknown."""
    if any(row["eval_accuracy"] is not None for row in metrics):
        _line(axis, metrics, "eval_accuracy", 100.0, color="tab:orange")
    plain(axis, "accuracy on validation data, %")
    axis.set_ylim(0, 102)
    _epochs(axis)


def _line(axis: Axes, metrics: Sequence[Mapping[str, Any]], key: str, times: float, **style: Any) -> None:
    points = [(row["epoch"], times * row[key]) for row in metrics if row[key] is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker=".", **style)


def _epochs(axis: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
