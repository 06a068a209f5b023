"""Fit a linear head, for classes or for numeric outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .gradients import descend
from .logistic import MOST_WORK, refined
from .ridge import ridge
from .scale import best_scale, capped, log_sum
from .strengths import best_strength
from .table import MOST, FitTable, table

LOSSES = ("cross-entropy", "bce-with-logits", "mse", "l1")


@dataclass(frozen=True)
class Fitted:
    """A linear head: outputs are ``features @ weight + bias``.

    Attributes:
        weight: (D, K), float64.
        bias: (K,), float64; zeros if the head has none.
        how: ``logistic`` (regression), ``ridge`` (regression in closed form), ``descent`` (ridge regression by
            conjugate gradients), or ``constant`` (only a bias).
        strength: strength of the penalty on the weight (see `ridge` and `logistic`); 0 for a constant.
        scale: factor that the fitted values were multiplied by; 1 if the loss has no logits.
        asked: the best scale for left-out rows; ``scale`` is lower if it is capped.
        accuracy: the share of rows predicted correctly by a fit without their group; None without classes.
        error: the loss of rows in fits without their group; infinite for a constant.
        absent: classes without any row.
    """

    weight: np.ndarray
    bias: np.ndarray
    how: str
    strength: float = 0.0
    scale: float = 1.0
    asked: float = 1.0
    accuracy: float | None = None
    error: float = math.inf
    absent: tuple[int, ...] = ()


def fit_classes(
    features: np.ndarray,
    labels: np.ndarray,
    samples: np.ndarray,
    classes: int,
    *,
    weights: np.ndarray | None = None,
    intercept: bool = True,
    least: float | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit a head whose outputs are class logits.

    Args:
        features: (R, D), the head's input for each label.
        labels: (R,), 0 to ``classes`` - 1.
        samples: (R,), the sample of each row; all rows of a sample are left out together.
        classes: number of classes. Classes without rows get zero weights, and a bias that makes them improbable.
        weights: (R,), weight of each row; None: all equal.
        intercept: whether the head has a bias.
        least: lower bound for the mean cross-entropy of the rows: the scale is capped where the bound is reached. None:
            no bound.
        seed: random seed of the folds for choosing the strength.
    """
    counted = np.ones(len(labels), bool) if weights is None else np.asarray(weights) > 0
    present = np.unique(labels[counted])
    absent = tuple(sorted(set(range(classes)) - set(present.tolist())))
    weight, bias = np.zeros((features.shape[1], classes)), np.zeros(classes)
    if len(present) == 1:
        if intercept:
            bias[list(absent)] = -_rarer(len(labels), len(absent))
        return Fitted(weight, bias, "constant", accuracy=1.0, absent=absent)
    targets = (labels[:, None] == present).astype(np.float64)
    given = table(features, targets, samples, weights, intercept=intercept)
    fitted = _Classes(given, True, seed).fitted()
    outputs = given.features @ fitted.weight + fitted.bias
    scale = fitted.scale if least is None else capped(fitted.scale, outputs, given.targets, given.weights, least)
    outputs *= scale
    weight[:, present], bias[present] = scale * fitted.weight, scale * fitted.bias
    if intercept:
        bias[present] -= bias[present].mean()
        outputs += bias[present].mean() - (scale * fitted.bias).mean()
        bias[list(absent)] = log_sum(outputs).min() - _rarer(len(labels), len(absent))
    right = float((fitted.left_out.argmax(1) == fitted.known.argmax(1)).mean())
    return Fitted(weight, bias, fitted.how, fitted.strength, scale, fitted.scale, right, fitted.error, absent)


