"""Losses that say nothing of a model: that of the best answer that is always the same, and the least there can be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..data.labels import IGNORED

_AT = 0.98  # of the way from the least loss to that of guessing


def baseline_loss(
    loss: str, labels: np.ndarray, classes: int, smoothing: float = 0.0, weights: Sequence[float] | None = None
) -> float:
    """The loss of the best answer that is the same for every sample.

    Of cross-entropy that is the entropy of the classes' shares, of mse and l1 how far the targets of an output lie from
    their mean or median.

    Args:
        loss: cross-entropy, mse, bce-with-logits or l1.
        labels: class indices (-100 is ignored), or targets (N, ...) of the other losses.
        classes: how many there are, for cross-entropy.
        smoothing: of the labels of cross-entropy.
        weights: of the classes of cross-entropy.
    """
    if loss == "cross-entropy":
        shares, of_class = _shares(labels, classes), _of_class(classes, weights)
        return _best(of_class * _smoothed(shares, smoothing)) / (float(of_class @ shares) or 1.0)
    targets = np.asarray(labels, np.float64)
    if loss == "bce-with-logits":
        return float(_binary(targets.mean(0)).mean())
    if loss == "mse":
        return float(targets.var(0).mean())
    return float(np.abs(targets - np.median(targets, 0)).mean())


def minimum_loss(
    loss: str, labels: np.ndarray, classes: int, smoothing: float = 0.0, weights: Sequence[float] | None = None
) -> float:
    """The loss of a perfect answer: above 0 where labels are smoothed, or probabilities themselves.

    Args:
        loss, labels, classes, smoothing, weights: as in `baseline_loss`.
    """
    if loss == "cross-entropy":
        if weights is None or not smoothing:
            return _entropy(_smoothed(np.eye(1, classes)[0], smoothing))
        shares, of_class = _shares(labels, classes), _of_class(classes, weights)
        each = [_best(of_class * target) for target in _smoothed(np.eye(classes), smoothing)]
        return float(shares @ each) / (float(of_class @ shares) or 1.0)
    return float(_binary(np.asarray(labels, np.float64)).mean()) if loss == "bce-with-logits" else 0.0


def _shares(labels: np.ndarray, classes: int) -> np.ndarray:
    """How frequent each class is."""
    known = labels[labels != IGNORED].reshape(-1)
    return np.asarray(np.bincount(known, minlength=classes) / max(known.size, 1))


def _of_class(classes: int, weights: Sequence[float] | None) -> np.ndarray:
    return np.ones(classes) if weights is None else np.asarray(weights, np.float64)


def _smoothed(shares: np.ndarray, smoothing: float) -> np.ndarray:
    return np.asarray((1 - smoothing) * shares + smoothing / shares.shape[-1])


def _best(masses: np.ndarray) -> float:
    """The least that the sum of -masses * log(p) can be: with p in proportion to them."""
    total = float(masses.sum())
    return total * _entropy(masses / total) if total else 0.0


def _entropy(shares: np.ndarray) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _binary(p: np.ndarray) -> np.ndarray:
    """Entropy of each of several probabilities, in nats."""
    inside = np.clip(p, 1e-300, 1), np.clip(1 - p, 1e-300, 1)
    return np.asarray(-(p * np.log(inside[0]) + (1 - p) * np.log(inside[1])))


def at_baseline(end: float, guessing: float, classes: int | None = None, least: float = 0.0) -> str | None:
    """Say that a training loss ended where guessing has it, or above; None where it did not.

    Args:
        end: the training loss of the last epoch.
        guessing: see `baseline_loss`.
        classes: how many there are, where the loss is a cross-entropy.
        least: see `minimum_loss`.
    """
    if not is_at_baseline(end, guessing, least):
        return None
    known = number(guessing)
    if classes is not None and math.isclose(guessing, math.log(classes), rel_tol=0.01):
        known = f"ln({classes}) = {known}"
    where = "above" if end > guessing * (2 - _AT) else "at"
    return f"the training loss ended at {number(end)}, {where} {known}, which an answer that is always the same gives"


def is_at_baseline(end: float, guessing: float, least: float = 0.0) -> bool:
    """Whether a loss is that of guessing, or above; never where a perfect answer would hardly be better."""
    room = guessing - least
    return room > (1 - _AT) * guessing and end >= least + _AT * room


def number(loss: float) -> str:
    """Three decimals, or three figures where that says more."""
    return f"{loss:.3f}" if 0.01 <= loss < 1000 or loss == 0 else f"{loss:.3g}"
