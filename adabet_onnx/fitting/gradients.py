"""Ridge regression by conjugate gradients, where rows and features are both too many for a closed form.

The strength is chosen on a tenth of the groups that is left out, and the rest is fitted with each of them in turn, from
the strongest on, each from the solution before it; then all rows with the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import seeds
from .table import FitTable

_PASSES, _EXACT, _ROUGH = 500, 1e-8, 1e-4  # and the residual that is left, of the right-hand side
_POWERS = (2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0)


@dataclass(frozen=True)
class Descent:
    """What was found.

    Attributes:
        weight, level, centre: outputs are level + (features - centre) @ weight.
        strength: as of `ridge`.
        rows: that were left out to choose it.
        outputs: for these.
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
        given: the rows, of two groups at least.
        error: of outputs for rows, their targets and weights.
        seed: of the tenth.
    """
    count = int(given.groups.max()) + 1
    out = np.zeros(count, bool)
    out[seeds.folds(seed).permutation(count)[: max(1, count // 10)]] = True
    held = np.flatnonzero(out[given.groups])
    part = given.at(np.flatnonzero(~out[given.groups]))
    solver, rest = _Solver(part), given.at(held)
    best: tuple[float, float, np.ndarray] | None = None
    weight, vain = np.zeros((given.features.shape[1], given.targets.shape[1])), 0
    for power in _POWERS:
        weight = solver.solved(10.0**power, weight, _ROUGH)
        outputs = (rest.features - solver.centre) @ weight + solver.level
        found = error(outputs, rest.targets, rest.weights)
        if best is None or found < best[0]:
            best, vain = (found, 10.0**power, outputs), 0
        else:
            vain += 1
        if vain == 2:
            break
    assert best is not None
    whole = _Solver(given)
    weight = whole.solved(best[1], np.zeros_like(weight), _EXACT)
    return Descent(weight, whole.level, whole.centre, best[1], held, best[2])


class _Solver:
    """The normal equations of a table."""

    def __init__(self, given: FitTable) -> None:
        self.centre, self.level = given.mean(given.features), given.mean(given.targets)
        roots = np.sqrt(given.weights)[:, None]
        self._rows = (given.features - self.centre) * roots
        self._right = self._rows.T @ (roots * (given.targets - self.level))
        self._unit = float((self._rows**2).sum() / self._rows.shape[1]) or 1.0

    def solved(self, strength: float, begin: np.ndarray, exact: float) -> np.ndarray:
        """Weights, from where to begin; every output has steps of its own."""
        penalty = strength * self._unit
        found = begin.copy()
        residual = self._right - self._times(found, penalty)
        direction, squares = residual.copy(), (residual**2).sum(0)
        enough = exact**2 * np.maximum((self._right**2).sum(0), np.finfo(float).tiny)
        for _ in range(_PASSES):
            going = squares > enough
            if not going.any():
                break
            product = self._times(direction, penalty)
            step = np.where(going, squares / np.maximum((direction * product).sum(0), np.finfo(float).tiny), 0.0)
            found += step * direction
            residual -= step * product
            after = (residual**2).sum(0)
            direction = residual + np.where(going, after / np.maximum(squares, np.finfo(float).tiny), 0.0) * direction
            squares = np.where(going, after, squares)
        return np.asarray(found)

    def _times(self, weight: np.ndarray, penalty: float) -> np.ndarray:
        product: np.ndarray = self._rows.T @ (self._rows @ weight) + penalty * weight
        return product
