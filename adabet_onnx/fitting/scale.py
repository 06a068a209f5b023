"""A single factor that turns outputs into logits with the lowest cross-entropy."""

from __future__ import annotations

import math

import numpy as np

_FEWEST, _MOST = math.exp(-5), 64.0  # scales: regression outputs lie between 0 and 1, so 64 means certainty


def cross_entropy(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, softmax: bool = True) -> float:
    """Return the weighted mean of `cross_entropies`."""
    return float(np.average(cross_entropies(logits, targets, softmax=softmax), weights=weights))


def cross_entropies(logits: np.ndarray, targets: np.ndarray, *, softmax: bool = True) -> np.ndarray:
    """Return the cross-entropy (R,) of each row, in nats.

    Args:
        logits: (R, K).
        targets: (R, K).
        softmax: whether classes are exclusive; otherwise the mean of the outputs' binary cross-entropies.
    """
    if softmax:
        return np.asarray(log_sum(logits) - (logits * targets).sum(1))
    return np.asarray((np.logaddexp(0, logits) - logits * targets).mean(1))


def log_sum(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm of the sum of exponentials of each row."""
    most = logits.max(1, keepdims=True)
    return np.asarray(most[:, 0] + np.log(np.exp(logits - most).sum(1)))


def best_scale(
    outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, softmax: bool = True
) -> tuple[float, float]:
    """Return the scale with the lowest cross-entropy, and that cross-entropy; outputs are those of left-out rows.

    Cross-entropy is convex in the scale, so the search finds the minimum.
    """
    from scipy.optimize import minimize_scalar  # slow to import

    def loss(log: float) -> float:
        return cross_entropy(outputs * math.exp(log), targets, weights, softmax=softmax)

    solution = minimize_scalar(loss, bounds=(math.log(_FEWEST), math.log(_MOST)), method="bounded")
    return math.exp(float(solution.x)), float(solution.fun)


def capped(scale: float, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, least: float) -> float:
    """Return the largest scale up to this one at which the fitted rows' cross-entropy is at least ``least``.

    Args:
        scale: the requested scale.
        outputs: outputs of the fitted rows.
        targets: their targets.
        weights: their weights.
        least: mean cross-entropy in nats; above the logarithm of the number of classes only a scale of 0 reaches it,
            and the lowest scale considered is returned.
    """
    low, high = math.log(_FEWEST), math.log(scale)
    if cross_entropy(outputs * scale, targets, weights) >= least or low >= high:
        return scale
    for _ in range(40):  # the loss falls with the scale if the outputs are good; if not, the scale is low anyway
        middle = (low + high) / 2
        if cross_entropy(outputs * math.exp(middle), targets, weights) >= least:
            low = middle
        else:
            high = middle
    return math.exp(low)
