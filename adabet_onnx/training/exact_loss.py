"""Losses of artifacts, computed from logits in double precision, so that what rounds is the network alone."""

from __future__ import annotations

import numpy as np

from ..data.labels import IGNORED
from .evaluation import log_softmax
from .manifest import Manifest


def exact_loss(manifest: Manifest, logits: np.ndarray, labels: np.ndarray) -> float:
    """The loss that a folder's graphs compute (portable/losses.py), in float64.

    Args:
        manifest: of the folder: loss, class axis, label smoothing.
        logits: float (N, ...).
        labels: class indices without the class axis, int64, or targets in the shape of the logits.
    """
    x = logits.astype(np.float64)
    if manifest.class_axis is not None:
        return _cross_entropy(np.moveaxis(x, manifest.class_axis, -1), labels, _smoothing(manifest))
    targets = labels.astype(np.float64)
    if manifest.loss_function == "mse":
        return float(np.square(x - targets).mean())
    if manifest.loss_function == "l1":
        return float(np.abs(x - targets).mean())
    return float((np.maximum(x, 0) - x * targets + np.log1p(np.exp(-np.abs(x)))).mean())


def _smoothing(manifest: Manifest) -> float:
    return float(manifest.content.get("label_smoothing") or 0.0)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Mean over all labels but the ignored ones; classes last."""
    logs = log_softmax(logits)
    valid = labels != IGNORED
    chosen = np.take_along_axis(logs, np.where(valid, labels, 0)[..., None], -1)[..., 0]
    each = -(1 - smoothing) * chosen - smoothing * logs.mean(-1)
    return float(each[valid].mean()) if valid.any() else 0.0
