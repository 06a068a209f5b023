"""Check labels and convert them to the form that a loss takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import DataError
from ..model.dims import Dims
from ..model.logits_axes import class_axis, label_shape, shape_text
from .dataset import Dataset

IGNORED = -100  # label of a pixel or token that is ignored, as in torch


def fit_labels(
    labels: np.ndarray, loss: str, logits: Dims, where: str, axis: int | None = None, ignore: int | None = None
) -> np.ndarray:
    """Check labels and convert them to the shape that a loss takes.

    Their shape must be the expected one up to axes of size 1: nothing is broadcast, and no axes are swapped. All labels
    are checked here before they are fed, because for class indices out of range onnxruntime-training computes a wrong
    loss without an error.

    Args:
        labels: one per sample.
        loss: cross-entropy, mse, bce-with-logits or l1.
        logits: the shape of the logits, batch first: ``("N", 10)``.
        where: the name of the data in messages.
        axis: the class axis of the logits; None: see `class_axis`.
        ignore: a label of pixels or tokens that is ignored, in addition to -100.

    Returns:
        For cross-entropy, int64 class indices in the logits' shape without the class axis, where -100 per pixel or
        token means that it is ignored. Otherwise float32 targets in the logits' shape.

    Raises:
        DataError: the labels have the wrong type or shape (the message names both), are out of range, NaN or infinite;
            or they fit the classes on two axes of the logits and ``axis`` is None.
        UsageError: the class axis is wrong, or the loss is cross-entropy and the logits have shape (N,).
    """
    at = class_axis(logits, axis, loss)
    if at is not None:
        return _class_indices(_ignoring(labels, ignore, logits, where), logits, at, axis, where)
    if not _alike(labels.shape, logits):
        indices = labels.dtype.kind in "iu" and labels.ndim == 1
        other = ", or use `loss='cross-entropy'`" if indices else ""
        raise DataError(
            f"{where}: {loss} needs targets of the logits' shape {shape_text(logits)}, up to axes of size 1, found "
            f"{'class indices' if indices else labels.dtype} of shape {shape_text(labels.shape)}. Give one target per "
            f"output{other}."
        )
    targets = labels.astype(np.float32).reshape(len(labels), *map(int, logits[1:]))
    if not np.isfinite(targets).all():
        raise DataError(f"{where}: the targets have NaN or infinite values.")
    if loss == "bce-with-logits" and (targets.min() < 0 or targets.max() > 1):
        raise DataError(
            f"{where}: bce-with-logits needs targets from 0 to 1, found {targets.min():g} to {targets.max():g}. Make "
            "them 0 and 1 (or probabilities), or use another loss (`loss`)."
        )
    return targets


def check_count(feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> None:
    """Check that a batch has one label per sample: the graph of a loss would broadcast a single label.

    Raises:
        DataError: the numbers differ; the message names both shapes.
    """
    for name, array in feeds.items():
        if array.ndim and (labels.ndim == 0 or len(array) != len(labels)):
            raise DataError(
                f"input {name!r} of shape {shape_text(array.shape)} has {len(array)} samples, but the labels have "
                f"shape {shape_text(labels.shape)}. Give one label per sample."
            )


def counted(labels: np.ndarray, weights: Sequence[float] | None = None) -> float:
    """The weight of a batch's mean loss relative to other batches: the number of its labels that are not ignored.

    With class weights it is the sum of the weights of these labels, by which the loss is divided. If that is 0, the
    loss is divided by 1: the sum over several batches is then the sum of ``loss * (counted(...) or 1)``.

    Args:
        labels: labels as `fit_labels` returns them. (Float targets all have the same shape, so samples are counted.)
        weights: class weights, in the order of the class indices.
    """
    if labels.dtype.kind not in "iu":
        return len(labels)
    known = labels[labels != IGNORED]
    return known.size if weights is None else float(np.asarray(weights, np.float32)[known].sum(dtype=np.float64))


def align_classes(dataset: Dataset, classes: Any, *, strict: bool = False, ignore: int | None = None) -> Dataset:
    """Renumber labels to match the class order of a model or an artifact folder.

    The labels of a folder of images are positions among its own folders, which may be only some of the model's classes.

    Args:
        dataset: the data.
        classes: class names in the order of the model's outputs; anything but a list of names changes nothing.
        strict: reject class names that are not in ``classes``; otherwise such data is returned unchanged.
        ignore: a label that is ignored, in addition to -100.

    Raises:
        DataError: with ``strict``, a class of the data is unknown; or the order of the classes differs from the
            model's and the labels are not class indices.
    """
    known = isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)
    if not known or dataset.classes is None or dataset.classes == classes:
        return dataset
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown and strict:
        raise DataError(
            f"{dataset.name} has class {unknown[0]!r}, but the model was trained for {', '.join(classes)}. Rename or "
            "remove it."
        )
    if unknown:
        return dataset
    labels = dataset.labels
    if labels is not None and labels.size > 0:
        labels = _renumbered(
            labels if ignore is None else np.where(labels == ignore, IGNORED, labels),
            [classes.index(name) for name in dataset.classes],
            dataset.name,
        )
    return replace(dataset, labels=labels, classes=classes)


def _renumbered(labels: np.ndarray, indices: list[int], where: str) -> np.ndarray:
    """Replace class indices in labels of any shape; ignored labels stay ignored."""
    known = labels[labels != IGNORED]
    columns = labels.ndim > 1 and len(indices) in labels.shape[1:] and set(np.unique(labels)) <= {0, 1}
    if labels.dtype.kind not in "iu" or columns:
        raise DataError(
            f"{where}: targets of shape {shape_text(labels.shape)} go with classes that are named in another order "
            "than the model's. Put the classes and the targets in the model's order, or leave the names out."
        )
    if known.size and (known.min() < 0 or known.max() >= len(indices)):
        raise DataError(
            f"{where}: labels go from {known.min()} to {known.max()}, but {len(indices)} classes are named, in another "
            "order than the model's, so the classes of the other labels are unknown. Name all classes, or fix the "
            "labels."
        )
    renumbered: np.ndarray = np.where(labels == IGNORED, IGNORED, np.array(indices, np.int64)[labels.clip(0)])
    return renumbered


def _ignoring(labels: np.ndarray, ignore: int | None, logits: Dims, where: str) -> np.ndarray:
    """Labels per pixel or token with the label to ignore replaced by -100."""
    if ignore is None or labels.dtype.kind not in "iu":
        return labels
    if len(logits) < 3:
        raise DataError(
            f"{where}: a label can be ignored ({ignore}) only with one label per pixel or token, but the logits have "
            f"shape {shape_text(logits)}, one label per sample. Leave out samples without a label, and `ignore_label`."
        )
    return np.where(labels == ignore, IGNORED, labels.astype(np.int64))


def _class_indices(labels: np.ndarray, logits: Dims, axis: int, given: int | None, where: str) -> np.ndarray:
    expected = label_shape(logits, axis)
    dense = len(expected) > 1
    if labels.dtype.kind not in "iu" or not _alike(labels.shape, expected):
        what = "one per pixel or token" if dense else "one per sample"
        raise DataError(
            f"{where}: cross-entropy with logits of shape {shape_text(logits)} needs integer class indices of shape "
            f"{shape_text(expected)}, {what}, found {labels.dtype} of shape {shape_text(labels.shape)}. "
            f"{_advice(labels, logits, axis)}"
        )
    if given is None:
        _check_unambiguous(logits, axis, where)
    indices = labels.astype(np.int64).reshape(len(labels), *map(int, expected[1:]))
    used = indices[indices != IGNORED] if dense else indices
    if used.size == 0:
        raise DataError(f"{where}: every label is {IGNORED}, so all are ignored.")
    _check_range(used, int(logits[axis]), where, dense)
    return indices


def _check_unambiguous(logits: Dims, axis: int, where: str) -> None:
    """Reject labels that fit classes on axis 1 as well as on the last axis, for example 8 classes and 8 steps."""
    other = len(logits) - 1 if axis == 1 else 1
    if other != axis and label_shape(logits, other) == label_shape(logits, axis):
        first, last = sorted((axis, other))
        raise DataError(
            f"{where}: the labels fit classes on axis {first} of the logits {shape_text(logits)} as well as on axis "
            f"{last}. Give `class_axis={first}` or `class_axis={last}`."
        )


def _advice(labels: np.ndarray, logits: Dims, axis: int) -> str:
    """Advice for labels of the wrong type or shape."""
    if _alike(labels.shape, logits) and int(logits[axis]) > 1:
        several = bool((labels.reshape(labels.shape[0], *map(int, logits[1:])).sum(axis) != 1).any())
        if several:
            return "For samples with several labels, or none, use `loss='bce-with-logits'`."
        return f"For one-hot labels give their indices: numpy.argmax(y, axis={axis})."
    others = [i for i in range(1, len(logits)) if i != axis and _alike(labels.shape, label_shape(logits, i))]
    if labels.dtype.kind in "iu" and others:
        return f"They fit classes on axis {others[0]} of the logits: give `class_axis={others[0]}`."
    if labels.dtype.kind in "iu":
        return "Give one label for each, or use another loss (`loss`)."
    return "Cast them, or use another loss (`loss`) for float targets."


def _alike(shape: tuple[int, ...], expected: Dims) -> bool:
    """Whether two shapes, samples first, are equal except for axes of size 1 after the first."""
    return [extent for extent in shape[1:] if extent != 1] == [extent for extent in expected[1:] if extent != 1]


def _check_range(labels: np.ndarray, outputs: int, where: str, dense: bool) -> None:
    low, high = int(labels.min()), int(labels.max())
    if outputs == 1:
        raise DataError(
            f"{where}: the model has one output, and the cross-entropy of a single class is always 0. Use "
            "`loss='bce-with-logits'` for labels 0 and 1, mse or l1 for numbers, or give the model a head with an "
            "output per class (`new_head`, or `adapt` with `num_classes`)."
        )
    if low >= 0 and high < outputs:
        return
    needed = high + 1
    advice = (
        f"Give the model a head of {needed} outputs (`new_head`, or `adapt` with `num_classes={needed}`), or fix the "
        "labels."
    )
    outside = np.unique(labels[(labels < 0) | (labels >= outputs)])
    if low == 1 and high == outputs:
        advice = "Count classes from 0: subtract 1."
    elif low == IGNORED and high < outputs:
        advice = f"{IGNORED} is ignored only per pixel or token: leave out samples without a label."
    elif dense and len(outside) == 1 and (low < 0 or high > outputs):
        share = np.count_nonzero(labels == outside[0]) / labels.size
        rest = "fix the labels." if low < 0 else f"g{advice[1:]}"
        advice = (
            f"Only {outside[0]} ({share:.1%} of them) is out of range: if it marks pixels or tokens to ignore, as 255 "
            f"does in masks, give `ignore_label={outside[0]}`. Otherwise {rest}"
        )
    elif low < 0:
        advice = "Fix the labels."
    raise DataError(
        f"{where}: labels go from {low} to {high}, but the model has {outputs} outputs, so they must be 0 to "
        f"{outputs - 1}. {advice}"
    )
