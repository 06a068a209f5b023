"""The command cost, which predicts and measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import artifact_options, options
from .common import Bindings, bound_model
from .layout import Command
from .parameters import FILE
from .printing import progress_bar, show, show_json


@click.command(
    cls=Command,
    epilog="JSON: inference, selection (if one is given), all (null if not all layers can be trained); each with "
    "predicted_bytes, margin_bytes, saved_bytes, state_bytes, update_bytes, forward_multiply_adds, step_multiply_adds, "
    "and, if measured, measured_bytes and measured_seconds. selection and all also have frozen_bytes and tail_bytes "
    "(memory of the frozen pass and of a step after it), without_features_bytes, frozen_multiply_adds, stored_bytes "
    "(per sample), training (samples, epochs, kept_views, stored_bytes, multiply_adds, "
    "without_features_multiply_adds), and, if measured, measured_frozen_bytes, measured_frozen_seconds and "
    "measured_tail_bytes.",
)
@click.argument("model", type=FILE)
@click.argument("selection", type=FILE, required=False)
@options.plot
@options.printed
@options.bind
@options.batch_size.varied(default=32)
@options.epochs.varied(default=10, help="Passes over the training data in a whole training.")
@options.trained_samples.varied(help="Samples of a whole training.")
@options.views.varied(default=1)
@options.optimizer
@artifact_options.backend
@artifact_options.recompute
@options.measure.varied(default=False)
@options.threads
def cost(
    model: Path,
    selection: Path | None,
    batch_size: int,
    epochs: int,
    samples: int,
    views: int,
    measure: bool,
    backend: str,
    plot: Path | None,
    as_json: bool,
    threads: int | None,
    quiet: bool,
    bind: Bindings,
    **settings: Any,
) -> None:
    """Predict or measure the cost of inference and training.

    For MODEL: inference, training the layers of SELECTION, and training all layers. Memory is the peak that a process
    needs for steps in addition to its imports, predicted from the graphs that will run; a measurement should not
    exceed the prediction by more than the margin in brackets.

    The frozen pass computes the part of the model that training SELECTION does not change once per sample and stores
    its output; training steps start from there. The report has the cost of both, the size of what is stored, and the
    savings over a whole training of --epochs on --training-samples.

    \b
    Example:
      adabet-onnx cost model.onnx selection.json --batch-size 8 --measure
    """
    from ..cost.overview import overview
    from ..drawing import check_plot_path
    from ..files import check_output
    from ..model.open import open_model
    from ..report.cost import cost_table
    from ..selection.record import load_selection
    from ..trainability.choices import Choices

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
            samples=samples,
            epochs=epochs,
            kept_views=samples * views,
        )
    if plot is not None:
        costs.plot(plot)
    if as_json:
        show_json(costs.to_json())
        return
    show(cost_table(costs), quiet)
