"""What all plots share: figures that notebooks show, files, layers by depth along an axis, and labels at points.

matplotlib takes half a second to import, so that is left until something is drawn. Nothing here knows pyplot: a figure
belongs to whoever asked for it, and no backend is chosen.
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
_FAR = 10  # times: what a linear scale still shows
_NAME = 32  # characters of one


def check_plot_path(path: str | os.PathLike[str]) -> Path:
    """Raise UsageError unless the suffix is one that plots can be written as."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(f"{path}: a plot must end in {', '.join(_FORMATS)}.")
    return Path(path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that a notebook shows, also where ``%matplotlib inline`` was not said.

    Args:
        width: in inches.
        height: likewise.
    """
    return _class()(figsize=(width, height), layout="constrained")


@functools.cache
def _class() -> type[Figure]:
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that is its own picture in a notebook."""

        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=_DPI * 3 // 4)
            return content.getvalue()

    return ShownFigure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure, whole or not at all.

    Raises:
        UsageError: another suffix than ``.png``, ``.svg`` or ``.pdf``.
        OutputError: the file cannot be written.
    """
    check_plot_path(path)
    with replacing(path) as part:
        figure.savefig(part, format=Path(path).suffix[1:].lower(), dpi=_DPI)


def finished(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """The figure, which is also written where a path is given; see `save_figure`."""
    if path is not None:
        save_figure(figure, path)
    return figure


def width_for(layers: int) -> float:
    """Inches that layers by depth need beside each other; no more than a page has."""
    return min(max(7.0, 0.16 * layers), 12.0)


def name_layers(axis: Axes, names: Sequence[str], marked: Collection[str] = ()) -> None:
    """Layer names below an axis of depths; of more than fit, the marked ones and some between them.

    Args:
        axis: whose x is the depth.
        names: of all layers, in model order.
        marked: names of those in the colour of selected layers.
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
    """A logarithmic scale for bars where values lie far apart; else they begin at 0, and their lengths compare."""
    above = [value for value in values if value > 0]
    if above and max(above) > _FAR * min(above):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)


def plain(axis: Axes, title: str | None = None) -> None:
    """No box around a plot; its title on the left, letter by letter."""
    axis.spines[["top", "right"]].set_visible(False)
    if title is not None:
        axis.set_title(title, loc="left", fontsize="medium", parse_math=False)


def legend_above(axis: Axes, handles: Sequence[Artist] | None = None) -> None:
    """A legend to the right of the title, where nothing is drawn.

    Args:
        axis: of the plot.
        handles: what is explained; None: everything that has a label.
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
    """A bar for each value, with its number on it.

    Args:
        axis: where they are drawn.
        values: by what stands below the bar.
        marked: which one has the colour of selected layers.
        form: of the numbers.
    """
    colours = [SELECTED if name == marked else "lightgrey" for name in values]
    bars = axis.bar(range(len(values)), list(values.values()), 0.6, color=colours)
    axis.bar_label(bars, fmt=form, fontsize="small")
    axis.set_xticks(range(len(values)), list(values))
    axis.margins(y=0.15)


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
