"""Find the axis of the logits that holds the head's outputs, through operators that move, resize or join axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from .layers import Layer
from .shapes import Shapes

_OF_SHAPES = frozenset({"Shape", "Size"})
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_REDUCING = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceLogSumExp"})
_IN_PLACE = frozenset(  # each axis of the result is the same axis of the input, longer or shorter
    {
        *("Concat", "Split", "Slice", "Pad", "Resize", "Upsample", "Softmax", "LogSoftmax", "BatchNormalization"),
        *("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "InstanceNormalization", "LpNormalization"),
    }
)
_ALIGNED = frozenset(  # axes are aligned at the last one
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "PRelu", "Identity", "Cast", "Dropout", "Clip"),
        *("Sigmoid", "Tanh", "Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Gelu", "Erf", "Exp", "Log", "Neg"),
        *("Softplus", "Sqrt", "Abs", "Elu", "Selu"),
    }
)


def head_axis(graph: ir.Graph, layers: Sequence[Layer], logits: str, shapes: Shapes) -> int | None:
    """The axis of the logits that holds a head's outputs.

    Args:
        graph: its nodes are in topological order.
        layers: the head, and the ConvTranspose layers after it that upsample its outputs.
        logits: name of a value of the graph.
        shapes: shapes of the values.

    Returns:
        None if an operator between mixes them with other axes, or is unknown.
    """
    axes = {layer.activation: _of_outputs(layer, len(shapes.get(layer.activation, ()))) for layer in layers}
    for node in graph:
        sources = {value.name or "": axes[value.name or ""] for value in node.inputs if value and value.name in axes}
        if not sources or node.op_type in _OF_SHAPES:
            continue
        for value in node.outputs:
            name = value.name or ""
            if name not in axes:
                places = {
                    None if axis is None else _moved(node, axis, shapes.get(source, ()), shapes.get(name, ()))
                    for source, axis in sources.items()
                }
                axes[name] = places.pop() if len(places) == 1 else None
    return axes.get(logits)


def _of_outputs(layer: Layer, rank: int) -> int | None:
    """The axis of a layer's activation that holds its outputs."""
    if layer.op_type in ("Conv", "ConvTranspose"):
        return 1 if rank > 2 else None
    multiplied = all(parameter.position == 1 for parameter in layer.parameters[:1])
    return rank - 1 if rank > 1 and multiplied else None


def _moved(node: ir.Node, axis: int, old: Sequence[int], new: Sequence[int]) -> int | None:
    """The axis of a node's output that corresponds to an axis of its input."""
    if not old or not new or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", list(reversed(range(len(old)))))
        return list(order).index(axis)
    if node.op_type in _ALIGNED:
        place = axis + len(new) - len(old)
        return place if new[place] == old[axis] else None
    if node.op_type in _RESHAPING:
        inner = math.prod(old[axis + 1 :])
        places = [i for i, extent in enumerate(new) if extent == old[axis] and math.prod(new[i + 1 :]) == inner]
        return places[0] if len(places) == 1 else None
    if node.op_type in _REDUCING:
        return _reduced(node, axis, len(old), len(new))
    return axis if node.op_type in _IN_PLACE and len(old) == len(new) else None


def _reduced(node: ir.Node, axis: int, old: int, new: int) -> int | None:
    axes = node.attributes.get_ints("axes") if "axes" in node.attributes else None
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(node.inputs[1])
        axes = None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]
    if axes is None:
        return None
    removed = {number % old for number in axes}
    if axis in removed:
        return None
    return axis if old == new else axis - sum(number < axis for number in removed)
