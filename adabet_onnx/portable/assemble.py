"""The graphs of a training: a step, the gradients alone, the update alone, and an evaluation.

All of them take the trained parameters as inputs and contain everything else. The file of a step holds, in this order:
the forward part, the nodes of the backward pass that depend on the forward part alone, the loss, the rest of the
backward pass, and the updates from the first layer to the last. `order` explains why.

What no training changes is in a separate graph, the frozen one; step, gradients and evaluation start where it ends.
`cut` finds this place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError
from ..model.dims import dims_or_none
from ..model.passes.unused import RemoveUnused
from ..model.prepare import Prepared
from ..model.shapes import BATCH
from .autodiff import differentiate, plan
from .batch_inside import put_batch_inside
from .batch_statistics import moving_nodes, normalise_by_batch, statistics
from .builder import Builder
from .channel_gradients import TrainedPart
from .early_selection import select_early
from .graph_split import Boundary, split_at_cut
from .hidden_layers import compute_in_pieces
from .loss_gradients import connect, logits_gradient
from .losses import Loss, build_loss
from .memory import step_bytes
from .names import TrainingGraphNames, in_order, name_all
from .obstacles import explain
from .opset import raise_opset
from .optimizers import Updates
from .order import mask_chain, split_by_use
from .recipe import Recipe
from .recompute import recompute
from .shapes import annotate
from .small_maps import convolve_by_matrix
from .trained_norms import merge_norms
from .update_graph import by_parameter, float_input, learning_rate_input, output_names, step_number_input, update_graph

_SEGMENTS = (2, 3, 4, 6, 8, 12)  # numbers of segments that are tried for recomputing
_NOMINAL_BATCH = 8


@dataclass(frozen=True)
class Graphs:
    """The graphs of a training.

    Attributes:
        frozen: takes the model's inputs; returns the values that are kept of them, the features.
        step: takes features, labels, parameters, state, learning rate and step number; returns loss, logits, new
            parameters and new state.
        gradients: takes features, labels and parameters; returns loss, logits and gradients.
        update: takes parameters, gradients, state, learning rate and step number; returns new parameters and new state.
        evaluation: takes features, labels and parameters; returns loss and logits.
        boundary: the features.
        note: where the frozen part ends too early: see `early_end`; or None.
        names: names of inputs and outputs.
        labels: the labels' input.
    """

    frozen: ir.Model
    step: ir.Model
    gradients: ir.Model
    update: ir.Model
    evaluation: ir.Model
    boundary: tuple[Boundary, ...]
    note: str | None
    names: TrainingGraphNames
    labels: ir.Value


@dataclass(frozen=True)
class WholeGraphs:
    """The graphs of a training from the model's inputs on, before they are cut: see `Graphs`."""

    step: ir.Model
    gradients: ir.Model
    evaluation: ir.Model
    names: TrainingGraphNames
    labels: ir.Value


@dataclass(frozen=True)
class StepGraphs:
    """The graph of a training step and its frozen graph: see `Graphs`."""

    frozen: ir.Model
    model: ir.Model
    boundary: tuple[Boundary, ...]
    note: str | None
    names: TrainingGraphNames
    labels: str


def make_graphs(prepared: Prepared, recipe: Recipe) -> Graphs:
    """Write all graphs of a training.

    Args:
        prepared: the trainable graph.
        recipe: what to compute.

    Raises:
        ModelError: a node has no gradient, or the profile lacks an operator.
    """
    whole = _whole_graphs(prepared, recipe)
    data = [name for _, name in prepared.inputs]
    graphs = [whole.step, whole.gradients, whole.evaluation]
    frozen, boundary, note = split_at_cut(graphs, data, whole.names.labels, recipe.allowed)
    _convolve(graphs, whole.names, recipe)
    update = update_graph(prepared, recipe, whole.names)
    graphs_of = whole.step, whole.gradients, update, whole.evaluation
    return Graphs(frozen, *graphs_of, boundary, note, whole.names, whole.labels)


def whole_graphs(prepared: Prepared, recipe: Recipe) -> WholeGraphs:
    """Write step, gradients and evaluation from the model's inputs on.

    Raises:
        ModelError: a node has no gradient, or the profile lacks an operator.
    """
    whole = _whole_graphs(prepared, recipe)
    _convolve([whole.step, whole.gradients, whole.evaluation], whole.names, recipe)
    return whole


def _whole_graphs(prepared: Prepared, recipe: Recipe) -> WholeGraphs:
    segments = _best_segments(prepared, recipe) if recipe.recompute else 0
    step = _step_draft(prepared, recipe, segments)[0].finish_step()
    gradients = _Draft(prepared, recipe)
    gradients.differentiate(segments)
    labels = gradients.add_loss()
    evaluation = _Draft(prepared, recipe, training=False)
    evaluation.add_loss()
    return WholeGraphs(step, gradients.finish_gradients(), evaluation.finish_evaluation(), gradients.names, labels)


