"""Replace the head: the last parameterised layer gets a new number of outputs and fresh weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from .. import seeds
from ..errors import ModelError, UsageError
from ..options import typed
from .appended_head import append_head
from .embedding import embedded
from .error_context import guarded
from .head_tail import head_tail, only_reshapes
from .head_weights import APPEND, enlarge, replace_parameters
from .layers import Layer, find_layers
from .logits_axes import softmax_axis
from .materialised import materialise
from .metadata import METADATA, set_metadata
from .open import Model, ModelSource, open_model
from .output_shapes import set_output_shapes
from .passes.unused import RemoveUnused
from .reshapes import fix_reshape_targets, follow
from .shapes import infer_shapes, measured_shapes
from .upsampling import head_and_upsampling, head_of, is_upsampling

_MOST_CLASSES = 1_000_000


def check_head_options(num_classes: int | None, kept: Mapping[str, bool]) -> None:
    """See that ``keep_tail`` and ``append`` come with a number of classes.

    Raises:
        UsageError: one of them is asked for, and no new head.
    """
    if num_classes is None and any(kept.values()):
        raise UsageError("`keep_tail` and `append` are about a new head: give `num_classes` too.")


def with_head(
    model: Model, num_classes: int | None, *, kept: Mapping[str, bool], seed: int = 0, name: str | None = None
) -> tuple[Model, bytes | None]:
    """A model with a new head as it is read back from its file, and that file; the model itself and None without one.

    Args:
        model: the opened model.
        num_classes: outputs of the new head; None: the model keeps its own.
        kept: ``keep_tail`` and ``append``, as `new_head` takes them.
        seed: of the fresh weights.
        name: what messages call the new model; None: as the old one.

    Raises:
        UsageError, ModelError: as `new_head`.
    """
    if num_classes is None:
        return model, None
    made = new_head(model, num_classes, seed=seed, **kept)
    proto = made.proto()
    opened = dataclasses.replace(open_model(proto), name=name or model.name, notes=made.notes)
    if model.quantised is not None:
        quantised = dataclasses.replace(model.quantised, whole=False)
        opened = dataclasses.replace(opened, quantised=quantised)
    return opened, proto.SerializeToString()


@typed
@guarded("giving a new head to")
def new_head(
    model: ModelSource, num_classes: int, *, seed: int = 0, keep_tail: bool = False, append: bool = False
) -> Model:
    """Give the last Gemm, MatMul (+ Add), Conv or ConvTranspose ``num_classes`` fresh outputs.

    Weights are uniform in +-1/sqrt(fan_in), as is usual for such layers, biases zero. A final Softmax or Sigmoid is
    dropped, so that the output is logits, and so is what belongs to the old outputs (a normalisation of an embedding,
    an activation, a temperature; see `head_tail`); a note says so. ConvTranspose layers that only enlarge what the head
    gives enlarge as many channels (see `upsampling`). The head is marked as new in the file's metadata, with which
    ``select(..., head="auto")`` always trains it.

    Args:
        model: opened, or what `open_model` takes; it is not changed.
        num_classes: outputs of the new head, at least 1.
        seed: of the fresh weights.
        keep_tail: keep what belongs to the old outputs, except for probabilities.
        append: keep all layers, and put a linear classifier on the outputs (of an embedding, say).

    Returns:
        The new model; its SHA-256 is that of its serialised bytes.

    Raises:
        UsageError: ``num_classes`` is below 1 or above a million, or both ``keep_tail`` and ``append``.
        ModelError: there is no such layer, or it is not the last thing that decides the number of outputs.

    Example:
        >>> from adabet_onnx import new_head
        >>> new_head("model.onnx", 5).new_head
        True
    """
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise UsageError(f"`num_classes` must be 1 to {_MOST_CLASSES}, not {num_classes}.")
    if keep_tail and append:
        raise UsageError("`append=True` keeps everything that the outputs are made by: leave out `keep_tail`.")
    model = open_model(model)
    graph, notes = model.graph.clone(), list(model.notes)
    told = softmax_axis(model)
    if append:
        notes.append(append_head(graph, model, num_classes, seeds.head(seed)))
    else:
        _replace_head(graph, model, num_classes, seeds.head(seed), keep_tail, notes)
    for key in ("classes", "adapted", "logits"):  # the output is the logits now
        graph.metadata_props.pop(METADATA + key, None)
    if told is not None:
        name = graph.graph.outputs[0].name
        set_metadata(graph, "class_axis", {"logits": name, "axis": told})  # the Softmax that told is gone
    RemoveUnused()(graph)
    now = head_of(find_layers(graph), graph.graph)  # its name can be another where its weight was shared
    assert now is not None
    set_metadata(graph, "new_head", now.name)
    _check_classes(graph, model, num_classes, now.name)
    set_output_shapes(graph, model.name)
    opened = open_model(ir.to_proto(graph))
    return dataclasses.replace(opened, name=f"{model.name} with a new head", notes=tuple(notes))


def _replace_head(
    graph: ir.Model, model: Model, classes: int, rng: np.random.Generator, keep_tail: bool, notes: list[str]
) -> None:
    """Give the head other outputs, in place; what a user should know is added to the notes."""
    head, enlarging = head_and_upsampling(model.layers, model.graph.graph)
    if head is None:
        raise ModelError(
            f"{model.name} has no Gemm, MatMul, Conv or ConvTranspose layer that could be its head. {APPEND}"
        )
    dropped, operators = _drop_tail(graph, model, head, enlarging, keep_tail)
    later = [
        layer
        for layer in model.layers[model.layers.index(head) + 1 :]
        if layer not in enlarging and not dropped.issuperset(layer.nodes)
    ]
    if later:
        raise ModelError(
            f"{model.name}: the head is {head.op_type} {head.name!r}, but {later[-1].op_type} {later[-1].name!r} comes "
            "after it and holds parameters of the old outputs. "
            + ("Leave out `keep_tail`, or " if keep_tail else "")
            + (APPEND[0].lower() if keep_tail else APPEND[0])
            + APPEND[1:]
        )
    norm = embedded(next(value for node in model.graph.graph for value in node.outputs if value.name == model.logits))
    if operators:
        notes.append(
            f"{', '.join(operators)} after the head {head.name!r} belonged to its old outputs and went with them "
            "(`keep_tail=True` keeps what can be kept)"
        )
    if norm is not None and not keep_tail:
        notes.append(
            f"the outputs were an embedding, brought to length 1 by {norm}: its last layer {head.name!r} gave way to "
            "the classifier (`append=True` keeps it, and puts the classifier on the embedding)"
        )
    node = next(node for node in model.graph.graph if node.name == head.node)
    if head.op_type == "ConvTranspose" and is_upsampling(node, head):
        notes.append(
            f"the head {head.name!r} is a ConvTranspose of {head.parameters[0].shape[0]} channels that gave as many: "
            "if these are scores of the old classes, summed of several layers, the new outputs are made of them alone "
            "(as they are with `append=True`); a network that ends in a layer of its own uses more of what it has "
            "learned"
        )
    fix_reshape_targets(graph)
    before = infer_shapes(graph)
    old = replace_parameters(graph, materialise(graph, head), classes, rng, model.name)
    for layer in enlarging:
        notes.append(enlarge(graph, layer, old, classes))
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
            f"head repeats the old number of classes ({' '.join(str(error).split()).rstrip('.')}). {APPEND}"
        ) from error
    if classes not in shape[1:]:
        raise ModelError(
            f"{model.name}: with {classes} outputs in {head!r} the graph gives {shape}, where one of the axes after "
            f"the batch should be {classes}: something after the head repeats the old number of classes. {APPEND}"
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
