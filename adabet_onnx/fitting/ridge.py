"""Ridge regression in closed form, with the predictions for each group that a fit without it would give.

Minimised is the weighted sum of squares, and ``strength`` times rows times the mean variance of a feature times the
squared weights; the intercept is not penalised. So a strength means the same whatever the number of rows and the
scale of the features. With the rows A (each by the root of its weight, the weighted mean taken off) and the
eigenvectors V of A'A, found from A'A or AA', whichever is smaller, every strength costs two products.

Leaving out group g is exact as well: with the hat matrix H (of A, and of the intercept), the residuals of a fit
without g are (I - H_gg)^-1 times those of the fit with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .table import FitTable

_NOTHING = 1e-13  # of the largest eigenvalue: what is as small is rounding
_LEAST = 1e-12  # of 1 minus a row's share in its own prediction: it is 0 where nothing else says anything of it


@dataclass(frozen=True)
class Ridge:
    """Rows in the basis in which every strength is quickly solved.

    Attributes:
        table: what is fitted.
        centre: of the features.
        level: of the targets: their weighted mean.
        rotated: (R, r), the rows that are centred, unweighted, in the basis.
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
        """(r, K), in the basis."""
        return np.asarray(self.right / (self.squares + strength * self.unit)[:, None])

    def weights(self, coefficients: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight (D, K) and bias (K,) of a head with these coefficients and these outputs for the mean row."""
        weight = self.basis @ coefficients
        return weight, level - self.centre @ weight

    def solved(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Weight (D, K) and bias (K,)."""
        return self.weights(self.coefficients(strength), self.level)

    def predicted(self, strength: float) -> np.ndarray:
        """(R, K), for the rows themselves."""
        return np.asarray(self.rotated @ self.coefficients(strength) + self.level)

    def left_out(self, strength: float) -> np.ndarray:
        """(R, K), for the rows of each group by a fit without them; there are two groups at least."""
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
    """(I - H)^-1 times residuals, for the rows of a group: H is ``half`` times its transpose."""
    if len(half) <= half.shape[1]:
        return np.asarray(np.linalg.solve(np.eye(len(half)) * (1 + _LEAST) - half @ half.T, residuals))
    inner = np.eye(half.shape[1]) * (1 + _LEAST) - half.T @ half
    return np.asarray(residuals + half @ np.linalg.solve(inner, half.T @ residuals))


def ridge(given: FitTable) -> Ridge:
    """Make the basis: in float64, from the features' products or from the rows', whichever are fewer."""
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
