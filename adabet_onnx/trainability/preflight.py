"""Pre-flight check: which layers can be trained, with which backend and repairs, and what prevents the others.

One traversal of the graph that each backend would train (`portable.backward_paths`) covers all layers. Nothing is run,
except a forward pass on zeros if shapes cannot be inferred. The result is a `verdicts.Check`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ..errors import AdabetError, RuntimeMissingError, UsageError
from ..model.error_context import guarded
from ..model.layers import Layer, source_initializer
from ..model.logits import refusal
from ..model.logits_axes import axes_of, class_axis, detected_class_axis, shape_text
from ..model.open import Model, ModelSource, open_model
from ..model.passes.reserved_names import RESERVED
from ..model.prepare import BACKENDS, Prepared, trainable_graph
from ..model.probabilities import tail_of
from ..model.training_target import TrainingTarget, whole_layers
from ..model.uses import ancestors, reads
from ..options import typed
from ..portable import autodiff
from ..portable.backward_paths import BackwardPath, backward_paths
from ..portable.obstacles import explain, layer_of, way_around
from ..portable.opset import raise_opset
from ..portable.shapes import annotate
from ..training_runtime import need_runtime
from . import ort_operators
from .choices import Choices, choose_backend
from .decisions import decisions
from .repairs import repair_of
from .verdicts import Check, CheckedLayer, Obstacle, Verdict

_OR_EXPORT = "Or export the model with other operators in its place."
_UNREACHED = "the logits do not depend on {0!r}, or change with it only in steps, so that its gradient is zero"


@typed
@guarded("checking")
def check_model(model: ModelSource, *, loss: str = "cross-entropy") -> Check:
    """Determine which layers of a model can be trained, without training anything.

    Args:
        model: an opened model, or anything `open_model` accepts.
        loss: the loss to minimise; onnxruntime-training has no cross-entropy per pixel or token.

    Returns:
        For every layer, a verdict for each backend.

    Raises:
        ModelError: the model cannot be opened.
        UsageError: the loss is unknown.

    Example:
        >>> from adabet_onnx import check_model
        >>> check_model("model.onnx").untrainable
        {}
    """
    model = open_model(model)
    Choices(loss=loss)  # rejects an unknown loss
    backends = {backend: _Backend(model, model.layers, backend, loss) for backend in ("portable", "ort")}
    layers = tuple(
        CheckedLayer(
            layer.name, layer.op_type, backends["portable"].verdicts[layer.name], backends["ort"].verdicts[layer.name]
        )
        for layer in model.layers
    )
    return Check(
        model=model.name,
        model_sha256=model.sha256,
        loss=loss,
        layers=layers,
        obstacles=tuple(obstacle for backend in backends.values() for obstacle in backend.obstacles),
        installed={backend: _installed(backend) for backend in backends},
        refused={backend: checked.refused for backend, checked in backends.items()},
        decisions=decisions(model),
    )


@guarded("checking")
def untrainable_layers(model: Model) -> dict[str, str]:
    """Return the layers that no backend can train, and why; ort only checks what the portable backend cannot train."""
    first = _Backend(model, model.layers, "portable", None)
    left = [layer for layer in model.layers if not first.verdicts[layer.name].trainable]
    if not left:
        return {}
    second = _Backend(model, left, "ort", None)
    return {
        layer.name: first.verdicts[layer.name].reason or ""
        for layer in left
        if not second.verdicts[layer.name].trainable
    }


def obstacles_to(prepared: Prepared, backend: str) -> str | None:
    """Return why a backend cannot train a prepared graph, with advice for the user; None if it can."""
    graph = prepared.graph.clone()
    annotate(graph)
    global_obstacle = _global_obstacle(graph, backend)
    if global_obstacle is not None:
        return f"{prepared.model.name} cannot be trained with the {backend} backend: {global_obstacle}"
    trained = [graph.graph.initializers[name] for name in prepared.trainable]
    [path] = _backward_paths(graph, [trained], backend)
    if path.blocked:
        remedy = ort_operators.REMEDY if backend == "ort" else autodiff.REMEDY
        return explain([autodiff.obstacle(blocked.node, blocked.reason, remedy) for blocked in path.blocked], prepared)
    if path.unreached:
        return f"{prepared.model.name}: {_UNREACHED.format(path.unreached[0].name)}. Select other layers."
    return None


def pick_backend(model: Model, selection: TrainingTarget, asked: str, choices: Choices) -> str:
    """Choose the backend for making artifacts: the requested one, or for ``auto`` one that trains the selection.

    That is the portable one, unless a requested feature is only supported by onnxruntime-training, or the selection
    only has a gradient in onnxruntime-training and that is installed.

    Raises:
        UsageError: the backend is unknown or does not support a requested feature.
    """
    chosen = choose_backend(asked, choices, channels=bool(selection.channels))
    if (
        asked != "auto"
        or chosen == "ort"
        or choices.lacking("ort", channels=bool(selection.channels))
        or not _installed("ort")
    ):
        return chosen
    if obstacles_to(trainable_graph(model, selection, backend="portable"), "portable") is None:
        return "portable"
    try:
        prepared = trainable_graph(model, selection, backend="ort")
    except AdabetError:
        return "portable"
    trained = loss_obstacle(model, choices.loss, "ort") is None and obstacles_to(prepared, "ort") is None
    return "ort" if trained else "portable"


def loss_obstacle(model: Model, loss: str, backend: str, axis: int | None = None) -> str | None:
    """Return why a loss cannot be computed from the model's logits, or None.

    Args:
        model: the model.
        loss: name of the loss.
        backend: portable or ort.
        axis: the class axis; None: that of the model's Softmax or head, else see `class_axis`.

    Raises:
        UsageError: the given class axis is wrong.
    """
    refused = refusal(model.doubt, loss, model.name)
    if refused is not None:
        return refused
    try:
        shape = axes_of(model.graph, model.logits).batch_first(model.name)
        own_axis = detected_class_axis(model) if axis is None and loss == "cross-entropy" else axis
        classes_at = class_axis(shape, own_axis, loss)
    except AdabetError as error:
        if axis is not None and isinstance(error, UsageError):
            raise
        return str(error).removeprefix(f"{model.name}: ")
    if classes_at is not None and shape[classes_at] == 1:
        has_sigmoid = any((tail := tail_of(value)) and tail.kind == "sigmoid" for value in model.graph.graph.outputs)
        description = (
            f"one output followed by a Sigmoid, of shape {shape_text(shape)}" if has_sigmoid else shape_text(shape)
        )
        return (
            f"cross-entropy needs an output for each class, but the logits are {description}, and the cross-entropy of "
            "one class is 0 whatever it is. Use `loss='bce-with-logits'` for labels 0 and 1, mse or l1 for numbers, or "
            "give the model a head with an output per class (`new_head`, or `adapt` with `num_classes`)."
        )
    if loss != "cross-entropy" or len(shape) == 2 or backend == "portable":
        return None
    return (
        f"cross-entropy needs logits of shape (N, classes), but they have {shape_text(shape)}. Use `loss='mse'`, l1 or "
        "bce-with-logits, or end the model with a classifier. The portable backend also supports one per pixel or "
        "token."
    )


class _Backend:
    """The trainability of a model with one backend.

    Attributes:
        verdicts: verdicts by layer.
        obstacles: nodes without a gradient.
        refused: why it can train no layer, or None.
    """

    def __init__(self, model: Model, layers: Sequence[Layer], backend: str, loss: str | None) -> None:
        assert backend in BACKENDS
        self._backend = backend
        self.verdicts: dict[str, Verdict] = {}
        self.obstacles: tuple[Obstacle, ...] = ()
        self.refused: str | None = None if loss is None else loss_obstacle(model, loss, backend)
        reserved = {layer.name: name for layer in layers if (name := _reserved_name(layer, backend)) is not None}
        for layer_name, name in reserved.items():
            reason = f"its parameter {name!r} has a name that onnxruntime-training reserves"
            self.verdicts[layer_name] = Verdict(False, (), reason)
        asked = [layer for layer in layers if layer.name not in reserved]
        if asked and self.refused is None:
            try:
                self._check_layers(model, asked)
            except AdabetError as error:
                self.refused = str(error)
        for layer in asked:
            self.verdicts.setdefault(layer.name, Verdict(False, (), self.refused))

    def _check_layers(self, model: Model, layers: Sequence[Layer]) -> None:
        prepared = trainable_graph(model, whole_layers(model, layers), backend=self._backend)
        trained = _initializers(prepared, layers)
        if self._backend == "portable":
            raise_opset(prepared.graph)
        annotate(prepared.graph)
        global_obstacle = _global_obstacle(prepared.graph, self._backend)
        if global_obstacle is not None:
            self.refused = global_obstacle
            return
        values = prepared.graph.graph.initializers
        sets = [[values[name] for name in trained[layer.name]] for layer in layers]
        paths = _backward_paths(prepared.graph, sets, self._backend)
        repairs = _repairs(model, layers, self._backend)
        remedy = ort_operators.REMEDY if self._backend == "ort" else autodiff.REMEDY
        seen: dict[tuple[str, str], Obstacle] = {}
        for layer, path, rewrites in zip(layers, paths, repairs, strict=True):
            obstacles = []
            for blocked in path.blocked:
                obstacle = autodiff.obstacle(blocked.node, blocked.reason, remedy)
                key = obstacle.node, obstacle.reason
                if key not in seen:
                    workaround = way_around(obstacle, prepared) if self._backend == "portable" else None
                    remedy_text = obstacle.remedy if workaround is None else f"{workaround} {_OR_EXPORT}"
                    at_layer = layer_of(obstacle, prepared)
                    seen[key] = Obstacle(
                        obstacle.node, obstacle.op_type, at_layer, self._backend, obstacle.reason, remedy_text
                    )
                obstacles.append(seen[key])
            reason = str(obstacles[-1]) if obstacles else None
            if reason is None and path.unreached:
                reason = f"{_UNREACHED.format(path.unreached[0].name)}."
            self.verdicts[layer.name] = Verdict(reason is None, rewrites, reason)
        order = {node.name: i for i, node in enumerate(prepared.graph.graph)}
        self.obstacles = tuple(sorted(seen.values(), key=lambda obstacle: order.get(obstacle.node, 0)))


def _backward_paths(graph: ir.Model, sets: Sequence[Collection[ir.Value]], backend: str) -> list[BackwardPath]:
    opset = graph.opset_imports.get("") or 0
    output = graph.graph.outputs[0]
    if backend == "portable":
        return autodiff.plan_each(graph.graph, output, sets, opset=opset)
    return backward_paths(
        graph.graph,
        output,
        sets,
        reason=lambda node, wanted, needed: ort_operators.obstacle_reason(node, wanted, needed, opset),
        inputs=autodiff.sources,
        carries=autodiff.is_float,
    )


def _global_obstacle(graph: ir.Model, backend: str) -> str | None:
    """Return why a node prevents training of the whole graph with a backend, or None."""
    for node in graph.graph:
        if node.op_type == "LRN" and not node.domain and node.attributes.get_int("size", 1) % 2 == 0:
            return f"node {node.name!r} (LRN) has an even size, which ONNX Runtime cannot run. Export without it."
        reason = ort_operators.global_obstacle(node) if backend == "ort" else None
        if reason is not None:
            return f"node {node.name!r} ({node.op_type}) {reason}. Use the portable backend."
    return None


def _repairs(model: Model, layers: Sequence[Layer], backend: str) -> list[tuple[str, ...]]:
    """Return the rewrites on the path from each layer to the logits."""
    graph = model.graph.graph
    nodes = {node.name: node for node in graph}
    logits = next(value for node in graph for value in node.outputs if value.name == model.logits)
    met: list[dict[str, int]] = [{} for _ in layers]
    reached: dict[ir.Value, int] = {
        nodes[name].outputs[0]: 1 << i for i, layer in enumerate(layers) for name in layer.nodes
    }
    back = ancestors([logits])
    for node in graph:
        mask = 0
        for value in (*reads(node), *node.outputs):
            mask |= 0 if value is None else reached.get(value, 0)
        for value in node.outputs:
            reached[value] = mask
        repair = repair_of(node, backend) if mask and node in back else None
        if repair is None:
            continue
        for i in range(len(layers)):
            if mask >> i & 1:
                met[i][repair] = met[i].get(repair, 0) + 1
    return [tuple(f"{repair} ({count} nodes)" if count > 1 else repair for repair, count in row.items()) for row in met]


def _initializers(prepared: Prepared, layers: Sequence[Layer]) -> dict[str, list[str]]:
    """Return the parameter names of each layer in the prepared graphs, where shared vectors have been split."""
    nodes = {node.name: node for node in prepared.original.graph}
    parameters: dict[str, dict[str, None]] = {}
    for layer in layers:
        names = parameters.setdefault(layer.name, {})
        for parameter in layer.parameters:
            value = source_initializer(nodes[parameter.node].inputs[parameter.position])
            assert value is not None
            names[value.name or ""] = None
    return {name: list(names) for name, names in parameters.items()}


def _reserved_name(layer: Layer, backend: str) -> str | None:
    """Return the name of a parameter that is reserved by onnxruntime-training, or None."""
    names = [parameter.name for parameter in layer.parameters] if backend == "ort" else []
    return next((name for name in names if name in RESERVED or name.endswith("_grad")), None)


def _installed(backend: str) -> bool:
    try:
        need_runtime(backend)
    except RuntimeMissingError:
        return False
    return True
