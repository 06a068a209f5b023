"""A batch that is merged with another axis, as in the rows of a Gemm: which part of that axis is the batch."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

import onnx_ir as ir

_SAME_ELEMENTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class KnownShapes(Protocol):
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


class MergedBatchAxes:
    """Where the batch lies in axes that it is merged into, remembered for the values of a graph.

    Args:
        known: shapes; what they say of a value that was asked about must not change.
    """

    def __init__(self, known: KnownShapes) -> None:
        self.known = known
        self._rows: dict[ir.Value, Fraction | None] = {}

    def before_batch(self, value: ir.Value) -> int | None:
        """How many extents of a merged axis lie before the batch: 1 for (N*T, C), T for (T*N, C).

        Accepts a value whose merged axis comes, through nodes that keep it, from Reshapes of a value that has the batch
        in an axis of its own: a Reshape leaves elements in their order, so where the batch lay tells where it lies.

        Rejects, with None, a value that does not come from such a one, and one whose axis is cut in another way on the
        way.

        Args:
            value: its batch axis is a multiple of the batch.
        """
        steps, rows = _steps(value, self.known), self._found(value)
        if steps is None or rows is None or rows.denominator != 1 or steps % int(rows):
            return None
        return steps // int(rows)

    def _found(self, value: ir.Value) -> Fraction | None:
        """Rows of the merged axis that go by before the sample changes."""
        passed = []
        current: ir.Value | None = value
        while current is not None and current not in self._rows:
            if _steps(current, self.known) == 1:
                self._rows[current] = Fraction(1)
                break
            passed.append(current)
            current = self._from(current)
        rows = None if current is None else self._rows[current]
        for later in reversed(passed):
            node = later.producer()
            if rows is not None and current is not None and node is not None and node.op_type in _SAME_ELEMENTS:
                rows *= Fraction(_after(current, self.known), _after(later, self.known))
            self._rows[later] = rows
            current = later
        return rows

    def _from(self, value: ir.Value) -> ir.Value | None:
        """The operand that a value has its merged axis from."""
        node, steps = value.producer(), _steps(value, self.known)
        if node is None or steps is None:
            return None
        given = [operand for operand in node.inputs if operand is not None and _steps(operand, self.known) is not None]
        if node.op_type in _SAME_ELEMENTS:
            return given[0] if given and given[0] is node.inputs[0] else None
        return next((operand for operand in given if _steps(operand, self.known) == steps), None)


def _steps(value: ir.Value, known: KnownShapes) -> int | None:
    """How many times the batch its batch axis is; None where there is none."""
    name = value.name or ""
    if value.is_initializer():
        return None
    axis = known.batch_axis(name)
    return None if axis is None else known.shape(name)[axis] // known.size(name)


def _after(value: ir.Value, known: KnownShapes) -> int:
    """Elements from one index of the batch axis to the next."""
    name = value.name or ""
    axis = known.batch_axis(name)
    assert axis is not None
    return math.prod(known.shape(name)[axis + 1 :])
