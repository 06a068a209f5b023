"""Commands that do the whole job, and the one that says what is installed: run, demo, doctor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..adapting import Adapting
from ..demo import run_demo
from ..drawing import check_plot_path
from ..files import check_output
from ..options import with_given
from ..outcome import Outcome, save_summary, summary
from ..pipeline import adapt
from ..report.doctor import diagnosis
from ..report.tables import outcome_text
from ..training.settings import Settings
from .common import (
    Bindings,
    artifact_options,
    bound_model,
    budget_options,
    input_option,
    preprocessing_options,
    quiet_option,
    scoring_options,
    seed_option,
    selection_options,
    take_choices,
    take_choosing,
    take_data,
    take_preprocessing,
    take_scoring,
    this_command,
    threads_option,
    training_options,
)
from .parameters import ANY, FILE, OUTPUT
from .printing import progress_bar, show, show_json
from .translate import translate, translated


@click.command()
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The folder to write.")
@click.option("--num-classes", type=int, help="First give the model a new head of so many outputs.")
@click.option("--keep-tail", is_flag=True, help="Keep what follows the old head, as in new-head.")
@click.option("--append", is_flag=True, help="Put the new head on the outputs, as in new-head.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Samples per step, and of --estimator batches.",
)
@training_options
@selection_options
@budget_options
@scoring_options
@preprocessing_options
@artifact_options
@input_option
@seed_option
@click.option("--measure/--no-measure", default=True, show_default=True, help="Measure step time and memory.")
@click.option("--plot", type=OUTPUT, help="Also draw the scores (.png, .svg, .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print what run.json holds.")
@threads_option
@quiet_option
def run(
    model: Path,
    data: Path,
    output: Path,
    bind: Bindings,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Do everything: score, select, make artifacts, train, export; say what it gained and cost.

    DATA is an .npz with x_train, y_train, x_test and y_test (or x and y), or a folder of images, one folder per
    class. The folder gets scores.json, selection.json, artifacts/, metrics.jsonl and adapted.onnx.

    \b
    Example:
      adabet-onnx run model.onnx new_domain.npz -o adapted/ --num-classes 5
      adabet-onnx run model.onnx new_domain.npz -o adapted/ --max-memory 64MB --batch-size 8
      adabet-onnx run model.onnx new_domain.npz -o adapted/ --rho 0.2 --channel-rho 0.5
    """
    if plot is not None and check_plot_path(plot).parent.absolute() != output.absolute():
        check_output(plot)
    batch_size, resume = options.pop("batch_size"), options.pop("resume")
    training = _take(options, "epochs", "accumulate", "learning_rate", "schedule", "validation", "patience")
    given = take_data(data, options)
    adapting = Adapting(
        preprocessing=take_preprocessing(options),
        scoring=take_scoring(options, batch_size),
        choosing=take_choosing(options),
        choices=take_choices(options),
        settings=with_given(Settings(batch_size=batch_size), **training),
        **options,
    )
    with progress_bar(quiet, lines=True) as progress:
        outcome = adapt(bound_model(model, bind), given, output, adapting=adapting, resume=resume, progress=progress)
    outcome = _in_options(outcome)
    save_summary(outcome, command=this_command())
    measured = bool(outcome.scores.samples)
    if plot is not None and measured:
        outcome.scores.plot(plot, chosen=outcome.selection.layers)
    if as_json:
        show_json(summary(outcome) | {"command": this_command()})
        return
    for note in outcome.model.notes:
        show(f"note: {note}", quiet)
    show(f"data: {outcome.data}", quiet)
    if not measured:
        nothing = f", and {plot} was not drawn" if plot is not None else ""
        show(f"note: the data has too few samples for scores, which this choice does not need{nothing}", quiet)
    show(outcome_text(outcome), quiet)
    show(f"adapted model: {outcome.folder / 'adapted.onnx'}", quiet)


def _in_options(outcome: Outcome) -> Outcome:
    """What `run.json` says, in the words of this command line."""
    told = {"advice": outcome.advice, "not_measured": outcome.not_measured}
    warnings = tuple(map(translate, outcome.warnings))
    return dataclasses.replace(outcome, warnings=warnings, **translated(told))


def _take(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names}


@click.command()
@click.option(
    "-o", "--output", type=OUTPUT, default=Path("adabet-demo"), show_default=True, help="The folder to write."
)
@click.option("--epochs", type=click.IntRange(1), default=15, show_default=True, help="Passes over the data.")
@quiet_option
def demo(output: Path, epochs: int, quiet: bool) -> None:
    """Adapt the embedded model of handwritten digits to digits from another camera, offline.

    \b
    Example:
      adabet-onnx demo
    """
    with progress_bar(quiet, lines=True) as progress:
        outcome, picture = run_demo(output, epochs=epochs, progress=progress)
    save_summary(_in_options(outcome))
    show(outcome_text(outcome), quiet)
    show(f"everything is in {output}; look at {picture}", quiet)


@click.command()
@quiet_option
def doctor(quiet: bool) -> None:
    """Print what is installed and what it allows; exit code 1 if nothing works.

    \b
    Example:
      adabet-onnx doctor
    """
    text, works = diagnosis()
    show(text, quiet)
    if not works:
        raise click.exceptions.Exit(1)
