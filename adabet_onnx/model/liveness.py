"""Predict the memory of a run from the values that are alive at the same time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from .shapes import infer_shapes
from .uses import reads

_BYTES = 4  # float32; the few integer values of a graph are small
# Nodes whose result shares the memory of their input.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


def forward_bytes(model: ir.Model, *, batch: int) -> int:
    """Peak bytes of simultaneously live activations when the nodes run in graph order.

    Values of unknown shape count as zero bytes.

    Args:
        model: a graph in topological order.
        batch: number of samples.
    """
    shapes = infer_shapes(model, batch)
    return peak_bytes(
        model.graph, list(model.graph), lambda value: _BYTES * math.prod(shapes.get(value.name or "", (0,)))
    )


def peak_bytes(
    graph: ir.Graph, order: Sequence[ir.Node], size: Callable[[ir.Value], int], *, inputs_stay: bool = False
) -> int:
    """Peak bytes of simultaneously live values when the nodes run in a given order.

    A value lives from the node that produces it to the last one that uses it, an output to the end; a node's inputs and
    outputs are alive together. Weights are not counted.

    Args:
        graph: the graph.
        order: its nodes.
        size: returns the bytes of a value.
        inputs_stay: whether inputs live to the end, as when the caller holds them.
    """
    index_of = {node: index for index, node in enumerate(order)}
    owner: dict[ir.Value, ir.Value] = {}
    last_use: dict[ir.Value, int] = {}
    for node, index in index_of.items():
        first = node.inputs[0] if node.inputs else None
        if node.op_type in VIEWS and first is not None:
            owner[node.outputs[0]] = owner.get(first, first)
        for value in (*reads(node), *node.outputs):
            if value is not None and not value.is_initializer():
                last_use[owner.get(value, value)] = index
    for value in (*graph.outputs, *(graph.inputs if inputs_stay else ())):
        last_use[owner.get(value, value)] = len(order)
    alive = peak = 0
    ending: dict[int, int] = {}

    def begin(value: ir.Value) -> None:
        nonlocal alive
        bytes_ = size(value)
        alive += bytes_
        end = last_use.get(value, 0)
        ending[end] = ending.get(end, 0) + bytes_

    for value in graph.inputs:
        begin(value)
    for node, index in index_of.items():
        for value in node.outputs:
            if value in last_use and value not in owner:
                begin(value)
        peak = max(peak, alive)
        alive -= ending.pop(index, 0)
    return peak


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
