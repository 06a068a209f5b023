"""Labels in the form a loss takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import DataError
from .dataset import Dataset

IGNORED = -100  # a label per pixel or token that does not count, as in torch


def fit_labels(
    labels: np.ndarray, loss: str, outputs: int, where: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Check labels against a loss and the model's outputs.

    onnxruntime-training computes a wrong loss, without an error, for class indices out of range, so nothing is
    fed that was not looked at here.

    Args:
        labels: one per sample.
        loss: cross-entropy, mse, bce-with-logits or l1.
        outputs: number of classes, or size of the logits' last axis.
        where: what to call the data in a message.
        shape: of one sample's labels, for cross-entropy per pixel or token; there -100 means a label to be ignored.

    Returns:
        int64 (N,) or (N, *shape) class indices for cross-entropy, else float32 targets (N, ..., outputs).

    Raises:
        DataError: of another type or shape, out of range, NaN or infinite.
    """
    if loss == "cross-entropy":
        return _class_indices(labels, outputs, where, shape)
    if labels.dtype.kind in "iu" and labels.ndim == 1 and outputs > 1:
        raise DataError(f"{where}: {loss} needs targets of shape (N, {outputs}), found class indices.")
    targets = labels.astype(np.float32)
    if targets.ndim == 1:
        targets = targets[:, np.newaxis]
    if targets.shape[-1] != outputs:
        raise DataError(
            f"{where}: targets have shape {targets.shape[1:]} per sample, but the model gives {outputs} outputs."
        )
    if not np.isfinite(targets).all():
        raise DataError(f"{where}: the targets have NaN or infinite values.")
    return targets


def align_classes(dataset: Dataset, classes: Any, *, strict: bool = False) -> Dataset:
    """Give labels the indices that a model or an artifact folder has for the classes' names.

    The labels of a folder of images are positions among its own folders, which may be only some of the model's.

    Args:
        dataset: the data.
        classes: names in the order of the model's outputs; anything but a list of names changes nothing.
        strict: refuse names that are not among them; otherwise such data stays as it is.

    Raises:
        DataError: with ``strict``, a class of the data is unknown.
    """
    known = isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)
    if not known or dataset.classes is None or dataset.classes == classes:
        return dataset
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown and strict:
        raise DataError(
            f"{dataset.name} has class {unknown[0]!r}, but the model was trained for {', '.join(classes)}. Rename "
            "or remove it."
        )
    if unknown:
        return dataset
    labels = dataset.labels
    in_range = labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1 and labels.size > 0
    if labels is not None and in_range and labels.min() >= 0 and labels.max() < len(dataset.classes):
        labels = np.array([classes.index(name) for name in dataset.classes], np.int64)[labels]
    return replace(dataset, labels=labels, classes=classes)


def _class_indices(labels: np.ndarray, outputs: int, where: str, shape: tuple[int, ...] | None) -> np.ndarray:
    if shape is not None and (labels.dtype.kind not in "iu" or labels.shape[1:] != shape):
        raise DataError(
            f"{where}: cross-entropy needs integer class indices of shape {('N', *shape)}, one per pixel or token, "
            f"found {labels.dtype} of shape {labels.shape}."
        )
    if shape is not None:
        counted = labels[labels != IGNORED]
        if counted.size == 0:
            raise DataError(f"{where}: every label is {IGNORED}, which means to ignore it.")
        _class_indices(counted.reshape(-1), outputs, where, None)
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(
            f"{where}: cross-entropy needs one integer class index per sample, found {labels.dtype} of shape "
            f"{labels.shape}. Cast them, or use another loss (--loss) for float targets."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= outputs:
        needed = high + 1
        advice = (
            f"Give the model a head of {needed} outputs (new-head, or run --num-classes {needed}), or fix the labels."
        )
        if low == 1 and high == outputs:
            advice = "Count classes from 0: subtract 1."
        raise DataError(
            f"{where}: labels go from {low} to {high}, but the model has {outputs} outputs, so they must be 0 to "
            f"{outputs - 1}. {advice if low >= 0 else 'Fix the labels.'}"
        )
    return labels.astype(np.int64)
