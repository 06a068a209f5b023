"""Plots, as files; the format is that of the file's suffix.

matplotlib takes half a second to import, so that is left until something is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import UsageError
from ..files import replacing
from ..scoring.record import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


def label_points(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a name at each point, beside it where there is room; names of the same point share a label.

    Call it when everything else is drawn: limits of the axes are fixed.

    Args:
        axis: where they are.
        points: x, y and name of each, in data coordinates.
    """
    at: dict[tuple[float, float], list[str]] = {}
    for x, y, name in points:
        at.setdefault((x, y), []).append(name)
    figure = cast("Figure", axis.figure)
    figure.draw_without_rendering()
    places = axis.transData.transform(list(at))
    size = 7.0
    pixels = figure.dpi / 72
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    inside = axis.bbox.extents
    for (point, names), (x, y) in sorted(zip(at.items(), places, strict=True), key=lambda item: -item[1][1]):
        text = ", ".join(names)
        width, height = 0.55 * size * len(text) * pixels, 1.2 * size * pixels
        best: tuple[float, float] = (6.0, 0.0)
        least = math.inf
        for distance in (6, 14, 24, 36, 50):
            for dx, dy in ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)):
                left = x + dx * distance - (width if dx < 0 else width / 2 if dx == 0 else 0)
                low = y + dy * distance - height / 2
                box = (left, low, left + width, low + height)
                over = sum(_common(box, other) for other in taken) + distance / 10
                outside = width * height - _common(box, (inside[0], inside[1], inside[2] + 60, inside[3]))
                if over + outside < least:
                    best, least = (dx * distance, dy * distance), over + outside
        right, up = best
        align = "left" if right > 0 else "right" if right < 0 else "center"
        left = x + right - (width if right < 0 else width / 2 if right == 0 else 0)
        taken.append((left, y + up - height / 2, left + width, y + up + height / 2))
        line = {"arrowstyle": "-", "color": "lightgrey", "linewidth": 0.6, "shrinkB": 2} if abs(up) > 8 else None
        axis.annotate(
            text,
            point,
            xytext=(right / pixels, up / pixels),
            textcoords="offset points",
            fontsize=size,
            ha=align,
            va="center",
            arrowprops=line,
        )


Box = tuple[float, float, float, float]


def _common(one: Box, other: Box) -> float:
    """The area that two boxes (left, low, right, high) share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, tall)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    check_plot_path(path)
    FigureCanvasAgg(figure)
    with replacing(path) as part:
        figure.savefig(part, format=Path(path).suffix[1:].lower(), dpi=120)
