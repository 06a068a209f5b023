"""Commands for training and for trained models: artifacts, train, evaluate, predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..sizes import size_text
from . import artifact_options, options
from .common import Bindings, bound_model, take_choices, take_data, take_preprocessing, take_runtime
from .layout import Command, Declared
from .parameters import ANY, FILE, FOLDER
from .printing import progress_bar, show, show_json


@click.command(
    cls=Command,
    epilog="JSON: output, backend, layers, parameters (names), trainable_count, predicted_step_bytes (by batch size; "
    "null for ort), notes, precision (how much a quantised frozen part changes the logits: samples, random, largest, "
    "mean, same_class; null if it is not quantised). manifest.json has the full description.",
)
@click.argument("model", type=FILE)
@click.argument("selection", type=FILE)
@options.folder.varied(required=True)
@options.printed
@options.bind
@options.labels
@options.objective
@artifact_options.form
@options.measured_on
@options.reading
@artifact_options.check
def artifacts(
    model: Path,
    selection: Path,
    output: Path,
    data: Path | None,
    bind: Bindings,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Write training graphs for the selected layers.

    Values of --input are those given to score unless others are given. The default is a training step in plain ONNX for
    any onnxruntime from 1.17 on; with --backend ort, artifacts for onnxruntime-training.

    \b
    Example:
      adabet-onnx artifacts model.onnx selection.json -o artifacts/
      adabet-onnx artifacts model.onnx selection.json -o artifacts/ \\
          --frozen-precision int8 --data new_domain.npz
    """
    from ..model.open import open_model
    from ..selection.record import load_selection
    from ..training.artifacts import make_artifacts

    chosen = load_selection(selection)
    backend, check = settings.pop("backend"), settings.pop("check")
    opened = open_model(bound_model(model, bind, chosen.inputs))
    given = take_data(data or Path(), settings)
    manifest = make_artifacts(
        opened,
        chosen,
        output,
        choices=take_choices(settings),
        calibrate=None if data is None else given,
        backend=backend,
        check=check,
    )
    memory = manifest.predicted_step_bytes
    if as_json:
        show_json(
            {
                "output": str(output),
                "backend": manifest.backend,
                "layers": list(manifest.selection.layers),
                "parameters": manifest.parameters,
                "trainable_count": manifest.trainable_count,
                "predicted_step_bytes": memory,
                "notes": manifest.notes,
                "precision": manifest.precision,
            }
        )
        return
    for note in manifest.notes:
        show(f"note: {note}", quiet)
    show(f"{output}: {manifest.trainable_count:,} trainable numbers in {len(manifest.parameters)} tensors", quiet)
    if memory:
        figures = ", ".join(f"{size_text(size)} at batch {batch}" for batch, size in memory.items())
        show(f"activations, gradients and state of a step: {figures} (predicted)", quiet)


