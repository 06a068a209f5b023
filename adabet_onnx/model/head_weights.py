"""Fresh weights of a head, for another number of outputs: which axes hold its outputs, and who else uses a tensor."""

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
    """Give a ConvTranspose that enlarges the head's outputs the new number of channels, in place; return a note."""
    weight, *biases = materialise(graph, layer).parameters
    nodes = {node.name: node for node in graph.graph}
    node = nodes[weight.node]
    source = source_initializer(node.inputs[weight.position])
    assert source is not None
    assert source.const_value is not None
    array = source.const_value.numpy()
    made = upsampling_weight(node, array, classes)
    _replace(graph, nodes, weight, True, made)
    for bias in biases:
        extents = [classes if extent == old else extent for extent in bias.shape]
        _replace(graph, nodes, bias, True, np.zeros(extents, np.float32))
    kept = bool((made[0, 0] == array[0, 0]).all())
    how = "with the kernel it had" if kept else "by linear interpolation; its weights belonged to the old ones"
    return f"ConvTranspose {layer.name!r} after the head enlarges the new outputs {how}"


def replace_parameters(graph: ir.Model, head: Layer, classes: int, rng: np.random.Generator, name: str) -> int:
    """Put fresh parameters in, in place; return the old number of outputs."""
    nodes = {node.name: node for node in graph.graph}
    every = not _in_turn(graph.graph, head)
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
    if head.op_type == "ConvTranspose":  # each output is a sum over the places that reach it
        fan_in = max(1, fan_in // math.prod(node.attributes.get_ints("strides", [1])))
    bound = 1 / math.sqrt(fan_in)
    _replace(graph, nodes, weight, every, rng.uniform(-bound, bound, shape).astype(np.float32))
    for bias in biases:
        if bias.size not in (1, old_outputs):
            raise ModelError(f"{name}: bias {bias.name!r} of the head has shape {bias.shape}, not ({old_outputs},).")
        extents = list(bias.shape)
        if bias.size == old_outputs:
            where = extents.index(old_outputs) if old_outputs > 1 else _bias_axis(head, weight, bias)
            extents[where] = classes
        _replace(graph, nodes, bias, every, np.zeros(extents, np.float32))
    return old_outputs


def _is_transposed(node: ir.Node, weight: Parameter, name: str, head: str) -> bool:
    """Whether the two axes of the weight are swapped on its way to the node.

    Raises:
        ModelError: something other than Identity and Transpose is on the way.
    """
    transposed = False
    value = node.inputs[weight.position]
    while value is not None and not value.is_initializer():
        producer = value.producer()
        assert producer is not None
        if producer.op_type == "Transpose" and len(weight.shape) == 2:
            transposed ^= list(producer.attributes.get_ints("perm", [1, 0])) == [1, 0]
        elif producer.op_type != "Identity":
            raise ModelError(f"{name}: the weight of {head!r} reaches it through {producer.op_type}. {APPEND}")
        value = producer.inputs[0]
    return transposed


def _bias_axis(head: Layer, weight: Parameter, bias: Parameter) -> int:
    """Axis of the channels in a bias of ones only: before a Conv's spatial axes, else the last."""
    spatial = len(weight.shape) - 2 if head.op_type in _CONVOLUTIONS and len(bias.shape) > 1 else 0
    return len(bias.shape) - 1 - spatial


def _output_axis(node: ir.Node, weight: Parameter, name: str) -> int:
    """Axis of a Gemm's or MatMul's weight that holds its outputs, as the node sees it."""
    rank, position = len(weight.shape), weight.position
    if rank < 2 or (node.op_type == "Gemm" and position != 1):
        raise ModelError(
            f"{name}: the head {node.name!r} multiplies its input by {weight.name!r} of shape {weight.shape} in a way "
            f"that is not x @ W. {APPEND}"
        )
    if node.op_type == "MatMul":
        return rank - 1 if position == 1 else rank - 2
    return 0 if node.attributes.get_int("transB", 0) else 1


def _in_turn(graph: ir.Graph, head: Layer) -> bool:
    """Whether an application of the head needs the result of another.

    Then the last one alone is the head: the others keep the old weights. Otherwise the logits are made from all of
    them alike (the branches of a Siamese network), so all get the new ones.
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


def _replace(graph: ir.Model, nodes: Mapping[str | None, ir.Node], of: Parameter, every: bool, new: np.ndarray) -> None:
    """Put a new tensor in place of a parameter: under its name, or a new one where other nodes keep the old tensor.

    Args:
        graph: to change.
        nodes: its nodes by name.
        of: the parameter.
        every: in all applications of its layer; otherwise in the last.
        new: the tensor.
    """
    uses = [(nodes[name], position) for name, position in (of.uses if every else of.uses[-1:])]
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
