"""Reference losses: the baseline (the loss of the best constant prediction), and the minimum possible loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..data.labels import IGNORED

_AT = 0.98  # of the distance from the minimum loss to the baseline


def baseline_loss(
    loss: str, labels: np.ndarray, classes: int, smoothing: float = 0.0, weights: Sequence[float] | None = None
) -> float:
    """The loss of the best prediction that is the same for every sample.

    For cross-entropy this is the entropy of the class frequencies; for mse and l1 the deviation of an output's targets
    from their mean or median.

    Args:
        loss: cross-entropy, mse, bce-with-logits or l1.
        labels: class indices (-100 is ignored), or targets (N, ...) for the other losses.
        classes: number of classes, for cross-entropy.
        smoothing: label smoothing, for cross-entropy.
        weights: class weights, for cross-entropy.
    """
    if loss == "cross-entropy":
        shares, class_weights = _frequencies(labels, classes), _class_weights(classes, weights)
        return _best(class_weights * _smoothed(shares, smoothing)) / (float(class_weights @ shares) or 1.0)
    targets = np.asarray(labels, np.float64)
    if loss == "bce-with-logits":
        return float(_binary(targets.mean(0)).mean())
    if loss == "mse":
        return float(targets.var(0).mean())
    return float(np.abs(targets - np.median(targets, 0)).mean())


def minimum_loss(
    loss: str, labels: np.ndarray, classes: int, smoothing: float = 0.0, weights: Sequence[float] | None = None
) -> float:
    """The loss of a perfect prediction: above 0 if labels are smoothed, or are probabilities themselves.

    Args:
        loss, labels, classes, smoothing, weights: as in `baseline_loss`.
    """
    if loss == "cross-entropy":
        if weights is None or not smoothing:
            return _entropy(_smoothed(np.eye(1, classes)[0], smoothing))
        shares, class_weights = _frequencies(labels, classes), _class_weights(classes, weights)
        class_losses = [_best(class_weights * target) for target in _smoothed(np.eye(classes), smoothing)]
        return float(shares @ class_losses) / (float(class_weights @ shares) or 1.0)
    return float(_binary(np.asarray(labels, np.float64)).mean()) if loss == "bce-with-logits" else 0.0


def _frequencies(labels: np.ndarray, classes: int) -> np.ndarray:
    """The relative frequency of each class."""
    valid = labels[labels != IGNORED].reshape(-1)
    return np.asarray(np.bincount(valid, minlength=classes) / max(valid.size, 1))


def _class_weights(classes: int, weights: Sequence[float] | None) -> np.ndarray:
    return np.ones(classes) if weights is None else np.asarray(weights, np.float64)


def _smoothed(shares: np.ndarray, smoothing: float) -> np.ndarray:
    return np.asarray((1 - smoothing) * shares + smoothing / shares.shape[-1])


def _best(masses: np.ndarray) -> float:
    """The minimum of the sum of -masses * log(p), reached for p proportional to the masses."""
    total = float(masses.sum())
    return total * _entropy(masses / total) if total else 0.0


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _binary(p: np.ndarray) -> np.ndarray:
    """Entropy of each of several probabilities, in nats."""
    inside = np.clip(p, 1e-300, 1), np.clip(1 - p, 1e-300, 1)
    return np.asarray(-(p * np.log(inside[0]) + (1 - p) * np.log(inside[1])))


def at_baseline(end: float, baseline: float, classes: int | None = None, least: float = 0.0) -> str | None:
    """Return a clause saying that a training loss ended at the baseline or above; None if it did not.

    Args:
        end: the training loss of the last epoch.
        baseline: see `baseline_loss`.
        classes: number of classes, if the loss is a cross-entropy.
        least: see `minimum_loss`.
    """
    if not is_at_baseline(end, baseline, least):
        return None
    text = format_loss(baseline)
    if classes is not None and math.isclose(baseline, math.log(classes), rel_tol=0.01):
        text = f"ln({classes}) = {text}"
    where = "above" if end > baseline * (2 - _AT) else "at"
    return f"the training loss ended at {format_loss(end)}, {where} {text}, the loss of a constant prediction"


def is_at_baseline(end: float, baseline: float, least: float = 0.0) -> bool:
    """Whether a loss is at the baseline or above; never if a perfect prediction would hardly be better."""
    gap = baseline - least
    return gap > (1 - _AT) * baseline and end >= least + _AT * gap


def format_loss(loss: float) -> str:
    """Format with three decimals, or with three significant digits if that is more precise."""
    return f"{loss:.3f}" if 0.01 <= loss < 1000 or loss == 0 else f"{loss:.3g}"
