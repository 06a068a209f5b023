"""Weights as their nodes see them: without the Reshape, Transpose or Squeeze of constants that is on the way."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from .constant_values import evaluate
from .layers import Layer, Parameter, source_initializer
from .passes.unshare import consumers
from .passes.unused import RemoveUnused


def materialise(graph: ir.Model, layer: Layer) -> Layer:
    """Put a layer's weights in front of its nodes in the form that these take them in, in place; unused nodes go.

    A weight behind an Identity, or a matrix behind a plain transposition, stays where it is. One that other nodes
    use too stays for them, and the layer gets its own under another name.

    Args:
        graph: of the layer; parameters of nodes that it has no longer are left out.
        layer: as `find_layers` gives it.

    Returns:
        The layer with its parameters as they are now.
    """
    nodes = {node.name: node for node in graph.graph}
    kept = [parameter for parameter in layer.parameters if parameter.node in nodes]
    made = tuple(_materialised(graph, nodes, each) for each in kept)
    RemoveUnused()(graph)  # what was on the way
    return dataclasses.replace(layer, parameters=made)


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
    """Whether nothing but Identity and transpositions of a matrix is between a value and its initializer."""
    current: ir.Value | None = value
    while current is not None and not current.is_initializer():
        node = current.producer()
        if node is None:
            return False
        turned = node.op_type == "Transpose" and rank == 2
        if not turned and node.op_type != "Identity":
            return False
        current = node.inputs[0]
    return current is not None
