"""Memory of a forward pass, predicted from which values are alive at the same time."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..model.shapes import infer_shapes

_BYTES = 4  # float32; the few integer values of a graph are small
# Nodes whose result lies in the same memory as their input.
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


def forward_bytes(model: ir.Model, *, batch: int) -> int:
    """Peak bytes of activations alive at once when the nodes run in the order they stand in.

    A value lives from the node that makes it to the last one that uses it; what a node reads and what it writes
    are alive together. Weights are not counted. Values of unknown shape count as nothing.

    Args:
        model: a graph in topological order.
        batch: number of samples.
    """
    shapes = infer_shapes(model, batch)
    order = {node: index for index, node in enumerate(model.graph)}
    owner: dict[ir.Value, ir.Value] = {}
    last_use: dict[ir.Value, int] = {}
    for node, index in order.items():
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _VIEWS and first is not None:
            owner[node.outputs[0]] = owner.get(first, first)
        for value in (*node.inputs, *node.outputs):
            if value is not None and not value.is_initializer():
                last_use[owner.get(value, value)] = index
    for value in model.graph.outputs:
        last_use[owner.get(value, value)] = len(order)
    alive = peak = 0
    ending: dict[int, int] = {}
    for value in model.graph.inputs:
        size = _size(value, shapes)
        alive += size
        ending[last_use.get(value, 0)] = ending.get(last_use.get(value, 0), 0) + size
    for node, index in order.items():
        for value in node.outputs:
            if value in last_use and value not in owner:
                size = _size(value, shapes)
                alive += size
                ending[last_use[value]] = ending.get(last_use[value], 0) + size
        peak = max(peak, alive)
        alive -= ending.pop(index, 0)
    return peak


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _size(value: ir.Value, shapes: dict[str, tuple[int, ...]]) -> int:
    return _BYTES * math.prod(shapes.get(value.name or "", (0,)))
