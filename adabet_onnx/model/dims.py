"""Symbolic shapes: a dimension is an int or a string, ``"N"`` the batch and ``"49*N"`` a multiple of it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx_ir as ir

from ..errors import ModelError
from .shapes import BATCH

Dim = int | str
Dims = tuple[Dim, ...]


def dims(value: ir.Value) -> Dims:
    """The shape of a value.

    Raises:
        ModelError: it is unknown.
    """
    found = dims_or_none(value)
    if found is None:
        raise ModelError(
            f"the shape of {value.name!r} is unknown. Export the model with static shapes (but the batch)."
        )
    return found


def dims_or_none(value: ir.Value) -> Dims | None:
    """The shape of a value, or None where a dimension is unknown."""
    if value.shape is None:
        return None
    found = [d if isinstance(d, int) else d.value for d in value.shape]
    known = tuple(d for d in found if d is not None)
    return known if len(known) == len(found) else None


def multiple(dim: str) -> int:
    """How many times the batch a symbolic dimension is."""
    return int(dim.split("*")[0]) if "*" in dim else 1


def times(dim: Dim, factor: int) -> Dim:
    """A dimension multiplied by a number."""
    if isinstance(dim, int):
        return dim * factor
    count = multiple(dim) * factor
    return BATCH if count == 1 else f"{count}*{BATCH}"


def product(extents: Iterable[Dim]) -> Dim:
    """The product of dimensions, of which one at most is symbolic.

    Raises:
        ModelError: two are.
    """
    extents = list(extents)
    symbolic = [d for d in extents if isinstance(d, str)]
    number = math.prod(d for d in extents if isinstance(d, int))
    if len(symbolic) > 1:
        raise ModelError(f"a value has the batch in two dimensions ({extents}); export the model with one.")
    return times(symbolic[0], number) if symbolic else number


def count(shape: Dims, batch: int) -> int:
    """Number of elements at a batch size."""
    return math.prod(d if isinstance(d, int) else multiple(d) * batch for d in shape)
