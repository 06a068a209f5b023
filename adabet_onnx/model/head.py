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
from .head_weights import APPEND, replace_parameters, resize_upsampling
from .layers import Layer, find_layers
from .logits_axes import softmax_axis
from .materialised import materialise
from .metadata import METADATA, set_metadata
from .open import Model, ModelSource, open_model
from .output_shapes import set_output_shapes
from .passes.unused import RemoveUnused
from .reshapes import fix_reshape_targets, update_reshapes
from .shapes import infer_shapes, measured_shapes
from .upsampling import head_and_upsampling, head_of, is_upsampling

_MOST_CLASSES = 1_000_000


def check_head_options(num_classes: int | None, kept: Mapping[str, bool]) -> None:
    """Check that ``keep_tail`` and ``append`` come with a number of classes.

    Raises:
        UsageError: one of them is given without a new head.
    """
    if num_classes is None and any(kept.values()):
        raise UsageError("`keep_tail` and `append` apply to a new head: give `num_classes` too.")


def with_head(
    model: Model, num_classes: int | None, *, kept: Mapping[str, bool], seed: int = 0, name: str | None = None
) -> tuple[Model, bytes | None]:
    """A model with a new head as read back from its file, and that file; the given model and None without a new head.

    Args:
        model: the opened model.
        num_classes: outputs of the new head; None: the model keeps its own.
        kept: ``keep_tail`` and ``append``, as `new_head` takes them.
        seed: seed of the fresh weights.
        name: name of the new model in messages; None: that of the old one.

    Raises:
        UsageError, ModelError: as `new_head`.
    """
    if num_classes is None:
        return model, None
    model_with_head = new_head(model, num_classes, seed=seed, **kept)
    proto = model_with_head.proto()
    opened = dataclasses.replace(open_model(proto), name=name or model.name, notes=model_with_head.notes)
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

    Weights are uniform in +-1/sqrt(fan_in), as usual for such layers, biases zero. A final Softmax or Sigmoid is
    dropped, so that the output is logits, and so are operations that belong to the old outputs (a normalisation of an
    embedding, an activation, a temperature; see `head_tail`); a note lists them. ConvTranspose layers that only
    upsample the head's outputs get as many channels (see `upsampling`). The head is marked as new in the file's
    metadata, so that ``select(..., head="auto")`` always trains it.

    Args:
        model: an opened model, or any source that `open_model` accepts; it is not changed.
        num_classes: outputs of the new head, at least 1.
        seed: seed of the fresh weights.
        keep_tail: keep the operations that belong to the old outputs, except for probabilities.
        append: keep all layers, and append a linear classifier to the outputs (of an embedding, for example).

    Returns:
        The new model; its SHA-256 is that of its serialised bytes.

    Raises:
        UsageError: ``num_classes`` is below 1 or above a million, or both ``keep_tail`` and ``append``.
        ModelError: there is no such layer, or something after it depends on the number of outputs.

    Example:
        >>> from adabet_onnx import new_head
        >>> new_head("model.onnx", 5).new_head
        True
    """
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise UsageError(f"`num_classes` must be 1 to {_MOST_CLASSES}, not {num_classes}.")
    if keep_tail and append:
        raise UsageError("`append=True` keeps everything before the outputs: omit `keep_tail`.")
    model = open_model(model)
    graph, notes = model.graph.clone(), list(model.notes)
    class_axis = softmax_axis(model)
    if append:
        notes.append(append_head(graph, model, num_classes, seeds.head(seed)))
    else:
        _replace_head(graph, model, num_classes, seeds.head(seed), keep_tail, notes)
    for key in ("classes", "adapted", "logits"):  # the output is the logits now
        graph.metadata_props.pop(METADATA + key, None)
    if class_axis is not None:
        name = graph.graph.outputs[0].name
        # The Softmax that showed the axis is gone.
        set_metadata(graph, "class_axis", {"logits": name, "axis": class_axis})
    RemoveUnused()(graph)
    head = head_of(find_layers(graph), graph.graph)  # its name may differ if its weight was shared
    assert head is not None
    set_metadata(graph, "new_head", head.name)
    _check_classes(graph, model, num_classes, head.name)
    set_output_shapes(graph, model.name)
    opened = open_model(ir.to_proto(graph))
    return dataclasses.replace(opened, name=f"{model.name} with a new head", notes=tuple(notes))


def _replace_head(
    graph: ir.Model, model: Model, classes: int, rng: np.random.Generator, keep_tail: bool, notes: list[str]
) -> None:
    """Give the head new outputs, in place; what a user should know is added to the notes."""
    head, upsampling = head_and_upsampling(model.layers, model.graph.graph)
    if head is None:
        raise ModelError(
            f"{model.name} has no Gemm, MatMul, Conv or ConvTranspose layer that could be its head. {APPEND}"
        )
    dropped, operators = _drop_tail(graph, model, head, upsampling, keep_tail)
    later = [
        layer
        for layer in model.layers[model.layers.index(head) + 1 :]
        if layer not in upsampling and not dropped.issuperset(layer.nodes)
    ]
    if later:
        raise ModelError(
            f"{model.name}: the head is {head.op_type} {head.name!r}, but {later[-1].op_type} {later[-1].name!r} comes "
            "after it and holds parameters of the old outputs. "
            + ("Omit `keep_tail`, or " if keep_tail else "")
            + (APPEND[0].lower() if keep_tail else APPEND[0])
            + APPEND[1:]
        )
    norm = embedded(next(value for node in model.graph.graph for value in node.outputs if value.name == model.logits))
    if operators:
        notes.append(
            f"{', '.join(operators)} after the head {head.name!r} {'was' if len(operators) == 1 else 'were'} removed "
            "together with the old outputs (`keep_tail=True` keeps what can be kept)"
        )
    if norm is not None and not keep_tail:
        notes.append(
            f"the outputs were an embedding, normalised to length 1 by {norm}: its last layer {head.name!r} was "
            "replaced by the classifier (`append=True` keeps it, and puts the classifier on the embedding)"
        )
    node = next(node for node in model.graph.graph if node.name == head.node)
    if head.op_type == "ConvTranspose" and is_upsampling(node, head):
        notes.append(
            f"the head {head.name!r} is a ConvTranspose with {head.parameters[0].shape[0]} input and output channels: "
            "if these are scores of the old classes, summed over several layers, the new outputs are computed from "
            "these scores alone (as with `append=True`); a network that ends in a separate head uses more of what it "
            "has learned"
        )
    fix_reshape_targets(graph)
    before = infer_shapes(graph)
    old = replace_parameters(graph, materialise(graph, head), classes, rng, model.name)
    for layer in upsampling:
        notes.append(resize_upsampling(graph, layer, old, classes))
    for node in graph.graph:
        for value in node.outputs:
            value.shape = None
    update_reshapes(graph, old, before, lambda: infer_shapes(graph), dynamic=False)


def _check_classes(graph: ir.Model, model: Model, classes: int, head: str) -> None:
    """Check that the graph has the right number of outputs: by shape inference, or else in a run on zeros.

    Inference without a result is no error: it gives up on valid models too.

    Raises:
        ModelError: the number is wrong, or the graph contradicts itself.
    """
    output = graph.graph.outputs[0].name or ""
    try:
        shape = infer_shapes(graph, strict=True).get(output)
        shape = measured_shapes(graph, [output])[output] if shape is None else shape
    except ModelError as error:
        raise ModelError(
            f"{model.name}: with {classes} outputs in {head!r} the shapes in the graph do not match: something after "
            f"the head repeats the old number of classes ({' '.join(str(error).split()).rstrip('.')}). {APPEND}"
        ) from error
    if classes not in shape[1:]:
        raise ModelError(
            f"{model.name}: with {classes} outputs in {head!r} the output has shape {shape}, but one of the axes after "
            f"the batch should be {classes}: something after the head repeats the old number of classes. {APPEND}"
        )


def _drop_tail(
    graph: ir.Model, model: Model, head: Layer, upsampling: Sequence[Layer], keep: bool
) -> tuple[set[str], list[str]]:
    """Make the logits the output, without the operations that belong to the old head.

    The logits take over the name of the first float output.

    Returns:
        Names of the removed nodes, and their operators.
    """
    values = {value.name: value for node in graph.graph for value in node.outputs}
    logits, activation = values[model.logits], values[head.activation]
    stays = {layer.node for layer in upsampling}
    steps = [step for step in head_tail(logits, activation, stays) if step.columns or not keep]
    removed = [node for step in steps for node in step.nodes]
    dropped = {node.name or "" for node in removed}
    outputs = list(graph.graph.outputs)
    old = next((value for value in outputs if value.dtype in (None, ir.DataType.FLOAT)), outputs[0])
    for step in steps:
        if step.result is logits:
            logits = step.source
        else:
            step.result.replace_all_uses_with(step.source)
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
