"""How firm rankings are, as a table and as plots: the paper's Figure 2, and beside it Figure 3."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..study.agreement import same_order
from ..study.stability_record import FIRM, Stability
from .plots import check_plot_path, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def stability_table(found: Stability) -> RenderableType:
    """A row for each measure and group size."""
    table = Table(title=f"rankings of {len(found.layers)} layers by disjoint groups of samples, {found.seeds} shuffles")
    for heading in ("ranked by", "samples", "Kendall tau", "worst", f"top {found.top} in common", "between seeds"):
        table.add_column(heading, justify="left" if heading == "ranked by" else "right")
    before = None
    for row in found.agreements:
        table.add_row(
            "" if row.measure == before else row.measure,
            f"{row.samples} x {row.groups}",
            f"{row.tau:.2f} ± {row.tau_sd:.2f}",
            f"{row.tau_min:.2f}",
            f"{row.overlap:.0%}",
            "-" if row.seeds_tau is None else f"{row.seeds_tau:.2f}",
            end_section=row.samples == found.agreements[-1].samples,
        )
        before = row.measure
    lines = [Text(found.sentence()), *(Text(f"note: {note}") for note in found.notes)]
    if found.clusters is not None:
        lines.append(Text(clusters_sentence(found)))
    return Group(table, *lines)


def clusters_sentence(found: Stability) -> str:
    """How far clusters and Betti numbers agree."""
    assert found.clusters is not None
    tau = same_order([row.clusters for row in found.clusters], [row.b1 for row in found.clusters])
    return f"clusters of the embeddings and b1 order the layers with a Kendall tau of {tau:.2f}"


def plot_stability(found: Stability, path: str | os.PathLike[str]) -> None:
    """b1_hat of every layer over disjoint groups (the paper's Figure 2), agreement by group size, and clusters.

    Clusters of UMAP embeddings against b1 (the paper's Figure 3) are drawn where they were asked for.

    Args:
        found: what to draw.
        path: ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    check_plot_path(path)
    panels = 3 if found.clusters is not None else 2
    width = max(8.0, 0.16 * len(found.layers))
    figure = Figure(figsize=(width, 3.6 * panels), layout="constrained")
    axes = figure.subplots(panels, 1)
    _spread(axes[0], found)
    draw_agreement(axes[1], found)
    if found.clusters is not None:
        _clusters(axes[2], found)
    save_figure(figure, path)


def _spread(axis: Axes, found: Stability) -> None:
    depth = list(range(len(found.layers)))
    for group in range(len(found.example[0])):
        axis.plot(
            depth,
            [values[group] or math.nan for values in found.example],  # a 0 has no place on a logarithmic axis
            ".",
            color="tab:blue",
            alpha=0.5,
            markersize=5,
        )
    means = [sum(values) / len(values) or math.nan for values in found.example]
    axis.plot(depth, means, "_", color="tab:orange", markersize=9, label="mean")
    if not all(map(math.isnan, means)):
        axis.set_yscale("log")
    axis.set_title(
        f"b1_hat by depth: {len(found.example[0])} disjoint groups of {found.example_samples} samples",
        loc="left",
        fontsize="medium",
    )
    axis.set_xticks(depth, list(found.layers), rotation=90, fontsize="x-small")
    axis.set_xlim(-0.6, len(depth) - 0.4)
    axis.legend(frameon=False, fontsize="small")
    axis.spines[["top", "right"]].set_visible(False)


def draw_agreement(axis: Axes, found: Stability, *, title: bool = True) -> None:
    """Tau, and the share of the top layers in common, by the number of samples; a line a measure."""
    measures = list(dict.fromkeys(row.measure for row in found.agreements))
    for measure in measures:
        rows = [row for row in found.agreements if row.measure == measure]
        sizes = [row.samples for row in rows]
        line = axis.errorbar(
            sizes, [row.tau for row in rows], yerr=[row.tau_sd for row in rows], fmt="o-", label=measure
        )
        axis.plot(sizes, [row.overlap for row in rows], "--", color=line[0].get_color(), linewidth=1)
    sizes = sorted({row.samples for row in found.agreements})
    axis.axhline(FIRM, color="lightgrey", linewidth=0.8, zorder=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set_xlabel("samples of a group")
    axis.set_ylabel("agreement")
    if title:
        axis.set_title(
            f"agreement between disjoint groups: Kendall tau, and dashed the share of the top {found.top} in common",
            loc="left",
            fontsize="medium",
        )
    axis.legend(frameon=False, fontsize="small")
    axis.spines[["top", "right"]].set_visible(False)


def _clusters(axis: Axes, found: Stability) -> None:
    assert found.clusters is not None
    depth = list(range(len(found.clusters)))
    axis.bar(depth, [row.clusters for row in found.clusters], color="lightgrey", label="clusters (UMAP, DBSCAN)")
    axis.set_ylabel("clusters")
    other = axis.twinx()
    other.plot(depth, [row.b1 for row in found.clusters], "o-", color="tab:blue", markersize=3, label="b1")
    other.set_ylabel("b1 of the same points")
    axis.set_title(clusters_sentence(found), loc="left", fontsize="medium")
    axis.set_xticks(depth, [row.layer for row in found.clusters], rotation=90, fontsize="x-small")
    axis.set_xlim(-0.6, len(depth) - 0.4)
    axis.legend(handles=[*axis.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]], frameon=False)
    for one in (axis, other):
        one.spines[["top"]].set_visible(False)
