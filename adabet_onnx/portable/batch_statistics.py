"""BatchNormalization that normalises by the batch and updates its running statistics, as in training.

ONNX's definition (opset 14): running = momentum running + (1 - momentum) batch, with the variance divided by the number
of elements (torch divides the variance that it adds to the running one by the number of elements less one).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ..errors import ModelError
from ..model.layers import PASSED_THROUGH


def moving_nodes(graph: ir.Graph, trained: Collection[ir.Value]) -> list[ir.Node]:
    """The BatchNormalizations whose scale or bias is trained.

    Raises:
        ModelError: two of them have the same statistics: they are applications of one layer, and each would update
            them.
    """
    moving: list[ir.Node] = []
    for node in graph:
        if node.op_type == "BatchNormalization" and any(_is_trained(value, trained) for value in node.inputs[1:3]):
            moving.append(node)
    owners: dict[ir.Value, ir.Node] = {}
    for node in moving:
        for value in statistics(node):
            other = owners.setdefault(value, node)
            if other is not node:
                raise ModelError(
                    f"the normalisation at nodes {other.name!r} and {node.name!r} is applied several times with the "
                    "same statistics, which a batch cannot move. Use `batch_norm='frozen'`, or leave it out."
                )
    return moving


def _is_trained(value: ir.Value | None, trained: Collection[ir.Value]) -> bool:
    """Whether a value is trained, or the Identity or Reshape of a trained one."""
    while value is not None and value not in trained:
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.op_type in PASSED_THROUGH else None
    return value is not None


def statistics(node: ir.Node) -> list[ir.Value]:
    """The running mean and variance of a node."""
    return [value for value in node.inputs[3:5] if value is not None]


def normalise_by_batch(nodes: Sequence[ir.Node]) -> None:
    """Switch nodes to training mode, in place."""
    for node in nodes:
        node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
        node.resize_outputs(3)
        for value, name in zip(node.outputs[1:], ("mean", "variance"), strict=True):
            value.name = f"{node.name}/running_{name}"
            value.dtype = ir.DataType.FLOAT
