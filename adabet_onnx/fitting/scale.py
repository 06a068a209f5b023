"""One number that outputs are multiplied by, so that they are logits whose cross-entropy is lowest."""

from __future__ import annotations

import math

import numpy as np

_FEWEST, _MOST = math.exp(-5), 64.0  # scales: outputs of a regression lie between 0 and 1, so 64 is certainty


def cross_entropy(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, softmax: bool = True) -> float:
    """Weighted mean of `cross_entropies`."""
    return float(np.average(cross_entropies(logits, targets, softmax=softmax), weights=weights))


def cross_entropies(logits: np.ndarray, targets: np.ndarray, *, softmax: bool = True) -> np.ndarray:
    """(R,), of each row, in nats.

    Args:
        logits: (R, K).
        targets: (R, K).
        softmax: of classes that exclude each other; otherwise the outputs' own cross-entropies, averaged.
    """
    if softmax:
        return np.asarray(log_sum(logits) - (logits * targets).sum(1))
    return np.asarray((np.logaddexp(0, logits) - logits * targets).mean(1))


def log_sum(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of exponentials of each row."""
    most = logits.max(1, keepdims=True)
    return np.asarray(most[:, 0] + np.log(np.exp(logits - most).sum(1)))


def best_scale(
    outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, softmax: bool = True
) -> tuple[float, float]:
    """The scale with the lowest cross-entropy, and that: outputs are of rows that were left out.

    Cross-entropy is convex in the scale, so that the search finds it.
    """
    from scipy.optimize import minimize_scalar  # slow to import

    def loss(log: float) -> float:
        return cross_entropy(outputs * math.exp(log), targets, weights, softmax=softmax)

    found = minimize_scalar(loss, bounds=(math.log(_FEWEST), math.log(_MOST)), method="bounded")
    return math.exp(float(found.x)), float(found.fun)


def capped(scale: float, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, least: float) -> float:
    """The largest scale up to this one with which rows that were fitted have no lower cross-entropy than ``least``.

    Args:
        scale: that is asked for.
        outputs: of the rows, by the fit to them.
        targets: of them.
        weights: of them.
        least: mean cross-entropy in nats; above the logarithm of the number of classes no scale but 0 has it, and the
            lowest one is taken that is looked at.
    """
    low, high = math.log(_FEWEST), math.log(scale)
    if cross_entropy(outputs * scale, targets, weights) >= least or low >= high:
        return scale
    for _ in range(40):  # the loss falls with the scale, where the outputs are good; elsewhere the scale is low anyway
        middle = (low + high) / 2
        if cross_entropy(outputs * math.exp(middle), targets, weights) >= least:
            low = middle
        else:
            high = middle
    return math.exp(low)
