"""A batch that is merged with another axis, as in the rows of a Gemm: which part of that axis is the batch."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

import onnx_ir as ir

_SAME_ELEMENTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class Known(Protocol):
    """Shapes of values, at the batch size they were found with."""

    def shape(self, value: str) -> tuple[int, ...]:
        """The shape of a value."""
        ...

    def size(self, value: str) -> int:
        """The batch size it was found with."""
        ...

    def batch_axis(self, value: str) -> int | None:
        """The axis that is the batch or a multiple of it."""
        ...


def before_batch(value: ir.Value, known: Known) -> int | None:
    """How many extents of a merged axis lie before the batch: 1 for (N*T, C), T for (T*N, C).

    Accepts a value whose merged axis comes, through nodes that keep it, from Reshapes of a value that has the batch in
    an axis of its own: a Reshape leaves elements in their order, so where the batch lay tells where it lies.

    Rejects, with None, a value that does not come from such a one, and one whose axis is cut in another way on the way.

    Args:
        value: its batch axis is a multiple of the batch.
        known: shapes.
    """
    steps, within = (
        _steps(value, known),
        Fraction(1),
    )  # elements of the merged axis that go by before the sample changes
    current = value
    while steps is not None and _steps(current, known) != 1:
        node = current.producer()
        if node is None:
            return None
        given = [operand for operand in node.inputs if operand is not None and _steps(operand, known) is not None]
        if node.op_type in _SAME_ELEMENTS:
            if not given or given[0] is not node.inputs[0]:
                return None
            within *= Fraction(_after(given[0], known), _after(current, known))
            current = given[0]
            continue
        kept = [operand for operand in given if _steps(operand, known) == _steps(current, known)]
        if not kept:
            return None
        current = kept[0]
    if steps is None or within.denominator != 1 or steps % int(within):
        return None
    return steps // int(within)


def _steps(value: ir.Value, known: Known) -> int | None:
    """How many times the batch its batch axis is; None where there is none."""
    name = value.name or ""
    if value.is_initializer():
        return None
    axis = known.batch_axis(name)
    return None if axis is None else known.shape(name)[axis] // known.size(name)


def _after(value: ir.Value, known: Known) -> int:
    """Elements from one index of the batch axis to the next."""
    name = value.name or ""
    axis = known.batch_axis(name)
    assert axis is not None
    return math.prod(known.shape(name)[axis + 1 :])
