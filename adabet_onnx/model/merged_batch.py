"""Find which part of an axis is the batch if the two are merged, as in the rows of a Gemm."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

import onnx_ir as ir

_SAME_ELEMENTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class KnownShapes(Protocol):
    """Shapes of values, and the batch size at which each was determined."""

    def shape(self, value: str) -> tuple[int, ...]:
        """The shape of a value."""
        ...

    def size(self, value: str) -> int:
        """The batch size at which the shape was determined."""
        ...

    def batch_axis(self, value: str) -> int | None:
        """The axis that is the batch or a multiple of it."""
        ...


class MergedBatchAxes:
    """The position of the batch in axes that it is merged into, cached for the values of a graph.

    Args:
        known: shapes; those of a queried value must not change afterwards.
    """

    def __init__(self, known: KnownShapes) -> None:
        self.known = known
        self._rows: dict[ir.Value, Fraction | None] = {}

    def before_batch(self, value: ir.Value) -> int | None:
        """The factor of a merged axis that lies before the batch: 1 for (N*T, C), T for (T*N, C).

        The merged axis must result, through nodes that keep it, from Reshapes of a value with a separate batch axis: a
        Reshape keeps the order of elements, so the old position of the batch determines the new one.

        None for a value without such an origin, and for one whose axis is split differently in between.

        Args:
            value: a value whose batch axis is a multiple of the batch.
        """
        steps, rows = _steps(value, self.known), self._rows_per_sample(value)
        if steps is None or rows is None or rows.denominator != 1 or steps % int(rows):
            return None
        return steps // int(rows)

    def _rows_per_sample(self, value: ir.Value) -> Fraction | None:
        """Number of consecutive rows of the merged axis that belong to one sample."""
        passed = []
        current: ir.Value | None = value
        while current is not None and current not in self._rows:
            if _steps(current, self.known) == 1:
                self._rows[current] = Fraction(1)
                break
            passed.append(current)
            current = self._axis_source(current)
        rows = None if current is None else self._rows[current]
        for later in reversed(passed):
            node = later.producer()
            if rows is not None and current is not None and node is not None and node.op_type in _SAME_ELEMENTS:
                rows *= Fraction(_after(current, self.known), _after(later, self.known))
            self._rows[later] = rows
            current = later
        return rows

    def _axis_source(self, value: ir.Value) -> ir.Value | None:
        """The operand from which a value inherits its merged axis."""
        node, steps = value.producer(), _steps(value, self.known)
        if node is None or steps is None:
            return None
        candidates = [
            operand for operand in node.inputs if operand is not None and _steps(operand, self.known) is not None
        ]
        if node.op_type in _SAME_ELEMENTS:
            return candidates[0] if candidates and candidates[0] is node.inputs[0] else None
        return next((operand for operand in candidates if _steps(operand, self.known) == steps), None)


def _steps(value: ir.Value, known: KnownShapes) -> int | None:
    """The factor of the batch in a value's batch axis; None without a batch axis."""
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
