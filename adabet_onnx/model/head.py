"""Replace the head: the last parameterised layer gets a new number of outputs and fresh weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from ..errors import ModelError, UsageError
from .layers import Layer
from .logits import ends_in_probabilities
from .open import Model, open_model, set_metadata
from .shapes import BATCH, infer_shapes


def new_head(model: Model, num_classes: int, *, seed: int = 0) -> Model:
    """Give the last Gemm, MatMul (+ Add) or Conv ``num_classes`` fresh outputs.

    Weights are uniform in +-1/sqrt(fan_in), as is usual for such layers, biases zero. What follows the layer is
    kept, but a final Softmax or Sigmoid is dropped, so that the output is logits. The head is marked as new in
    the file's metadata, with which ``select --head auto`` always trains it.

    Args:
        model: the opened model; it is not changed.
        num_classes: outputs of the new head, at least 1.
        seed: of the fresh weights.

    Returns:
        The new model; its SHA-256 is that of its serialised bytes.

    Raises:
        UsageError: ``num_classes`` is below 1.
        ModelError: there is no such layer, or it is not the last thing that decides the number of outputs.
    """
    if num_classes < 1:
        raise UsageError(f"--num-classes must be at least 1, not {num_classes}.")
    head = model.head
    if head is None:
        raise ModelError(f"{model.name} has no Gemm, MatMul or Conv layer that could be its head.")
    later = model.layers[model.layers.index(head) + 1 :]
    if later:
        raise ModelError(
            f"{model.name}: the last Gemm, MatMul or Conv is {head.name!r}, but {later[-1].op_type} {later[-1].name!r} "
            "comes after it and holds parameters of the old outputs. Change the head in the source framework."
        )
    graph = model.graph.clone()
    _drop_probabilities(graph, model.logits)
    _replace_parameters(graph, head, num_classes, np.random.default_rng(seed), model.name)
    set_metadata(graph, "new_head", head.name)
    graph.metadata_props.pop("adabet_onnx.classes", None)
    graph.metadata_props.pop("adabet_onnx.adapted", None)
    passes.RemoveUnusedNodesPass()(graph)
    shape = infer_shapes(graph).get(graph.graph.outputs[0].name or "")
    if shape is None or num_classes not in shape[1:]:
        raise ModelError(
            f"{model.name}: with {num_classes} outputs in {head.name!r} the graph gives {shape}: something after "
            f"the head "
            "repeats the old number of classes. Change the head in the source framework."
        )
    graph.graph.outputs[0].shape = ir.Shape([BATCH, *shape[1:]])
    opened = open_model(ir.to_proto(graph))
    return dataclasses.replace(opened, name=f"{model.name} with a new head", notes=model.notes)


def _drop_probabilities(graph: ir.Model, logits: str) -> None:
    """Make the logits the output, under the output's old name."""
    if not ends_in_probabilities(graph, logits):
        return
    old = graph.graph.outputs[0]
    value = next(v for node in graph.graph for v in node.outputs if v.name == logits)
    name = old.name
    old.name = f"{name}_dropped"
    value.name = name
    if value.dtype is None:
        value.dtype = ir.DataType.FLOAT
    graph.graph.outputs[0] = value


def _replace_parameters(graph: ir.Model, head: Layer, classes: int, rng: np.random.Generator, name: str) -> None:
    nodes = {node.name: node for node in graph.graph}
    weight, *biases = sorted(head.parameters, key=lambda parameter: -len(parameter.shape))
    node = nodes[weight.node]
    value = node.inputs[weight.position]
    assert value is not None
    axis = 0 if head.op_type == "Conv" else _output_axis(node, weight.position)
    if not value.is_initializer():  # the weight stands behind a Transpose: the swapped axis is the outputs'
        producer = value.producer()
        if producer is None or producer.op_type != "Transpose" or len(weight.shape) != 2:
            raise ModelError(
                f"{name}: the weight of {head.name!r} reaches it through "
                f"{producer.op_type if producer else 'nothing'}; "
                "change the head in the source framework."
            )
        axis = 1 - axis
    old_outputs = weight.shape[axis]
    shape = list(weight.shape)
    shape[axis] = classes
    if head.op_type == "Conv" and node.attributes.get_int("group", 1) != 1:
        raise ModelError(f"{name}: the head {head.name!r} is a grouped Conv, which cannot get a new number of outputs.")
    fan_in = math.prod(shape) // classes
    bound = 1 / math.sqrt(fan_in)
    _replace(graph, node, weight.position, rng.uniform(-bound, bound, shape).astype(np.float32))
    for bias in biases:
        if bias.size not in (1, old_outputs):
            raise ModelError(f"{name}: bias {bias.name!r} of the head has shape {bias.shape}, not ({old_outputs},).")
        extents = [classes if extent == old_outputs else extent for extent in bias.shape]
        _replace(graph, nodes[bias.node], bias.position, np.zeros(extents, np.float32))
    _follow_reshapes(graph, node, old_outputs, classes)


def _output_axis(node: ir.Node, position: int) -> int:
    """Axis of a Gemm's or MatMul's weight that holds its outputs."""
    if node.op_type == "MatMul":
        return -1 if position == 1 else 0
    if position != 1:
        raise ModelError(f"the head {node.name!r} has its weight as the first operand; export it as x @ W.")
    return 0 if node.attributes.get_int("transB", 0) else 1


def _replace(graph: ir.Model, node: ir.Node, position: int, array: np.ndarray) -> None:
    """Put a new tensor under the old initializer's name, or under a new name where another node uses it too."""
    value = node.inputs[position]
    assert value is not None
    user, at = node, position
    while not value.is_initializer():
        producer = value.producer()
        assert producer is not None
        user, at = producer, 0
        value = producer.inputs[0]
        assert value is not None
    name = value.name or ""
    if len(value.uses()) > 1:
        fresh = ir.Value(name=f"{name}/new_head", const_value=ir.tensor(array))
        graph.graph.register_initializer(fresh)
        user.replace_input_with(at, fresh)
        return
    value.const_value = ir.tensor(array, name=name)
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.FLOAT)


def _follow_reshapes(graph: ir.Model, node: ir.Node, old: int, new: int) -> None:
    """After the head, Reshape targets that name the old number of outputs name the new one."""
    reached = set(node.outputs)
    for later in graph.graph:
        if not any(value in reached for value in later.inputs if value is not None):
            continue
        reached.update(later.outputs)
        shape = later.inputs[1] if later.op_type == "Reshape" else None
        constant = ir.convenience.get_const_tensor(shape) if shape is not None else None
        if constant is None or old not in constant.numpy():
            continue
        target = constant.numpy().astype(np.int64).copy()
        target[target == old] = new
        value = ir.Value(name=f"{later.name}/new_shape", const_value=ir.tensor(target))
        graph.graph.register_initializer(value)
        later.replace_input_with(1, value)
