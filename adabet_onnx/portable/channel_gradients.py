"""Gradients of some output channels of a layer, computed as if it had no others.

If only some channels of a weight are trained, the gradient of the layer's output is reduced to them first, so that the
product that makes the weight's gradient has fewer rows. The input of layers that process each channel separately
(depthwise convolutions, normalisations) is reduced too, and only that part of the activation is kept for the backward
pass.

For other layers, and for biases alone, the gradient of all channels is computed, and the trained ones are taken from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..model.channels import Slice
from ..model.dims import Dim, dims
from .builder import Builder


@dataclass(frozen=True)
class TrainedPart:
    """The trained part of a value.

    Attributes:
        value: the trained part.
        slice: its position in the whole.
    """

    value: ir.Value
    slice: Slice


@dataclass(frozen=True)
class NarrowedLayer:
    """A layer reduced to some of its channels.

    Attributes:
        node: a node that belongs to no graph; call `release` when it is no longer needed.
        positions: positions of the inputs whose gradients the node provides.
        gradient: gradient of its output.
    """

    node: ir.Node
    positions: tuple[int, ...]
    gradient: ir.Value

    def release(self) -> None:
        """Detach the inputs, which otherwise count the node among their users."""
        for position in range(len(self.node.inputs)):
            self.node.replace_input_with(position, None)


def take(build: Builder, value: ir.Value, indices: Sequence[int], axis: int) -> ir.Value:
    """Some slices along an axis."""
    shape: list[Dim] = list(dims(value))
    shape[axis] = len(indices)
    return build.op("Gather", value, build.ints(*indices), axis=axis, shape=shape)


def narrowed(
    node: ir.Node,
    positions: Sequence[int],
    parts: Mapping[ir.Value, TrainedPart],
    outputs: Sequence[ir.Value | None],
    build: Builder,
) -> NarrowedLayer | None:
    """Reduce a layer to its trained channels; None if this saves nothing.

    Args:
        node: a node of the forward part.
        positions: positions of the inputs that need a gradient.
        parts: the trained parts of values that are trained in part.
        outputs: gradients of the node's outputs.
        build: makes the nodes.
    """
    form = _NARROWED.get(node.op_type)
    trained = {i: parts[value] for i in positions if (value := node.inputs[i]) is not None and value in parts}
    if form is None or 1 not in trained or outputs[0] is None:
        return None
    indices = trained[1].slice.indices
    if any(part.slice.indices != indices for part in trained.values()):
        return None
    return form(_LayerSlice(node, trained, indices, outputs[0], build))


@dataclass(frozen=True)
class _LayerSlice:
    """The data that a narrowed layer is made from."""

    node: ir.Node
    trained: Mapping[int, TrainedPart]
    indices: tuple[int, ...]
    gradient: ir.Value
    build: Builder

    def x(self, position: int) -> ir.Value:
        """An input of the node."""
        value = self.node.inputs[position]
        assert value is not None
        return value

    def kept(self, indices: Sequence[int]) -> ir.Value:
        """Some channels of the node's input activation, which are kept for the backward pass instead of it."""
        return self.build.declare_mask(take(self.build, self.x(0), indices, 1))

    def made(self, inputs: Sequence[ir.Value | None], axis: int, **changes: Any) -> NarrowedLayer:
        """The node with other inputs, and its channels on this axis of the result."""
        attributes = [value for name, value in self.node.attributes.items() if name not in changes]
        attributes += [ir.AttrInt64(name, value) for name, value in changes.items()]
        node = ir.Node(self.node.domain, self.node.op_type, inputs, attributes, name=self.node.name)
        shape: list[Dim] = list(dims(self.node.outputs[0]))
        axis %= len(shape)
        shape[axis] = len(self.indices)
        node.outputs[0].type, node.outputs[0].shape = self.node.outputs[0].type, ir.Shape(shape)
        gradient = take(self.build, self.gradient, self.indices, axis)
        return NarrowedLayer(node, tuple(self.trained), gradient)

    def part(self, position: int) -> ir.Value | None:
        """The trained part of an input; None if it is not trained."""
        return self.trained[position].value if position in self.trained else None


def _convolution(layer: _LayerSlice) -> NarrowedLayer | None:
    """Conv or ConvTranspose: all channels are computed from the same input, or each from one channel of it."""
    groups = int(layer.node.attributes.get_int("group", 1))
    inputs = [layer.part(1), layer.part(2)]
    if groups == 1:
        return layer.made([layer.x(0), *inputs], 1)
    # The number of output channels computed from one input channel.
    each = int(dims(layer.x(1))[0]) // groups if layer.node.op_type == "Conv" else 1
    if int(dims(layer.x(1))[1]) != 1:
        return None
    return layer.made([layer.kept([i // each for i in layer.indices]), *inputs], 1, group=len(layer.indices))


def _product(layer: _LayerSlice) -> NarrowedLayer:
    """Gemm or MatMul: channels are columns of the result."""
    bias = [layer.part(2)] if layer.node.op_type == "Gemm" else []
    return layer.made([layer.x(0), layer.part(1), *bias], -1)


def _normalization(layer: _LayerSlice) -> NarrowedLayer | None:
    """BatchNormalization with stored statistics."""
    if layer.node.attributes.get_int("training_mode", 0):
        return None
    statistics = [take(layer.build, layer.x(i), layer.indices, 0) for i in (3, 4)]
    return layer.made([layer.kept(layer.indices), layer.part(1), layer.part(2), *statistics], 1)


_NARROWED: dict[str, Callable[[_LayerSlice], NarrowedLayer | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _product,
    "MatMul": _product,
    "BatchNormalization": _normalization,
}
