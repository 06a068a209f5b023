"""Which values of a graph are its inputs still, moved, resized or normalised: constants met there are no layer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

_ARITHMETIC = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "Cast", "CastLike", "Identity", "Neg", "Abs", "Sqrt"),
        *("Log", "Clip", "Reciprocal", "Round", "Floor", "DequantizeLinear"),
    }
)
_MOVING = frozenset(
    {
        *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad", "Expand", "Tile"),
        *("Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "CenterCropPad"),
    }
)


def input_values(graph: ir.Graph, depends: Collection[ir.Value]) -> set[ir.Value]:
    """The graph's inputs, and what is made of one by normalisation in the graph.

    Accepted on the way from an input: arithmetic, element by element, with constants (minus a mean, divided by a
    deviation, times 1/255, clipped, in any order, numbers or a tensor for each channel), casts, and what moves, crops,
    repeats or resizes (also a Gather along an axis by constant indices, which swaps colours). Not accepted: anything
    with a weight (Conv, Gemm, an embedding's Gather by the input), normalisation by the data itself, an activation,
    arithmetic of two values that depend on inputs.

    A constant that is multiplied with or added to one of these values belongs to the preprocessing. (A learned vector
    right at the input cannot be told from it, and is taken for it too.)

    Args:
        graph: in topological order.
        depends: values that depend on a graph input.
    """
    found = {value for value in graph.inputs if value in depends}
    for node in graph:
        data = [value for value in node.inputs if value is not None and value in depends]
        if data and node.domain in ("", "ai.onnx") and _keeps(node, data, found):
            found.update(node.outputs)
    return found


def _keeps(node: ir.Node, data: Sequence[ir.Value], found: Collection[ir.Value]) -> bool:
    """Whether a node makes values of the input of values of the input and constants.

    Args:
        node: any node.
        data: those of its inputs that depend on a graph input, at least one.
        found: values of the input.
    """
    if node.op_type in _MOVING:  # where to may depend on the input's shape
        return node.inputs[0] in found
    if node.op_type == "Gather":  # otherwise the input says what is looked up
        return len(data) == 1 and data[0] is node.inputs[0] and data[0] in found
    if node.op_type == "Concat":
        return all(value in found for value in data)
    return node.op_type in _ARITHMETIC and len(data) == 1 and data[0] in found
