"""Helpers shared by all plots: figures for notebooks, files, axes with layers by depth, and labels at points.

matplotlib takes half a second to import, so it is imported only when something is drawn. pyplot is not used: a figure
belongs to the caller, and no backend is selected.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .errors import UsageError
from .files import replacing
from .showing import shortened

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SELECTED, OTHER = "tab:orange", "tab:blue"  # colours of layers
_FORMATS = (".png", ".svg", ".pdf")
_DPI = 120
_LABELS = 64  # layer names that fit along an axis
_FAR = 10  # the largest ratio of values that a linear scale shows well
_NAME = 32  # characters of a layer name


def check_plot_path(path: str | os.PathLike[str]) -> Path:
    """Raise UsageError unless plots can be written in the format that the suffix names."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(f"{path}: a plot must end in {', '.join(_FORMATS)}.")
    return Path(path)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that a notebook shows, even without ``%matplotlib inline``.

    Args:
        width: in inches.
        height: in inches.
    """
    return _class()(figsize=(width, height), layout="constrained")


@functools.cache
def _class() -> type[Figure]:
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows as an image."""

        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=_DPI * 3 // 4)
            return content.getvalue()

    return ShownFigure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure atomically.

    Raises:
        UsageError: the suffix is not ``.png``, ``.svg`` or ``.pdf``.
        OutputError: the file cannot be written.
    """
    check_plot_path(path)
    with replacing(path) as part:
        figure.savefig(part, format=Path(path).suffix[1:].lower(), dpi=_DPI)


def finished(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Return the figure, after writing it if a path is given; see `save_figure`."""
    if path is not None:
        save_figure(figure, path)
    return figure


def width_for(layers: int) -> float:
    """Return the width in inches that an axis with this many layers needs, limited to that of a page."""
    return min(max(7.0, 0.16 * layers), 12.0)


def name_layers(axis: Axes, names: Sequence[str], marked: Collection[str] = ()) -> None:
    """Write layer names below an axis; if not all fit, the marked ones and some in between.

    Args:
        axis: the axis, whose x is the depth.
        names: names of all layers, in model order.
        marked: names of the layers to write in the colour of selected layers.
    """
    apart = math.ceil(len(names) / _LABELS)
    shown: list[int] = []
    for i in sorted(range(len(names)), key=lambda i: (names[i] not in marked, i)):
        if all(abs(i - other) >= apart for other in shown):
            shown.append(i)
    axis.set_xticks(shown, [shortened(names[i], _NAME) for i in shown], rotation=90, fontsize="x-small")
    for label, i in zip(axis.get_xticklabels(), shown, strict=True):
        label.set_parse_math(False)  # a name may have dollar signs
        if names[i] in marked:
            label.set_color(SELECTED)
    axis.set_xlim(-0.6, len(names) - 0.4)


def fit_scale(axis: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic scale for bars if values are far apart; else start at 0, so that lengths are comparable."""
    above = [value for value in values if value > 0]
    if above and max(above) > _FAR * min(above):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)


def plain(axis: Axes, title: str | None = None) -> None:
    """Remove the box around a plot, and set its title on the left without mathtext."""
    axis.spines[["top", "right"]].set_visible(False)
    if title is not None:
        axis.set_title(title, loc="left", fontsize="medium", parse_math=False)


def legend_above(axis: Axes, handles: Sequence[Artist] | None = None) -> None:
    """Add a legend to the right of the title, where nothing is drawn.

    Args:
        axis: the axis of the plot.
        handles: the entries; None: everything that has a label.
    """
    axis.legend(
        handles=axis.get_legend_handles_labels()[0] if handles is None else handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.1,
        ncols=3,
        frameon=False,
        fontsize="small",
    )


def draw_bars(axis: Axes, values: Mapping[str, float], *, marked: str, form: str = "{:,.3g}") -> None:
    """Draw a bar for each value, labelled with the number.

    Args:
        axis: the axis to draw on.
        values: the values by the label below each bar.
        marked: the label of the bar in the colour of selected layers.
        form: format of the numbers.
    """
    colours = [SELECTED if name == marked else "lightgrey" for name in values]
    bars = axis.bar(range(len(values)), list(values.values()), 0.6, color=colours)
    axis.bar_label(bars, fmt=form, fontsize="small")
    axis.set_xticks(range(len(values)), list(values))
    axis.margins(y=0.15)


def label_points(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a name beside each point, where there is room; names of the same point share a label.

    Call it after everything else is drawn, when the limits of the axes are final.

    Args:
        axis: the axis of the points.
        points: x, y and name of each, in data coordinates.
    """
    names_at: dict[tuple[float, float], list[str]] = {}
    for x, y, name in points:
        names_at.setdefault((x, y), []).append(name)
    figure = cast("Figure", axis.figure)
    figure.draw_without_rendering()
    places = axis.transData.transform(list(names_at))
    size = 7.0
    pixels = figure.dpi / 72
    occupied = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    inside = axis.bbox.extents
    for (point, names), (x, y) in sorted(zip(names_at.items(), places, strict=True), key=lambda item: -item[1][1]):
        text = ", ".join(names)
        width, height = 0.55 * size * len(text) * pixels, 1.2 * size * pixels
        best: tuple[float, float] = (6.0, 0.0)
        least = math.inf
        for distance in (6, 14, 24, 36, 50):
            for dx, dy in ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)):
                left = x + dx * distance - (width if dx < 0 else width / 2 if dx == 0 else 0)
                low = y + dy * distance - height / 2
                box = (left, low, left + width, low + height)
                over = sum(_overlap(box, other) for other in occupied) + distance / 10
                outside = width * height - _overlap(box, (inside[0], inside[1], inside[2] + 60, inside[3]))
                if over + outside < least:
                    best, least = (dx * distance, dy * distance), over + outside
        right, up = best
        align = "left" if right > 0 else "right" if right < 0 else "center"
        left = x + right - (width if right < 0 else width / 2 if right == 0 else 0)
        occupied.append((left, y + up - height / 2, left + width, y + up + height / 2))
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


def _overlap(one: Box, other: Box) -> float:
    """Return the area that two boxes (left, low, right, high) have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, tall)
