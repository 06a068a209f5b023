"""BatchNormalization that normalises by the batch and moves its running statistics, as while training.

ONNX's definition (opset 14): running = momentum running + (1 - momentum) of the batch, with the variance divided by the
number of elements (torch divides what it adds to the running variance by one less).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ..errors import ModelError
from ..model.layers import PASSED_THROUGH


def moving_nodes(graph: ir.Graph, trained: Collection[ir.Value]) -> list[ir.Node]:
    """The BatchNormalizations of which scale or bias is trained.

    Raises:
        ModelError: two of them have the same statistics: applications of one layer, whose batches would move them in
            turn.
    """
    moving: list[ir.Node] = []
    for node in graph:
        if node.op_type == "BatchNormalization" and any(_is_of(value, trained) for value in node.inputs[1:3]):
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


def _is_of(value: ir.Value | None, trained: Collection[ir.Value]) -> bool:
    """Whether a value is a trained one, or what an Identity or Reshape makes of it."""
    while value is not None and value not in trained:
        step = value.producer()
        value = step.inputs[0] if step is not None and step.op_type in PASSED_THROUGH else None
    return value is not None


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
