"""Evaluation and prediction with any model or artifact folder; a plain model only needs inference."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..data.arithmetic import integer_data
from ..data.feeder import Feeder
from ..data.preprocess import Arithmetic, Preprocessing, arithmetic_for
from ..data.source import open_data, open_inputs
from ..model.dims import Dims
from ..model.logits_axes import class_axis, detected_class_axis
from ..model.open import Model, ModelSource, open_model
from ..model.quantised_form import Quantised
from ..options import typed, with_given
from ..progress import Progress
from ..runtime import Threads
from ..trainability.choices import Choices
from .evaluation_pass import evaluate_dataset, names_of
from .exact_loss import log_softmax
from .export import adapted_proto
from .logits import compute_logits
from .manifest import load_manifest
from .predictions import PredictionFormat, check_form, check_predictions, saving

_WRITTEN = 256  # samples written at a time


def open_trained(source: ModelSource) -> Model:
    """Open a model, or the adapted model of an artifact folder.

    Raises:
        ModelError: it cannot be read.
        RecordError: a folder without a manifest.
    """
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        manifest = load_manifest(Path(source))
        opened = open_model(adapted_proto(manifest, full_precision=True))
        if manifest.float_file is None:
            return opened
        return replace(opened, quantised=Quantised(ir.from_proto(adapted_proto(manifest))))
    return open_model(source)


def trained_choices(source: Any) -> Choices:
    """Return the choices that an artifact folder was made with, including the class axis; the defaults for a model."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return Choices()
    manifest = load_manifest(Path(source))
    return replace(manifest.choices, class_axis=manifest.class_axis)


