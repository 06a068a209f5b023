"""Plots of comparisons and stability studies, after the paper's Figures 2 and 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..drawing import label_points, legend_above, name_layers, new_figure, plain, width_for
from .agreement import same_order
from .agreements import FIRM, Agreement
from .clusters import Clusters
from .results import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_comparison(summaries: Sequence[Summary]) -> Figure:
    """Plot accuracy (or loss, without accuracies) against step memory and step time, one point per strategy.

    Error bars are standard deviations over seeds.
    """
    figure = new_figure(11, 4.6)
    axes = figure.subplots(1, 2, sharey=True)
    panels: tuple[tuple[str, Callable[[Summary], float]], ...] = (
        ("step memory, MB", lambda summary: summary.step_memory_bytes / 1e6),
        ("step time, ms", lambda summary: summary.step_seconds * 1e3),
    )
    for axis, (label, value) in zip(axes, panels, strict=True):
        draw_against(axis, summaries, value)
        axis.set_xlabel(label)
        axis.label_outer()
    for axis, (_, value) in zip(axes, panels, strict=True):
        label_points(axis, [(value(row), height, str(row.setting)) for row, height, _ in heights(summaries)])
    return figure


def draw_against(axis: Axes, summaries: Sequence[Summary], value: Callable[[Summary], float]) -> None:
    """Plot accuracy with its deviation (or loss) against a value, one point per strategy."""
    for row, height, spread in heights(summaries):
        colour = "tab:orange" if row.best else "tab:blue" if row.ties else "tab:grey"
        axis.errorbar(value(row), height, yerr=spread, fmt="o", color=colour, markersize=5)
    axis.set_ylabel("test accuracy, %" if any(row.accuracies for row in summaries) else "test loss")
    plain(axis)
    axis.margins(x=0.15)


def heights(summaries: Sequence[Summary]) -> list[tuple[Summary, float, float]]:
    """The height of each strategy's point, and its deviation: accuracy in percent, or loss without accuracies."""
    if any(row.accuracies for row in summaries):
        return [(row, 100 * row.mean, 100 * row.deviation) for row in summaries if row.accuracies]
    return [(row, row.loss, 0.0) for row in summaries if row.loss is not None]


def draw_stability(
    layers: Sequence[str],
    example: Sequence[Sequence[float]],
    samples: int,
    agreements: Sequence[Agreement],
    top: int,
    clusters: Sequence[Clusters] | None,
) -> Figure:
    """Plot b1_hat of every layer over disjoint groups (the paper's Figure 2), agreement by group size, and clusters.

    Args:
        layers: names, in model order.
        example: for each layer, the b1_hat of each group.
        samples: samples of each of these groups.
        agreements: the rows of the second plot.
        top: number of layers that are compared.
        clusters: clusters of UMAP embeddings of each layer, to plot against b1 (the paper's Figure 3), or None.
    """
    panels = 3 if clusters is not None else 2
    figure = new_figure(max(8.0, width_for(len(layers))), 3.6 * panels)
    axes = figure.subplots(panels, 1)
    _spread(axes[0], layers, example, samples)
    title = f"agreement between disjoint groups: Kendall tau, and dashed the share of the top {top} in common"
    draw_agreement(axes[1], agreements, title)
    if clusters is not None:
        _clusters(axes[2], clusters)
    return figure


def clusters_sentence(clusters: Sequence[Clusters]) -> str:
    """A sentence on how far clusters and Betti numbers agree."""
    tau = same_order([row.clusters for row in clusters], [row.b1 for row in clusters])
    return f"clusters of the embeddings and b1 order the layers with a Kendall tau of {tau:.2f}"


def _spread(axis: Axes, layers: Sequence[str], example: Sequence[Sequence[float]], samples: int) -> None:
    depth = list(range(len(layers)))
    for group in range(len(example[0])):
        axis.plot(
            depth,
            [values[group] or math.nan for values in example],  # the axis is logarithmic, so 0 is not drawn
            ".",
            color="tab:blue",
            alpha=0.5,
            markersize=5,
        )
    means = [sum(values) / len(values) or math.nan for values in example]
    axis.plot(depth, means, "_", color="tab:orange", markersize=9, label="mean")
    if not all(map(math.isnan, means)):
        axis.set_yscale("log")
    plain(axis, f"b1_hat by depth: {len(example[0])} disjoint groups of {samples} samples")
    name_layers(axis, layers)
    legend_above(axis)


def draw_agreement(axis: Axes, agreements: Sequence[Agreement], title: str | None = None) -> None:
    """Plot tau, and the share of the top layers in common, by the number of samples; one line per measure."""
    measures = list(dict.fromkeys(row.measure for row in agreements))
    for measure in measures:
        rows = [row for row in agreements if row.measure == measure]
        sizes = [row.samples for row in rows]
        line = axis.errorbar(
            sizes, [row.tau for row in rows], yerr=[row.tau_sd for row in rows], fmt="o-", label=measure
        )
        axis.plot(sizes, [row.overlap for row in rows], "--", color=line[0].get_color(), linewidth=1)
    sizes = sorted({row.samples for row in agreements})
    axis.axhline(FIRM, color="lightgrey", linewidth=0.8, zorder=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xlabel("samples per group")
    axis.set_ylabel("agreement")
    plain(axis, title)
    axis.legend(frameon=False, fontsize="small")


def _clusters(axis: Axes, clusters: Sequence[Clusters]) -> None:
    depth = list(range(len(clusters)))
    axis.bar(depth, [row.clusters for row in clusters], color="lightgrey")
    axis.set_ylabel("grey: clusters (UMAP, DBSCAN)")
    other = axis.twinx()
    other.plot(depth, [row.b1 for row in clusters], "o-", color="tab:blue", markersize=3)
    other.set_ylabel("b1 of the same points", color="tab:blue")
    plain(axis, clusters_sentence(clusters))
    name_layers(axis, [row.layer for row in clusters])
    other.spines[["top"]].set_visible(False)
