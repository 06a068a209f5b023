"""Replace the head: the last parameterised layer gets a new number of outputs and fresh weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..errors import ModelError, UsageError
from .appended_head import append_head
from .door import guarded
from .embedding import embedded
from .enlarging import enlarging_weight, head_and_enlarging, head_of
from .head_tail import head_tail, only_reshapes
from .layers import Layer, Parameter, find_layers, source_initializer
from .logits_axes import softmax_axis
from .materialised import materialise
from .open import Model, open_model, set_metadata
from .output_shapes import state_shapes
from .passes.unshare import consumers, feed
from .passes.unused import RemoveUnused
from .reshapes import follow
from .shapes import infer_shapes, measured_shapes

_MOST_CLASSES = 1_000_000
_CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}  # the axis of the weight that holds the outputs
_APPEND = (
    "Put a classifier on the outputs instead (new-head --append; in Python append=True), or change the head in the "
    "source framework."
)


@guarded("giving a new head to")
def new_head(model: Model, num_classes: int, *, seed: int = 0, keep_tail: bool = False, append: bool = False) -> Model:
    """Give the last Gemm, MatMul (+ Add), Conv or ConvTranspose ``num_classes`` fresh outputs.

    Weights are uniform in +-1/sqrt(fan_in), as is usual for such layers, biases zero. A final Softmax or Sigmoid is
    dropped, so that the output is logits, and so is what belongs to the old outputs (a normalisation of an embedding,
    an activation, a temperature; see `head_tail`); a note says so. ConvTranspose layers that only enlarge what the head
    gives enlarge as many channels (see `enlarging`). The head is marked as new in the file's metadata, with which
    ``select --head auto`` always trains it.

    Args:
        model: the opened model; it is not changed.
        num_classes: outputs of the new head, at least 1.
        seed: of the fresh weights.
        keep_tail: keep what belongs to the old outputs, except for probabilities.
        append: keep all layers, and put a linear classifier on the outputs (of an embedding, say).

    Returns:
        The new model; its SHA-256 is that of its serialised bytes.

    Raises:
        UsageError: ``num_classes`` is below 1 or above a million, or both ``keep_tail`` and ``append``.
        ModelError: there is no such layer, or it is not the last thing that decides the number of outputs.
    """
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise UsageError(f"--num-classes must be 1 to {_MOST_CLASSES}, not {num_classes}.")
    if keep_tail and append:
        raise UsageError("--append keeps everything that the outputs are made by: leave out --keep-tail.")
    graph, notes = model.graph.clone(), list(model.notes)
    told = softmax_axis(model)
    if append:
        notes.append(append_head(graph, model, num_classes, np.random.default_rng(seed)))
    else:
        _replace_head(graph, model, num_classes, np.random.default_rng(seed), keep_tail, notes)
    for key in ("classes", "adapted", "logits"):  # the output is the logits now
        graph.metadata_props.pop(f"adabet_onnx.{key}", None)
    if told is not None:
        name = graph.graph.outputs[0].name
        set_metadata(graph, "class_axis", {"logits": name, "axis": told})  # the Softmax that told is gone
    RemoveUnused()(graph)
    now = head_of(find_layers(graph), graph.graph)  # its name can be another where its weight was shared
    assert now is not None
    set_metadata(graph, "new_head", now.name)
    _check_classes(graph, model, num_classes, now.name)
    state_shapes(graph, model.name)
    opened = open_model(ir.to_proto(graph))
    return dataclasses.replace(opened, name=f"{model.name} with a new head", notes=tuple(notes))


def _replace_head(
    graph: ir.Model, model: Model, classes: int, rng: np.random.Generator, keep_tail: bool, notes: list[str]
) -> None:
    """Give the head other outputs, in place; what a user should know is added to the notes."""
    head, enlarging = head_and_enlarging(model.layers, model.graph.graph)
    if head is None:
        raise ModelError(
            f"{model.name} has no Gemm, MatMul, Conv or ConvTranspose layer that could be its head. {_APPEND}"
        )
    dropped, operators = _drop_tail(graph, model, head, enlarging, keep_tail)
    later = [
        layer
        for layer in model.layers[model.layers.index(head) + 1 :]
        if layer not in enlarging and not dropped.issuperset(layer.nodes)
    ]
    if later:
        raise ModelError(
            f"{model.name}: the head is {head.op_type} {head.name!r}, but {later[-1].op_type} {later[-1].name!r} "
            "comes after it and holds parameters of the old outputs. "
            + ("Leave out --keep-tail, or " if keep_tail else "")
            + (_APPEND[0].lower() if keep_tail else _APPEND[0])
            + _APPEND[1:]
        )
    norm = embedded(next(value for node in model.graph.graph for value in node.outputs if value.name == model.logits))
    if operators:
        notes.append(
            f"{', '.join(operators)} after the head {head.name!r} belonged to its old outputs and went with them "
            "(--keep-tail keeps what can be kept)"
        )
    if norm is not None and not keep_tail:
        notes.append(
            f"the outputs were an embedding, brought to length 1 by {norm}: its last layer {head.name!r} gave way to "
            "the classifier (--append keeps it, and puts the classifier on the embedding)"
        )
    before = infer_shapes(graph)
    old = _replace_parameters(graph, materialise(graph, head), classes, rng, model.name)
    for layer in enlarging:
        notes.append(_enlarge(graph, layer, old, classes))
    for node in graph.graph:
        for value in node.outputs:
            value.shape = None
    follow(graph, old, before, lambda: infer_shapes(graph), dynamic=False)


def _check_classes(graph: ir.Model, model: Model, classes: int, head: str) -> None:
    """See that the graph gives as many outputs as it should: by inference, or else in a run on zeros.

    Inference that finds nothing says nothing: it gives up on sound models too.

    Raises:
        ModelError: it gives others, or contradicts itself.
    """
    output = graph.graph.outputs[0].name or ""
    try:
        shape = infer_shapes(graph, strict=True).get(output)
        shape = measured_shapes(graph, [output])[output] if shape is None else shape
    except ModelError as error:
        raise ModelError(
            f"{model.name}: with {classes} outputs in {head!r} the graph does not fit together: something after the "
            f"head repeats the old number of classes ({str(error).rstrip('.')}). {_APPEND}"
        ) from error
    if classes not in shape[1:]:
        raise ModelError(
            f"{model.name}: with {classes} outputs in {head!r} the graph gives {shape}, where one of the axes after "
            f"the batch should be {classes}: something after the head repeats the old number of classes. {_APPEND}"
        )


def _drop_tail(
    graph: ir.Model, model: Model, head: Layer, enlarging: Sequence[Layer], keep: bool
) -> tuple[set[str], list[str]]:
    """Make the logits the output, without what belongs to the old head.

    The first output of floats gives its name to the logits.

    Returns:
        Names of the nodes that went, and their operators.
    """
    values = {value.name: value for node in graph.graph for value in node.outputs}
    logits, activation = values[model.logits], values[head.activation]
    stays = {layer.node for layer in enlarging}
    steps = [step for step in head_tail(logits, activation, stays) if step.columns or not keep]
    gone = [node for step in steps for node in step.nodes]
    dropped = {node.name or "" for node in gone}
    outputs = list(graph.graph.outputs)
    old = next((value for value in outputs if value.dtype in (None, ir.DataType.FLOAT)), outputs[0])
    for step in steps:
        if step.made is logits:
            logits = step.source
        else:
            step.made.replace_all_uses_with(step.source)
    if head.activation_shape == (1,) and not keep and only_reshapes(logits, activation):
        logits = activation
    name = old.name
    if old is not logits:
        old.name = f"{name}_dropped"
        logits.name = name
    if logits.dtype is None:
        logits.dtype = ir.DataType.FLOAT
    graph.graph.outputs.clear()
    graph.graph.outputs.append(logits)
    RemoveUnused()(graph)
    operators = dict.fromkeys(node.op_type for node in model.graph.graph if node.name in dropped)
    return dropped, list(operators)


def _enlarge(graph: ir.Model, layer: Layer, old: int, classes: int) -> str:
    """Give a ConvTranspose that enlarges the head's outputs the new number of channels, in place; return a note."""
    weight, *biases = materialise(graph, layer).parameters
    nodes = {node.name: node for node in graph.graph}
    node = nodes[weight.node]
    source = source_initializer(node.inputs[weight.position])
    assert source is not None
    assert source.const_value is not None
    array = source.const_value.numpy()
    made = enlarging_weight(node, array, classes)
    _replace(graph, nodes, weight, True, made)
    for bias in biases:
        extents = [classes if extent == old else extent for extent in bias.shape]
        _replace(graph, nodes, bias, True, np.zeros(extents, np.float32))
    kept = bool((made[0, 0] == array[0, 0]).all())
    how = "with the kernel it had" if kept else "by linear interpolation; its weights belonged to the old ones"
    return f"ConvTranspose {layer.name!r} after the head enlarges the new outputs {how}"


def _replace_parameters(graph: ir.Model, head: Layer, classes: int, rng: np.random.Generator, name: str) -> int:
    """Put fresh parameters in, in place; return the old number of outputs."""
    nodes = {node.name: node for node in graph.graph}
    every = not _in_turn(graph.graph, head)
    weight, *biases = sorted(head.parameters, key=lambda parameter: -len(parameter.shape))
    node = nodes[weight.node]
    if head.op_type in _CONVOLUTIONS and node.attributes.get_int("group", 1) != 1:
        raise ModelError(
            f"{name}: the head {head.name!r} is a grouped {head.op_type}, which cannot get a new number of outputs. "
            f"{_APPEND}"
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
            raise ModelError(f"{name}: the weight of {head!r} reaches it through {producer.op_type}. {_APPEND}")
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
            f"that is not x @ W. {_APPEND}"
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
