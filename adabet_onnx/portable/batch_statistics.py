"""BatchNormalization that normalises by the batch and moves its running statistics, as while training.

ONNX's definition (opset 14): running = momentum running + (1 - momentum) of the batch, with the variance divided by the
number of elements (torch divides what it adds to the running variance by one less).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ..model.layers import source_initializer


def moving_nodes(graph: ir.Graph, trainable: Collection[str]) -> list[ir.Node]:
    """The BatchNormalizations of which scale or bias is trained."""
    found = []
    for node in graph:
        if node.op_type == "BatchNormalization":
            vectors = [source_initializer(value) for value in node.inputs[1:3]]
            if any(value is not None and value.name in trainable for value in vectors):
                found.append(node)
    return found


def statistics(node: ir.Node) -> list[ir.Value]:
    """Its running mean and variance."""
    return [value for value in node.inputs[3:5] if value is not None]


def normalise_by_batch(nodes: Sequence[ir.Node]) -> None:
    """Switch to training mode, in place."""
    for node in nodes:
        node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
        node.resize_outputs(3)
        for value, what in zip(node.outputs[1:], ("mean", "variance"), strict=True):
            value.name = f"{node.name}/running_{what}"
            value.dtype = ir.DataType.FLOAT
