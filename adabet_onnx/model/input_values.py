"""Find values that are preprocessed inputs: moved, resized or normalised. Constants used there belong to no layer."""

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
    """The graph's inputs, and values computed from one input by preprocessing in the graph.

    Preprocessing is elementwise arithmetic with constants (minus a mean, divided by a deviation, times 1/255, clipped,
    in any order, with single numbers or one number per channel), casts, and operators that move, crop, repeat or resize
    (including a Gather along an axis by constant indices, which swaps colours). It does not include anything with a
    weight (Conv, Gemm, an embedding's Gather by the input), normalisation by the data itself, activations, and
    arithmetic of two values that depend on inputs.

    A constant that is multiplied with or added to one of these values belongs to the preprocessing. (A learned vector
    directly at the input cannot be distinguished from it, and counts as preprocessing too.)

    Args:
        graph: in topological order.
        depends: values that depend on a graph input.
    """
    preprocessed = {value for value in graph.inputs if value in depends}
    for node in graph:
        data = [value for value in node.inputs if value is not None and value in depends]
        if data and node.domain in ("", "ai.onnx") and _is_preprocessing(node, data, preprocessed):
            preprocessed.update(node.outputs)
    return preprocessed


def _is_preprocessing(node: ir.Node, data: Sequence[ir.Value], preprocessed: Collection[ir.Value]) -> bool:
    """Whether a node computes preprocessed inputs from preprocessed inputs and constants.

    Args:
        node: any node.
        data: those of its inputs that depend on a graph input, at least one.
        preprocessed: the preprocessed inputs known so far.
    """
    if node.op_type in _MOVING:  # the other inputs may depend on the input's shape
        return node.inputs[0] in preprocessed
    if node.op_type == "Gather":  # otherwise the input is the index
        return len(data) == 1 and data[0] is node.inputs[0] and data[0] in preprocessed
    if node.op_type == "Concat":
        return all(value in preprocessed for value in data)
    return node.op_type in _ARITHMETIC and len(data) == 1 and data[0] in preprocessed
