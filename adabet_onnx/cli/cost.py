"""The command that predicts and measures: cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..cost.overview import overview
from ..drawing import check_plot_path
from ..files import check_output
from ..model.open import open_model
from ..report.cost import cost_table
from ..selection.record import load_selection
from ..trainability.choices import Choices
from .common import Bindings, bound_model, cost_options, input_option, quiet_option, threads_option
from .parameters import FILE, OUTPUT
from .printing import progress_bar, show, show_json


@click.command()
@click.argument("model", type=FILE)
@click.argument("selection", type=FILE, required=False)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Samples of a step.")
@click.option("--measure", is_flag=True, help="Also run steps, each kind in a fresh process.")
@cost_options
@input_option
@click.option("--plot", type=OUTPUT, help="Draw memory as stacked bars (.png, .svg, .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print inference, selection and all as JSON.")
@threads_option
@quiet_option
def cost(
    model: Path,
    selection: Path | None,
    batch_size: int,
    measure: bool,
    backend: str,
    plot: Path | None,
    as_json: bool,
    threads: int | None,
    quiet: bool,
    bind: Bindings,
    **settings: Any,
) -> None:
    """What inference, training SELECTION and training all layers of MODEL cost.

    Memory is the peak a process needs for steps beside its imports, predicted from the graph that will run; a
    measurement should not exceed the prediction by more than the margin in brackets.

    \b
    Example:
      adabet-onnx cost model.onnx selection.json --batch-size 8 --measure --plot cost.png
    """
    if plot is not None:
        check_output(check_plot_path(plot))
    chosen = None if selection is None else load_selection(selection)
    opened = open_model(bound_model(model, bind, None if chosen is None else chosen.inputs))
    with progress_bar(quiet or as_json) as progress:
        costs = overview(
            opened,
            chosen,
            batch_size=batch_size,
            backend=backend,
            choices=Choices(**settings),
            measure=measure,
            threads=threads,
            progress=progress,
        )
    if plot is not None:
        costs.plot(plot)
    if as_json:
        show_json(costs.to_json())
        return
    show(cost_table(costs), quiet)
