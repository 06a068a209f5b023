"""Output channels: which layers have some that can be trained by themselves, and where they lie in the parameters.

Of a convolution, and of a normalisation per channel, they are the first axis of the activation after the batch; of
Gemm, MatMul and LayerNormalization its last one. A layer has channels here only if each of its parameters has an axis
with one slice per channel, no other layer shares a matrix with it, and it is applied once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .layers import PASSED_THROUGH, Layer, Parameter
from .open import Model
from .passes.unshare import consumers

_FIRST = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization"})
_LAST = frozenset({"Gemm", "MatMul", "LayerNormalization"})


@dataclass(frozen=True)
class Channels:
    """A layer's output channels.

    Attributes:
        count: how many.
        elements: of each in one sample's activation: positions or tokens.
        last: whether they are the last axis of the activation, else the first after the batch.
        axes: of each parameter, by node and input position, the axis along which it has a slice per channel.
    """

    count: int
    elements: int
    last: bool
    axes: dict[tuple[str, int], int]


@dataclass(frozen=True)
class Slice:
    """Which part of a tensor is trained.

    Attributes:
        axis: along which it is taken.
        indices: what is taken, ascending.
    """

    axis: int
    indices: tuple[int, ...]

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part."""
        return np.ascontiguousarray(array.take(self.indices, self.axis))

    def rest(self, array: np.ndarray) -> np.ndarray:
        """What is left without it."""
        return np.ascontiguousarray(np.delete(array, self.indices, self.axis))

    def put(self, array: np.ndarray, part: np.ndarray) -> np.ndarray:
        """A copy of the whole with a part of the shape of `of` in its place."""
        found = np.array(array, copy=True)
        found[(slice(None),) * self.axis + (list(self.indices),)] = part
        return found


def channels_of(model: Model) -> dict[str, Channels]:
    """The channels of the layers that have them, by layer name."""
    nodes = {node.name or "": node for node in model.graph.graph}
    found = {layer.name: _channels(layer, nodes) for layer in model.layers}
    return {name: channels for name, channels in found.items() if channels is not None}


def _channels(layer: Layer, nodes: dict[str, ir.Node]) -> Channels | None:
    shape, last = layer.activation_shape, layer.op_type in _LAST
    if not shape or 0 in shape or layer.op_type not in _FIRST | _LAST or layer.applied > 1:
        return None
    rank = len(shape) + (not layer.batch_merged)
    if layer.batch_axis == rank - 1 if last else (layer.batch_axis or layer.batch_merged):
        return None
    count = shape[-1] if last else shape[0]
    axes = {}
    for parameter in layer.parameters:
        axis = _axis(parameter, nodes[parameter.node], count, 1 if last else len(shape))
        if axis is None:
            return None
        axes[parameter.node, parameter.position] = axis
    return Channels(count, math.prod(shape) // count, last, axes)


def _axis(parameter: Parameter, node: ir.Node, count: int, from_end: int) -> int | None:
    """The axis of an initializer that holds channels, or None.

    Args:
        parameter: of the layer.
        node: that uses it.
        count: number of channels.
        from_end: which axis of the activation they are, counted from its end, 1 for the last.
    """
    value = node.inputs[parameter.position]
    steps = []
    while value is not None and not value.is_initializer():
        step = value.producer()
        if step is None or step.op_type not in PASSED_THROUGH:
            return None
        steps.append(step)
        value = step.inputs[0]
    if value is None or (len(parameter.shape) > 1 and sum(1 for _ in consumers(value)) > 1):
        return None
    vector = sum(extent > 1 for extent in parameter.shape) <= 1 and math.prod(parameter.shape) == count
    if parameter.position == 2 or node.op_type == "Add" or node.op_type.endswith("Normalization"):
        # Of a vector its one axis, wherever a Reshape puts it, as long as that is where it meets the channels.
        if not vector or not _meets(node, parameter.position, count, from_end):
            return None
        return max(range(len(parameter.shape)), key=lambda i: parameter.shape[i]) if parameter.shape else None
    axis = _weight_axis(parameter, node, [step.op_type for step in steps])
    for step in steps:
        if axis is None or step.op_type not in ("Identity", "Cast", "Transpose"):
            return None
        if step.op_type == "Transpose":
            given = step.attributes.get("perm")
            perm = list(reversed(range(len(parameter.shape)))) if given is None else list(given.as_ints())
            axis = perm[axis]
    return axis if axis is not None and parameter.shape[axis] == count else None


def _weight_axis(parameter: Parameter, node: ir.Node, steps: list[str]) -> int | None:
    """The axis of output channels in a weight as the node sees it."""
    if parameter.position != 1:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        if node.attributes.get_int("group", 1) == 1:
            return 1
        return 0 if not steps and parameter.shape[1] == 1 else None  # each channel from one of the input's
    if len(parameter.shape) != 2:
        return None
    turned: int = node.attributes.get_int("transB", 0)
    return 0 if node.op_type == "Gemm" and turned else 1


def _meets(node: ir.Node, position: int, count: int, from_end: int) -> bool:
    """Whether a vector lies along the channels: as a bias or scale by definition, added if its shape says so."""
    if node.op_type in _FIRST | {"LayerNormalization"}:
        return True
    value = node.inputs[position]
    if value is None or value.shape is None or not value.shape.is_static():
        tensor = None if value is None else value.const_value
        if tensor is None:
            return False
        extents = [int(extent) for extent in tensor.shape.numpy()]
    else:
        extents = [int(extent) for extent in value.shape.numpy()]
    return len(extents) >= from_end and extents[-from_end] == count and math.prod(extents) == count
