"""Logistic regression, starting from the ridge solution and in the basis of the ridge regression.

The squared error of ridge regression handles a class badly whose outputs lie between those of others: with many classes
and few features that costs accuracy (ResNet-20's 64 features, 20 classes: 48 %, logistic regression 54 %).
Cross-entropy is convex too; in the basis of the eigenvectors, each scaled by a bound of its curvature, L-BFGS needs
some 20 to 40 passes over the rows.

Of several strengths, the one with the highest accuracy on left-out rows is chosen, the strongest on a tie. (If samples
resemble each other, the loss of left-out rows would favour hardly any penalty.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import seeds
from .ridge import Ridge
from .scale import best_scale
from .table import FitTable

FOLDS = 5
MOST_WORK = 500_000_000  # rows times rank times outputs: about a minute on a core
_STRONGEST, _WEAKEST, _PATIENCE = 0, -5, 2  # powers of ten; and strengths tried without improvement
_ROUGH, _FINE = (40, 1e-3), (200, 1e-5)  # most passes, and the largest remaining slope


@dataclass(frozen=True)
class Logistic:
    """The result of a fit.

    Attributes:
        coefficients: (r, K), in the ridge regression's basis.
        level: (K,), outputs of the mean row.
        strength: strength of the penalty: half of it times the mean variance of a feature times the squared weights is
            added to the mean cross-entropy.
        scale: the best factor for the outputs of left-out rows.
        left_out: (R, K), outputs of each row in a fit without its fold.
        loss: their cross-entropy with that scale.
    """

    coefficients: np.ndarray
    level: np.ndarray
    strength: float
    scale: float
    left_out: np.ndarray
    loss: float


def refined(start: Ridge, coefficients: np.ndarray, level: np.ndarray, *, softmax: bool, seed: int) -> Logistic:
    """Minimise the cross-entropy, with the penalty strength chosen by cross-validation over groups.

    Args:
        start: the rows, and the ridge solution's basis.
        coefficients, level: the starting point.
        softmax: whether classes are exclusive; otherwise each output is independent.
        seed: random seed of the folds.
    """
    folds = _folds(start.table.groups, seed)
    problem = _Problem(start, softmax)
    every = np.arange(len(folds))
    parts = [(problem.at(folds != fold), every[folds == fold]) for fold in range(folds.max() + 1)]
    tried: dict[float, _Tried] = {}

    def attempt(power: float, begin: list[State]) -> None:
        states, outputs = [], np.empty_like(start.table.targets)
        for (part, rows), state in zip(parts, begin, strict=True):
            states.append(part.minimum(10.0**power, *state, *_ROUGH))
            outputs[rows] = start.rotated[rows] @ states[-1][0] + states[-1][1]
        scale, loss = best_scale(outputs, start.table.targets, start.table.weights, softmax=softmax)
        wrong = _wrong(outputs, start.table) if softmax else loss
        tried[power] = _Tried(wrong, loss, scale, outputs, states)

    states, failures = [(coefficients, level)] * len(parts), 0
    for power in map(float, range(_STRONGEST, _WEAKEST - 1, -1)):
        before = list(tried.values())
        attempt(power, states)
        states, current = tried[power].states, tried[power]
        better = (
            not before or current.wrong < min(one.wrong for one in before) or current.loss < min(o.loss for o in before)
        )
        failures = 0 if better else failures + 1
        if failures == _PATIENCE:
            break
    best = min(tried, key=lambda power: (tried[power].wrong, -power))
    for power in (best - 0.5, best + 0.5):
        attempt(power, tried[best].states)
    best = min(tried, key=lambda power: (tried[power].wrong, -power))
    _, loss, scale, outputs, _ = tried[best]
    strength = 10.0**best
    optimum = problem.minimum(strength, coefficients, level, *_FINE)
    return Logistic(*optimum, strength, scale, outputs, loss)


State = tuple[np.ndarray, np.ndarray]  # coefficients and level


class _Tried(NamedTuple):
    """The result of a strength on left-out rows; ``wrong`` is the share of wrong predictions."""

    wrong: float
    loss: float
    scale: float
    outputs: np.ndarray
    states: list[State]


def _wrong(outputs: np.ndarray, given: FitTable) -> float:
    """The weighted share of rows whose class is predicted wrongly."""
    wrong = outputs.argmax(1) != given.targets.argmax(1)
    return float(np.average(wrong, weights=given.weights))


def _folds(groups: np.ndarray, seed: int) -> np.ndarray:
    """Return a fold for each row, the same for all rows of a group."""
    count = int(groups.max()) + 1
    places = seeds.folds(seed).permutation(count)
    return np.asarray((places % min(FOLDS, count))[groups])


class _Problem:
    """The cross-entropy of some of the rows."""

    def __init__(self, start: Ridge, softmax: bool, kept: np.ndarray | None = None) -> None:
        rows = slice(None) if kept is None else kept
        self._start, self._softmax = start, softmax
        self._rows, self._targets = start.rotated[rows], start.table.targets[rows]
        weights = start.table.weights[rows]
        self._shares = weights / weights.sum()
        self._variance = start.unit / len(start.rotated)

    def at(self, kept: np.ndarray) -> _Problem:
        """Return the problem restricted to these rows."""
        return _Problem(self._start, self._softmax, kept)

    def minimum(
        self, strength: float, coefficients: np.ndarray, level: np.ndarray, passes: int, slope: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients and level that minimise the penalised loss, from a starting point."""
        from scipy.optimize import minimize  # slow to import

        penalty = strength * self._variance
        unit = 1 / np.sqrt(self._start.squares / len(self._start.rotated) / 2 + penalty)[:, None]
        rows, (rank, outputs) = self._rows * unit[:, 0], coefficients.shape
        free = self._start.table.intercept

        def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
            inner = point.reshape(rank + 1, outputs)
            value, gradient = self._slope(rows @ inner[1:] + inner[0])
            shrunk = penalty * unit**2 * inner[1:]
            first = gradient.sum(0, keepdims=True) if free else np.zeros((1, outputs))
            return value + 0.5 * float((shrunk * inner[1:]).sum()), np.concatenate([first, rows.T @ gradient + shrunk])

        def flat(point: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = loss(point)
            return value, gradient.reshape(-1)

        begin = np.concatenate([level[None], coefficients / unit]).reshape(-1)
        solution = minimize(flat, begin, jac=True, method="L-BFGS-B", options={"maxiter": passes, "gtol": slope})
        inner = solution.x.reshape(rank + 1, outputs)
        return inner[1:] * unit, inner[0]

    def _slope(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean cross-entropy and its gradient with respect to the logits."""
        if not self._softmax:
            chances = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
            losses = (np.logaddexp(0, logits) - logits * self._targets).sum(1)
            return float(self._shares @ losses), (chances - self._targets) * self._shares[:, None]
        most = logits.max(1, keepdims=True)
        powers = np.exp(logits - most)
        total = powers.sum(1, keepdims=True)
        losses = (most + np.log(total))[:, 0] - (logits * self._targets).sum(1)
        return float(self._shares @ losses), (powers / total - self._targets) * self._shares[:, None]
