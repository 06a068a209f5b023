"""Ridge regression in closed form, with leave-one-group-out predictions.

The objective is the weighted sum of squares, plus ``strength`` times rows times the mean variance of a feature times
the squared weights; the intercept is not penalised. So a strength means the same for any number of rows and any scale
of the features. With the rows A (centred by the weighted mean, each times the root of its weight) and the eigenvectors
V of A'A, computed from A'A or AA', whichever is smaller, each strength costs two products.

Leaving out group g is exact as well: with the hat matrix H (of A, and of the intercept), the residuals of a fit
without g are (I - H_gg)^-1 times those of the fit with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .table import FitTable

_NOTHING = 1e-13  # of the largest eigenvalue: anything smaller is rounding
_LEAST = 1e-12  # lower bound for 1 minus a row's share in its own prediction, which is 0 if no other row determines it


@dataclass(frozen=True)
class Ridge:
    """Rows in a basis in which any strength is solved quickly.

    Attributes:
        table: the rows to fit.
        centre: mean of the features.
        level: weighted mean of the targets.
        rotated: (R, r), the centred, unweighted rows in the basis.
        basis: (D, r).
        squares: (r,), the eigenvalues.
        unit: rows times the mean variance of a feature: what a strength of 1 adds to the eigenvalues.
        right: (r, K), the products with the targets.
    """

    table: FitTable
    centre: np.ndarray
    level: np.ndarray
    rotated: np.ndarray
    basis: np.ndarray
    squares: np.ndarray
    unit: float
    right: np.ndarray

    def coefficients(self, strength: float) -> np.ndarray:
        """Return coefficients (r, K) in the basis."""
        return np.asarray(self.right / (self.squares + strength * self.unit)[:, None])

    def weights(self, coefficients: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (D, K) and bias (K,) for coefficients and the outputs of the mean row."""
        weight = self.basis @ coefficients
        return weight, level - self.centre @ weight

    def solved(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (D, K) and bias (K,) for a strength."""
        return self.weights(self.coefficients(strength), self.level)

    def predicted(self, strength: float) -> np.ndarray:
        """Return the outputs (R, K) for the rows themselves."""
        return np.asarray(self.rotated @ self.coefficients(strength) + self.level)

    def left_out(self, strength: float) -> np.ndarray:
        """Return outputs (R, K), for each group from a fit without it; there must be at least two groups."""
        given = self.table
        roots = np.sqrt(given.weights)[:, None]
        residuals = roots * (given.targets - self.predicted(strength))
        factor = 1 / np.sqrt(self.squares + strength * self.unit)
        share = 1 / len(roots) if given.intercept else 0.0
        rows = given.members
        single = np.array([int(members[0]) for members in rows if len(members) == 1], np.int64)
        hat = given.weights[single] * (((self.rotated[single] * factor) ** 2).sum(1) + share)
        residuals[single] /= np.maximum(1 - hat, _LEAST)[:, None]
        for members in (members for members in rows if len(members) > 1):
            half = np.concatenate([self.rotated[members] * factor, np.full((len(members), 1), np.sqrt(share))], axis=1)
            residuals[members] = _without(roots[members] * half, residuals[members])
        return np.asarray(given.targets - residuals / roots)


def _without(half: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return (I - H)^-1 times residuals for the rows of a group, where H is ``half`` times its transpose."""
    if len(half) <= half.shape[1]:
        return np.asarray(np.linalg.solve(np.eye(len(half)) * (1 + _LEAST) - half @ half.T, residuals))
    inner = np.eye(half.shape[1]) * (1 + _LEAST) - half.T @ half
    return np.asarray(residuals + half @ np.linalg.solve(inner, half.T @ residuals))


def ridge(given: FitTable) -> Ridge:
    """Compute the basis in float64, from products of features or of rows, whichever are fewer."""
    centre, level = given.mean(given.features), given.mean(given.targets)
    rows = given.features.astype(np.float64) - centre
    roots = np.sqrt(given.weights)[:, None]
    rows *= roots
    unit = float((rows**2).sum() / max(rows.shape[1], 1)) or 1.0
    if rows.shape[1] <= rows.shape[0]:
        squares, basis = np.linalg.eigh(rows.T @ rows)
        kept = squares > _NOTHING * max(float(squares.max(initial=0.0)), 0.0)
        squares, basis = squares[kept], basis[:, kept]
        turned = rows @ basis
    else:
        squares, turned = np.linalg.eigh(rows @ rows.T)
        kept = squares > _NOTHING * max(float(squares.max(initial=0.0)), 0.0)
        squares, turned = squares[kept], turned[:, kept] * np.sqrt(squares[kept])
        basis = (rows.T @ turned) / squares
    right = turned.T @ (roots * (given.targets - level))
    turned /= roots
    return Ridge(given, centre, level, turned, basis, squares, unit, right)
