"""Figures as inline SVG for a page, with unique identifiers and without external files or requests."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drawing import label_points
from ..fleet.drawing import draw_rounds
from ..showing import shortened
from ..study.drawing import draw_against, draw_agreement
from ..study.results import Summary
from ..study.stability_record import Stability
from .classes import COUNTED
from .inputs import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (6.4, 4.2)  # inches; the page scales it to its width
_DPI = 200  # resolution of raster images in a figure, such as a confusion matrix of many classes
_NAME = 24  # maximum number of characters of a class name


def svg(figure: Figure, name: str) -> str:
    """A figure as an ``<svg>`` element.

    Args:
        figure: what to draw.
        name: a prefix for each identifier, unique on the page.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    # Text stays text, in the page's font; the fixed salt makes the output reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "adabet-onnx", "font.family": "sans-serif"}):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text, count=1)


def learning_curves(curves: Sequence[Curve]) -> str:
    """Plot loss and, if known, accuracy on validation data by epoch."""
    from matplotlib.figure import Figure

    accuracy = any(value is not None for curve in curves for value in curve.eval_accuracy)
    figure = Figure(figsize=(_SIZE[0], _SIZE[1] * (1.5 if accuracy else 1)), layout="constrained")
    axes = figure.subplots(2 if accuracy else 1, 1, sharex=True, squeeze=False)[:, 0]
    several = len(curves) > 1
    for number, curve in enumerate(curves):
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        _line(axes[0], curve.train_loss, label=curve.name if several else "training", **style)
        if not several and any(value is not None for value in curve.eval_loss):
            _line(axes[0], curve.eval_loss, label="validation", color="C1")
        if accuracy:
            percent = [None if value is None else 100 * value for value in curve.eval_accuracy]
            _line(axes[1], percent, **style)
    axes[0].set_ylabel("training loss" if several else "loss")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if accuracy:
        axes[1].set_ylabel("validation accuracy, %")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize="x-small", ncols=2 if several else 1)
    return svg(figure, "curves")


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Plot a confusion matrix: each row shows how the labels of a class were predicted, as shares."""
    from matplotlib.figure import Figure

    classes, table = len(names), np.asarray(counts, float)
    side, font = _square(classes)
    room = 0.6 * font / 72 * min(max(map(len, names)), _NAME)  # inches for the names
    figure = Figure(figsize=(max(side + room + 1.2, _SIZE[0]), side + room + 0.6), layout="constrained", dpi=_DPI)
    axis = figure.subplots()
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    drawn = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    shown = [shortened(name, _NAME) for name in names]
    axis.set_xticks(range(classes), shown, rotation=90 if room > 1.5 * side / classes else 0, fontsize=font)
    axis.set_yticks(range(classes), shown, fontsize=font)
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)  # a name may have dollar signs
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if classes <= COUNTED:
        for row, column in np.argwhere(table):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{int(table[row, column]):,}"
            size = min(font, 72 * side / classes / max(0.62 * len(text), 1.4))
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    axis.set_xlabel("predicted")
    axis.set_ylabel("label")
    figure.colorbar(drawn, ax=axis, shrink=0.6, label="% of the labels").outline.set_visible(False)
    return svg(figure, "confusion")


def _square(classes: int) -> tuple[float, float]:
    """The side of a confusion matrix in inches, and a font size such that each name fits on a line."""
    cell = min(max(4.2 / classes, 0.085), 0.9)
    return classes * cell, min(9.0, 72 * cell * 0.85)


def _line(axis: object, values: Sequence[float | None], **style: object) -> None:
    points = [(epoch, value) for epoch, value in enumerate(values) if value is not None]
    axis.plot([epoch for epoch, _ in points], [value for _, value in points], marker=".", **style)  # type: ignore[attr-defined]


def accuracy_against_memory(summaries: Sequence[Summary]) -> str:
    """Plot test accuracy against step memory, with one point per strategy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0] * 1.15, _SIZE[1] * 1.15), layout="constrained")
    axis = figure.subplots()
    draw_against(axis, summaries, lambda row: row.step_memory_bytes / 1e6)
    axis.set_xlabel("step memory, MB")
    drawn = [row for row in summaries if row.accuracies]
    label_points(axis, [(row.step_memory_bytes / 1e6, 100 * row.mean, str(row.setting)) for row in drawn])
    return svg(figure, "memory")


def rounds(rows: Sequence[Mapping[str, Any]]) -> str:
    """Plot loss and accuracy of a fleet by round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0], _SIZE[1] * 1.5), layout="constrained")
    draw_rounds(figure.subplots(2, 1, sharex=True), rows)
    return svg(figure, "fleet")


def agreement(stability: Stability) -> str:
    """Plot the agreement of rankings by the number of samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    draw_agreement(figure.subplots(), stability.agreements)
    return svg(figure, "agreement")
