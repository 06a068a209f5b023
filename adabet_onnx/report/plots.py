"""Plots, as files; the format is that of the file's suffix.

matplotlib takes half a second to import, so that is left until something is drawn.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files import replacing
from ..scoring.record import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg", ".pdf")


def check_plot_path(path: str | os.PathLike[str]) -> Path:
    """Raise UsageError unless the suffix is one that plots can be written as."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(f"{path}: a plot must end in {', '.join(_FORMATS)}.")
    return Path(path)


def plot_scores(scores: Scores, path: str | os.PathLike[str], chosen: tuple[str, ...] = ()) -> None:
    """b1, activation size and b1_hat of every layer by depth, one below the other.

    Args:
        scores: what to draw.
        path: ``.png``, ``.svg`` or ``.pdf``.
        chosen: names of layers to mark.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    layers = scores.layers
    depth = list(range(len(layers)))
    figure = Figure(figsize=(max(7.0, 0.16 * len(layers)), 7.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    colours = ["tab:orange" if layer.name in chosen else "tab:blue" for layer in layers]
    factor = [scores.points * layer.activation_size for layer in layers]
    panels = (
        (
            "first Betti number b1",
            [layer.b1_mean for layer in layers],
            [layer.stderr * f for layer, f in zip(layers, factor, strict=True)],
        ),
        ("activation size D", [float(layer.activation_size) for layer in layers], None),
        ("b1_hat = b1 / (N D)", [layer.b1_hat for layer in layers], [layer.stderr for layer in layers]),
    )
    for axis, (title, values, errors) in zip(axes, panels, strict=True):
        axis.bar(depth, values, color=colours, yerr=errors, error_kw={"elinewidth": 0.8})
        axis.set_title(title, loc="left", fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_yscale("log")
    if any(layer.b1_hat > 0 for layer in layers):
        axes[2].set_yscale("log")
    if chosen:
        axes[0].legend(handles=[Patch(color="tab:orange", label="selected"), Patch(color="tab:blue", label="frozen")])
    axes[2].set_xticks(depth, [layer.name for layer in layers], rotation=90, fontsize="x-small")
    axes[2].set_xlim(-0.6, len(layers) - 0.4)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    check_plot_path(path)
    FigureCanvasAgg(figure)
    with replacing(path) as part:
        figure.savefig(part, format=Path(path).suffix[1:].lower(), dpi=120)
