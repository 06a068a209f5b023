"""Turn an opened model and a selection into a graph that a backend trains correctly.

The order matters: the logits before anything that could hide them, un-sharing before anything that reads parameters,
shape inference before the passes that need shapes, BatchNormalization after its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import CheckError, ModelError, RecordError, UsageError
from ..runtime import MOST_BYTES, in_memory
from ..showing import file_name, named, one_line
from ..sizes import size_text
from .bindings import binding_mismatch
from .channels import Slice, channels_of
from .error_context import guarded
from .layers import source_initializer
from .liveness import weight_bytes
from .logits_axes import shape_text
from .open import Model
from .passes.average_pool import AveragePoolToConv
from .passes.batchnorm import DecomposeBatchNormalization, FoldBatchNormalization
from .passes.casts import ExplicitCasts
from .passes.constants import FoldShapeArithmetic
from .passes.inference_only import RemoveInferenceNoOps
from .passes.layer_norm import CompleteLayerNormalization
from .passes.logits_only import LogitsOnly
from .passes.pads import ExplicitPads, MergePads
from .passes.reserved_names import RenameClashes
from .passes.sample_gathers import GatherWithinSamples
from .passes.slices import TrainSlices
from .passes.transposes import ExplicitOrders
from .passes.unshare import UnshareVectors, consumers, tied_tensors
from .passes.unused import RemoveUnused
from .shapes import infer_shapes
from .sharing import groups_of, sharings_of
from .training_target import TrainingTarget

BACKENDS = ("ort", "portable")


@dataclass(frozen=True)
class Prepared:
    """A trainable graph.

    Attributes:
        model: the opened model it was made from.
        graph: the trainable graph; its one output is the logits.
        original: the opened graph, un-shared where the selection requires it; exports start from it.
        trainable: names of the initializers to train, the same in both graphs.
        inputs: old and new name of each graph input (they differ if training reserves the old one).
        notes: what a user should know, a sentence each.
        slices: the trained part of each partially trained initializer, by name; in ``graph`` the initializer is that
            part, in ``original`` the whole.
        wholes: for the same initializers, the name of the value in ``graph`` that is the whole.
    """

    model: Model
    graph: ir.Model
    original: ir.Model
    trainable: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    slices: Mapping[str, Slice] = field(default_factory=dict)
    wholes: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        nodes = f"{len(self.graph.graph):,} nodes"
        return one_line(self, file_name(self.model.name), nodes, f"trainable {named(self.trainable)}")

    def proto(self) -> onnx.ModelProto:
        """The trainable graph as a new ModelProto."""
        return ir.to_proto(self.graph)


@guarded("preparing")
def trainable_graph(model: Model, selection: TrainingTarget, *, backend: str) -> Prepared:
    """Rewrite a model for training the selected layers.

    Args:
        model: the opened model.
        selection: the part to train; it must have been made for this model.
        backend: ``ort`` (onnxruntime-training, which needs more rewrites) or ``portable``.

    Returns:
        The trainable graph, whose logits equal the model's.

    Raises:
        RecordError: the selection was made for another model.
        UsageError: nothing is selected, a parameter or channel is not in the model, the backend is unknown, or it is
            ``ort`` and channels are selected.
        ModelError: a node prevents training, or the weights are 2 GB or more.
        CheckError: training would change more than the selected layers.
    """
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if selection.model_sha256 != model.sha256:
        raise RecordError(
            binding_mismatch(selection.inputs, model.bound)
            or f"the selection was made for another model (SHA-256 {selection.model_sha256[:12]}..., {model.name} has "
            f"{model.sha256[:12]}...). Score and select again for this model."
        )
    if selection.channels and backend == "ort":
        raise UsageError(
            "onnxruntime-training trains whole tensors, not some channels of a layer. Use the portable backend, or "
            "select without `channel_rho`."
        )
    if weight_bytes(model.graph) >= MOST_BYTES:
        raise ModelError(
            f"{model.name} has {size_text(weight_bytes(model.graph))} of weights; a training step is written for up to "
            "2 GB. Such a model can be inspected and scored only; give a smaller one to train."
        )
    slots = _selected_slots(model, selection)
    parts = _selected_parts(model, selection)
    original = in_memory(model.graph).clone()
    groups = groups_of(model.layers)
    UnshareVectors(_vectors(model, slots) | _statistics(original, {node for node, _, _ in slots}), groups)(original)
    nodes = {node.name: node for node in original.graph}
    trainable = tuple(dict.fromkeys(_initializer_at(nodes[node], position) for node, position, _ in slots))
    _check_unshared(original, trainable, {node for node, _, _ in slots})
    slices = {
        _initializer_at(nodes[node], position): parts[node, position]
        for node, position, _ in slots
        if (node, position) in parts
    }
    notes = [
        f"{name!r} is used by several layers (tied): training it changes all of them"
        for name in tied_tensors(
            original, trainable, {node: layer.node for layer in model.layers for node in layer.nodes}
        )
    ]
    graph = original.clone()
    _logits_only(graph, model, notes)
    RemoveUnused()(graph)
    RemoveInferenceNoOps()(graph)
    renamed = _for_ort(graph, trainable) if backend == "ort" else _for_portable(graph, trainable)
    split = TrainSlices(slices)
    split(graph)
    _infer(graph)
    inputs = tuple((spec.name, renamed.get(spec.name, spec.name)) for spec in model.inputs)
    return Prepared(model, graph, original, trainable, inputs, tuple(notes), slices, split.wholes)


def _logits_only(graph: ir.Model, model: Model, notes: list[str]) -> None:
    cut = LogitsOnly(model.logits, model.name)
    cut(graph)
    if cut.axes.batch:
        notes.append(
            f"the batch is axis {cut.axes.batch} of the logits {shape_text(cut.axes.shape)}: they are transposed to "
            f"{shape_text(cut.axes.batch_first(model.name))} before the loss"
        )


def _for_ort(graph: ir.Model, trainable: tuple[str, ...]) -> dict[str, str]:
    """Apply the rewrites that onnxruntime-training's gradient builder needs; return renamed values, old name to new."""
    # Frozen ones too: a LayerNormalization's gradient fails if another node shares its scale.
    UnshareVectors(but=trainable)(graph)
    shapes = infer_shapes(graph)
    clashes = RenameClashes()
    for step in (
        ExplicitPads(shapes),
        ExplicitOrders(shapes),
        AveragePoolToConv(shapes),
        DecomposeBatchNormalization(trainable, shapes),
        clashes,
        RemoveUnused(),
        CompleteLayerNormalization(),  # after the passes that would remove its unused outputs
        common.TopologicalSortPass(),
    ):
        step(graph)
    clashing = [name for name in trainable if name in clashes.renamed]
    if clashing:
        raise UsageError(
            f"parameter {clashing[0]!r} has a name that onnxruntime-training reserves; rename it in the source "
            "framework, or use the portable backend."
        )
    return clashes.renamed