def make_step(prepared: Prepared, recipe: Recipe) -> StepGraphs:
    """Write the frozen graph and the graph of the step, as `make_graphs` does.

    Raises:
        ModelError: a node has no gradient, or the profile lacks an operator.
    """
    return _step(prepared, recipe, _best_segments(prepared, recipe) if recipe.recompute else 0)


def _step(prepared: Prepared, recipe: Recipe, segments: int) -> StepGraphs:
    draft, labels = _step_draft(prepared, recipe, segments)
    model = draft.finish_step()
    name = labels.name or ""
    frozen, boundary, note = split_at_cut([model], [feed for _, feed in prepared.inputs], name, recipe.allowed)
    _convolve([model], draft.names, recipe)
    return StepGraphs(frozen, model, boundary, note, draft.names, name)


def _convolve(models: Sequence[ir.Model], names: TrainingGraphNames, recipe: Recipe) -> None:
    """Rewrite small depthwise convolutions; done after the cut, which must be at values of the model."""
    for model in models:
        convolve_by_matrix(model, {tensor.input for tensor in names.parameters}, recipe.allowed)


def _step_draft(prepared: Prepared, recipe: Recipe, segments: int) -> tuple[_Draft, ir.Value]:
    draft = _Draft(prepared, recipe)
    draft.differentiate(segments)
    return draft, draft.add_loss()


def _best_segments(prepared: Prepared, recipe: Recipe) -> int:
    """The number of recomputed segments with which the step needs the least memory; 0 for none."""
    sizes = {n: step_bytes(_step(prepared, recipe, n).model, _NOMINAL_BATCH) for n in (0, *_SEGMENTS)}
    return min(sizes, key=lambda n: (sizes[n], n))


