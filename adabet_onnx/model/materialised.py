"""Store weights in the form in which their nodes read them, without a Reshape, Transpose or Squeeze in between."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from .constant_values import evaluate
from .layers import Layer, Parameter, source_initializer
from .passes.unshare import consumers
from .passes.unused import RemoveUnused


def materialise(graph: ir.Model, layer: Layer) -> Layer:
    """Replace a layer's weights by the form in which its nodes read them, in place; unused nodes are removed.

    A weight behind an Identity, or a matrix behind a plain transposition, is left unchanged. A weight that other nodes
    use too is kept for them, and the layer gets a copy under another name.

    Args:
        graph: the graph of the layer; parameters whose node no longer exists are omitted.
        layer: a layer from `find_layers`.

    Returns:
        The layer with its updated parameters.
    """
    nodes = {node.name: node for node in graph.graph}
    remaining = [parameter for parameter in layer.parameters if parameter.node in nodes]
    materialised = tuple(_materialised(graph, nodes, parameter) for parameter in remaining)
    RemoveUnused()(graph)  # the nodes in between
    return dataclasses.replace(layer, parameters=materialised)


def _materialised(graph: ir.Model, nodes: dict[str | None, ir.Node], parameter: Parameter) -> Parameter:
    uses = [(nodes[name], position) for name, position in parameter.uses]
    fed = [node.inputs[position] for node, position in uses]
    values = [value for value in fed if value is not None]
    if all(_is_plain(value, len(parameter.shape)) for value in values):
        return parameter
    source = source_initializer(values[0])
    arrays = list(evaluate(graph, list(dict.fromkeys(values))).values())
    if source is None or not arrays or any(not np.array_equal(array, arrays[0]) for array in arrays):
        return parameter
    target = source
    if not set(consumers(source)) <= set(uses):
        target = ir.Value(name=f"{source.name}/{parameter.node}/{parameter.position}")
        target.const_value = ir.tensor(arrays[0], name=target.name)
        graph.graph.register_initializer(target)
    target.const_value = ir.tensor(np.array(arrays[0], order="C"), name=target.name)
    target.shape, target.type = ir.Shape(arrays[0].shape), ir.TensorType(ir.DataType.FLOAT)
    for node, position in uses:
        node.replace_input_with(position, target)
    return dataclasses.replace(parameter, name=target.name or "", shape=arrays[0].shape)


def _is_plain(value: ir.Value, rank: int) -> bool:
    """Whether only Identity and transpositions of a matrix lie between a value and its initializer."""
    current: ir.Value | None = value
    while current is not None and not current.is_initializer():
        node = current.producer()
        if node is None:
            return False
        transposed = node.op_type == "Transpose" and rank == 2
        if not transposed and node.op_type != "Identity":
            return False
        current = node.inputs[0]
    return current is not None
