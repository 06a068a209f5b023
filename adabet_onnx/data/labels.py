"""Labels in the form a loss takes."""

from __future__ import annotations

import numpy as np

from ..errors import DataError


def fit_labels(labels: np.ndarray, loss: str, outputs: int, where: str) -> np.ndarray:
    """Check labels against a loss and the model's outputs.

    onnxruntime-training computes a wrong loss, without an error, for class indices out of range, so nothing is
    fed that was not looked at here.

    Args:
        labels: one per sample.
        loss: cross-entropy, mse, bce-with-logits or l1.
        outputs: size of the logits' last axis.
        where: what to call the data in a message.

    Returns:
        int64 (N,) class indices for cross-entropy, else float32 targets (N, ..., outputs).

    Raises:
        DataError: of another type or shape, out of range, NaN or infinite.
    """
    if loss == "cross-entropy":
        return _class_indices(labels, outputs, where)
    if loss == "bce-with-logits" and labels.dtype.kind in "iu" and labels.ndim == 1 and outputs > 1:
        raise DataError(f"{where}: bce-with-logits needs targets of shape (N, {outputs}), found class indices.")
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


def _class_indices(labels: np.ndarray, outputs: int, where: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(
            f"{where}: cross-entropy needs one integer class index per sample, found {labels.dtype} of shape "
            f"{labels.shape}. For float targets make artifacts with --loss mse."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= outputs:
        advice = f"Give the model a head of {high + 1} outputs (--num-classes {high + 1}), or fix the labels."
        raise DataError(
            f"{where}: labels go from {low} to {high}, but the model has {outputs} outputs, so they must be 0 to "
            f"{outputs - 1}. {advice if low >= 0 else 'Fix the labels.'}"
        )
    return labels.astype(np.int64)
