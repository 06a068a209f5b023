"""A linear head fitted to the rows of many clients from sums alone, with the same solution as from all rows.

Ridge regression needs only the number of rows, their sums and their products, X'X and X'Y, which add up over clients.
The strength is also chosen without the rows: the squared error on a client, for a fit without it, follows from its
sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .messages import RidgeSums

STRENGTHS = tuple(10.0**power for power in range(2, -6, -1))
_ALONE = 1e-2  # the strength for a single client, for which cross-validation is impossible


def sums_of(features: np.ndarray, targets: np.ndarray) -> RidgeSums:
    """Return the sums over a client's rows.

    Args:
        features: (R, D), inputs of the head.
        targets: (R, K), target outputs.
    """
    rows, expected = features.astype(np.float64), targets.astype(np.float64)
    squares = rows.T @ rows
    return RidgeSums(
        len(rows),
        rows.sum(0),
        expected.sum(0),
        squares[np.tril_indices(len(squares))],
        rows.T @ expected,
        float((expected**2).sum()),
    )


def sums_bytes(features: int, outputs: int) -> int:
    """Return the size of the sums in bytes for a head with these numbers of inputs and outputs."""
    return 8 * (features * (features + 1) // 2 + features * outputs + features + outputs)


@dataclass(frozen=True)
class RidgeHead:
    """A head: outputs are ``features @ weight + bias``.

    Attributes:
        weight: (D, K), float64.
        bias: (K,), float64.
        strength: strength of the penalty, as in `fitting.ridge`.
        rows: number of rows that it was fitted to.
        error: mean squared error of an output on left-out clients; None if there is only one client.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    rows: int
    error: float | None


def added(parts: Sequence[RidgeSums]) -> RidgeSums:
    """Add the sums of several clients."""
    arrays = {name: np.sum([getattr(part, name) for part in parts], axis=0) for name in _ARRAYS}
    return RidgeSums(
        sum(part.rows for part in parts), output_squares=sum(part.output_squares for part in parts), **arrays
    )


_ARRAYS = ("inputs", "outputs", "squares", "products")


def check_sums(sums: RidgeSums, features: int, outputs: int) -> str | None:
    """Return the reason to reject the sums of a client, or None.

    Args:
        sums: the sums of a client.
        features: D.
        outputs: K.
    """
    shapes = ((features,), (outputs,), (features * (features + 1) // 2,), (features, outputs))
    for name, shape in zip(_ARRAYS, shapes, strict=True):
        array = getattr(sums, name)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float64:
            return f"sums {name!r} must be float64 {list(shape)}"
        if not np.isfinite(array).all():
            return f"sums {name!r} have values that are not finite"
    if isinstance(sums.rows, bool) or not isinstance(sums.rows, int) or not 1 <= sums.rows <= 10**9:
        return f"sums of {sums.rows!r} rows"
    if not np.isfinite(sums.output_squares):
        return "sums whose squares are not finite"
    return None


def solve(sums: RidgeSums, strength: float, *, intercept: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (D, K) and bias (K,) for a strength.

    Args:
        sums: sums over all rows.
        strength: the penalty on squared weights, in multiples of the number of rows times the mean feature variance.
        intercept: whether the head has a bias.
    """
    squares, products, centre, level = _centred(sums, intercept)
    unit = float(np.trace(squares)) / max(len(squares), 1) or 1.0
    weight = np.linalg.solve(squares + strength * unit * np.eye(len(squares)), products)
    return weight, level - centre @ weight


def fit(parts: Sequence[RidgeSums], *, intercept: bool = True) -> RidgeHead:
    """Fit the head with the strength that is best on left-out clients.

    Args:
        parts: the sums of each client.
        intercept: whether the head has a bias.

    Raises:
        DataError: there are no rows.
    """
    if not parts:
        raise DataError("no client sent sums that a head could be fitted to.")
    whole, strength, error = added(parts), _ALONE, None
    if len(parts) > 1:
        errors = {}
        for tried in STRENGTHS:
            each = (_squared_error(part, *solve(_without(whole, part), tried, intercept=intercept)) for part in parts)
            errors[tried] = sum(each) / (whole.rows * len(whole.outputs))
        strength = min(errors, key=lambda tried: (errors[tried], -tried))
        error = errors[strength]
    weight, bias = solve(whole, strength, intercept=intercept)
    return RidgeHead(weight, bias, strength, whole.rows, error)


def _square(triangle: np.ndarray, size: int) -> np.ndarray:
    full = np.zeros((size, size))
    full[np.tril_indices(size)] = triangle
    return np.asarray(full + np.tril(full, -1).T)


def _centred(sums: RidgeSums, intercept: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    squares = _square(sums.squares, len(sums.inputs))
    if not intercept:
        return squares, sums.products, np.zeros_like(sums.inputs), np.zeros_like(sums.outputs)
    centre, level = sums.inputs / sums.rows, sums.outputs / sums.rows
    return squares - np.outer(sums.inputs, centre), sums.products - np.outer(centre, sums.outputs), centre, level


def _without(whole: RidgeSums, part: RidgeSums) -> RidgeSums:
    arrays = {name: getattr(whole, name) - getattr(part, name) for name in _ARRAYS}
    return RidgeSums(whole.rows - part.rows, output_squares=whole.output_squares - part.output_squares, **arrays)


def _squared_error(sums: RidgeSums, weight: np.ndarray, bias: np.ndarray) -> float:
    """Return the sum over a client's rows of (y - x W - b)^2."""
    squares = _square(sums.squares, len(sums.inputs))
    own = float((weight * (squares @ weight)).sum()) + 2 * float(sums.inputs @ weight @ bias)
    own += sums.rows * float(bias @ bias)
    crossed = float((weight * sums.products).sum()) + float(bias @ sums.outputs)
    return sums.output_squares - 2 * crossed + own
