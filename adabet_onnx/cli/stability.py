"""The command that says how firm rankings are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..drawing import check_plot_path
from ..files import check_output
from ..report.stability import stability_table
from ..study.repeats import Repeats
from ..study.stability import stability as measure_stability
from ..trainability.choices import LOSSES, Choices
from .common import (
    Bindings,
    bound_model,
    input_option,
    preprocessing_options,
    quiet_option,
    take_data,
    take_preprocessing,
    threads_option,
)
from .parameters import ANY, FILE, OUTPUT, Size
from .printing import progress_bar, show


@click.command()
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@click.option("-o", "--output", type=OUTPUT, help="A stability.json to write.")
@click.option("--plot", type=OUTPUT, help="Draw the agreement, as in the paper's Figure 2 (.png, .svg, .pdf).")
@click.option("--rho", type=float, default=0.1, show_default=True, help="Fraction of layers a selection takes.")
@click.option("--subset-size", "points", type=int, default=32, show_default=True, help="Points of one Betti number.")
@click.option("--subsets", type=int, default=64, show_default=True, help="How many per group of 128.")
@click.option("--samples", "max_samples", type=int, default=512, show_default=True, help="Of a group, at most.")
@click.option("--groups", type=int, default=8, show_default=True, help="Disjoint groups of each size, at most.")
@click.option("--seeds", type=int, default=2, show_default=True, help="How often samples are shuffled.")
@click.option("--fisher/--no-fisher", default=True, show_default=True, help="Fisher information, if there are labels.")
@click.option(
    "--loss", type=click.Choice(LOSSES), default="cross-entropy", show_default=True, help="Of Fisher information."
)
@click.option("--class-axis", "axis", type=int, help="Of the logits, for Fisher information per pixel or token.")
@click.option("--ignore-label", "ignore", type=int, help="A label per pixel or token that does not count.")
@click.option("--embeddings", is_flag=True, help="Also clusters of UMAP embeddings, the paper's Figure 3.")
@click.option(
    "--scoring-memory", "max_memory", type=Size(), help="For the forward pass.  [default: 3/4 of what is free]"
)
@input_option
@preprocessing_options
@threads_option
@quiet_option
def stability(
    model: Path,
    data: Path,
    output: Path | None,
    plot: Path | None,
    bind: Bindings,
    loss: str,
    axis: int | None,
    ignore: int | None,
    threads: int | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Whether other samples of the same data would rank layers alike, and how many samples a firm choice needs.

    Disjoint groups of samples rank the layers, each by itself; the table says how far they agree. Labels are used only
    for Fisher information, which is there to compare with.

    \b
    Example:
      adabet-onnx stability model.onnx new_domain.npz -o stability.json --plot stability.png
    """
    if output is not None:
        check_output(output)
    if plot is not None:
        check_output(check_plot_path(plot))
    given, preprocessing = take_data(data, settings), take_preprocessing(settings)
    with progress_bar(quiet) as progress:
        found = measure_stability(
            bound_model(model, bind),
            given,
            preprocessing=preprocessing,
            repeats=Repeats(**settings),
            choices=Choices(loss=loss, class_axis=axis, ignore_label=ignore),
            threads=threads,
            progress=progress,
        )
    if output is not None:
        found.save(output)
    if plot is not None:
        found.plot(plot)
    show(f"data: {found.data}", quiet)
    show(stability_table(found), quiet)
