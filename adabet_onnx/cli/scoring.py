"""Commands for choosing layers: score and select."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import artifact_options, options, scoring_options
from .common import Bindings, bound_model, take_choosing, take_data, take_preprocessing, take_runtime, take_scoring
from .layout import Command, Declared
from .parameters import ANY, FILE
from .printing import progress_bar, show, show_json


@click.command(cls=Command, epilog="JSON: the content of scores.json.")
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@options.file.varied(required=True)
@options.plot
@options.printed
@options.bind
@options.preprocessing
@scoring_options.estimator
@scoring_options.samples
@scoring_options.subset_size
@scoring_options.subsets
@scoring_options.batches
@scoring_options.batch_points.varied(aliases=("--batch-size",))
@scoring_options.sketch
@scoring_options.order
@Declared(
    "--channels",
    is_flag=True,
    group="Scoring",
    help="Also score the output channels of each layer, for select --channel-rho.",
)
@scoring_options.scoring_memory.varied(aliases=("--max-memory",))
@options.seed
@options.compute
def score(
    model: Path,
    data: Path,
    output: Path,
    bind: Bindings,
    seed: int,
    channels: bool,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Score every layer by forward passes alone, without labels.

    DATA is an .npz (x or x_train; uint8 images or float arrays) or a folder of images.

    \b
    Example:
      adabet-onnx score model.onnx new_domain.npz -o scores.json --plot scores.png
    """
    from ..drawing import check_plot_path
    from ..files import check_output
    from ..options import with_given
    from ..report.tables import scores_table
    from ..scoring.score import score as compute_scores

    check_output(output)
    if plot is not None:
        check_output(check_plot_path(plot))
    scoring, threads = with_given(take_scoring(settings), channels=channels), take_runtime(settings)
    with progress_bar(quiet) as progress:
        scores = compute_scores(
            bound_model(model, bind),
            take_data(data, settings),
            preprocessing=take_preprocessing(settings),
            scoring=scoring,
            seed=seed,
            threads=threads,
            progress=progress,
        )
    scores.save(output)
    if plot is not None:
        scores.plot(plot)
    if as_json:
        show_json(scores.to_json())
        return
    show(f"data: {scores.settings['data']}", quiet)
    show(scores_table(scores), quiet)


@click.command(cls=Command, epilog="JSON: the content of selection.json.")
@click.argument("scores", type=FILE)
@options.file.varied(required=True)
@options.printed
@options.scored_model
@options.selection
@options.batch_size.varied(default=32)
@options.optimizer
@options.budget
@artifact_options.backend
@artifact_options.recompute
@options.seed
def select(
    scores: Path,
    output: Path,
    batch_size: int,
    model: Path | None,
    backend: str,
    optimizer: str,
    recompute: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Choose the layers to train.

    SCORES is a file written by score. For --layers and the strategies head, last, first, random, norm-bias and all,
    which need no scores, it can be the model itself.

    With a budget, the best-scoring set that fits is selected. What counts is the predicted memory of a whole training
    step, which depends more on the earliest selected layer than on the number of layers. With --channel-rho only the
    best output channels of each layer are trained, ranked by score --channels (a budget counts whole layers); the head
    and layers whose channels are single values are trained whole.

    \b
    Example:
      adabet-onnx select scores.json -o selection.json --rho 0.1
      adabet-onnx select scores.json -o selection.json --layers 'layer4.*'
      adabet-onnx select model.onnx -o selection.json --strategy head
      adabet-onnx select scores.json -o selection.json --rho 0.2 --channel-rho 0.5
      adabet-onnx select scores.json -o selection.json --max-memory 64MB
    """
    from ..cost.predict import Predictor
    from ..cost.scored import scored_model
    from ..files import check_output
    from ..model.open import Model, open_model
    from ..report.tables import selection_text
    from ..scoring.record import is_scores_file, load_scores
    from ..selection.strategies import NEEDS_COSTS
    from ..selection.strategies import select as choose_layers
    from ..selection.unscored import unscored
    from ..trainability.choices import Choices, choose_backend

    check_output(output)
    choosing = take_choosing(settings)
    choices = Choices(optimizer=optimizer, recompute=recompute)
    if choosing.channel_rho is not None and choosing.channel_rho < 1:
        choose_backend(backend, choices, channels=True)
    given = load_scores(scores) if is_scores_file(scores) else open_model(scores)
    costs = None
    if isinstance(given, Model):
        unscored(given, choosing.strategy, layers=choosing.patterns, channel_rho=choosing.channel_rho)
    if choosing.budget or choosing.strategy in NEEDS_COSTS:
        opened = given if isinstance(given, Model) else scored_model(given, model)
        costs = Predictor(opened, batch_size=batch_size, backend=backend, choices=choices)
    selection = choose_layers(given, choosing=choosing, costs=costs, seed=seed)
    selection.save(output)
    if as_json:
        show_json(selection.to_json())
        return
    show(selection_text(selection), quiet)
