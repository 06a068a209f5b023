"""Evaluation and prediction with any model or artifact folder; needs inference only for a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..data.arithmetic import integer_data
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.labels import IGNORED, align_classes, fit_labels
from ..data.preprocess import Preprocessing
from ..data.reading import Reading
from ..data.source import open_inputs
from ..errors import ModelError
from ..model.dims import Dims
from ..model.logits import refusal
from ..model.logits_axes import class_axis, told_axis
from ..model.open import Model, open_model
from ..progress import Progress
from .exact_loss import log_softmax, loss_of
from .export import adapted_proto
from .logits import compute_logits
from .manifest import load_manifest


def open_trained(source: str | os.PathLike[str] | onnx.ModelProto | Model) -> Model:
    """Open a model, or the adapted model of an artifact folder.

    Raises:
        ModelError: it cannot be read.
        RecordError: a folder without a manifest.
    """
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        return open_model(adapted_proto(load_manifest(Path(source))))
    return open_model(source)


def trained_loss(source: str | os.PathLike[str]) -> tuple[str, int | None, int | None]:
    """The loss of an artifact folder, the axis of its classes and the label it ignores; for a model cross-entropy."""
    if not Path(source).is_dir():
        return "cross-entropy", None, None
    manifest = load_manifest(Path(source))
    return manifest.loss_function, manifest.class_axis, manifest.ignore_label


def evaluate(
    model: Model,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    loss: str = "cross-entropy",
    axis: int | None = None,
    ignore: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Loss and accuracy of a model on labelled data.

    Args:
        model: the model; a final Softmax is left out.
        dataset: labelled data, which `open_data` reads in a layout where one is given.
        preprocessing: how data becomes model input.
        loss: cross-entropy, mse, bce-with-logits or l1.
        axis: of the classes, for cross-entropy per pixel or token; None: that of the model's Softmax or head, else see
            `class_axis`.
        ignore: a label per pixel or token that does not count, beside -100.
        threads: for ONNX Runtime.
        progress: called with samples done.

    Returns:
        ``loss`` (mean), ``accuracy`` (0 to 1; None unless cross-entropy), ``samples``, and ``data`` (what it was taken
        for, in a line).

    Raises:
        DataError: no labels, or data or labels that do not fit the model.
        ModelError: the loss needs logits and the outputs may be probabilities; or the batch has no axis of its own in
            the logits, or a sample's depend on the other samples.
        UsageError: a wrong class axis, or cross-entropy of one output per sample.
    """
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


def predict(
    model: Model,
    inputs: Any,
    preprocess: Callable[[bool], Preprocessing],
    *,
    layout: str | Sequence[str] | Mapping[str, str] | None = None,
    allow_resize: bool = False,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Predict for unlabelled inputs.

    Args:
        model: the model; a final Softmax is left out.
        inputs: path of an image, of a folder of images or of an ``.npz``, or arrays.
        preprocess: gives the preprocessing, told whether the inputs are integers.
        layout: letters of the axes of arrays, such as ``NTC``, where shapes leave them open; see `data.reading`.
        allow_resize: whether arrays may be resized where that is hardly meant; see `data.pictures.resizing_doubt`.
        threads: for ONNX Runtime.

    Returns:
        For each sample ``input`` (index or file), ``class`` (name or index), ``probability`` (None where the outputs
        are not classes, or may be probabilities already), ``logits``, and ``data`` (what the inputs were taken for, in
        a line: the same for all).

    Raises:
        DataError: the inputs do not fit the model.
    """
    dataset, names = open_inputs(inputs, model, Reading(layout, allow_resize))
    preprocessing = preprocess(integer_data(model, dataset))
    taken = Feeder(model, preprocessing).taken(dataset)
    logits = compute_logits(model, dataset, preprocessing, threads=threads)
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