@typed
def evaluate(
    model: ModelSource,
    data: Any,
    *,
    preset: str = "auto",
    preprocessing: Preprocessing | Arithmetic | None = None,
    loss: str | None = None,
    choices: Choices | None = None,
    threads: Threads = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure loss, accuracy and other metrics of a model, or of an artifact folder's trained state, on labelled data.

    Metrics follow scikit-learn's definitions, but are None where scikit-learn divides by zero. The data are processed
    batch by batch.

    Any two models can be compared by this loss: it uses neither label smoothing nor class weights. (The eval_loss of a
    training is the loss it minimises, which includes both.)

    Args:
        model: an opened model, or anything `open_model` accepts (a final Softmax is removed); or the path of an
            artifact folder.
        data: labelled data in any form that `Data` describes: its test part, or all of it if it has none.
        preset: auto, unit, imagenet or none: how images are converted to input (see `Preprocessing`).
        preprocessing: explicit preprocessing, instead of a preset.
        loss: cross-entropy, mse, bce-with-logits or l1; overrides the loss in ``choices``.
        choices: those of a training: its loss, class axis and label to ignore. None: those of the artifact folder; for
            a model, the defaults of `Choices`.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
        progress: called with the number of samples done.

    Returns:
        ``loss`` (mean), ``accuracy`` (0 to 1; None unless cross-entropy), ``samples``, ``data`` (how the data was
        interpreted, in a line), ``hint`` (a likely reason for a low accuracy, or None), and the following metrics, each
        None if it does not apply to the loss:

        * for classes, ``balanced_accuracy``, ``f1_macro``, ``top5_accuracy`` (of more than 20 classes), ``mean_iou``
          (of labels per pixel or token), ``per_class`` (a dict for each: class, labels, predicted, accuracy, precision,
          recall, f1), ``confusion_matrix`` (rows are labels; up to 512 classes) and ``most_confused`` (label,
          predicted, count, the most frequent first);
        * for several labels (bce-with-logits; positive above a probability of 0.5), ``f1_macro``, ``f1_micro``,
          ``exact_match`` (the share of samples with every label right) and ``per_output``;
        * for numbers (mse, l1), ``r2``, ``mae`` and ``rmse`` (means over the outputs) and ``per_output``.

    Raises:
        DataError: labels are missing, or data or labels do not fit the model.
        ModelError: the loss needs logits and the outputs may be probabilities; or the logits have no separate batch
            axis, or a sample's logits depend on the other samples.
        UsageError: the class axis is wrong, or cross-entropy has only one output per sample.

    Example:
        >>> from adabet_onnx import evaluate
        >>> result = evaluate("model.onnx", "new_domain.npz")
        >>> result["samples"], len(result["per_class"])
        (400, 10)
    """
    if choices is None:
        choices = trained_choices(model)
        if loss is not None and loss != choices.loss:  # the folder's other choices belong to its own loss
            choices = Choices(loss=loss)
    choices = with_given(choices, loss=loss)
    model = open_trained(model)
    dataset = open_data(data, model).for_evaluation
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    result = evaluate_dataset(model, dataset, used, choices, threads=threads, progress=progress)
    return {**result, "hint": _hint(model, result)}


def _hint(model: Model, result: Mapping[str, Any]) -> str | None:
    """A likely reason for a low accuracy, and what to do about it; None if there is none."""
    if model.new_head:
        return "the head is new and untrained, so its outputs are random: train the model first (`adapt`)"
    rows = result["per_class"] or []
    labelled = sum(row["labels"] > 0 for row in rows)
    if result["accuracy"] is None or 2 * labelled > len(rows):
        return None
    return (
        f"labels of {labelled} of the model's {len(rows)} classes occur. If the data has other classes than the model, "
        "give the model a new head (`adapt` with `num_classes`)"
    )


@typed
def write_predictions(
    model: ModelSource,
    data: Any,
    output: str | os.PathLike[str],
    *,
    preset: str = "auto",
    preprocessing: Preprocessing | Arithmetic | None = None,
    choices: Choices | None = None,
    threads: Threads = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate as `evaluate` does, and write the prediction for each sample next to its label.

    Args:
        model: an opened model, or anything `open_model` accepts (a final Softmax is removed); or the path of an
            artifact folder.
        data: labelled data in any form that `Data` describes: its test part, or all of it if it has none.
        output: the file to write: ``.csv`` (input, label, label_name, predicted, predicted_name, probability, correct;
            one column per output for several outputs), ``.jsonl`` (the same plus logits, one object per line) or
            ``.npz`` (the same as arrays; also for labels per pixel or token).
        preset: auto, unit, imagenet or none: how images are converted to input (see `Preprocessing`).
        preprocessing: explicit preprocessing, instead of a preset.
        choices: those of a training: its loss, class axis and label to ignore. None: those of the artifact folder; for
            a model, the defaults of `Choices`.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
        progress: called with the number of samples done.

    Returns:
        The result of `evaluate`.

    Raises:
        DataError: labels are missing, or data or labels do not fit the model.
        ModelError: as for `evaluate`.
        UsageError: as for `evaluate`; or the file has another suffix or is one of the data's files, or outputs per
            pixel are to be written to something other than an ``.npz``.
        OutputError: the file cannot be written.

    Example:
        >>> from adabet_onnx import write_predictions
        >>> result = write_predictions("model.onnx", "new_domain.npz", "predictions.csv")
        >>> from pathlib import Path
        >>> Path("predictions.csv").read_text().splitlines()[0]
        'input,label,label_name,predicted,predicted_name,probability,correct'
    """
    check_predictions(output, model, data)
    choices = trained_choices(model) if choices is None else choices
    model = open_trained(model)
    dataset = open_data(data, model).for_evaluation
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    result = evaluate_dataset(model, dataset, used, choices, threads=threads, progress=progress, save=output)
    return {**result, "hint": _hint(model, result)}


@typed
def predict(
    model: ModelSource,
    inputs: Any,
    *,
    preset: str = "auto",
    preprocessing: Preprocessing | Arithmetic | None = None,
    save_predictions: str | os.PathLike[str] | None = None,
    threads: Threads = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Predict for unlabelled inputs.

    Args:
        model: an opened model, or anything `open_model` accepts (a final Softmax is removed); or the path of an
            artifact folder, whose trained state predicts.
        inputs: path of an image, of a folder of images or of an ``.npz`` (x_test, else x, else x_train); arrays; or a
            `Data` of any of these.
        preset: auto, unit, imagenet or none: how images are converted to input (see `Preprocessing`).
        preprocessing: explicit preprocessing, instead of a preset.
        save_predictions: also write the predictions to this file, ``.csv``, ``.jsonl`` or ``.npz``, as
            `write_predictions` does, without labels.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
        progress: called with the number of samples done.

    Returns:
        For each sample ``input`` (index or file), ``class`` (name or index), ``probability`` (None if the outputs are
        not classes, or may already be probabilities), ``logits``, and ``data`` (how the inputs were interpreted, in a
        line: the same for all).

    Raises:
        DataError: the inputs do not fit the model.
        ModelError: the model cannot be opened or run.
        UsageError: a preset or a layout that does not fit; or predictions are saved in a file that ends in something
            else, or for outputs per pixel is not an ``.npz``.
        OutputError: they cannot be written.

    Example:
        >>> from adabet_onnx import predict
        >>> rows = predict("model.onnx", "new_domain.npz")
        >>> sorted(rows[0])
        ['class', 'data', 'input', 'logits', 'probability']
    """
    choices = trained_choices(model)
    if save_predictions is not None:
        check_predictions(save_predictions, model, inputs)
    model = open_trained(model)
    dataset, names = open_inputs(inputs, model)
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    data_summary = Feeder(model, used).describe(dataset)
    if save_predictions is not None:
        first = compute_logits(model, dataset.subset([0]), used, threads=threads)
        form = _unlabelled(model, choices, first.shape)
        check_form(save_predictions, form)
    logits = compute_logits(model, dataset, used, threads=threads, progress=progress)
    if save_predictions is not None:
        with saving(save_predictions, form, names) as add:
            for start in range(0, len(logits), _WRITTEN):
                add(logits[start : start + _WRITTEN], None)
    return [_row(name, row, model) | {"data": data_summary} for name, row in zip(names, logits, strict=True)]


def _row(name: str, row: np.ndarray, model: Model) -> dict[str, Any]:
    prediction: dict[str, Any] = {"input": name, "class": None, "probability": None, "logits": row.tolist()}
    if _of_classes(row.shape):
        row, classes = row.reshape(-1), model.metadata("classes")
        best = int(row.argmax())
        has_names = isinstance(classes, list) and len(classes) == len(row)
        prediction["class"] = str(classes[best]) if has_names else best
        if model.doubt is None:
            prediction["probability"] = float(np.exp(log_softmax(row.astype(np.float64))[best]))
    return prediction


def _of_classes(shape: tuple[int, ...]) -> bool:
    """Whether a sample's logits have a single class axis, ignoring axes of size 1."""
    return math.prod(shape) == max(shape, default=0) > 1


def _unlabelled(model: Model, choices: Choices, shape: tuple[int, ...]) -> PredictionFormat:
    """Return the prediction format for unlabelled data: by the loss a folder was trained with, else for classes.

    Raises:
        UsageError: the class axis is wrong.
    """
    dims: Dims = ("N", *shape[1:])
    loss, axis = choices.loss, choices.class_axis
    if loss == "cross-entropy" and (len(dims) > 2 or _of_classes(shape[1:])) and math.prod(shape[1:]) > 1:
        axis = class_axis(dims, detected_class_axis(model) if axis is None else axis, loss)
    else:
        axis = None
    kind = "mse" if axis is None and loss == "cross-entropy" else loss
    return PredictionFormat(kind, shape[1:], axis, names_of(model, None, dims, axis), sure=model.doubt is None)
