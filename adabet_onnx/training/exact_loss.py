"""Losses computed from logits in double precision, by the formulas of portable/losses.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.labels import IGNORED
from ..errors import DataError
from ..model.logits_axes import written
from .manifest import Manifest


def exact_loss(manifest: Manifest, logits: np.ndarray, labels: np.ndarray) -> float:
    """The loss that an artifact folder's graphs compute, so that what rounds is the network alone.

    Args:
        manifest: of the folder: loss, class axis, label smoothing, weights of classes.
        logits: float (N, ...).
        labels: as of `loss_of`.
    """
    smoothing = manifest.label_smoothing
    return loss_of(
        manifest.loss_function,
        logits,
        labels,
        class_axis=manifest.class_axis,
        smoothing=smoothing,
        weights=manifest.class_weights,
    )


def loss_of(
    loss: str,
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    class_axis: int | None = None,
    smoothing: float = 0.0,
    weights: Sequence[float] | None = None,
) -> float:
    """The mean loss, in float64.

    Args:
        loss: cross-entropy, mse, bce-with-logits or l1.
        logits: float (N, ...).
        labels: class indices in the shape of the logits without the class axis, or targets in their shape.
        class_axis: of the logits, for cross-entropy.
        smoothing: of labels, for cross-entropy.
        weights: of classes, for cross-entropy.

    Raises:
        DataError: the labels have another shape; numpy would broadcast them.
    """
    x = logits.astype(np.float64)
    if class_axis is not None:
        x = np.moveaxis(x, class_axis, -1)
    expected = x.shape if class_axis is None else x.shape[:-1]
    if labels.shape != expected:
        raise DataError(
            f"{loss} of logits of shape {written(logits.shape)} needs labels of shape {written(expected)}, found "
            f"{written(labels.shape)}."
        )
    if loss == "cross-entropy":
        return _cross_entropy(x, labels, smoothing, weights)
    targets = labels.astype(np.float64)
    if loss == "mse":
        return float(np.square(x - targets).mean())
    if loss == "l1":
        return float(np.abs(x - targets).mean())
    return float((np.maximum(x, 0) - x * targets + np.log1p(np.exp(-np.abs(x)))).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float, weights: Sequence[float] | None) -> float:
    """Mean over all labels but the ignored ones, by the weights of their classes; classes last."""
    of_class = np.ones(logits.shape[-1]) if weights is None else np.asarray(weights, np.float64)
    logs = log_softmax(logits)
    valid = labels != IGNORED
    known = np.where(valid, labels, 0)
    chosen = np.take_along_axis(logs * of_class, known[..., None], -1)[..., 0]
    each = -(1 - smoothing) * chosen - smoothing * (logs * of_class).mean(-1)
    return float(each[valid].sum() / (of_class[known][valid].sum() or 1.0))
