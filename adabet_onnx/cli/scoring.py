"""Commands that choose: score and select."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .common import Bindings, bound_model, take_choosing, take_data, take_preprocessing, take_runtime, take_scoring
from .layout import Command, Declared
from .parameters import ANY, FILE
from .printing import progress_bar, show, show_json


@click.command(cls=Command, epilog="JSON: what scores.json holds.")
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@options.file.varied(required=True)
@options.plot
@options.printed
@options.bind
@options.preprocessing
@options.estimator
@options.samples
@options.subset_size
@options.subsets
@options.batches
@options.batch_points.varied(aliases=("--batch-size",))
@options.sketch
@options.order
@Declared(
    "--channels",
    is_flag=True,
    group="Scoring",
    help="Also score the output channels of each layer, for select --channel-rho.",
)
@options.scoring_memory.varied(aliases=("--max-memory",))
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
    how, threads = with_given(take_scoring(settings), channels=channels), take_runtime(settings)
    with progress_bar(quiet) as progress:
        scores = compute_scores(
            bound_model(model, bind),
            take_data(data, settings),
            preprocessing=take_preprocessing(settings),
            scoring=how,
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


@click.command(cls=Command, epilog="JSON: what selection.json holds.")
@click.argument("scores", type=FILE)
@options.file.varied(required=True)
@options.printed
@options.scored_model
@options.selection
@options.batch_size.varied(default=32)
@options.optimizer
@options.budget
@options.backend
@options.recompute
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

    SCORES is what score wrote. For --layers and the strategies head, last, first, random, norm-bias and all, which need
    no scores, it may be the model itself.

    Within a budget, the best-scoring set that fits: the predicted memory of a whole training step counts, which the
    earliest selected layer decides more than the number of layers. With --channel-rho only the best output channels of
    each layer are trained, by scores that score --channels makes (a budget counts whole layers); the head is whole, and
    so are layers whose channels are single numbers.

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
