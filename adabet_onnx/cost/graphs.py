"""Build the graphs that run when a set of parameters is trained, without writing an artifact folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from .. import runtime
from ..errors import UsageError
from ..files import temporary_folder
from ..model.open import Model
from ..model.prepare import trainable_graph
from ..portable.assemble import make_step
from ..selection.record import Selection
from ..trainability.choices import Choices
from ..training import ort

_LABELS = {"cross-entropy": "labels"}  # the input's name in onnxruntime-training's graphs; for other losses: target


@dataclass(frozen=True)
class StepGraph:
    """The graph of a training step.

    Attributes:
        model: forward part, loss and backward pass; for the portable backend also the update, but without the frozen
            part.
        labels: name of the input for labels.
        logits: name of the logits.
        data: names of the inputs for data.
        update_bytes: size of the trained parameters.
        state_bytes: size of the optimizer's state, including updated running statistics.
        large_bytes: the part of both in tensors that `runtime.frugal_loading` returns to the system once freed.
        frozen: the graph that runs before all steps, from the model's inputs to ``data``; None if there is none.
        note: where the frozen graph ends too early, or None: see `portable.early_end`.
        stored_bytes: size of the features kept per sample, from which steps start; 0 if none are kept.
    """

    model: ir.Model
    labels: str
    logits: str
    data: tuple[str, ...]
    update_bytes: int
    state_bytes: int
    large_bytes: int = 0
    frozen: ir.Model | None = None
    note: str | None = None
    stored_bytes: int = 0


def selection_with(
    model: Model,
    parameters: Sequence[str],
    layers: Sequence[str] | None = None,
    channels: Mapping[str, Sequence[int]] | None = None,
) -> Selection:
    """Make a selection of parameters.

    Args:
        model: the opened model.
        parameters: names of initializers.
        layers: names of the layers they are trained in; None: every layer that has one of them.
        channels: the trained output channels of layers that are only partly trained.

    Raises:
        UsageError: there are no parameters, or one belongs to no layer.
    """
    trained = set(parameters)
    owners = [layer for layer in model.layers if any(parameter.name in trained for parameter in layer.parameters)]
    unknown = trained - {parameter.name for layer in owners for parameter in layer.parameters}
    if not trained:
        raise UsageError("no parameters are given whose training could be predicted: select at least one layer.")
    if unknown:
        raise UsageError(f"{model.name} has no layer with a parameter {sorted(unknown)[0]!r}.")
    names = tuple(layer.name for layer in owners) if layers is None else tuple(layers)
    part = None if not channels else {name: tuple(indices) for name, indices in channels.items()}
    return Selection(model.sha256, "layers", names, tuple(parameters), channels=part)


def portable_step(model: Model, selection: Selection, choices: Choices) -> StepGraph:
    """Build the step graph of the portable backend.

    Raises:
        ModelError: a node has no gradient.
        UsageError: the profile lacks an operator.
    """
    prepared = trainable_graph(model, selection, backend="portable")
    step = make_step(prepared, choices.recipe)
    names = step.names
    computed = any(kept.given is None for kept in step.boundary)
    sizes = [4 * math.prod(tensor.shape) for tensor in (*names.parameters, *names.state)]
    return StepGraph(
        model=step.model,
        labels=step.labels,
        logits=names.logits,
        data=tuple(kept.name for kept in step.boundary),
        update_bytes=4 * sum(math.prod(tensor.shape) for tensor in names.parameters),
        state_bytes=4 * sum(math.prod(tensor.shape) for tensor in names.state),
        large_bytes=sum(size for size in sizes if size >= runtime.LARGE_BLOCK),
        frozen=step.frozen if computed else None,
        note=step.note,
        stored_bytes=sum(kept.bytes for kept in step.boundary) if computed else 0,
    )


def ort_step(model: Model, selection: Selection, choices: Choices) -> StepGraph:
    """Build the training graph of the ort backend with onnxruntime-training.

    Raises:
        ModelError: onnxruntime-training cannot build gradients for this graph.
        RuntimeMissingError: onnxruntime-training is not installed.
    """
    prepared = trainable_graph(model, selection, backend="ort")
    with temporary_folder() as folder:
        ort.generate(
            prepared.proto(),
            prepared.trainable,
            folder,
            loss=choices.loss,
            optimizer=choices.optimizer,
            weight_decay=choices.weight_decay,
        )
        proto = onnx.load(folder / "training_model.onnx", load_external_data=False)
    graph = ir.from_proto(proto)
    tensors = [prepared.graph.graph.initializers[name].const_value for name in prepared.trainable]
    update = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return StepGraph(
        model=graph,
        labels=_LABELS.get(choices.loss, "target"),
        logits=prepared.graph.graph.outputs[0].name or "",
        data=tuple(name for _, name in prepared.inputs),
        update_bytes=update,
        state_bytes=2 * update if choices.optimizer != "sgd" else 0,
    )