def fit_outputs(
    features: np.ndarray,
    targets: np.ndarray,
    samples: np.ndarray,
    loss: str,
    *,
    weights: np.ndarray | None = None,
    intercept: bool = True,
    seed: int = 0,
) -> Fitted:
    """Fit a head whose outputs are numbers (``mse``, ``l1``), or logits of events (``bce-with-logits``).

    Numeric outputs are fitted by least squares, even for ``l1``, where only the strength is chosen by the absolute
    error.

    Args:
        features: (R, D), the head's input for each row of targets.
        targets: (R, K).
        samples: (R,), the sample of each row.
        loss: one of `LOSSES` except cross-entropy.
        weights: (R,), weight of each row; None: all equal.
        intercept: whether the head has a bias.
        seed: random seed of the folds.
    """
    given = table(features, targets, samples, weights, intercept=intercept)
    if loss == "bce-with-logits":
        fitted = _Classes(given, False, seed).fitted()
        scale = fitted.scale
        return Fitted(
            scale * fitted.weight, scale * fitted.bias, fitted.how, fitted.strength, scale, scale, None, fitted.error
        )
    error = _absolute if loss == "l1" else _squared
    if int(given.groups.max()) < 1:  # a single sample only determines its own targets
        return Fitted(np.zeros((features.shape[1], targets.shape[1])), given.mean(given.targets), "constant")
    if min(given.features.shape) > MOST:
        descent = descend(given, error, seed)
        held_out = given.at(descent.rows)
        held_out_error = error(descent.outputs, held_out.targets, held_out.weights)
        bias = descent.level - descent.centre @ descent.weight
        return Fitted(descent.weight, bias, "descent", descent.strength, error=held_out_error)
    start = ridge(given)
    strength, held_out_error, _ = best_strength(
        lambda s: (error(start.left_out(s), given.targets, given.weights), None)
    )
    weight, bias = start.solved(strength)
    return Fitted(weight, bias, "ridge", strength, error=held_out_error)


@dataclass(frozen=True)
class _Unscaled:
    """A head before scaling; ``left_out`` are outputs for left-out rows, ``known`` their targets."""

    weight: np.ndarray
    bias: np.ndarray
    how: str
    strength: float
    scale: float
    left_out: np.ndarray
    known: np.ndarray
    error: float


class _Classes:
    """Fits logits of exclusive classes, or of independent events."""

    def __init__(self, given: FitTable, softmax: bool, seed: int) -> None:
        if int(given.groups.max()) < 1:  # with a single sample, its rows count as samples
            given = FitTable(
                given.features, given.targets, np.arange(len(given.groups)), given.weights, given.intercept
            )
        self._given, self._softmax, self._seed = given, softmax, seed
        self._middle = 0.0 if softmax else 0.5  # the regression output at which an event has probability 0.5

    def fitted(self) -> _Unscaled:
        """Return the best fit."""
        given = self._given
        if min(given.features.shape) > MOST:
            return self._descended()
        start = ridge(given)
        strength, error, (scale, left) = best_strength(lambda strength: self._tried(start.left_out(strength)))
        if start.rotated.size * given.targets.shape[1] > MOST_WORK or not start.squares.size:
            weight, bias = start.solved(strength)
            return _Unscaled(weight, bias - self._middle, "ridge", strength, scale, left, given.targets, error)
        first = scale * start.coefficients(strength), scale * (start.level - self._middle)
        if not given.intercept:
            first = first[0], np.zeros_like(start.level)
        refinement = refined(start, *first, softmax=self._softmax, seed=self._seed)
        weight, bias = start.weights(refinement.coefficients, refinement.level)
        return _Unscaled(
            weight,
            bias,
            "logistic",
            refinement.strength,
            refinement.scale,
            refinement.left_out,
            given.targets,
            refinement.loss,
        )

    def _tried(self, left: np.ndarray) -> tuple[float, tuple[float, np.ndarray]]:
        given = self._given
        outputs = left - self._middle
        scale, error = best_scale(outputs, given.targets, given.weights, softmax=self._softmax)
        return error, (scale, outputs)

    def _descended(self) -> _Unscaled:
        def error(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
            return best_scale(outputs - self._middle, targets, weights, softmax=self._softmax)[1]

        descent = descend(self._given, error, self._seed)
        held, outputs = self._given.at(descent.rows), descent.outputs - self._middle
        scale, held_out_error = best_scale(outputs, held.targets, held.weights, softmax=self._softmax)
        bias = descent.level - self._middle - descent.centre @ descent.weight
        return _Unscaled(
            descent.weight, bias, "descent", descent.strength, scale, outputs, held.targets, held_out_error
        )


def _rarer(rows: int, absent: int) -> float:
    """Return how far the logits of absent classes lie below the others: in total they count less than half a row."""
    return math.log(2 * max(rows, 1) * max(absent, 1))


def _squared(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(((outputs - targets) ** 2).mean(1), weights=weights))


def _absolute(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(np.abs(outputs - targets).mean(1), weights=weights))
