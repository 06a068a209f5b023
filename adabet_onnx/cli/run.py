"""Commands for the whole workflow and for diagnosis: run, demo, doctor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..file_names import ADAPTED, ARTIFACTS
from . import artifact_options, config, next_steps, options, scoring_options
from .common import (
    Bindings,
    bound_model,
    take_choices,
    take_choosing,
    take_data,
    take_preprocessing,
    take_runtime,
    take_scoring,
    this_command,
)
from .layout import Command
from .parameters import ANY, FILE
from .printing import progress_bar, show, show_json
from .translate import translate, translated

if TYPE_CHECKING:
    from ..outcome import Outcome


@click.command(cls=Command, epilog="JSON: the content of run.json in the output folder.")
@click.argument("model", type=FILE)
@click.argument("data", type=ANY)
@options.folder.varied(required=True)
@options.plot
@options.save_predictions
@options.printed
@options.new_head
@options.bind
@options.preprocessing
@options.labels
@options.selection
@scoring_options.scoring
@options.epochs.varied(shown="10")
@options.rate
@options.batch_size.varied(default=32)
@options.course
@options.augmentation
@options.objective
@options.budget
@artifact_options.form
@artifact_options.check
@options.features
@options.resume
@options.measure
@options.seed
@options.compute
@config.files
def run(
    model: Path,
    data: Path,
    output: Path,
    bind: Bindings,
    plot: Path | None,
    save_config: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Adapt a model to new data: score, select, train and export.

    Then report the gain in accuracy and the cost of training. DATA is an .npz with x_train, y_train, x_test and y_test
    (or x and y), or a folder of images with one subfolder per class. The output folder gets scores.json,
    selection.json, artifacts/, metrics.jsonl and adapted.onnx.

    \b
    Example:
      adabet-onnx run model.onnx new_domain.npz -o adapted/ --num-classes 5
      adabet-onnx run model.onnx new_domain.npz -o adapted/ --max-memory 64MB
      adabet-onnx run model.onnx new_domain.npz -o adapted/ --channel-rho 0.5
    """
    from ..adapting import Adapting
    from ..options import with_given
    from ..outcome import save_summary, summary
    from ..pipeline import adapt
    from ..training.settings import Settings

    predictions = settings["save_predictions"]
    _check_outputs(output, plot, predictions, save_config)
    resume, given = settings.pop("resume"), take_data(data, settings)
    training = [name for name in Settings.__dataclass_fields__ if name != "seed"]
    adapting = Adapting(
        preprocessing=take_preprocessing(settings),
        scoring=take_scoring(settings),
        choosing=take_choosing(settings),
        choices=take_choices(settings),
        threads=take_runtime(settings),
        settings=with_given(Settings(), **{name: settings.pop(name) for name in training}),
        **settings,
    )
    with progress_bar(quiet, lines=True) as progress:
        outcome = adapt(bound_model(model, bind), given, output, adapting=adapting, resume=resume, progress=progress)
    outcome = _in_options(outcome)
    save_summary(outcome, command=this_command())
    if save_config is not None:
        config.write_config(save_config, click.get_current_context())
    if plot is not None and outcome.scores.samples:
        outcome.scores.plot(plot, chosen=outcome.selection.layers)
    if as_json:
        show_json(summary(outcome) | {"command": this_command()})
        return
    _show_outcome(outcome, plot, quiet)
    if predictions is not None:
        show(f"predictions: {predictions}", quiet)
    portable, comparable = _fits_devices(output / ARTIFACTS), outcome.is_of_test_data
    steps = next_steps.after_run(click.get_current_context(), portable=portable, comparable=comparable)
    show(f"\n{steps}", quiet)


def _fits_devices(artifacts: Path) -> bool:
    """Whether a device package can be made of the artifacts."""
    from ..device.package import check_backend
    from ..errors import UsageError
    from ..training.manifest import load_manifest

    try:
        check_backend(load_manifest(artifacts, verify=False))
    except UsageError:
        return False
    return True


def _check_outputs(output: Path, plot: Path | None, predictions: Path | None, save_config: Path | None) -> None:
    """Check that the files outside the output folder can be written.

    Raises:
        UsageError: the ending of a name is not supported.
        OutputError: a file cannot be written.
    """
    from ..drawing import check_plot_path
    from ..files import check_output
    from ..training.predictions import check_suffix

    if plot is not None:
        check_plot_path(plot)
    if predictions is not None:
        check_suffix(predictions)
    for path in (plot, predictions, save_config):
        if path is not None and path.parent.absolute() != output.absolute():
            check_output(path)


def _show_outcome(outcome: Outcome, plot: Path | None, quiet: bool) -> None:
    from ..report.outcome import outcome_text

    for note in outcome.model.notes:
        show(f"note: {note}", quiet)
    show(f"data: {outcome.data}", quiet)
    if outcome.features is not None:
        show(f"features: {outcome.features}", quiet)
    if outcome.rates is not None:
        show(f"learning rate: {outcome.rates.summary}", quiet)
    if not outcome.scores.samples:
        omitted = f"; {plot} was not written" if plot is not None else ""
        show(f"note: the data has too few samples for scores, which this strategy does not need{omitted}", quiet)
    show(outcome_text(outcome), quiet)
    show(f"adapted model: {outcome.folder / ADAPTED}", quiet)


def _in_options(outcome: Outcome) -> Outcome:
    """Translate the texts that `run.json` holds from parameters into options."""
    translatable = {"advice": outcome.advice, "features": outcome.features, "not_measured": outcome.not_measured}
    warnings = tuple(map(translate, outcome.warnings))
    return dataclasses.replace(outcome, warnings=warnings, **translated(translatable))


@click.command(cls=Command, epilog="JSON: the content of run.json in the output folder, and picture (a path).")
@options.folder.varied(default=Path("adabet-demo"))
@options.printed
@options.epochs.varied(default=15)
def demo(output: Path, epochs: int, as_json: bool, quiet: bool) -> None:
    """Adapt a small embedded model, offline, to see how it works.

    A model of handwritten digits is adapted to digits from another camera.

    \b
    Example:
      adabet-onnx demo
    """
    from ..demo import run_demo
    from ..outcome import save_summary, summary
    from ..report.outcome import outcome_text

    with progress_bar(quiet, lines=True) as progress:
        outcome, picture = run_demo(output, epochs=epochs, progress=progress)
    outcome = _in_options(outcome)
    save_summary(outcome)
    if as_json:
        show_json(summary(outcome) | {"command": None, "picture": str(picture)})
        return
    show(outcome_text(outcome), quiet)
    show(f"all results are in {output}; {picture} shows them", quiet)


@click.command(
    cls=Command, epilog="JSON: python, platform, packages, conflict, portable and ort (each works, reason), works."
)
@options.printed
def doctor(as_json: bool, quiet: bool) -> None:
    """Report what is installed and what can be done with it.

    The exit code is 1 if no backend works.

    \b
    Example:
      adabet-onnx doctor
    """
    from ..report.doctor import diagnosis, findings

    results = findings()
    if as_json:
        show_json(results)
    else:
        show(diagnosis(results), quiet)
    if not results["works"]:
        raise click.exceptions.Exit(1)
