"""Find integers that a graph computes from the position of each sample in the batch, as exporters write indices.

Such a value is ``slope * position + offset``, where the position counts the samples from 0 along one axis, and slope
and offset are constants. It begins with a Range up to the batch size; rules follow it through operators that keep this
form, and give up at any other. So the form holds for every batch size; only shapes are compared at some sizes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ..dims import TO_THE_END, batch_axis
from ..shapes import infer_shapes, infer_types, measured_shapes
from ..uses import ancestors, input_of, reads
from .constants import BATCHES, shape_arithmetic

_LARGE = 7919  # a third batch size, for shapes that end somewhere, as that of the first 20 samples
_INTEGERS = {int(ir.DataType.INT32): np.int32, int(ir.DataType.INT64): np.int64}
_MOST_ELEMENTS = 1 << 20
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Positions:
    """A value that is ``slope * position + offset``.

    Attributes:
        slope: its factor; the shape is that of the value, with 1 along the batch.
        offset: an array of the same shape.
        axis: the axis that is the batch; None for a constant.
        size: the number of samples: the value up to which the positions are counted; None for a constant.
    """

    slope: np.ndarray
    offset: np.ndarray
    axis: int | None = None
    size: ir.Value | None = None

    @classmethod
    def constant(cls, array: np.ndarray) -> Positions:
        """A value without samples."""
        return cls(np.zeros_like(array), array)

    def like(self, change: Callable[[np.ndarray], np.ndarray], axis: int | None) -> Positions:
        """The same change of both arrays."""
        return Positions(change(self.slope), change(self.offset), axis, self.size)


class BatchPositions:
    """Positions in a graph.

    Args:
        model: a graph with a symbolic batch and sorted nodes.
        trainable: names of initializers that are not constants.
    """

    def __init__(self, model: ir.Model, trainable: Collection[str]) -> None:
        self._trainable = frozenset(trainable)
        self._found: dict[ir.Value, Positions] = {}
        if not any(node.op_type == "Range" for node in model.graph):
            return
        self._arithmetic, self._types = shape_arithmetic(model, trainable), infer_types(model)
        self._shapes = [infer_shapes(model, batch) for batch in BATCHES]
        self._large = infer_shapes(model, _LARGE)
        self._measure(model)
        for node in model.graph:
            rule = _RULES.get(node.op_type)
            if rule is None or node.domain not in ("", "ai.onnx"):
                continue
            step = self._step(node)
            positions = None if step is None else rule(step)
            if positions is not None:
                self._found[node.outputs[0]] = positions

    def __bool__(self) -> bool:
        return any(positions.axis is not None for positions in self._found.values())

    def of(self, value: ir.Value | None) -> Positions | None:
        """What a value is, if that is known."""
        if value is None or value in self._found:
            return None if value is None else self._found[value]
        tensor = value.const_value if value.is_initializer() and value.name not in self._trainable else None
        if tensor is None or tensor.size > _MOST_ELEMENTS or tensor.dtype == ir.DataType.STRING:
            return None
        return Positions.constant(tensor.numpy())

    def rows(self, value: ir.Value) -> tuple[int, Shape] | None:
        """Rows for each sample, and shape of a row, of a value whose first axis is the batch or a multiple of it."""
        small, large = (shapes.get(value.name or "") for shapes in self._shapes)
        if not small or not large or small[1:] != large[1:] or small[0] % BATCHES[0]:
            return None
        each = small[0] // BATCHES[0]
        if (
            each < 1
            or large[0] != each * BATCHES[1]
            or self._large.get(value.name or "") != (each * _LARGE, *small[1:])
        ):
            return None
        return each, small[1:]

    def is_batch_size(self, value: ir.Value | None) -> bool:
        """Whether a value is one dimension, copied from a shape, that is the number of samples."""
        sizes = None if value is None else self._arithmetic.get(value)
        if value is None or sizes is None or [n.reshape(-1).tolist() for n in sizes] != [[n] for n in BATCHES]:
            return False
        return all(self._is_measured(node) for node in ancestors([value]) if node.op_type in ("Shape", "Size"))

    def _is_measured(self, node: ir.Node) -> bool:
        """Whether the axis that is as long as the batch is so at a large batch, too."""
        name = "" if node.inputs[0] is None else node.inputs[0].name or ""
        small, large, larger = self._shapes[0].get(name), self._shapes[1].get(name), self._large.get(name)
        if small is None or large is None or larger is None:
            return False
        axis = batch_axis(small, large, BATCHES)
        return axis is not None and larger == tuple(_LARGE if i == axis else n for i, n in enumerate(small))

    def _step(self, node: ir.Node) -> _Step | None:
        """A node as rules see it; None if its output is not of integers, or grows in another way than by samples."""
        name = node.outputs[0].name or ""
        small, large = (shapes.get(name) for shapes in self._shapes)
        dtype = _INTEGERS.get(self._types.get(name, 0))
        if small is None or large is None or dtype is None:
            return None
        axis = batch_axis(small, large, BATCHES)
        if axis is None and small != large:
            return None
        shape = tuple(1 if i == axis else extent for i, extent in enumerate(small))
        if math.prod(shape) > _MOST_ELEMENTS:
            return None
        return _Step(node, [self.of(value) for value in node.inputs], shape, axis, dtype, self)

    def _measure(self, model: ir.Model) -> None:
        """Find missing shapes of values computed from constants and shapes alone, by running the graph."""
        free = {value for name, value in model.graph.initializers.items() if name not in self._trainable}
        names: list[str] = []
        for node in model.graph:
            if node.op_type in ("Shape", "Size") or all(value is None or value in free for value in reads(node)):
                free.update(node.outputs)
                names += [value.name for value in node.outputs if value.name]
            elif node.op_type in ("Gather", "GatherND") and node.inputs[1] in free:
                names += [value.name for value in node.inputs[:1] if value is not None and value.name]
        for shapes, batch in zip(self._shapes, BATCHES, strict=True):
            missing = [name for name in dict.fromkeys(names) if name not in shapes]
            with contextlib.suppress(ModelError):  # the graph does not run on zeros
                shapes.update(measured_shapes(model, missing, batch) if missing else {})


@dataclass(frozen=True)
class _Step:
    """A node as a rule sees it.

    Attributes:
        node: the node.
        operands: what its inputs are, as far as that is known.
        shape: shape of its output, with 1 along the batch.
        axis: the axis of its output that is the batch.
        dtype: type of its output.
        positions: what is known so far.
    """

    node: ir.Node
    operands: Sequence[Positions | None]
    shape: Shape
    axis: int | None
    dtype: type[np.integer[Any]]
    positions: BatchPositions

    def constants(self, position: int) -> list[int] | None:
        """The integers of a constant input."""
        given = self.operands[position] if position < len(self.operands) else None
        return None if given is None or given.axis is not None else [int(n) for n in given.offset.reshape(-1)]

    def broadcast(self, given: Positions) -> Positions | None:
        """An operand in the shape of the output; None if its batch is another axis there."""
        if given.axis is not None and (
            self.axis is None or given.axis - given.offset.ndim != self.axis - len(self.shape)
        ):
            return None
        try:
            return given.like(lambda array: np.broadcast_to(array, self.shape), self.axis)
        except ValueError:  # it has more than one element along the batch
            return None


def _range(step: _Step) -> Positions | None:
    start, limit, delta = (step.constants(i) for i in range(3))
    if start is None or delta is None:
        return None
    if step.axis is None:
        if limit is None or delta == [0]:
            return None
        return Positions.constant(np.arange(start[0], limit[0], delta[0]).astype(step.dtype))
    if (start, delta) != ([0], [1]) or not step.positions.is_batch_size(step.node.inputs[1]):
        return None
    return Positions(np.ones(1, step.dtype), np.zeros(1, step.dtype), 0, step.node.inputs[1])


def _same_elements(step: _Step) -> Positions | None:
    """Elements keep their order, so the batch stays apart if as many lie before it."""
    given = step.operands[0]
    if given is None or (given.axis is None) != (step.axis is None):
        return None
    if math.prod(given.offset.shape[: given.axis or 0]) != math.prod(step.shape[: step.axis or 0]):
        return None
    return given.like(lambda array: array.astype(step.dtype).reshape(step.shape), step.axis)


def _transpose(step: _Step) -> Positions | None:
    given = step.operands[0]
    if given is None:
        return None
    order = list(step.node.attributes.get_ints("perm", None) or reversed(range(given.offset.ndim)))
    return given.like(lambda array: array.transpose(order), None if given.axis is None else order.index(given.axis))


def _expand(step: _Step) -> Positions | None:
    given = step.operands[0]
    return None if given is None else step.broadcast(given)


def _arithmetic(step: _Step) -> Positions | None:
    left, right = (None if given is None else step.broadcast(given) for given in step.operands)
    if left is None or right is None:
        return None
    size = left.size or right.size
    if step.node.op_type == "Mul":
        if left.slope.any() and right.slope.any():
            return None
        slope = left.slope * right.offset + left.offset * right.slope
        return Positions(slope, left.offset * right.offset, step.axis, size)
    sign = -1 if step.node.op_type == "Sub" else 1
    return Positions(left.slope + sign * right.slope, left.offset + sign * right.offset, step.axis, size)


def _concat(step: _Step) -> Positions | None:
    along = (step.node.attributes.get_int("axis", 0) or 0) % len(step.shape)
    known = [given for given in step.operands if given is not None and given.axis == step.axis]
    if len(known) != len(step.operands) or along == step.axis:
        return None
    slope, offset = (np.concatenate([getattr(x, part) for x in known], along) for part in ("slope", "offset"))
    return Positions(slope, offset, step.axis, next((x.size for x in known if x.size is not None), None))


def _slice(step: _Step) -> Positions | None:
    """All of it: exporters write the batch of a tensor as a Slice from its beginning to its end."""
    given = step.operands[0]
    starts, ends = step.constants(1), step.constants(2)
    if given is None or starts is None or ends is None or given.offset.shape != step.shape:
        return None
    axes = step.constants(3) if input_of(step.node, 3) is not None else list(range(len(starts)))
    steps = step.constants(4) if input_of(step.node, 4) is not None else [1] * len(starts)
    if axes is None or steps is None or given.axis != step.axis or any(each != 1 for each in steps):
        return None
    along = [
        (start, end) for start, end, axis in zip(starts, ends, axes, strict=True) if axis % len(step.shape) == step.axis
    ]
    return given if all(start == 0 and end >= TO_THE_END for start, end in along) else None


_RULES: dict[str, Callable[[_Step], Positions | None]] = {
    **dict.fromkeys(("Add", "Mul", "Sub"), _arithmetic),
    **dict.fromkeys(("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _same_elements),
    "Concat": _concat,
    "Expand": _expand,
    "Range": _range,
    "Slice": _slice,
    "Transpose": _transpose,
}
