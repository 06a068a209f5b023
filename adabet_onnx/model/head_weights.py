"""Fresh weights of a head for a new number of outputs: which axes hold its outputs, and which nodes share a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from .layers import Layer, Parameter, source_initializer
from .materialised import materialise
from .passes.unshare import consumers, feed
from .upsampling import upsampling_weight

APPEND = "Put a classifier on the outputs instead (`append=True`), or change the head in the source framework."
_CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}  # the axis of the weight that holds the outputs


def resize_upsampling(graph: ir.Model, layer: Layer, old: int, classes: int) -> str:
    """Give a ConvTranspose that upsamples the head's outputs the new number of channels, in place; return a note."""
    weight, *biases = materialise(graph, layer).parameters
    nodes = {node.name: node for node in graph.graph}
    node = nodes[weight.node]
    source = source_initializer(node.inputs[weight.position])
    assert source is not None
    assert source.const_value is not None
    array = source.const_value.numpy()
    new_weight = upsampling_weight(node, array, classes)
    _replace(graph, nodes, weight, True, new_weight)
    for bias in biases:
        extents = [classes if extent == old else extent for extent in bias.shape]
        _replace(graph, nodes, bias, True, np.zeros(extents, np.float32))
    same_kernel = bool((new_weight[0, 0] == array[0, 0]).all())
    method = (
        "with its old kernel" if same_kernel else "by linear interpolation; its weights belonged to the old outputs"
    )
    return f"ConvTranspose {layer.name!r} after the head upsamples the new outputs {method}"


def replace_parameters(graph: ir.Model, head: Layer, classes: int, rng: np.random.Generator, name: str) -> int:
    """Replace the head's parameters by fresh ones, in place; return the old number of outputs."""
    nodes = {node.name: node for node in graph.graph}
    all_applications = not _are_chained(graph.graph, head)
    weight, *biases = sorted(head.parameters, key=lambda parameter: -len(parameter.shape))
    node = nodes[weight.node]
    if head.op_type in _CONVOLUTIONS and node.attributes.get_int("group", 1) != 1:
        raise ModelError(
            f"{name}: the head {head.name!r} is a grouped {head.op_type}, which cannot get a new number of outputs. "
            f"{APPEND}"
        )
    axis = _CONVOLUTIONS.get(head.op_type)
    if axis is None:
        axis = _output_axis(node, weight, name)
    if _is_transposed(node, weight, name, head.name):
        axis = 1 - axis
    old_outputs = weight.shape[axis]
    shape = list(weight.shape)
    shape[axis] = classes
    fan_in = math.prod(shape) // classes
    if head.op_type == "ConvTranspose":  # each output is a sum over the positions that contribute to it
        fan_in = max(1, fan_in // math.prod(node.attributes.get_ints("strides", [1])))
    bound = 1 / math.sqrt(fan_in)
    _replace(graph, nodes, weight, all_applications, rng.uniform(-bound, bound, shape).astype(np.float32))
    for bias in biases:
        if bias.size not in (1, old_outputs):
            raise ModelError(f"{name}: bias {bias.name!r} of the head has shape {bias.shape}, not ({old_outputs},).")
        extents = list(bias.shape)
        if bias.size == old_outputs:
            where = extents.index(old_outputs) if old_outputs > 1 else _bias_axis(head, weight, bias)
            extents[where] = classes
        _replace(graph, nodes, bias, all_applications, np.zeros(extents, np.float32))
    return old_outputs


def _is_transposed(node: ir.Node, weight: Parameter, name: str, head: str) -> bool:
    """Whether the two axes of the weight are swapped before it reaches the node.

    Raises:
        ModelError: there is an operator other than Identity and Transpose between them.
    """
    transposed = False
    value = node.inputs[weight.position]
    while value is not None and not value.is_initializer():
        producer = value.producer()
        assert producer is not None
        if producer.op_type == "Transpose" and len(weight.shape) == 2:
            transposed ^= list(producer.attributes.get_ints("perm", [1, 0])) == [1, 0]
        elif producer.op_type != "Identity":
            raise ModelError(f"{name}: the weight of {head!r} passes through {producer.op_type}. {APPEND}")
        value = producer.inputs[0]
    return transposed


def _bias_axis(head: Layer, weight: Parameter, bias: Parameter) -> int:
    """Channel axis of a bias whose extents are all 1: before a Conv's spatial axes, else the last axis."""
    spatial = len(weight.shape) - 2 if head.op_type in _CONVOLUTIONS and len(bias.shape) > 1 else 0
    return len(bias.shape) - 1 - spatial


def _output_axis(node: ir.Node, weight: Parameter, name: str) -> int:
    """Axis of the outputs in a Gemm's or MatMul's weight, in the layout in which the node reads it."""
    rank, position = len(weight.shape), weight.position
    if rank < 2 or (node.op_type == "Gemm" and position != 1):
        raise ModelError(
            f"{name}: the head {node.name!r} multiplies its input by {weight.name!r} of shape {weight.shape} in a way "
            f"that is not x @ W. {APPEND}"
        )
    if node.op_type == "MatMul":
        return rank - 1 if position == 1 else rank - 2
    return 0 if node.attributes.get_int("transB", 0) else 1


def _are_chained(graph: ir.Graph, head: Layer) -> bool:
    """Whether one application of the head depends on the result of another.

    If so, only the last one is the head, and the others keep the old weights. Otherwise all of them contribute to the
    logits in the same way (the branches of a Siamese network), so all get the new weights.
    """
    own = set(head.nodes)
    reached: set[ir.Value] = set()
    for node in graph:
        derived = any(value in reached for value in node.inputs)
        if node.name in own and derived:
            return True
        if node.name in own or derived:
            reached.update(node.outputs)
    return False


def _replace(
    graph: ir.Model, nodes: Mapping[str | None, ir.Node], parameter: Parameter, all_applications: bool, new: np.ndarray
) -> None:
    """Replace a parameter by a new tensor: under its name, or under a new one if other nodes keep the old tensor.

    Args:
        graph: the graph to change.
        nodes: its nodes by name.
        parameter: the parameter.
        all_applications: replace it in all applications of its layer, else only in the last.
        new: the tensor.
    """
    uses = [(nodes[name], position) for name, position in (parameter.uses if all_applications else parameter.uses[-1:])]
    value = source_initializer(uses[0][0].inputs[uses[0][1]])
    assert value is not None
    name = value.name or ""
    if not set(consumers(value)) <= set(uses):
        fresh = ir.Value(name=f"{name}/new_head", const_value=ir.tensor(new))
        graph.graph.register_initializer(fresh)
        for node, position in uses:
            feed(node, position, value, fresh)
        return
    value.const_value = ir.tensor(new, name=name)
    value.shape = ir.Shape(new.shape)
    value.type = ir.TensorType(ir.DataType.FLOAT)
