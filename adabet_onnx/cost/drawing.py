"""What a step takes, as the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..drawing import new_figure, plain
from .predict import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"inference": "inference", "selection": "training, selection", "all": "training, all layers"}
_COLOURS = {
    "weights": "tab:blue",
    "optimizer state": "tab:green",
    "gradients of the update": "tab:purple",
    "activations kept": "tab:orange",
    "everything else": "lightgrey",
}


def draw_costs(rows: Mapping[str, tuple[Prediction, int | None]], title: str) -> Figure:
    """Memory of inference, of training the selection and of training all layers, stacked.

    Args:
        rows: by the keys of LABELS, what is predicted, and the memory measured, which is drawn as a line across the
            bar; None where it was not.
        title: above it.
    """
    figure = new_figure(1.6 + 1.7 * len(rows), 4.2)
    axis = figure.subplots()
    bottom = [0.0] * len(rows)
    parts = [_stack(prediction) for prediction, _ in rows.values()]
    for label, colour in _COLOURS.items():
        heights = [part[label] / 1e6 for part in parts]
        if any(heights):
            axis.bar(range(len(rows)), heights, 0.6, bottom=bottom, color=colour, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for at, (_, measured) in enumerate(rows.values()):
        axis.annotate(f"{bottom[at]:,.3g}", (at, bottom[at]), ha="center", va="bottom", fontsize="small")
        if measured is not None:
            level = measured / 1e6
            axis.plot([at - 0.36, at + 0.36], [level] * 2, color="black", label="measured" if at == 0 else None)
    axis.set_xticks(range(len(rows)), [LABELS[name].replace(", ", ",\n") for name in rows])
    axis.set_ylabel("memory of a step, MB")
    plain(axis, title)
    axis.margins(y=0.12)
    axis.legend(fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _stack(found: Prediction) -> dict[str, float]:
    """What the predicted memory consists of; the rest is passing activations and the runtime."""
    known = dict(
        zip(_COLOURS, (found.weight_bytes, found.state_bytes, found.update_bytes, found.saved_bytes, 0), strict=True)
    )
    scale = min(1.0, found.memory_bytes / max(1, sum(known.values())))
    parts = {label: scale * count for label, count in known.items()}
    return parts | {"everything else": found.memory_bytes - sum(parts.values())}
