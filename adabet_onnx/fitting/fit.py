"""Fit a linear head: of classes, or of numbers."""

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
        bias: (K,), float64; zeros where the head has none.
        how: ``logistic`` (regression), ``ridge`` (regression in closed form), ``descent`` (ridge regression by
            conjugate gradients), or ``constant`` (nothing but a bias).
        strength: of the penalty on the weight (see `ridge` and `logistic`); 0 for a constant.
        scale: that what was fitted is multiplied by; 1 where the loss has no logits.
        asked: the scale that rows left out ask for; ``scale`` is lower where it is capped.
        accuracy: the share of rows whose class a fit without their group finds; None where there are no classes.
        error: the loss of rows by fits without their group; infinite for a constant.
        absent: classes that no row is of.
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
    """Fit a head whose outputs are the logits of classes.

    Args:
        features: (R, D), a row of what the head is given for every label.
        labels: (R,), 0 to ``classes`` - 1.
        samples: (R,), which sample a row is of; all rows of a sample are left out together.
        classes: how many there are. Those that no row is of get no weights, and a bias with which they are improbable.
        weights: (R,), how much each row counts; None: all alike.
        intercept: whether the head has a bias.
        least: a mean cross-entropy of the rows that the head's is not to go below: its scale is capped at where it
            does. None: no bound.
        seed: of the folds that the strength is chosen by.
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
    made = _Classes(given, True, seed).fitted()
    outputs = given.features @ made.weight + made.bias
    scale = made.scale if least is None else capped(made.scale, outputs, given.targets, given.weights, least)
    outputs *= scale
    weight[:, present], bias[present] = scale * made.weight, scale * made.bias
    if intercept:
        bias[present] -= bias[present].mean()
        outputs += bias[present].mean() - (scale * made.bias).mean()
        bias[list(absent)] = log_sum(outputs).min() - _rarer(len(labels), len(absent))
    right = float((made.left_out.argmax(1) == made.known.argmax(1)).mean())
    return Fitted(weight, bias, made.how, made.strength, scale, made.scale, right, made.error, absent)


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

    Numbers are fitted by least squares, for ``l1`` too: only the strength is chosen by the absolute error.

    Args:
        features: (R, D), a row of what the head is given for every row of targets.
        targets: (R, K).
        samples: (R,), which sample a row is of.
        loss: one of `LOSSES`, but cross-entropy.
        weights: (R,), how much each row counts; None: all alike.
        intercept: whether the head has a bias.
        seed: of the folds.
    """
    given = table(features, targets, samples, weights, intercept=intercept)
    if loss == "bce-with-logits":
        made = _Classes(given, False, seed).fitted()
        scale = made.scale
        return Fitted(scale * made.weight, scale * made.bias, made.how, made.strength, scale, scale, None, made.error)
    error = _absolute if loss == "l1" else _squared
    if int(given.groups.max()) < 1:  # one sample says nothing but its own targets
        return Fitted(np.zeros((features.shape[1], targets.shape[1])), given.mean(given.targets), "constant")
    if min(given.features.shape) > MOST:
        found = descend(given, error, seed)
        of_held = given.at(found.rows)
        wrong = error(found.outputs, of_held.targets, of_held.weights)
        bias = found.level - found.centre @ found.weight
        return Fitted(found.weight, bias, "descent", found.strength, error=wrong)
    start = ridge(given)
    strength, wrong, _ = best_strength(lambda s: (error(start.left_out(s), given.targets, given.weights), None))
    weight, bias = start.solved(strength)
    return Fitted(weight, bias, "ridge", strength, error=wrong)


@dataclass(frozen=True)
class _Made:
    """A head before its scale; ``left_out`` are outputs for rows that it was not fitted to, ``known`` their targets."""

    weight: np.ndarray
    bias: np.ndarray
    how: str
    strength: float
    scale: float
    left_out: np.ndarray
    known: np.ndarray
    error: float


class _Classes:
    """Fits logits: of classes that exclude each other, or of events."""

    def __init__(self, given: FitTable, softmax: bool, seed: int) -> None:
        if int(given.groups.max()) < 1:  # of one sample alone: its rows are taken for samples
            given = FitTable(
                given.features, given.targets, np.arange(len(given.groups)), given.weights, given.intercept
            )
        self._given, self._softmax, self._seed = given, softmax, seed
        self._middle = 0.0 if softmax else 0.5  # the output of a regression at which an event is as likely as not

    def fitted(self) -> _Made:
        """The best that can be had."""
        given = self._given
        if min(given.features.shape) > MOST:
            return self._descended()
        start = ridge(given)
        strength, error, (scale, left) = best_strength(lambda strength: self._tried(start.left_out(strength)))
        if start.rotated.size * given.targets.shape[1] > MOST_WORK or not start.squares.size:
            weight, bias = start.solved(strength)
            return _Made(weight, bias - self._middle, "ridge", strength, scale, left, given.targets, error)
        first = scale * start.coefficients(strength), scale * (start.level - self._middle)
        if not given.intercept:
            first = first[0], np.zeros_like(start.level)
        found = refined(start, *first, softmax=self._softmax, seed=self._seed)
        weight, bias = start.weights(found.coefficients, found.level)
        return _Made(weight, bias, "logistic", found.strength, found.scale, found.left_out, given.targets, found.loss)

    def _tried(self, left: np.ndarray) -> tuple[float, tuple[float, np.ndarray]]:
        given = self._given
        outputs = left - self._middle
        scale, error = best_scale(outputs, given.targets, given.weights, softmax=self._softmax)
        return error, (scale, outputs)

    def _descended(self) -> _Made:
        def error(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
            return best_scale(outputs - self._middle, targets, weights, softmax=self._softmax)[1]

        found = descend(self._given, error, self._seed)
        held, outputs = self._given.at(found.rows), found.outputs - self._middle
        scale, wrong = best_scale(outputs, held.targets, held.weights, softmax=self._softmax)
        bias = found.level - self._middle - found.centre @ found.weight
        return _Made(found.weight, bias, "descent", found.strength, scale, outputs, held.targets, wrong)


def _rarer(rows: int, absent: int) -> float:
    """By how much the logits of absent classes lie below the others: together they are less than half a row."""
    return math.log(2 * max(rows, 1) * max(absent, 1))


def _squared(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(((outputs - targets) ** 2).mean(1), weights=weights))


def _absolute(outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(np.abs(outputs - targets).mean(1), weights=weights))
