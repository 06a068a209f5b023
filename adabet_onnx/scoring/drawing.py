"""Plots of scores by depth: the three panels of `Scores.plot`, and single panels for use in other plots."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..drawing import OTHER, SELECTED, fit_scale, legend_above, name_layers, new_figure, plain, width_for
from .layer_score import LayerScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_scores(layers: Sequence[LayerScore], points: int, chosen: Collection[str] = ()) -> Figure:
    """Draw b1, activation size and b1_hat of every layer by depth, one below the other.

    Args:
        layers: in model order.
        points: number of points of a Betti number.
        chosen: names of layers to mark.
    """
    figure = new_figure(width_for(len(layers)), 7.5)
    betti, size, hat = figure.subplots(3, 1, sharex=True)
    factor = [points * layer.activation_size for layer in layers]
    spread = [layer.stderr * f for layer, f in zip(layers, factor, strict=True)]
    _bars(betti, layers, [layer.b1_mean for layer in layers], chosen, spread)
    plain(betti, "first Betti number b1")
    _bars(size, layers, [float(layer.activation_size) for layer in layers], chosen)
    plain(size, "activation size D")
    fit_scale(size, [layer.activation_size for layer in layers])
    draw_b1_hat(hat, layers, chosen)
    if chosen:
        mark_legend(betti)
    name_layers(hat, [layer.name for layer in layers], chosen)
    return figure


def draw_b1_hat(axis: Axes, layers: Sequence[LayerScore], chosen: Collection[str] = ()) -> None:
    """Draw b1_hat of every layer by depth."""
    _bars(axis, layers, [layer.b1_hat for layer in layers], chosen, [layer.stderr for layer in layers])
    plain(axis, "b1_hat = b1 / (N D)")
    fit_scale(axis, [layer.b1_hat for layer in layers])


def draw_parameters(axis: Axes, layers: Sequence[LayerScore], chosen: Collection[str] = ()) -> None:
    """Draw the parameters of every layer by depth, for use without scores."""
    _bars(axis, layers, [float(layer.parameter_count) for layer in layers], chosen)
    plain(axis, "parameters")
    fit_scale(axis, [layer.parameter_count for layer in layers])


def mark_legend(axis: Axes) -> None:
    """Add a legend for the colour of selected layers."""
    from matplotlib.patches import Patch

    legend_above(axis, [Patch(color=SELECTED, label="selected"), Patch(color=OTHER, label="frozen")])


def _bars(
    axis: Axes,
    layers: Sequence[LayerScore],
    values: Sequence[float],
    chosen: Collection[str],
    spread: Sequence[float] | None = None,
) -> None:
    colours = [SELECTED if layer.name in chosen else OTHER for layer in layers]
    for depth, layer in enumerate(layers):
        if layer.name in chosen:  # visible even if the bar is low or absent
            axis.axvspan(depth - 0.5, depth + 0.5, color=SELECTED, alpha=0.15, linewidth=0, zorder=0)
    axis.bar(range(len(layers)), values, color=colours, yerr=spread, error_kw={"elinewidth": 0.8})
