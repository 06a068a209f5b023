"""Evaluation and prediction with any model or artifact folder; needs inference only for a model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..data.arithmetic import integer_data
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.labels import IGNORED, align_classes, fit_labels
from ..data.preprocess import Arithmetic, Preprocessing, arithmetic_for
from ..data.source import open_data, open_inputs
from ..errors import ModelError
from ..model.dims import Dims
from ..model.logits import refusal
from ..model.logits_axes import class_axis, told_axis
from ..model.open import Model, ModelSource, open_model
from ..model.quantised_form import Quantised
from ..options import typed, with_given
from ..progress import Progress
from ..runtime import Threads
from ..trainability.choices import Choices
from .exact_loss import log_softmax, loss_of
from .export import adapted_proto
from .logits import compute_logits
from .manifest import load_manifest


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
    """The choices that an artifact folder was made with, the axis of its classes included; for a model the defaults."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return Choices()
    manifest = load_manifest(Path(source))
    return replace(Choices.from_manifest(manifest.content), class_axis=manifest.class_axis)


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
    """Loss and accuracy of a model, or of an artifact folder's trained state, on labelled data.

    The loss is one of the data, by which any two models can be compared: labels are not smoothed, and all classes count
    alike. (The eval_loss of a training is what it minimises, with both.)

    Args:
        model: opened, or what `open_model` takes (a final Softmax is left out); or the path of an artifact folder.
        data: labelled data in any form that `Data` describes: its test part, or all where it has none.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        preprocessing: by hand, in place of a preset.
        loss: cross-entropy, mse, bce-with-logits or l1, in place of that of ``choices``.
        choices: those of a training: its loss, the axis of the classes and the label that does not count. None: those
            of the artifact folder; for a model, the defaults of `Choices`.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
        progress: called with samples done.

    Returns:
        ``loss`` (mean), ``accuracy`` (0 to 1; None unless cross-entropy), ``samples``, and ``data`` (what it was taken
        for, in a line).

    Raises:
        DataError: no labels, or data or labels that do not fit the model.
        ModelError: the loss needs logits and the outputs may be probabilities; or the batch has no axis of its own in
            the logits, or a sample's depend on the other samples.
        UsageError: a wrong class axis, or cross-entropy of one output per sample.

    Example:
        >>> from adabet_onnx import evaluate
        >>> result = evaluate("model.onnx", "new_domain.npz")
        >>> sorted(result)
        ['accuracy', 'data', 'loss', 'samples']
    """
    if choices is None:
        choices = trained_choices(model)
        if loss is not None and loss != choices.loss:  # what else the folder says is of its own loss
            choices = Choices(loss=loss)
    choices = with_given(choices, loss=loss)
    model = open_trained(model)
    dataset = open_data(data, model).for_evaluation
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    return _evaluated(model, dataset, used, choices, threads, progress)


def _evaluated(
    model: Model,
    dataset: Dataset,
    preprocessing: Arithmetic,
    choices: Choices,
    threads: Threads,
    progress: Progress | None,
) -> dict[str, Any]:
    loss, axis, ignore = choices.loss, choices.class_axis, choices.ignore_label
    refused = refusal(model.doubt, loss, model.name)
    if refused is not None:
        raise ModelError(f"{model.name}: {refused}")
    if axis is None and loss == "cross-entropy":
        axis = told_axis(model)
    dataset = align_classes(dataset, model.metadata("classes"), strict=True, ignore=ignore)
    labels = dataset.need_labels("evaluation")
    taken = Feeder(model, preprocessing).taken(dataset)
    first = compute_logits(model, dataset.subset([0]), preprocessing, threads=threads)
    shape: Dims = ("N", *first.shape[1:])
    where = class_axis(shape, axis, loss)
    labels = fit_labels(labels, loss, shape, dataset.name, axis, ignore)
    logits = compute_logits(model, dataset, preprocessing, threads=threads, progress=progress)
    accuracy = None
    if where is not None:  # of each pixel or token, if there are such
        logits, labels = np.moveaxis(logits, where, -1).reshape(-1, first.shape[where]), labels.reshape(-1)
        logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
        accuracy = float((logits.argmax(-1) == labels).mean())
    return {
        "loss": loss_of(loss, logits, labels, class_axis=None if where is None else -1),
        "accuracy": accuracy,
        "samples": len(dataset),
        "data": taken,
    }


@typed
def predict(
    model: ModelSource,
    inputs: Any,
    *,
    preset: str = "auto",
    preprocessing: Preprocessing | Arithmetic | None = None,
    threads: Threads = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Predict for unlabelled inputs.

    Args:
        model: opened, or what `open_model` takes (a final Softmax is left out); or the path of an artifact folder,
            whose trained state predicts.
        inputs: path of an image, of a folder of images or of an ``.npz`` (x_test, else x, else x_train), or arrays, or
            a `Data` of either.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        preprocessing: by hand, in place of a preset.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
        progress: called with samples done.

    Returns:
        For each sample ``input`` (index or file), ``class`` (name or index), ``probability`` (None where the outputs
        are not classes, or may be probabilities already), ``logits``, and ``data`` (what the inputs were taken for, in
        a line: the same for all).

    Raises:
        DataError: the inputs do not fit the model.
        ModelError: the model cannot be opened or run.
        UsageError: a preset or a layout that does not fit.

    Example:
        >>> from adabet_onnx import predict
        >>> rows = predict("model.onnx", "new_domain.npz")
        >>> sorted(rows[0])
        ['class', 'data', 'input', 'logits', 'probability']
    """
    model = open_trained(model)
    dataset, names = open_inputs(inputs, model)
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    taken = Feeder(model, used).taken(dataset)
    logits = compute_logits(model, dataset, used, threads=threads, progress=progress)
    classes = model.metadata("classes")
    rows = []
    for name, row in zip(names, logits, strict=True):
        entry: dict[str, Any] = {
            "input": name,
            "class": None,
            "probability": None,
            "logits": row.tolist(),
            "data": taken,
        }
        if row.size == max(row.shape, default=0) > 1:  # one axis of classes, up to axes of size 1
            row = row.reshape(-1)
            best = int(row.argmax())
            named = isinstance(classes, list) and len(classes) == len(row)
            entry["class"] = str(classes[best]) if named else best
            if model.doubt is None:
                entry["probability"] = float(np.exp(log_softmax(row.astype(np.float64))[best]))
        rows.append(entry)
    return rows
