"""Losses computed from logits in double precision, by the formulas of portable/losses.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.labels import IGNORED
from ..errors import DataError
from ..model.logits_axes import shape_text
from .manifest import Manifest


def exact_loss(manifest: Manifest, logits: np.ndarray, labels: np.ndarray) -> float:
    """The loss that an artifact folder's graphs compute, in float64, so that only the network's rounding remains.

    Args:
        manifest: the folder's manifest: loss, class axis, label smoothing, class weights.
        logits: float (N, ...).
        labels: as for `loss_of`.
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
        class_axis: class axis of the logits, for cross-entropy.
        smoothing: label smoothing, for cross-entropy.
        weights: class weights, for cross-entropy.

    Raises:
        DataError: the labels have the wrong shape; NumPy would broadcast them.
    """
    values = logits.astype(np.float64)
    if class_axis is not None:
        values = np.moveaxis(values, class_axis, -1)
    expected = values.shape if class_axis is None else values.shape[:-1]
    if labels.shape != expected:
        raise DataError(
            f"{loss} of logits of shape {shape_text(logits.shape)} needs labels of shape {shape_text(expected)}, found "
            f"{shape_text(labels.shape)}."
        )
    if loss == "cross-entropy":
        return _cross_entropy(values, labels, smoothing, weights)
    targets = labels.astype(np.float64)
    if loss == "mse":
        return float(np.square(values - targets).mean())
    if loss == "l1":
        return float(np.abs(values - targets).mean())
    return float((np.maximum(values, 0) - values * targets + np.log1p(np.exp(-np.abs(values)))).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float, weights: Sequence[float] | None) -> float:
    """Mean over all labels that are not ignored, weighted by class; the class axis is last."""
    class_weights = np.ones(logits.shape[-1]) if weights is None else np.asarray(weights, np.float64)
    logs = log_softmax(logits)
    valid = labels != IGNORED
    valid_labels = np.where(valid, labels, 0)
    chosen_logs = np.take_along_axis(logs * class_weights, valid_labels[..., None], -1)[..., 0]
    losses = -(1 - smoothing) * chosen_logs - smoothing * (logs * class_weights).mean(-1)
    return float(losses[valid].sum() / (class_weights[valid_labels][valid].sum() or 1.0))
