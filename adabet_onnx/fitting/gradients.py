"""Ridge regression by conjugate gradients, for too many rows and features for a closed form.

The strength is chosen on a tenth of the groups that is left out: the rest is fitted with decreasing strengths, each
starting from the previous solution. Then all rows are fitted with the best strength.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import seeds
from .table import FitTable

_PASSES, _EXACT, _ROUGH = 500, 1e-8, 1e-4  # most iterations, and residuals relative to the right-hand side
_POWERS = (2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0)


@dataclass(frozen=True)
class Descent:
    """The result of a fit.

    Attributes:
        weight, level, centre: outputs are level + (features - centre) @ weight.
        strength: as in `ridge`.
        rows: the rows left out to choose the strength.
        outputs: outputs for these rows.
    """

    weight: np.ndarray
    level: np.ndarray
    centre: np.ndarray
    strength: float
    rows: np.ndarray
    outputs: np.ndarray


def descend(given: FitTable, error: Callable[[np.ndarray, np.ndarray, np.ndarray], float], seed: int) -> Descent:
    """Fit a table.

    Args:
        given: the rows, with at least two groups.
        error: computes the error from outputs, targets and weights.
        seed: random seed for drawing the left-out tenth.
    """
    count = int(given.groups.max()) + 1
    out = np.zeros(count, bool)
    out[seeds.folds(seed).permutation(count)[: max(1, count // 10)]] = True
    held = np.flatnonzero(out[given.groups])
    part = given.at(np.flatnonzero(~out[given.groups]))
    solver, rest = _Solver(part), given.at(held)
    best: tuple[float, float, np.ndarray] | None = None
    weight, failures = np.zeros((given.features.shape[1], given.targets.shape[1])), 0
    for power in _POWERS:
        weight = solver.solved(10.0**power, weight, _ROUGH)
        outputs = (rest.features - solver.centre) @ weight + solver.level
        held_out_error = error(outputs, rest.targets, rest.weights)
        if best is None or held_out_error < best[0]:
            best, failures = (held_out_error, 10.0**power, outputs), 0
        else:
            failures += 1
        if failures == 2:
            break
    assert best is not None
    whole = _Solver(given)
    weight = whole.solved(best[1], np.zeros_like(weight), _EXACT)
    return Descent(weight, whole.level, whole.centre, best[1], held, best[2])


class _Solver:
    """Solves the normal equations of a table."""

    def __init__(self, given: FitTable) -> None:
        self.centre, self.level = given.mean(given.features), given.mean(given.targets)
        roots = np.sqrt(given.weights)[:, None]
        self._rows = (given.features - self.centre) * roots
        self._right = self._rows.T @ (roots * (given.targets - self.level))
        self._unit = float((self._rows**2).sum() / self._rows.shape[1]) or 1.0

    def solved(self, strength: float, begin: np.ndarray, exact: float) -> np.ndarray:
        """Solve for the weights from a starting point; each output has its own step sizes."""
        penalty = strength * self._unit
        weight = begin.copy()
        residual = self._right - self._times(weight, penalty)
        direction, squares = residual.copy(), (residual**2).sum(0)
        tolerance = exact**2 * np.maximum((self._right**2).sum(0), np.finfo(float).tiny)
        for _ in range(_PASSES):
            active = squares > tolerance
            if not active.any():
                break
            product = self._times(direction, penalty)
            step = np.where(active, squares / np.maximum((direction * product).sum(0), np.finfo(float).tiny), 0.0)
            weight += step * direction
            residual -= step * product
            after = (residual**2).sum(0)
            direction = residual + np.where(active, after / np.maximum(squares, np.finfo(float).tiny), 0.0) * direction
            squares = np.where(active, after, squares)
        return np.asarray(weight)

    def _times(self, weight: np.ndarray, penalty: float) -> np.ndarray:
        product: np.ndarray = self._rows.T @ (self._rows @ weight) + penalty * weight
        return product
