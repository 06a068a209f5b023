"""Output channels: which layers have channels that can be trained separately, and where they lie in the parameters.

For a convolution or a per-channel normalisation they are the first axis of the activation after the batch; for Gemm,
MatMul and LayerNormalization the last axis. A layer has channels here only if each of its parameters has an axis with
one slice per channel, no other layer shares a matrix with it, and it is applied once.
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
        count: number of channels.
        elements: elements per channel in one sample's activation: positions or tokens.
        last: whether they are the last axis of the activation, else the first after the batch.
        axes: by node and input position of each parameter, its axis with one slice per channel.
    """

    count: int
    elements: int
    last: bool
    axes: dict[tuple[str, int], int]


@dataclass(frozen=True)
class Slice:
    """The part of a tensor that is trained.

    Attributes:
        axis: the axis that is indexed.
        indices: the indices along it, ascending.
    """

    axis: int
    indices: tuple[int, ...]

    def of(self, array: np.ndarray) -> np.ndarray:
        """The trained part of the array."""
        return np.ascontiguousarray(array.take(self.indices, self.axis))

    def rest(self, array: np.ndarray) -> np.ndarray:
        """The rest of the array."""
        return np.ascontiguousarray(np.delete(array, self.indices, self.axis))

    def put(self, array: np.ndarray, part: np.ndarray) -> np.ndarray:
        """A copy of the whole array with the trained part replaced."""
        copy = np.array(array, copy=True)
        copy[(slice(None),) * self.axis + (list(self.indices),)] = part
        return copy


def channels_of(model: Model) -> dict[str, Channels]:
    """The channels of the layers that have any, by layer name."""
    nodes = {node.name or "": node for node in model.graph.graph}
    by_name = {layer.name: _channels(layer, nodes) for layer in model.layers}
    return {name: channels for name, channels in by_name.items() if channels is not None}


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
        parameter: a parameter of the layer.
        node: the node that uses it.
        count: number of channels.
        from_end: the channel axis of the activation, counted from its end, 1 for the last.
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
        # A vector's one axis, wherever a Reshape puts it, as long as it lines up with the channels.
        if not vector or not _meets(node, parameter.position, count, from_end):
            return None
        return max(range(len(parameter.shape)), key=lambda i: parameter.shape[i]) if parameter.shape else None
    axis = _weight_axis(parameter, node, [step.op_type for step in steps])
    for step in steps:
        if axis is None or step.op_type not in ("Identity", "Cast", "Transpose"):
            return None
        if step.op_type == "Transpose":
            permutation = step.attributes.get("perm")
            perm = list(reversed(range(len(parameter.shape)))) if permutation is None else list(permutation.as_ints())
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
        return 0 if not steps and parameter.shape[1] == 1 else None  # depthwise: each channel from one input channel
    if len(parameter.shape) != 2:
        return None
    transposed: int = node.attributes.get_int("transB", 0)
    return 0 if node.op_type == "Gemm" and transposed else 1


def _meets(node: ir.Node, position: int, count: int, from_end: int) -> bool:
    """Whether a vector lies along the channels: always for a bias or scale input, by its shape for an Add."""
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
