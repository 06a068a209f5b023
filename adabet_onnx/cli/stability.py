"""The command that says how firm rankings are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import cluster_options, options, scoring_options
from .common import Bindings, bound_model, take_data, take_preprocessing, take_runtime
from .layout import Command, Declared
from .parameters import ANY, FILE
from .printing import progress_bar, show, show_json


@click.command(cls=Command, epilog="JSON: what stability.json holds.")
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@options.file
@options.plot
@options.printed
@options.bind
@options.preprocessing
@options.labels
@options.rho.varied(default=0.1)
@Declared(
    "--groups",
    type=int,
    default=8,
    metavar="N",
    group="Scoring",
    help="Maximum number of disjoint groups of each size.",
)
@Declared(
    "--group-size",
    "max_samples",
    type=int,
    default=512,
    metavar="N",
    group="Scoring",
    help="Maximum number of samples in a group.",
).varied(aliases=("--samples",))
@Declared(
    "--shuffles",
    "seeds",
    type=int,
    default=2,
    metavar="N",
    group="Scoring",
    help="Number of times the samples are shuffled.",
).varied(aliases=("--seeds",))
@scoring_options.subset_size
@scoring_options.subsets
@scoring_options.sketch
@Declared(
    "--fisher/--no-fisher",
    default=True,
    group="Scoring",
    help="Also rank by Fisher information, if there are labels.",
)
@Declared("--embeddings", is_flag=True, group="Scoring", help="Also cluster UMAP embeddings (the paper's Figure 3).")
@scoring_options.scoring_memory
@options.loss
@options.compute
@cluster_options.ray
def stability(
    model: Path,
    data: Path,
    output: Path | None,
    plot: Path | None,
    bind: Bindings,
    loss: str,
    class_axis: int | None,
    ignore_label: int | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Measure how stable the ranking of layers is.

    Disjoint groups of samples each give a ranking. The table shows how far these agree, and how many samples a stable
    choice needs. Labels are used only for Fisher information, which is included for comparison.

    \b
    Example:
      adabet-onnx stability model.onnx new_domain.npz --plot stability.png
    """
    from ..drawing import check_plot_path
    from ..files import check_output
    from ..report.stability_table import stability_table
    from ..study.repeats import Repeats
    from ..study.stability import stability as measure_stability
    from ..trainability.choices import Choices

    if output is not None:
        check_output(output)
    if plot is not None:
        check_output(check_plot_path(plot))
    given, preprocessing = take_data(data, settings), take_preprocessing(settings)
    threads = take_runtime(settings)
    choices = Choices(loss=loss, class_axis=class_axis, ignore_label=ignore_label)
    points, memory = settings.pop("subset_size"), settings.pop("scoring_memory")
    with progress_bar(quiet) as progress:
        result = measure_stability(
            bound_model(model, bind),
            given,
            preprocessing=preprocessing,
            repeats=Repeats(points=points, max_memory=memory, **settings),
            choices=choices,
            threads=threads,
            progress=progress,
        )
    if output is not None:
        result.save(output)
    if plot is not None:
        result.plot(plot)
    if as_json:
        show_json(result.to_json())
        return
    show(f"data: {result.data}", quiet)
    show(stability_table(result), quiet)
