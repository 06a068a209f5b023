"""Evaluation and prediction with any model or artifact folder; needs inference only for a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .. import runtime
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.labels import IGNORED, align_classes, fit_labels
from ..data.preprocess import Preprocessing
from ..data.reading import Reading
from ..data.source import open_inputs
from ..errors import DataError
from ..model.open import Model, open_model
from ..model.passes.logits_only import LogitsOnly
from ..portable.losses import class_axis

_BATCH = 64
Progress = Callable[[str, int, int], None]


def open_trained(source: str | os.PathLike[str] | onnx.ModelProto | Model) -> Model:
    """Open a model, or the adapted model of an artifact folder.

    Raises:
        ModelError: it cannot be read.
        RecordError: a folder without a manifest.
    """
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        from .export import adapted_proto  # reads checkpoints, which needs the training package
        from .manifest import load_manifest

        return open_model(adapted_proto(load_manifest(Path(source))))
    return open_model(source)


def trained_loss(source: str | os.PathLike[str]) -> tuple[str, int | None]:
    """The loss of an artifact folder and the axis of its classes; cross-entropy and None for a model."""
    if not Path(source).is_dir():
        return "cross-entropy", None
    from .manifest import load_manifest  # imports the training side

    manifest = load_manifest(Path(source))
    return manifest.loss_function, manifest.class_axis


def logits_session(graph: ir.Model, logits: str, name: str, threads: int | None = None) -> Any:
    """An inference session of a graph whose one output is the logits."""
    cut = graph.clone()
    LogitsOnly(logits)(cut)
    return runtime.inference_session(ir.to_proto(cut).SerializeToString(), name, runtime.session_options(threads))


def compute_logits(
    model: Model,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int = _BATCH,
    threads: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Logits of every sample, in order: float32 (N, ...).

    Raises:
        DataError: data that does not fit the model, or logits that are NaN or infinite.
    """
    session = logits_session(model.graph, model.logits, model.name, threads)
    feeder = Feeder(model, preprocessing)
    parts = []
    for start in range(0, len(dataset), batch_size):
        indices = np.arange(start, min(start + batch_size, len(dataset)))
        parts.append(runtime.run_session(session, None, feeder.feeds(dataset, indices), model.name)[0])
        if progress is not None:
            progress("evaluating", int(indices[-1]) + 1, len(dataset))
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise DataError(
            f"the outputs of {model.name} are NaN or infinite for {dataset.name}. Is the preprocessing right "
            f"({preprocessing.to_json()})? Otherwise the model itself is damaged."
        )
    return logits


def evaluate(
    model: Model,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    loss: str = "cross-entropy",
    axis: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Loss and accuracy of a model on labelled data.

    Args:
        model: the model; a final Softmax is left out.
        dataset: labelled data, which `open_data` reads in a layout where one is given.
        preprocessing: how data becomes model input.
        loss: cross-entropy, mse, bce-with-logits or l1.
        axis: of the classes, for cross-entropy per pixel or token; None: see `class_axis`.
        threads: for ONNX Runtime.
        progress: called with samples done.

    Returns:
        ``loss`` (mean), ``accuracy`` (0 to 1; None unless cross-entropy), ``samples``, and ``data`` (what it was taken
        for, in a line).

    Raises:
        DataError: no labels, or data or labels that do not fit the model.
    """
    dataset = align_classes(dataset, model.metadata("classes"), strict=True)
    labels = dataset.need_labels("evaluation")
    taken = Feeder(model, preprocessing).taken(dataset)
    first = compute_logits(model, dataset.subset([0]), preprocessing, threads=threads)
    if loss == "cross-entropy" and first.ndim < 2:
        raise DataError(f"{model.name} gives outputs of shape {first.shape[1:]} per sample, not one logit per class.")
    where = class_axis(("N", *first.shape[1:]), axis, loss)
    dense = tuple(extent for i, extent in enumerate(first.shape) if i not in (0, where))
    classes = first.shape[where]
    labels = fit_labels(labels, loss, classes, dataset.name, (dense or None) if loss == "cross-entropy" else None)
    logits = compute_logits(model, dataset, preprocessing, threads=threads, progress=progress)
    accuracy = None
    if loss == "cross-entropy":  # of each pixel or token, if there are such
        logits, labels = np.moveaxis(logits, where, -1).reshape(-1, classes), labels.reshape(-1)
        logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
        accuracy = float((logits.argmax(-1) == labels).mean())
    return {
        "loss": float(_LOSSES[loss](logits.astype(np.float64), labels)),
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
        are not classes), ``logits``, and ``data`` (what the inputs were taken for, in a line: the same for all).

    Raises:
        DataError: the inputs do not fit the model.
    """
    dataset, names = open_inputs(inputs, model, Reading(layout, allow_resize))
    preprocessing = preprocess(dataset.rows.integer)
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
        if row.ndim == 1 and len(row) > 1:
            best = int(row.argmax())
            named = isinstance(classes, list) and len(classes) == len(row)
            entry["class"] = str(classes[best]) if named else best
            entry["probability"] = float(np.exp(log_softmax(row.astype(np.float64))[best]))
        rows.append(entry)
    return rows


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def _bce_with_logits(logits: np.ndarray, targets: np.ndarray) -> float:
    return float((np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))).mean())


_LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cross-entropy": _cross_entropy,
    "mse": lambda logits, targets: float(np.square(logits - targets).mean()),
    "l1": lambda logits, targets: float(np.abs(logits - targets).mean()),
    "bce-with-logits": _bce_with_logits,
}