@click.command(
    cls=Command,
    epilog="JSON: data, features (where the output of the frozen part was stored, or null), head_start (how a new head "
    "was fitted, or null), metrics (the rows of metrics.jsonl), learning_rate (of the first step, or null), rates (the "
    "search for it: rate, trials, samples, seconds, kept, lowered; null if it was given), warnings, advice (or null).",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("data", type=ANY)
@options.printed
@options.reading
@options.epochs.varied(shown="10")
@options.rate
@options.batch_size.varied(shown="32, or that of the selection's budget")
@options.course
@options.augmentation
@options.features
@options.resume
@options.seed.varied(default=None, shown="0")
@options.compute
def train(folder: Path, data: Path, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Train the artifacts in DIR on labelled data.

    After each epoch a checkpoint and DIR/metrics.jsonl are written; --resume continues an interrupted training.

    \b
    Example:
      adabet-onnx train artifacts/ new_domain.npz --epochs 10
    """
    from ..options import with_given
    from ..training.settings import Settings
    from ..training.trainer import Trainer

    trainer = Trainer(folder, threads=take_runtime(settings))
    given, resume = take_data(data, settings), settings.pop("resume")
    with progress_bar(quiet, lines=True) as progress:
        stored = trainer.interrupted if resume else None
        settings_used = with_given(stored or Settings(), **settings)
        rows = trainer.fit(given, settings=settings_used, resume=resume, progress=progress)
    learned = trainer.learned
    warnings, advice = ((), None) if learned is None else (learned.warnings, learned.advice)
    if as_json:
        rate = None if learned is None else learned.rate
        content: dict[str, Any] = {
            "data": trainer.data,
            "features": trainer.features,
            "head_start": None if trainer.head_start is None else trainer.head_start.to_json(),
            "metrics": rows,
            "learning_rate": rate,
            "rates": None if trainer.rates is None else trainer.rates.to_json(),
        }
        show_json(content | {"warnings": list(warnings), "advice": advice})
        return
    show(f"data: {trainer.data}", quiet)
    if trainer.features is not None:
        show(f"features: {trainer.features}", quiet)
    if trainer.head_start is not None:
        show(f"head: {trainer.head_start}", quiet)
    if trainer.rates is not None:
        show(f"learning rate: {trainer.rates.summary}", quiet)
    for row in rows:
        show(_row(row), quiet)
    for text in warnings:
        show(f"warning: {text}", quiet)
    if advice is not None:
        show(f"hint: {advice}", quiet)


def _row(row: dict[str, Any]) -> str:
    def number(key: str, form: str) -> str:
        return "-" if row[key] is None else format(row[key], form)

    return (
        f"epoch {row['epoch']:3d}  train loss {number('train_loss', '.4f')}  eval loss {number('eval_loss', '.4f')}  "
        f"eval accuracy {number('eval_accuracy', '.1%')}  {row['seconds']:.1f} s"
    )


@click.command(
    cls=Command,
    epilog="JSON: loss, accuracy (like the following, null if the loss has no such metric), samples, data, hint (a "
    "likely reason for a low accuracy, or null), balanced_accuracy, f1_macro, f1_micro (bce-with-logits), "
    "top5_accuracy (for more than 20 classes), mean_iou (labels per pixel or token), exact_match (bce-with-logits), "
    "r2, mae, rmse (mse and l1: means over the outputs), per_class (class, labels, predicted, accuracy, precision, "
    "recall, f1), confusion_matrix (rows are labels, up to 512 classes), most_confused (label, predicted, count), "
    "per_output (output, and its metrics). Undefined ratios are null, e.g. the precision of a class that is never "
    "predicted.",
)
@click.argument("model", metavar="MODEL|DIR", type=ANY)
@click.argument("data", type=ANY)
@Declared("--per-class", is_flag=True, group="Output", help="Also print the metrics of each class or output.")
@options.save_predictions
@options.printed
@options.bind
@options.preprocessing
@options.class_axis.varied(shown="DIR's; else that of the Softmax or head; else 1, or the last of three")
@options.ignore_label.varied(shown="DIR's")
@options.loss.varied(default=None, shown="DIR's, or cross-entropy")
@options.compute
def evaluate(
    model: Path,
    data: Path,
    loss: str | None,
    class_axis: int | None,
    bind: Bindings,
    ignore_label: int | None,
    per_class: bool,
    save_predictions: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Compute loss, accuracy and other metrics on test data.

    For a model, or for the trained state of an artifacts folder.

    \b
    Example:
      adabet-onnx evaluate adapted.onnx new_domain.npz
      adabet-onnx evaluate adapted.onnx new_domain.npz --save-predictions p.csv
    """
    from ..data.source import open_data
    from ..options import with_given
    from ..report.figures import each_table, figures_text
    from ..trainability.choices import Choices
    from ..training.evaluation import evaluate as compute_evaluation
    from ..training.evaluation import open_trained, trained_choices, write_predictions
    from ..training.predictions import check_predictions

    if save_predictions is not None:
        check_predictions(save_predictions)
    threads = take_runtime(settings)
    opened = open_trained(bound_model(model, bind))
    splits = open_data(take_data(data, settings), opened)
    known = trained_choices(model)
    choices = with_given(
        known if loss in (None, known.loss) else Choices(loss=loss or ""),
        class_axis=class_axis,
        ignore_label=ignore_label,
    )
    with progress_bar(quiet) as progress:
        arguments: dict[str, Any] = {"choices": choices, "threads": threads, "progress": progress}
        arguments["preprocessing"] = take_preprocessing(settings)
        if save_predictions is None:
            result = compute_evaluation(opened, splits, **arguments)
        else:
            result = write_predictions(opened, splits, save_predictions, **arguments)
    if as_json:
        show_json(result)
        return
    show(f"data: {result['data']}", quiet)
    accuracy = "" if result["accuracy"] is None else f"accuracy {result['accuracy']:.1%}, "
    part = "test" if splits.test is not None else "all"
    show(f"{accuracy}loss {result['loss']:.4f} on {result['samples']} samples ({part})", quiet)
    more = figures_text(result)
    if more:
        show(more, quiet)
    if result["hint"] is not None:
        show(f"hint: {result['hint']}", quiet)
    table = each_table(result) if per_class else None
    if table is not None:
        show(table, quiet)
    if save_predictions is not None:
        show(f"predictions: {save_predictions}", quiet)


@click.command(cls=Command, epilog="JSON: a list with, for each input: input, class, probability, logits, data.")
@click.argument("model", metavar="MODEL|DIR", type=ANY)
@click.argument("inputs", type=ANY)
@options.save_predictions
@options.printed
@options.bind
@options.preprocessing
@options.compute
def predict(
    model: Path,
    inputs: Path,
    bind: Bindings,
    save_predictions: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Predict for images or arrays.

    INPUTS is an image, a folder of images, or an .npz (x_test, else x, else x_train).

    \b
    Example:
      adabet-onnx predict adapted.onnx photo.jpg
    """
    from ..training.evaluation import predict as compute_predictions

    threads = take_runtime(settings)
    rows = compute_predictions(
        bound_model(model, bind),
        take_data(inputs, settings),
        preprocessing=take_preprocessing(settings),
        save_predictions=save_predictions,
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
    if save_predictions is not None:
        show(f"predictions: {save_predictions}", quiet)


@click.command(
    cls=Command,
    epilog="JSON: output, checked, precision (how much a quantised frozen part changes the logits: samples, random, "
    "largest, mean, same_class, loss and accuracy, full_loss and full_accuracy; null if it is not quantised, or "
    "without --data).",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@options.file.varied(required=True)
@options.printed
@Declared(
    "--float",
    "full_precision",
    is_flag=True,
    group="Artifacts",
    help="Write a frozen part that was quantised in training in float32; the model then differs from the trained one.",
)
@options.measured_on.varied(help="Data on which to measure how much a frozen part in int8 changes the logits.")
@options.reading
@artifact_options.check
def export(
    folder: Path,
    output: Path,
    full_precision: bool,
    data: Path | None,
    check: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Write the adapted model, for any ONNX runtime.

    It is the original graph with the trained values, and with the frozen part in int8 if it was trained that way.

    \b
    Example:
      adabet-onnx export artifacts/ -o adapted.onnx
    """
    from ..training.export import export_model
    from ..training.precision import compare_precisions, precision_text

    given = take_data(data or Path(), settings)
    export_model(folder, output, full_precision=full_precision, check=check)
    precision = None if data is None else compare_precisions(folder, given)
    if as_json:
        show_json({"output": str(output), "checked": check, "precision": precision})
        return
    show(f"{output}: written", quiet)
    if precision is not None:
        show(precision_text(precision), quiet)
