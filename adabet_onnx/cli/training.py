"""Commands that train and use what was trained: artifacts, train, evaluate, predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..data.source import open_data
from ..model.open import open_model
from ..options import with_given
from ..selection.record import load_selection
from ..sizes import size_text
from ..trainability.choices import LOSSES, Choices
from ..training.artifacts import make_artifacts
from ..training.evaluation import evaluate as compute_evaluation
from ..training.evaluation import open_trained, trained_choices
from ..training.evaluation import predict as compute_predictions
from ..training.export import export_model
from ..training.settings import Settings
from ..training.trainer import Trainer
from .common import (
    Bindings,
    artifact_options,
    bound_model,
    input_option,
    preprocessing_options,
    quiet_option,
    reading_options,
    take_choices,
    take_data,
    take_preprocessing,
    threads_option,
    training_options,
)
from .parameters import ANY, FILE, FOLDER, OUTPUT
from .printing import progress_bar, show, show_json


@click.command()
@click.argument("model", type=FILE)
@click.argument("selection", type=FILE)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The folder to write.")
@artifact_options
@input_option
@quiet_option
def artifacts(model: Path, selection: Path, output: Path, bind: Bindings, quiet: bool, **settings: Any) -> None:
    """Write training artifacts in which only the selected layers are trainable.

    Inputs have the values that they had for score (--input), unless given others. By default a training step in plain
    ONNX, for any onnxruntime from 1.17 on; --backend ort: for onnxruntime-training.

    \b
    Example:
      adabet-onnx artifacts model.onnx selection.json -o artifacts/
    """
    chosen = load_selection(selection)
    backend, check = settings.pop("backend"), settings.pop("check")
    opened = open_model(bound_model(model, bind, chosen.inputs))
    manifest = make_artifacts(opened, chosen, output, choices=take_choices(settings), backend=backend, check=check)
    for note in manifest.content["notes"]:
        show(f"note: {note}", quiet)
    show(f"{output}: {manifest.trainable_count:,} trainable numbers in {len(manifest.parameters)} tensors", quiet)
    memory = manifest.content.get("predicted_step_bytes")
    if memory:
        figures = ", ".join(f"{size_text(size)} at batch {batch}" for batch, size in memory.items())
        show(f"a step's activations, gradients and state: {figures} (predicted)", quiet)


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("data", type=ANY)
@click.option("--batch-size", type=click.IntRange(1), help="Samples per step.  [default: 32]")
@training_options
@reading_options
@click.option("--seed", type=click.IntRange(0), help="Of data order and validation split.  [default: 0]")
@threads_option
@quiet_option
def train(folder: Path, data: Path, threads: int | None, quiet: bool, **settings: Any) -> None:
    """Train the artifacts in DIR on labelled data.

    After each epoch a checkpoint and DIR/metrics.jsonl are written; an interrupted training goes on with --resume.

    \b
    Example:
      adabet-onnx train artifacts/ new_domain.npz --epochs 10
    """
    trainer, given, resume = Trainer(folder, threads=threads), take_data(data, settings), settings.pop("resume")
    with progress_bar(quiet, lines=True) as progress:
        stored = trainer.interrupted if resume else None
        asked = with_given(stored or Settings(), **settings)
        rows = trainer.fit(given, settings=asked, resume=resume, progress=progress)
    show(f"data: {trainer.data}", quiet)
    for row in rows:
        show(_row(row), quiet)
    if trainer.learned is not None:
        for text in trainer.learned.warnings:
            show(f"warning: {text}", quiet)
        if trainer.learned.advice is not None:
            show(f"hint: {trainer.learned.advice}", quiet)


def _row(row: dict[str, Any]) -> str:
    def number(key: str, form: str) -> str:
        return "-" if row[key] is None else format(row[key], form)

    return (
        f"epoch {row['epoch']:3d}  train loss {number('train_loss', '.4f')}  eval loss {number('eval_loss', '.4f')}  "
        f"eval accuracy {number('eval_accuracy', '.1%')}  {row['seconds']:.1f} s"
    )


@click.command()
@click.argument("model", metavar="MODEL|DIR", type=ANY)
@click.argument("data", type=ANY)
@click.option("--loss", type=click.Choice(LOSSES), help="To report.  [default: DIR's, or cross-entropy]")
@click.option("--class-axis", type=int, help="Of the logits, for a label per pixel or token.  [default: DIR's]")
@input_option
@click.option("--ignore-label", type=int, help="A label per pixel or token that does not count.  [default: DIR's]")
@preprocessing_options
@click.option("--json", "as_json", is_flag=True, help="Print loss, accuracy, samples and data as JSON.")
@threads_option
@quiet_option
def evaluate(
    model: Path,
    data: Path,
    loss: str | None,
    class_axis: int | None,
    bind: Bindings,
    ignore_label: int | None,
    as_json: bool,
    threads: int | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Loss and accuracy of a model, or of an artifact folder's trained state, on the data's test part.

    \b
    Example:
      adabet-onnx evaluate adapted.onnx new_domain.npz
    """
    opened = open_trained(bound_model(model, bind))
    splits = open_data(take_data(data, settings), opened)
    known = trained_choices(model)
    choices = with_given(
        known if loss in (None, known.loss) else Choices(loss=loss or ""),
        class_axis=class_axis,
        ignore_label=ignore_label,
    )
    with progress_bar(quiet) as progress:
        result = compute_evaluation(
            opened,
            splits,
            preprocessing=take_preprocessing(settings),
            choices=choices,
            threads=threads,
            progress=progress,
        )
    if as_json:
        show_json(result)
        return
    show(f"data: {result['data']}", quiet)
    accuracy = "" if result["accuracy"] is None else f"accuracy {result['accuracy']:.1%}, "
    part = "test" if splits.test is not None else "all"
    show(f"{accuracy}loss {result['loss']:.4f} on {result['samples']} samples ({part})", quiet)


@click.command()
@click.argument("model", metavar="MODEL|DIR", type=ANY)
@click.argument("inputs", type=ANY)
@input_option
@preprocessing_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of class, probability, logits and data.")
@threads_option
@quiet_option
def predict(
    model: Path, inputs: Path, bind: Bindings, as_json: bool, threads: int | None, quiet: bool, **settings: Any
) -> None:
    """Predict for an image, a folder of images, or the samples of an .npz (x_test, else x, else x_train).

    \b
    Example:
      adabet-onnx predict adapted.onnx photo.jpg
    """
    rows = compute_predictions(
        bound_model(model, bind),
        take_data(inputs, settings),
        preprocessing=take_preprocessing(settings),
        threads=threads,
    )
    if as_json:
        show_json(rows)
        return
    show(f"data: {rows[0]['data']}", quiet)
    for row in rows:
        if row["probability"] is None:
            show(f"{row['input']}  {row['logits']}", quiet)
        else:
            show(f"{row['input']}  {row['class']}  {row['probability']:.1%}", quiet)


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The .onnx file to write.")
@click.option("--check/--no-check", default=True, show_default=True, help="Compare with the trained logits first.")
@quiet_option
def export(folder: Path, output: Path, check: bool, quiet: bool) -> None:
    """Write the adapted model: the original graph with the trained values, for any ONNX runtime.

    \b
    Example:
      adabet-onnx export artifacts/ -o adapted.onnx
    """
    export_model(folder, output, check=check)
    show(f"{output}: written", quiet)