def _for_portable(graph: ir.Model, trainable: tuple[str, ...]) -> dict[str, str]:
    """Apply the few rewrites that the portable backend needs: constants, explicit pads, fewer nodes."""
    ExplicitCasts()(graph)
    FoldShapeArithmetic(trainable)(graph)
    GatherWithinSamples(trainable)(graph)
    for step in (
        ExplicitPads(infer_shapes(graph)),
        MergePads(),
        FoldBatchNormalization(trainable),
        CompleteLayerNormalization(outputs=False),
        RemoveUnused(),
        common.TopologicalSortPass(),
    ):
        step(graph)
    return {}


def _selected_slots(model: Model, selection: TrainingTarget) -> list[tuple[str, int, str]]:
    """(node, input position, initializer) of every selected parameter, in all applications of its layer."""
    selected = set(selection.parameters)
    chosen = [model.layer(name) for name in selection.layers]
    slots = [
        (node, position, parameter.name)
        for layer in chosen
        for parameter in layer.parameters
        if parameter.name in selected
        for node, position in parameter.uses
    ]
    missing = selected - {name for _, _, name in slots}
    if missing:
        raise UsageError(
            f"the selection names parameter {sorted(missing)[0]!r}, which none of its layers has. Make the selection "
            "again with `select`."
        )
    if not slots:
        raise UsageError("the selection is empty: select at least one layer.")
    return slots


def _selected_parts(model: Model, selection: TrainingTarget) -> dict[tuple[str, int], Slice]:
    """The trained slices of parameters that are not trained whole, by node and input position."""
    if not selection.channels:
        return {}
    known, slices = channels_of(model), {}
    for name, indices in selection.channels.items():
        layer = model.layer(name)
        if name not in selection.layers or name not in known:
            why = "is not selected" if name not in selection.layers else "has no channels that can be trained alone"
            raise UsageError(
                f"the selection names channels of layer {name!r}, which {why}. Make the selection again with `select`."
            )
        channels = known[name]
        if not indices or len(set(indices)) < len(indices) or not all(0 <= i < channels.count for i in indices):
            raise UsageError(
                f"the selection names channels of layer {name!r} that do not exist, none, or one twice: the layer has "
                f"channels 0 to {channels.count - 1}. Make the selection again with `select`."
            )
        if len(indices) < channels.count:
            for parameter in layer.parameters:
                axis = channels.axes[parameter.node, parameter.position]
                slices[parameter.node, parameter.position] = Slice(axis, tuple(sorted(indices)))
    return slices


def _vectors(model: Model, slots: list[tuple[str, int, str]]) -> set[str]:
    """Names of selected parameters that other layers may share only because an exporter stored equal values once."""
    shapes = {parameter.name: parameter.shape for layer in model.layers for parameter in layer.parameters}
    sharings = sharings_of(model.layers)
    names = {name for _, _, name in slots}
    return {name for name in names if len(shapes[name]) < 2 or sharings.get(name) == "merged"}


def _statistics(graph: ir.Model, nodes: set[str]) -> set[str]:
    """Names of the running statistics of these nodes, which training may update."""
    sources = {
        source_initializer(value)
        for node in graph.graph
        if node.op_type == "BatchNormalization" and node.name in nodes
        for value in node.inputs[3:5]
    }
    return {value.name or "" for value in sources if value is not None}


def _check_unshared(graph: ir.Model, trainable: tuple[str, ...], selected: set[str]) -> None:
    """Check that no trained vector reaches a node that was not selected: no later check would notice."""
    for name in trainable:
        value = graph.graph.initializers[name]
        if value.const_value is None or len(value.const_value.shape) != 1:
            continue
        strays = sorted({node.name or "" for node, _ in consumers(value)} - selected)
        if strays:
            raise CheckError(
                f"training {name!r} would also change node {strays[0]!r}, which was not selected: the two still share "
                "a tensor. Nothing was written; please report this with the model."
            )


def _initializer_at(node: ir.Node, position: int) -> str:
    initializer = source_initializer(node.inputs[position])
    assert initializer is not None
    return initializer.name or ""


def _infer(graph: ir.Model) -> None:
    """Write inferred shapes with the symbolic batch into the graph; training needs them."""
    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)
