"""Symbolic shapes: a dimension is an int or a string, ``"N"`` for the batch and ``"49*N"`` for a multiple of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from ..errors import ModelError
from .shapes import BATCH

TO_THE_END = 2**31 - 1  # a Slice whose end is at least this ends where its axis ends, however long it is
Dim = int | str
Dims = tuple[Dim, ...]


def dims(value: ir.Value) -> Dims:
    """The shape of a value.

    Raises:
        ModelError: it is unknown.
    """
    shape = dims_or_none(value)
    if shape is None:
        raise ModelError(
            f"the shape of {value.name!r} is unknown. Export the model with static shapes (but the batch)."
        )
    return shape


def dims_or_none(value: ir.Value) -> Dims | None:
    """The shape of a value, or None where a dimension is unknown."""
    if value.shape is None:
        return None
    extents = [d if isinstance(d, int) else d.value for d in value.shape]
    known = tuple(d for d in extents if d is not None)
    return known if len(known) == len(extents) else None


def multiple(dim: str) -> int:
    """The factor of the batch in a symbolic dimension."""
    return int(dim.split("*")[0]) if "*" in dim else 1


def times(dim: Dim, factor: int) -> Dim:
    """A dimension multiplied by a number."""
    if isinstance(dim, int):
        return dim * factor
    count = multiple(dim) * factor
    return BATCH if count == 1 else f"{count}*{BATCH}"


def product(extents: Iterable[Dim]) -> Dim:
    """The product of dimensions, at most one of which may be symbolic.

    Raises:
        ModelError: more than one is symbolic.
    """
    extents = list(extents)
    symbolic = [d for d in extents if isinstance(d, str)]
    number = math.prod(d for d in extents if isinstance(d, int))
    if len(symbolic) > 1:
        raise ModelError(f"a value has the batch in two dimensions ({extents}); export the model with one.")
    return times(symbolic[0], number) if symbolic else number


def count(shape: Dims, batch: int) -> int:
    """Number of elements of a shape at a batch size."""
    return math.prod(d if isinstance(d, int) else multiple(d) * batch for d in shape)


def batch_axis(small: Sequence[int], large: Sequence[int], sizes: tuple[int, int]) -> int | None:
    """Find the batch axis of a value from its shapes at two batch sizes.

    It is the one axis that is as long as the batch both times: the first, as in (N, C), or another, such as the second
    of time-major logits (T, N, C). The axis must grow; equal length alone proves nothing, since T may be one of the
    two sizes.

    None for a value that does not grow with the batch, one with a multiple of it (batch and steps merged into one
    axis), one that grows in several axes, and one whose number of axes differs.

    Args:
        small: the shape at the first batch size.
        large: the shape at the second.
        sizes: the two batch sizes, which differ.
    """
    if len(small) != len(large):
        return None
    grown = [axis for axis, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
    return grown[0] if len(grown) == 1 and (small[grown[0]], large[grown[0]]) == sizes else None
