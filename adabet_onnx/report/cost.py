"""The costs of inference and training as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..cost.drawing import LABELS
from ..cost.overview import Overview
from ..cost.row import StepCost
from ..cost.words import count_text, ratio_text
from ..sizes import size_text


def cost_table(costs: Overview) -> RenderableType:
    """A table of predicted and measured memory, its components, and multiply-adds."""
    measured = any(row.measured_bytes is not None for row in costs.rows().values())
    table = Table(title=f"one step at batch {costs.batch_size}, {costs.backend} backend")
    headings = ["memory, predicted", *(["measured", "difference"] if measured else [])]
    headings += ["activations kept", "optimizer state", "update", "multiply-adds forward", "of the step"]
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for name, row in costs.rows().items():
        table.add_row(LABELS[name], *_cells(row, measured))
    lines = [Text("(+) margin: a step may take up to a third more than predicted")]
    lines += [Text(line) for line in (*costs.frozen(), *_measured_frozen(costs.selection), *costs.saved())]
    lines += [Text(f"note: {note}") for note in costs.notes]
    everything, selection = costs.everything, costs.selection
    if everything is not None and selection is not None:
        memory = selection.prediction.memory_bytes / everything.prediction.memory_bytes
        work = selection.prediction.work_ratio(everything.prediction)
        lines.append(
            Text(
                f"a step of the selection takes {ratio_text(memory)} of the memory and {ratio_text(work)} of the "
                "multiply-adds of training all layers"
            )
        )
    return Group(table, *lines)


def _measured_frozen(row: StepCost | None) -> list[str]:
    if row is None or row.measured_frozen_bytes is None or row.measured_frozen_seconds is None:
        return []
    frozen, step = 1000 * row.measured_frozen_seconds, 1000 * (row.measured_seconds or 0)
    return [
        f"measured: the frozen pass {_size(row.measured_frozen_bytes)}, {frozen:.3g} ms for a batch; a step after it "
        f"{_size(row.measured_tail_bytes or 0)}, {step:.3g} ms"
    ]


def _cells(row: StepCost, measured: bool) -> list[str]:
    predicted = row.prediction
    cells = [f"{_size(predicted.memory_bytes)} (+{_size(predicted.margin_bytes)})"]
    if measured:
        cells.append("-" if row.measured_bytes is None else _size(row.measured_bytes))
        cells.append("-" if row.difference is None else f"{row.difference:+.0%}")
    cells += [_size(count) for count in (predicted.saved_bytes, predicted.state_bytes, predicted.update_bytes)]
    return [*cells, count_text(predicted.forward_multiply_adds), count_text(predicted.step_multiply_adds)]


def _size(count: int) -> str:
    return size_text(count) if count else "-"
