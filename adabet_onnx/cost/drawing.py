"""Plot the cost of a step as in the paper's Figure 1, including the frozen pass before it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..drawing import SELECTED, new_figure, plain
from .predict import Prediction
from .row import StepCost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"inference": "inference", "selection": "training, selection", "all": "training, all layers"}
_COLOURS = {
    "weights": "tab:blue",
    "optimizer state": "tab:green",
    "gradients of the update": "tab:purple",
    "activations kept": "tab:orange",
    "everything else": "lightgrey",
}


@dataclass(frozen=True)
class _Bar:
    """A bar of the plot.

    Attributes:
        label: the label below it.
        parts: predicted bytes, by purpose.
        measured: measured bytes, or None.
        seconds: measured seconds, or None.
        work: multiply-adds.
        marked: whether it shows the selection.
    """

    label: str
    parts: Mapping[str, float]
    measured: int | None
    seconds: float | None
    work: int
    marked: bool = False


def draw_costs(rows: Mapping[str, StepCost], title: str, lines: Sequence[str] = ()) -> Figure:
    """Plot inference, training the selection and training all layers: memory (stacked), and time or multiply-adds.

    If something is frozen, the frozen pass and a step after it have a bar each.

    Args:
        rows: costs by the keys of LABELS; measured memory is drawn as a line across the bar.
        title: the title above the plot.
        lines: sentences below the plot.
    """
    bars = [bar for name, row in rows.items() for bar in _bars(name, row)]
    figure = new_figure(3.2 + 2.6 * len(bars), 4.2 + 0.2 * len(lines))
    memory, work = figure.subplots(1, 2, width_ratios=(1.0, 0.8))
    _draw_memory(memory, bars)
    plain(memory, title)
    _draw_work(work, bars)
    if lines:
        width = int(13 * figure.get_figwidth())
        text = "\n".join(textwrap.fill(line, width) for line in lines)
        figure.supxlabel(text, fontsize="small", x=0.01, ha="left")
    return figure


def _bars(name: str, row: StepCost) -> list[_Bar]:
    label, predicted, marked = LABELS[name].replace(", ", ",\n"), row.prediction, name == "selection"
    if not (marked and predicted.stored_bytes):
        parts = _stack(predicted, predicted.memory_bytes)
        return [_Bar(label, parts, row.measured_bytes, row.measured_seconds, predicted.step_multiply_adds, marked)]
    before = _Bar(
        "frozen pass,\nonce",
        {"everything else": predicted.frozen_bytes},
        row.measured_frozen_bytes,
        row.measured_frozen_seconds,
        predicted.frozen_multiply_adds,
        marked,
    )
    parts, label = _stack(predicted, predicted.tail_bytes), "a step after it,\nselection"
    work = predicted.step_multiply_adds
    return [before, _Bar(label, parts, row.measured_tail_bytes, row.measured_seconds, work, marked)]


def _draw_memory(axis: Axes, bars: Sequence[_Bar]) -> None:
    bottom = [0.0] * len(bars)
    for label, colour in _COLOURS.items():
        heights = [bar.parts.get(label, 0) / 1e6 for bar in bars]
        if any(heights):
            axis.bar(range(len(bars)), heights, 0.6, bottom=bottom, color=colour, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for at, bar in enumerate(bars):
        level = (bar.measured or 0) / 1e6
        above = max(bottom[at], level)  # keep the number above the line
        axis.annotate(f"{bottom[at]:,.3g}", (at, above), ha="center", va="bottom", fontsize="small")
        if bar.measured is not None:
            axis.plot([at - 0.36, at + 0.36], [level] * 2, color="black", label="measured" if at == 0 else None)
    axis.set_xticks(range(len(bars)), [bar.label for bar in bars], fontsize="small")
    axis.set_ylabel("memory, MB")
    axis.margins(y=0.12)
    axis.legend(fontsize="small", frameon=False, loc="upper left")


def _draw_work(axis: Axes, bars: Sequence[_Bar]) -> None:
    """Draw times if all were measured, else multiply-adds."""
    times = [bar.seconds for bar in bars if bar.seconds is not None]
    measured = len(times) == len(bars)
    values = [1e3 * seconds for seconds in times] if measured else [bar.work / 1e6 for bar in bars]
    colours = [SELECTED if bar.marked else "silver" for bar in bars]
    drawn = axis.bar(range(len(bars)), values, 0.6, color=colours)
    axis.bar_label(drawn, fmt="{:,.3g}" if max(values) < 1000 else "{:,.0f}", fontsize="small")
    axis.set_xticks(range(len(bars)), [bar.label for bar in bars], fontsize="small")
    axis.set_ylabel("time, ms" if measured else "multiply-adds, millions")
    plain(axis, "a batch, measured" if measured else "a batch, predicted")
    axis.margins(y=0.12)


def _stack(predicted: Prediction, whole: int) -> dict[str, float]:
    """Predicted memory by purpose; the rest is temporary activations and the runtime."""
    sizes = predicted.weight_bytes, predicted.state_bytes, predicted.update_bytes, predicted.saved_bytes, 0
    known = dict(zip(_COLOURS, sizes, strict=True))
    scale = min(1.0, whole / max(1, sum(known.values())))
    parts = {label: scale * count for label, count in known.items()}
    return parts | {"everything else": whole - sum(parts.values())}