class _Draft:
    """One graph under construction, made from the prepared graph."""

    def __init__(self, prepared: Prepared, recipe: Recipe, *, training: bool = True) -> None:
        self._recipe, self._prepared = recipe, prepared
        self._model = prepared.graph.clone()
        raise_opset(self._model)
        self._graph = self._model.graph
        self._parameters = [self._graph.initializers[name] for name in in_order(prepared)]
        self._trained = _in_use(self._graph, self._parameters, prepared)
        by_batch = moving_nodes(self._graph, set(self._trained)) if recipe.batch_norm == "batch" else []
        self._statistics = [value for node in by_batch for value in statistics(node)]  # before nodes are rewritten
        if training:
            normalise_by_batch(by_batch)
        annotate(self._model)
        in_part = {whole for whole, own in zip(self._trained, self._parameters, strict=True) if whole is not own}
        if recipe.batch_norm == "frozen":
            merge_norms(self._model, self._trained, in_part, recipe.allowed)
        put_batch_inside(self._model, self._trained, in_part, recipe.allowed)
        keep = recipe.keeps_values(quantised=prepared.model.quantised is not None)
        if not keep:
            select_early(self._model, self._trained, recipe.allowed)
        compute_in_pieces(self._model, self._trained, in_part, recipe.allowed, keep)
        self._opset = self._model.opset_imports[""] or 0
        self._logits = self._graph.outputs[0]
        self._data = list(self._graph.inputs)
        batch = _with_batch(self._data, prepared.model.name)
        self._build = Builder(self._graph, opset=self._opset, batch=batch, allowed=recipe.allowed)
        self._moved = [value for node in by_batch for value in node.outputs[1:3]]
        self.names = name_all(self._build, prepared, self._logits, recipe.loss, recipe.optimizer, self._statistics)
        self._early: list[ir.Node] = []  # nodes of the backward pass that depend on the forward part alone
        self._late: list[ir.Node] = []  # the other nodes of the backward pass
        self._gradients: list[ir.Value] = []
        self._loss: Loss | None = None
        self._seed: ir.Value | None = None  # placeholder for the gradient of the logits

    def differentiate(self, segments: int = 0) -> None:
        """Write the backward pass, starting from a placeholder for the gradient of the logits.

        Args:
            segments: number of segments of the forward part, for recomputing; 0 for none.
        """
        forward = {node: i for i, node in enumerate(self._graph)}
        path = plan(self._graph, self._logits, self._trained, opset=self._opset)
        if path.obstacles:
            raise ModelError(explain(path.obstacles, self._prepared))
        self._seed = seed = logits_gradient(self._logits)
        parts = {
            whole: TrainedPart(parameter, self._prepared.slices[parameter.name or ""])
            for whole, parameter in zip(self._trained, self._parameters, strict=True)
            if whole is not parameter
        }
        gradients = differentiate(path, seed, self._build, parts)
        self._gradients = [gradients[value] for value in self._trained]
        if segments:
            recompute(self._build, list(forward), seed, segments)
        late_batch_size = mask_chain(self._build, forward, seed)
        self._early, self._late = split_by_use(self._build.take(), seed)
        self._build.use_batch_size(late_batch_size)

    def add_loss(self) -> ir.Value:
        """Write the loss between the forward part and the backward pass, if there is one, and return its labels."""
        recipe, build, gradient = self._recipe, self._build, self._seed is not None
        build.begin("loss")
        logits = self._logits
        if gradient and build.masks:  # the loss, and thus the backward pass, starts after all masks are computed
            logits = build.after(logits, build.batch_size())
        self._loss = build_loss(
            build,
            logits,
            recipe.loss,
            self.names.labels,
            label_smoothing=recipe.label_smoothing,
            class_weights=recipe.class_weights,
            axis=recipe.class_axis,
            gradient=gradient,
        )
        if self._loss.gradient is not None and self._seed is not None:
            self._gradients = connect(self._seed, self._loss.gradient, self._gradients)
        self._graph.extend(self._early)
        self._graph.extend(build.take())
        self._graph.extend(self._late)
        return self._loss.labels

    def finish_step(self) -> ir.Model:
        """Add the updates, from the first layer to the last."""
        build, names = self._build, self.names
        rate, step = learning_rate_input(names), step_number_input(names)
        updates = Updates(build, self._recipe.optimizer, rate, step)
        state = [float_input(tensor.input, tensor.shape) for tensor in names.moments]
        moments = by_parameter(names, state)
        build.begin("clip")
        gradients = updates.clipped(self._gradients)
        new, new_state = [], []
        for tensor, parameter, gradient in zip(names.parameters, self._parameters, gradients, strict=True):
            build.begin(f"{tensor.name}/update")
            value, new_moments = updates.update(parameter, gradient, moments[tensor.name])
            new.append(value)
            new_state += new_moments
        outputs = list(zip(output_names((*names.parameters, *names.moments)), (*new, *new_state), strict=True))
        return self._finish([*state, rate, step], outputs, moves_statistics=True)

    def finish_gradients(self) -> ir.Model:
        """Make the gradients outputs."""
        outputs = [
            (tensor.gradient, gradient) for tensor, gradient in zip(self.names.parameters, self._gradients, strict=True)
        ]
        return self._finish([], outputs, moves_statistics=True)

    def finish_evaluation(self) -> ir.Model:
        """Have only loss and logits as outputs."""
        return self._finish([], [])

    def _finish(
        self, inputs: list[ir.Value], outputs: list[tuple[str, ir.Value]], *, moves_statistics: bool = False
    ) -> ir.Model:
        assert self._loss is not None
        if moves_statistics:
            outputs += zip(output_names(self.names.statistics), self._moved, strict=True)
        graph, build = self._graph, self._build
        build.begin("outputs")
        # Outputs come last in the file, since the last nodes are run first.
        renamed = [(name, _own(build, value)) for name, value in outputs]
        graph.extend(build.take())
        _move_last(graph, [value for _, value in renamed])
        fed = [*self._parameters, *self._statistics]
        for value, tensor in zip(fed, (*self.names.parameters, *self.names.statistics), strict=True):
            graph.initializers.pop(value.name or "", None)
            value.const_value = None
            value.name = tensor.input
        for value in build.initializers:
            if value.uses():
                graph.register_initializer(value)
        shown = [(self.names.loss, self._loss.value), (self.names.logits, self._logits)]
        for name, value in (*shown, *renamed):
            value.name = name
        graph.inputs.clear()
        graph.inputs.extend([*self._data, self._loss.labels, *fed, *inputs])
        graph.outputs.clear()
        graph.outputs.extend([value for _, value in (*shown, *renamed)])
        RemoveUnused()(self._model)
        return self._model


def _in_use(graph: ir.Graph, parameters: Sequence[ir.Value], prepared: Prepared) -> list[ir.Value]:
    """For each parameter the value that layers use: the parameter itself, or the whole tensor that it is a part of."""
    made = {value.name: value for node in graph for value in node.outputs}
    wholes = prepared.wholes
    return [made[wholes[name]] if (name := value.name or "") in wholes else value for value in parameters]


def _own(build: Builder, value: ir.Value) -> ir.Value:
    """A value that may be renamed: neither an input nor already an output under another name."""
    if value.producer() is None or value in build.exported:
        value = build.copy(value)
    build.exported.add(value)
    return value


def _move_last(graph: ir.Graph, values: list[ir.Value]) -> None:
    """Move the nodes that make these values to the end, in this order, if nothing else uses them."""
    for value in values:
        node = value.producer()
        if node is not None and not any(output.uses() for output in node.outputs):
            graph.remove(node)
            graph.append(node)


def _with_batch(inputs: Sequence[ir.Value], name: str) -> ir.Value:
    for value in inputs:
        extents = dims_or_none(value)
        if extents and extents[0] == BATCH:
            return value
    raise ModelError(f"{name}: no input has the batch as its first dimension. Export it with a dynamic batch.")
