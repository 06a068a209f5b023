"""What inference and training cost, as a table and as the paper's Figure 1."""

from __future__ import annotations

import os

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..cost.overview import Overview, Row
from ..sizes import size_text
from .plots import check_plot_path, save_figure

_LABELS = {"inference": "inference", "selection": "training, selection", "all": "training, all layers"}


def cost_table(costs: Overview) -> RenderableType:
    """Memory predicted and measured, what it consists of, and arithmetic."""
    measured = any(row.measured_bytes is not None for row in costs.rows().values())
    table = Table(title=f"one step at batch {costs.batch_size}, {costs.backend} backend")
    headings = ["memory, predicted", *(["measured", "difference"] if measured else [])]
    headings += ["activations kept", "optimizer state", "update", "multiply-adds forward", "of the step"]
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for name, row in costs.rows().items():
        table.add_row(_LABELS[name], *_cells(row, measured))
    lines = [Text(f"note: {note}") for note in costs.notes]
    everything, selection = costs.everything, costs.selection
    if everything is not None and selection is not None:
        memory = selection.prediction.memory_bytes / everything.prediction.memory_bytes
        work = selection.prediction.work_beside(everything.prediction)
        lines.append(Text(f"the selection takes {memory:.2f} of the memory and {work:.2f} of the multiply-adds of all"))
    return Group(table, *lines)


def _cells(row: Row, measured: bool) -> list[str]:
    found = row.prediction
    cells = [f"{_size(found.memory_bytes)} (+{_size(found.margin_bytes)})"]
    if measured:
        cells.append("-" if row.measured_bytes is None else _size(row.measured_bytes))
        cells.append("-" if row.difference is None else f"{row.difference:+.0%}")
    cells += [_size(count) for count in (found.saved_bytes, found.state_bytes, found.update_bytes)]
    return [*cells, _count(found.forward_multiply_adds), _count(found.step_multiply_adds)]


def _size(count: int) -> str:
    return size_text(count) if count else "-"


def _count(count: int) -> str:
    return f"{count / 1e9:,.2f} G" if count >= 1e9 else f"{count / 1e6:,.2f} M"


def plot_costs(costs: Overview, path: str | os.PathLike[str]) -> None:
    """The paper's Figure 1: memory of inference, of training the selection and of training all layers, stacked.

    Measured memory, where there is some, is drawn as a line across the bar.

    Args:
        costs: what to draw.
        path: ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    check_plot_path(path)
    rows = costs.rows()
    figure = Figure(figsize=(1.6 + 1.7 * len(rows), 4.2), layout="constrained")
    axis = figure.subplots()
    bottom = [0.0] * len(rows)
    parts = [_stack(row) for row in rows.values()]
    for label, colour in _COLOURS.items():
        heights = [part[label] / 1e6 for part in parts]
        if any(heights):
            axis.bar(range(len(rows)), heights, 0.6, bottom=bottom, color=colour, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for at, row in enumerate(rows.values()):
        axis.annotate(f"{bottom[at]:,.0f}", (at, bottom[at]), ha="center", va="bottom", fontsize="small")
        if row.measured_bytes is not None:
            level = row.measured_bytes / 1e6
            axis.plot([at - 0.36, at + 0.36], [level] * 2, color="black", label="measured" if at == 0 else None)
    axis.set_xticks(range(len(rows)), [_LABELS[name].replace(", ", ",\n") for name in rows])
    axis.set_ylabel("memory of a step, MB")
    axis.set_title(f"batch {costs.batch_size}, {costs.backend} backend", loc="left", fontsize="medium")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)
    axis.legend(fontsize="small", frameon=False, loc="upper left")
    save_figure(figure, path)


_COLOURS = {
    "weights": "tab:blue",
    "optimizer state": "tab:green",
    "gradients of the update": "tab:purple",
    "activations kept": "tab:orange",
    "everything else": "lightgrey",
}


def _stack(row: Row) -> dict[str, float]:
    """What the predicted memory consists of; the rest is passing activations and the runtime."""
    found = row.prediction
    known = dict(
        zip(_COLOURS, (found.weight_bytes, found.state_bytes, found.update_bytes, found.saved_bytes, 0), strict=True)
    )
    scale = min(1.0, found.memory_bytes / max(1, sum(known.values())))
    parts = {label: scale * count for label, count in known.items()}
    return parts | {"everything else": found.memory_bytes - sum(parts.values())}
