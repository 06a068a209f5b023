"""Determine from operators whether a value can be negative."""

from __future__ import annotations

import onnx_ir as ir

# These move numbers without changing them.
MOVING = frozenset(
    [
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Concat",
    ]
)
_SAME_SIGN = MOVING | {"Add", "Mul", "AveragePool", "GlobalAveragePool", "Dropout", "ReduceMean", "ReduceSum"}
_ALL_INPUTS = frozenset({"Add", "Mul", "Concat"})
_NOT_NEGATIVE = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Abs", "Sqrt"})


def not_negative(value: ir.Value) -> bool:
    """Whether a value cannot be negative according to its operators; graph inputs are not considered negative."""
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        producer = current.producer()
        if producer is None or current in seen:
            continue
        seen.add(current)
        if producer.op_type in _NOT_NEGATIVE:
            continue
        if producer.op_type not in _SAME_SIGN:
            return False
        inputs = producer.inputs if producer.op_type in _ALL_INPUTS else producer.inputs[:1]
        for part in inputs:
            if part is None or (part.producer() is None and not part.is_graph_input()):
                return False
            stack.append(part)
    return True
