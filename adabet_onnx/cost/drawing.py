"""What a step takes, as the paper's Figure 1, with the pass that comes before it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..drawing import SELECTED, new_figure, plain
from .predict import Prediction
from .row import Row

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
    """One of the costs.

    Attributes:
        label: what stands below it.
        parts: predicted bytes, by what they are for.
        measured: bytes, or None.
        seconds: measured, or None.
        work: multiply-adds.
        marked: whether it is of the selection.
    """

    label: str
    parts: Mapping[str, float]
    measured: int | None
    seconds: float | None
    work: int
    marked: bool = False


def draw_costs(rows: Mapping[str, Row], title: str, lines: Sequence[str] = ()) -> Figure:
    """Inference, training the selection and training all layers: memory, stacked, and time or arithmetic.

    Where something is frozen, what the pass takes that computes it and what a step after it takes have a bar each.

    Args:
        rows: by the keys of LABELS; what was measured of memory is drawn as a line across the bar.
        title: above it.
        lines: sentences below it.
    """
    bars = [bar for name, row in rows.items() for bar in _bars(name, row)]
    figure = new_figure(3.2 + 2.6 * len(bars), 4.2 + 0.2 * len(lines))
    memory, work = figure.subplots(1, 2, width_ratios=(1.0, 0.8))
    _draw_memory(memory, bars)
    plain(memory, title)
    _draw_work(work, bars)
    if lines:
        wide = int(13 * figure.get_figwidth())
        text = "\n".join(textwrap.fill(line, wide) for line in lines)
        figure.supxlabel(text, fontsize="small", x=0.01, ha="left")
    return figure


def _bars(name: str, row: Row) -> list[_Bar]:
    label, found, marked = LABELS[name].replace(", ", ",\n"), row.prediction, name == "selection"
    if not (marked and found.stored_bytes):
        parts = _stack(found, found.memory_bytes)
        return [_Bar(label, parts, row.measured_bytes, row.measured_seconds, found.step_multiply_adds, marked)]
    before = _Bar(
        "frozen pass,\nonce",
        {"everything else": found.frozen_bytes},
        row.measured_frozen_bytes,
        row.measured_frozen_seconds,
        found.frozen_multiply_adds,
        marked,
    )
    parts, label = _stack(found, found.tail_bytes), "a step after it,\nselection"
    return [before, _Bar(label, parts, row.measured_tail_bytes, row.measured_seconds, found.step_multiply_adds, marked)]


def _draw_memory(axis: Axes, bars: Sequence[_Bar]) -> None:
    bottom = [0.0] * len(bars)
    for label, colour in _COLOURS.items():
        heights = [bar.parts.get(label, 0) / 1e6 for bar in bars]
        if any(heights):
            axis.bar(range(len(bars)), heights, 0.6, bottom=bottom, color=colour, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for at, bar in enumerate(bars):
        level = (bar.measured or 0) / 1e6
        above = max(bottom[at], level)  # the line is not to strike the number out
        axis.annotate(f"{bottom[at]:,.3g}", (at, above), ha="center", va="bottom", fontsize="small")
        if bar.measured is not None:
            axis.plot([at - 0.36, at + 0.36], [level] * 2, color="black", label="measured" if at == 0 else None)
    axis.set_xticks(range(len(bars)), [bar.label for bar in bars], fontsize="small")
    axis.set_ylabel("memory, MB")
    axis.margins(y=0.12)
    axis.legend(fontsize="small", frameon=False, loc="upper left")


def _draw_work(axis: Axes, bars: Sequence[_Bar]) -> None:
    """Time where all of it was measured, else multiply-adds."""
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


def _stack(found: Prediction, whole: int) -> dict[str, float]:
    """What the predicted memory consists of; the rest is passing activations and the runtime."""
    known = dict(
        zip(_COLOURS, (found.weight_bytes, found.state_bytes, found.update_bytes, found.saved_bytes, 0), strict=True)
    )
    scale = min(1.0, whole / max(1, sum(known.values())))
    parts = {label: scale * count for label, count in known.items()}
    return parts | {"everything else": whole - sum(parts.values())}
