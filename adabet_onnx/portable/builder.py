"""Appending nodes to a graph: names, constants, and the shape and dtype of every new value."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..model.dims import Dim, dims, dims_or_none, multiple
from .node_inference import infer_outputs

_SUM_BY_ATTRIBUTE = 12  # ReduceSum takes its axes as an input from opset 13 on
_REDUCTIONS_BY_ATTRIBUTE = 17  # ReduceMax, ReduceMean and ReduceMin take their axes as an input from opset 18 on
_SHAPE_OF_SOME_AXES = 15  # Shape has start and end from this opset on
_DEDUPLICATED = 1 << 16  # most elements of a constant that is made only once


class Builder:
    """Makes nodes, in order, and holds them until they are added to a graph.

    Args:
        graph: the graph that the nodes will belong to; its names are not used again.
        opset: opset of the graph.
        batch: a value with the batch in its first dimension, from which the batch size is read at run time.
        allowed: operators that may be used; None for all of the opset.

    Attributes:
        nodes: the nodes made so far.
        masks: values that rules read instead of an activation: bools, indices or a part of it (see `declare_mask`).
        initializers: the constants made so far.
        exported: values that are outputs of the graph under their own name.
    """

    def __init__(
        self, graph: ir.Graph, *, opset: int, batch: ir.Value | None = None, allowed: Collection[str] | None = None
    ) -> None:
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.masks: list[ir.Value] = []
        self.initializers: list[ir.Value] = []
        self.exported: set[ir.Value] = set()
        self._allowed = None if allowed is None else frozenset(allowed)
        self._batch = batch
        self._batch_size: ir.Value | None = None
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._names = {value.name for node in graph for value in node.outputs}
        self._names |= {node.name for node in graph} | set(graph.initializers)
        self._names |= {value.name for value in graph.inputs}
        self._spread: dict[
            ir.Value, tuple[ir.Value, float]
        ] = {}  # results of `spread`: the value that was broadcast, and its factor
        self._prefix = "grad"

    def allows(self, op_type: str) -> bool:
        """Whether the profile has this operator."""
        return self._allowed is None or op_type in self._allowed

    def take(self) -> list[ir.Node]:
        """Return the nodes made so far, and forget them."""
        nodes, self.nodes = self.nodes, []
        return nodes

    def use_batch_size(self, value: ir.Value) -> None:
        """Use this value as the batch size from now on."""
        self._batch_size = value

    def begin(self, prefix: str) -> None:
        """Start the names of the following nodes with ``prefix``."""
        self._prefix = prefix

    def unique(self, name: str) -> str:
        """An unused name based on this one; it counts as used from now on."""
        candidate, count = name, 1
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def op(
        self, op_type: str, *inputs: ir.Value | None, shape: Sequence[Dim] | None = None, **attributes: Any
    ) -> ir.Value:
        """Make a node with one output.

        Args:
            op_type: a standard operator.
            inputs: its inputs; None for an omitted one.
            shape: shape of the output, if it is known better than ONNX shape inference can find it (the default).
            attributes: attributes of the node; None values are left out.
        """
        return self.ops(op_type, *inputs, outputs=1, shapes=[shape], **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int,
        shapes: Sequence[Sequence[Dim] | None] | None = None,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Make a node with several outputs; see `op`."""
        given = {key: value for key, value in attributes.items() if value is not None}
        name = self.unique(f"{self._prefix}/{op_type}")
        node = ir.node(op_type, list(inputs), given, num_outputs=outputs, name=name)
        for position, value in enumerate(node.outputs):
            value.name = self.unique(f"{name}:{position}")
        infer_outputs(node, given, self.opset)
        for value, shape in zip(node.outputs, shapes or [None] * outputs, strict=True):
            if shape is not None:
                value.shape = ir.Shape(shape)
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: np.ndarray | Sequence[int], name: str = "constant") -> ir.Value:
        """An initializer; equal small ones are made only once."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= _DEDUPLICATED else None
        if key is not None and key in self._constants:
            return self._constants[key]
        value = ir.Value(
            name=self.unique(f"{self._prefix}/{name}"),
            const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape)),
        )
        value.dtype = ir.DataType.from_numpy(array.dtype)
        value.shape = ir.Shape(array.shape)
        self.initializers.append(value)
        if key is not None:
            self._constants[key] = value
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """A one-dimensional int64 constant."""
        return self.constant(np.array(numbers, np.int64))

    def scalar(self, number: float, like: ir.Value) -> ir.Value:
        """A constant with one element, with the dtype and rank of another value.

        The rank matters: broadcasting a number of lower rank over (..., 1, 1) took ONNX Runtime 40 times as long.
        """
        assert like.dtype is not None
        return self.constant(np.full([1] * len(dims(like)), number, like.dtype.numpy()))

    def batch_size(self) -> ir.Value:
        """The batch size at run time, int64 of shape (1,)."""
        assert self._batch is not None
        if self._batch_size is None:
            if self.opset >= _SHAPE_OF_SOME_AXES:
                self._batch_size = self.op("Shape", self._batch, start=0, end=1, shape=[1])
            else:
                self._batch_size = self.op("Slice", self.op("Shape", self._batch), self.ints(0), self.ints(1))
        return self._batch_size

    def runtime_dims(self, extents: Sequence[Dim]) -> ir.Value:
        """Dimensions as an int64 tensor, computed at run time if they include the batch."""
        if all(isinstance(d, int) for d in extents):
            return self.constant(np.array(extents, np.int64))
        parts: list[ir.Value] = []
        known: list[int] = []
        for extent in extents:
            if isinstance(extent, int):
                known.append(extent)
                continue
            if known:
                parts.append(self.ints(*known))
                known = []
            size = self.batch_size()
            count = multiple(extent)
            parts.append(size if count == 1 else self.op("Mul", size, self.ints(count)))
        if known:
            parts.append(self.ints(*known))
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0, shape=[len(extents)])

    # Helpers that most rules need.

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Sum."""
        return self.op("Add", a, b)

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Difference."""
        return self.op("Sub", a, b)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Elementwise product."""
        return self.op("Mul", a, b)

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Elementwise quotient."""
        return self.op("Div", a, b)

    def scale(self, value: ir.Value, number: float) -> ir.Value:
        """A value times a number."""
        return value if number == 1 else self.mul(value, self.scalar(number, value))

    def cast_like(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """A value in the dtype of another."""
        return value if value.dtype == like.dtype else self.op("Cast", value, to=int(like.dtype or 1))

    def at_least(self, value: ir.Value, number: float) -> ir.Value:
        """The larger of a value and a number."""
        return self.op("Clip", value, self.constant(np.array(number, (value.dtype or ir.DataType.FLOAT).numpy())))

    def at_most(self, value: ir.Value, number: float) -> ir.Value:
        """The smaller of a value and a number."""
        return self.op("Clip", value, None, self.constant(np.array(number, (value.dtype or ir.DataType.FLOAT).numpy())))

    def sign(self, value: ir.Value) -> ir.Value:
        """The sign: 1, 0 or -1."""
        if self.allows("Sign"):
            return self.op("Sign", value)
        zero, dtype = self.scalar(0, value), int(value.dtype or 1)
        above, below = self.op("Greater", value, zero), self.op("Less", value, zero)
        return self.sub(self.op("Cast", above, to=dtype), self.op("Cast", below, to=dtype))

    def copy(self, value: ir.Value) -> ir.Value:
        """The same value under another name."""
        if self.allows("Identity"):
            return self.op("Identity", value)
        return self.op("Reshape", value, self.runtime_dims(dims(value)), shape=dims(value))

    def masked(self, value: ir.Value, mask: ir.Value) -> ir.Value:
        """The value where the bool mask is true, else zero (two passes; Where needs three and two temporaries)."""
        if value in self._spread and dims_or_none(mask) == dims_or_none(value):
            value = self.scale(*self._spread[value])
        return self.mul(value, self.op("Cast", mask, to=int(value.dtype or 1)))

    def spread(self, value: ir.Value, share: ir.Value, number: float) -> ir.Value:
        """A value times a number, broadcast by multiplying it by a constant that holds the number.

        If the result is then masked (see `masked`), this pass is skipped.
        """
        product = self.mul(value, share)
        self._spread[product] = value, number
        return product

    def mask(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        """A bool value that a rule computes from an activation and reads instead of it; see `declare_mask`."""
        return self.declare_mask(self.op(op_type, *inputs))

    def declare_mask(self, value: ir.Value) -> ir.Value:
        """Record that a rule reads this value, computed from an activation, instead of the activation itself.

        A rule declares no more than that. When the value is computed, and whether the activation is freed early, is
        decided by `order.mask_chain`.
        """
        self.masks.append(value)
        return value

    def reshape(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Reshape a value; a dimension that depends on the batch is found at run time."""
        shape = tuple(shape)
        if dims_or_none(value) == shape:
            return value
        symbolic = sum(isinstance(d, str) for d in shape)
        if symbolic <= 1 and 0 not in shape:
            target = self.ints(*(d if isinstance(d, int) else -1 for d in shape))
        else:
            target = self.runtime_dims(shape)
        return self.op("Reshape", value, target, shape=shape)

    def after(self, value: ir.Value, size: ir.Value) -> ir.Value:
        """The same value, but not before ``size`` is known.

        This is a Reshape to the shape that the value has, computed from the batch size. (The shape is a sum, since ONNX
        Runtime replaces a Concat by a constant that contains -1, which would lose the order.)

        Args:
            value: a value with the batch in its first dimension only.
            size: the batch size, int64 of shape (1,).
        """
        shape = dims(value)
        assert isinstance(shape[0], str)
        first = np.zeros(len(shape), np.int64)
        first[0] = multiple(shape[0])
        rest = np.array([0, *shape[1:]], np.int64)
        target = self.add(self.mul(size, self.constant(first)), self.constant(rest))
        return self.op("Reshape", value, target, shape=shape)

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Permute the axes."""
        return value if list(perm) == list(range(len(perm))) else self.op("Transpose", value, perm=list(perm))

    def expand(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Broadcast to a shape; the batch size is read only if the value lacks the batch."""
        have = dims(value)
        if have == tuple(shape):
            return value
        lead = len(shape) - len(have)
        target = [1 if i >= lead and isinstance(d, str) and have[i - lead] == d else d for i, d in enumerate(shape)]
        return self.op("Expand", value, self.runtime_dims(target), shape=shape)

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int], *, keepdims: bool = True) -> ir.Value:
        """ReduceSum, ReduceMean, ReduceMax, ReduceMin or ReduceProd over axes."""
        shape = dims(value)
        axes = sorted(axis % len(shape) for axis in axes)
        if not axes:
            return value
        left: list[Dim] = [1 if i in axes else d for i, d in enumerate(shape)]
        if not keepdims:
            left = [d for i, d in enumerate(shape) if i not in axes]
        if self.opset <= (_SUM_BY_ATTRIBUTE if op_type == "ReduceSum" else _REDUCTIONS_BY_ATTRIBUTE):
            return self.op(op_type, value, axes=axes, keepdims=int(keepdims), shape=left)
        return self.op(op_type, value, self.ints(*axes), keepdims=int(keepdims), shape=left)

    def total(self, value: ir.Value, axes: Sequence[int], *, keepdims: bool = True) -> ir.Value:
        """Sum over axes."""
        return self.reduce("ReduceSum", value, axes, keepdims=keepdims)

    def sum_to(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Undo a broadcast: sum over the axes that were added or stretched, so that the value gets this shape."""
        have = dims(value)
        extra = len(have) - len(shape)
        axes = [*range(extra), *(i + extra for i, d in enumerate(shape) if d == 1 and have[i + extra] != 1)]
        # (O, C, 1, 1) is summed over its last three axes: over the second alone it takes 20 times as long.
        for axis in range(1, len(have)):
            if have[axis] == 1 and axis >= extra and axis - 1 in axes and axis not in axes:
                axes.append(axis)
        return self.reshape(self.total(value, axes), shape) if axes else value
