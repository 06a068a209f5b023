"""Commands that choose: score and select."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..cost.predict import Predictor
from ..cost.scored import scored_model
from ..drawing import check_plot_path
from ..files import check_output
from ..model.open import Model, open_model
from ..options import with_given
from ..report.tables import scores_table, selection_text
from ..scoring.record import is_scores_file, load_scores
from ..scoring.score import score as compute_scores
from ..selection.strategies import NEEDS_COSTS
from ..selection.strategies import select as choose_layers
from ..selection.unscored import unscored
from ..trainability.choices import Choices, choose_backend
from .common import (
    Bindings,
    bound_model,
    budget_options,
    cost_options,
    input_option,
    preprocessing_options,
    quiet_option,
    scoring_options,
    seed_option,
    selection_options,
    take_choosing,
    take_data,
    take_preprocessing,
    take_scoring,
    threads_option,
)
from .parameters import ANY, FILE, OUTPUT, Size
from .printing import progress_bar, show, show_json


@click.command()
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The scores.json to write.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="batches: points of one Betti number.")
@scoring_options
@preprocessing_options
@click.option("--max-memory", type=Size(), help="The same as --scoring-memory.")
@seed_option
@click.option(
    "--channels", is_flag=True, help="Also score the output channels of each layer, for select --channel-rho."
)
@input_option
@click.option("--plot", type=OUTPUT, help="Also draw b1, D and b1_hat by depth (.png, .svg, .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print what scores.json holds.")
@threads_option
@quiet_option
def score(
    model: Path,
    data: Path,
    output: Path,
    bind: Bindings,
    seed: int,
    batch_size: int,
    channels: bool,
    threads: int | None,
    plot: Path | None,
    as_json: bool,
    max_memory: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Score every layer by forward passes alone; labels are not needed.

    DATA is an .npz (x or x_train; uint8 images or float arrays) or a folder of images.

    \b
    Example:
      adabet-onnx score model.onnx new_domain.npz -o scores.json --plot scores.png
    """
    check_output(output)
    if plot is not None:
        check_output(check_plot_path(plot))
    how = with_given(take_scoring(options, batch_size), max_memory=max_memory, channels=channels)
    with progress_bar(quiet) as progress:
        scores = compute_scores(
            bound_model(model, bind),
            take_data(data, options),
            preprocessing=take_preprocessing(options),
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


@click.command()
@click.argument("scores", type=FILE)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The selection.json to write.")
@selection_options
@seed_option
@budget_options
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Of the step in the budget.")
@click.option("--model", type=FILE, help="The scored model, for a budget.  [default: the file that was scored]")
@cost_options
@quiet_option
def select(
    scores: Path,
    output: Path,
    batch_size: int,
    model: Path | None,
    backend: str,
    optimizer: str,
    recompute: bool,
    seed: int,
    quiet: bool,
    **options: Any,
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
      adabet-onnx select scores.json -o selection.json --layers 'layer4.*' --layers fc
      adabet-onnx select model.onnx -o selection.json --strategy head
      adabet-onnx select scores.json -o selection.json --rho 0.2 --channel-rho 0.5
      adabet-onnx select scores.json -o selection.json --max-memory 64MB --max-update 200KB --batch-size 8
    """
    check_output(output)
    choosing = take_choosing(options)
    channel_rho = choosing.channel_rho
    if channel_rho is not None and channel_rho < 1:
        choose_backend(backend, Choices(optimizer=optimizer, recompute=recompute), channels=True)
    given = load_scores(scores) if is_scores_file(scores) else open_model(scores)
    costs = None
    if isinstance(given, Model):
        unscored(given, choosing.strategy, layers=choosing.patterns, channel_rho=channel_rho)
    if choosing.budget or choosing.strategy in NEEDS_COSTS:
        opened = given if isinstance(given, Model) else scored_model(given, model)
        costs = Predictor(
            opened, batch_size=batch_size, backend=backend, choices=Choices(optimizer=optimizer, recompute=recompute)
        )
    selection = choose_layers(given, choosing=choosing, costs=costs, seed=seed)
    selection.save(output)
    show(selection_text(selection), quiet)
