"""A linear head fitted to the rows of many clients, from sums alone: the solution that all rows together have.

Ridge regression needs of its rows only how many there are, their sums and their products: X'X, X'Y. Those of clients
add up. The strength is chosen without the rows as well: fitted without a client, the squared error for it follows from
its own sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .messages import Sums

STRENGTHS = tuple(10.0**power for power in range(2, -6, -1))
_ALONE = 1e-2  # the strength where there is but one client, which nothing tells the best for


def sums_of(features: np.ndarray, targets: np.ndarray) -> Sums:
    """The sums of a client's rows.

    Args:
        features: (R, D), what the head is given.
        targets: (R, K), what it should give.
    """
    rows, wanted = features.astype(np.float64), targets.astype(np.float64)
    squares = rows.T @ rows
    return Sums(
        len(rows),
        rows.sum(0),
        wanted.sum(0),
        squares[np.tril_indices(len(squares))],
        rows.T @ wanted,
        float((wanted**2).sum()),
    )


def sums_bytes(features: int, outputs: int) -> int:
    """What the sums take for a head of so many inputs and outputs."""
    return 8 * (features * (features + 1) // 2 + features * outputs + features + outputs)


@dataclass(frozen=True)
class RidgeHead:
    """A head: outputs are ``features @ weight + bias``.

    Attributes:
        weight: (D, K), float64.
        bias: (K,), float64.
        strength: of the penalty, as in `fitting.ridge`.
        rows: that it was fitted to.
        error: mean squared error of an output for clients left out; None where there is but one.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    rows: int
    error: float | None


def added(parts: Sequence[Sums]) -> Sums:
    """The sums of the rows of several clients."""
    arrays = {name: np.sum([getattr(part, name) for part in parts], axis=0) for name in _ARRAYS}
    return Sums(sum(part.rows for part in parts), output_squares=sum(part.output_squares for part in parts), **arrays)


_ARRAYS = ("inputs", "outputs", "squares", "products")


def check_sums(sums: Sums, features: int, outputs: int) -> str | None:
    """What is wrong with sums that a client sent; None where nothing is.

    Args:
        sums: from a client.
        features: D.
        outputs: K.
    """
    shapes = ((features,), (outputs,), (features * (features + 1) // 2,), (features, outputs))
    for name, shape in zip(_ARRAYS, shapes, strict=True):
        array = getattr(sums, name)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float64:
            return f"sums {name!r} must be float64 {list(shape)}"
        if not np.isfinite(array).all():
            return f"sums {name!r} have numbers that are not finite"
    if isinstance(sums.rows, bool) or not isinstance(sums.rows, int) or not 1 <= sums.rows <= 10**9:
        return f"sums of {sums.rows!r} rows"
    if not np.isfinite(sums.output_squares):
        return "sums whose squares are not finite"
    return None


def solve(sums: Sums, strength: float, *, intercept: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Weight (D, K) and bias (K,) of a strength.

    Args:
        sums: of all rows.
        strength: times rows times the mean variance of a feature, the penalty on squared weights.
        intercept: whether the head has a bias.
    """
    squares, products, centre, level = _centred(sums, intercept)
    unit = float(np.trace(squares)) / max(len(squares), 1) or 1.0
    weight = np.linalg.solve(squares + strength * unit * np.eye(len(squares)), products)
    return weight, level - centre @ weight


def fit(parts: Sequence[Sums], *, intercept: bool = True) -> RidgeHead:
    """The head of the strength that is best for clients left out.

    Args:
        parts: of the clients.
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


def _centred(sums: Sums, intercept: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    squares = _square(sums.squares, len(sums.inputs))
    if not intercept:
        return squares, sums.products, np.zeros_like(sums.inputs), np.zeros_like(sums.outputs)
    centre, level = sums.inputs / sums.rows, sums.outputs / sums.rows
    return squares - np.outer(sums.inputs, centre), sums.products - np.outer(centre, sums.outputs), centre, level


def _without(whole: Sums, part: Sums) -> Sums:
    arrays = {name: getattr(whole, name) - getattr(part, name) for name in _ARRAYS}
    return Sums(whole.rows - part.rows, output_squares=whole.output_squares - part.output_squares, **arrays)


def _squared_error(sums: Sums, weight: np.ndarray, bias: np.ndarray) -> float:
    """Sum over a client's rows of (y - x W - b)^2."""
    squares = _square(sums.squares, len(sums.inputs))
    own = float((weight * (squares @ weight)).sum()) + 2 * float(sums.inputs @ weight @ bias)
    own += sums.rows * float(bias @ bias)
    crossed = float((weight * sums.products).sum()) + float(bias @ sums.outputs)
    return sums.output_squares - 2 * crossed + own
