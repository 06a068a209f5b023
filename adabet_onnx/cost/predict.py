"""What training a selection will cost, predicted from the graph that would run: memory, multiply-adds, bytes.

Step memory is what `cost.measure` measures: the peak resident memory of a fresh process during steps minus its
resident memory when imports are done and no model is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError, UsageError
from ..model.layers import Layer
from ..model.liveness import VIEWS, weight_bytes
from ..model.open import ModelSource, open_model
from ..model.uses import reads
from ..options import typed
from ..portable.order import execution_order
from ..portable.shapes import annotate
from ..selection.record import Selection
from ..showing import file_name, one_line
from ..sizes import size_text
from ..trainability.choices import Choices, choose_backend
from ..trainability.preflight import untrainable_layers
from ..training.settings import BATCH_SIZE
from .domination import Domination
from .graphs import StepGraph, ort_step, portable_step, selection_with
from .memory import Simulation, gathered_bytes, inference_bytes, ort_bytes, portable_bytes
from .multiply_adds import multiply_adds
from .optimized import Sizes

# Measurements were up to 24 % above predictions. In which order ONNX Runtime puts weights into its arena differs from
# process to process, and with it what fits into the gaps: the same step has taken 310 and 336 MB.
_MARGIN = 1 / 3
_Channels = tuple[tuple[str, tuple[int, ...]], ...]
_Trained = tuple[tuple[str, ...], tuple[str, ...] | None, _Channels]  # parameters, layers, channels of layers


@dataclass(frozen=True)
class Prediction:
    """What a step takes; of inference, what a forward pass takes.

    Attributes:
        memory_bytes: step memory, see the module.
        margin_bytes: what a measurement may be above it.
        saved_bytes: activations kept for the backward pass.
        state_bytes: the optimizer's state.
        update_bytes: the trained parameters, float32.
        weight_bytes: all weights of the model.
        forward_multiply_adds: of the forward pass of the batch.
        step_multiply_adds: of the whole step: forward and backward.
    """

    memory_bytes: int
    margin_bytes: int
    saved_bytes: int
    state_bytes: int
    update_bytes: int
    weight_bytes: int
    forward_multiply_adds: int
    step_multiply_adds: int

    def __repr__(self) -> str:
        return one_line(
            self,
            f"{size_text(self.memory_bytes)} (+{size_text(self.margin_bytes)})",
            f"activations kept {size_text(self.saved_bytes)}",
            f"optimizer state {size_text(self.state_bytes)}",
            f"update {size_text(self.update_bytes)}",
            f"{self.step_multiply_adds:,} multiply-adds",
        )

    def work_beside(self, other: Prediction) -> float:
        """This step's multiply-adds over another's."""
        return self.step_multiply_adds / max(1, other.step_multiply_adds)


class Predictor:
    """Predicts costs of training parts of one model; a set of parameters that was predicted is not predicted again.

    Args:
        model: opened, or what `open_model` takes.
        batch_size: samples of a step.
        backend: auto, portable or ort.
        choices: loss, optimizer and form of the training.

    Raises:
        UsageError: the batch size is below 1, or the backend is unknown or lacks what is asked for.

    Example:
        >>> from adabet_onnx import Predictor, select
        >>> selection = select("model.onnx", strategy="head")
        >>> Predictor("model.onnx", batch_size=8).training(selection.parameters).update_bytes
        2600
    """

    @typed
    def __init__(
        self, model: ModelSource, *, batch_size: int = BATCH_SIZE, backend: str = "auto", choices: Choices | None = None
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {batch_size}.")
        self.model, self.batch_size, self.choices = open_model(model), batch_size, choices or Choices()
        self.backend = choose_backend(backend, self.choices)
        self._steps: dict[_Trained, _Step] = {}
        self._known: dict[tuple[_Trained, int], Prediction] = {}

    def __repr__(self) -> str:
        return one_line(self, file_name(self.model.name), f"batch {self.batch_size}", f"{self.backend} backend")

    @property
    def divisible(self) -> bool:
        """Whether a batch can be cut into parts whose gradients are gathered, with the same result."""
        return self.backend == "portable" and self.choices.batch_norm == "frozen"

    def training(
        self,
        parameters: Sequence[str],
        layers: Sequence[str] | None = None,
        *,
        accumulate: int = 1,
        channels: Mapping[str, Sequence[int]] | None = None,
    ) -> Prediction:
        """Of a training step; of a batch in parts, memory of one at a time, and multiply-adds of all.

        Args:
            parameters: names of the initializers to train, as in a selection.
            layers: names of the layers they are trained in, where several share one; None: all that have one.
            accumulate: into how many parts the batch is cut, whose gradients are gathered.
            channels: the output channels that are trained, of the layers that are not trained whole.

        Raises:
            UsageError: there are none, or one is in no layer, or the backend cannot train some channels alone.
            ModelError: a node on the way has no gradient.
            RuntimeMissingError: the ort backend's runtime is not installed.
        """
        if accumulate < 1 or self.batch_size % accumulate:
            raise UsageError(f"a batch of {self.batch_size} cannot be cut into {accumulate} equal parts.")
        part = tuple((name, tuple(indices)) for name, indices in (channels or {}).items())
        key = (tuple(dict.fromkeys(parameters)), None if layers is None else tuple(layers), part)
        with _uncollected():
            if key not in self._steps:
                selection = selection_with(self.model, *key[:2], dict(part))
                build = portable_step if self.backend == "portable" else ort_step
                self._steps[key] = _Step(build(self.model, selection, self.choices), packing=self.backend == "portable")
            if (key, accumulate) not in self._known:
                self._known[key, accumulate] = self._of_step(self._steps[key], accumulate)
        return self._known[key, accumulate]

    def everything(self) -> Prediction:
        """Of a step that trains all layers that can be trained.

        Raises:
            ModelError: none can.
        """
        return self.training(self.whole.parameters, self.whole.layers)

    @functools.cached_property
    def whole(self) -> Selection:
        """All layers that can be trained. (Which ones cannot is asked only where all at once cannot.)"""
        everything = self._selection(self.model.layers)
        try:
            self.training(everything.parameters, everything.layers)
        except ModelError:
            lost = untrainable_layers(self.model)
            left = [layer for layer in self.model.layers if layer.name not in lost]
            if not lost or not left:
                raise
            return self._selection(left)
        return everything

    def _selection(self, layers: Sequence[Layer]) -> Selection:
        names = dict.fromkeys(parameter.name for layer in layers for parameter in layer.parameters)
        return selection_with(self.model, list(names), [layer.name for layer in layers])

    def inference(self) -> Prediction:
        """Of a forward pass."""
        return self._inference

    @functools.cached_property
    def _inference(self) -> Prediction:
        graph = self.model.graph.clone()
        annotate(graph)
        work = multiply_adds(graph.graph, Sizes(graph.graph, {}, self.batch_size).shape)
        # Which shapes ONNX Runtime finds by itself, and so what it plans ahead, is not known here: all or none of them,
        # whichever takes less, is what was measured.
        planned = (Simulation(given, frugal=False, known=graph) for given in (graph, self.model.graph))
        memory = min(inference_bytes(simulation.parts(self.batch_size)) for simulation in planned)
        return self._prediction(memory, 0, 0, 0, work, work)

    def dearer(self, layer: str, other: str) -> bool:
        """Whether training a layer takes at least what another takes; False where that is not known.

        On top of layers that all come later in the model. See `domination`.
        """
        return not self.choices.recompute and self._domination.holds(layer, other)

    @functools.cached_property
    def _domination(self) -> Domination:
        return Domination(self.model)

    def _of_step(self, given: _Step, accumulate: int) -> Prediction:
        batch, step = self.batch_size // accumulate, given.graph
        forward, whole, saved = given.work(batch)
        parts = given.simulation.parts(batch)
        frozen = weight_bytes(self.model.graph) - step.update_bytes
        if self.backend == "portable":
            runs = [parts] if given.before is None else [parts, given.before.parts(batch)]
            stay = step.update_bytes + step.state_bytes
            memory = max(portable_bytes(run, frozen, stay, step.large_bytes) for run in runs)
        else:
            memory = ort_bytes(parts, frozen, step.state_bytes)
        if accumulate > 1:
            memory += gathered_bytes(step.update_bytes)
        forward, whole = forward * accumulate, whole * accumulate
        return self._prediction(memory, saved, step.state_bytes, step.update_bytes, forward, whole)

    def _prediction(self, memory: int, saved: int, state: int, update: int, forward: int, step: int) -> Prediction:
        margin = int(_MARGIN * memory)
        return Prediction(memory, margin, saved, state, update, weight_bytes(self.model.graph), forward, step)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles, which looks at every node of a large graph many times: a quarter faster."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Step:
    """The graph of a step with what does not depend on the batch size.

    Args:
        graph: of the step.
        packing: see `Simulation`.
    """

    def __init__(self, graph: StepGraph, *, packing: bool) -> None:
        self.graph = graph
        self.simulation = Simulation(graph.model, frugal=True, packing=packing)
        self.before = None if graph.frozen is None else Simulation(graph.frozen, frugal=True, packing=packing)
        self._order = execution_order(list(graph.model.graph))
        self._split = _split(self._order, graph)
        self._saved = _saved(self._order, self._split, graph)

    def work(self, batch: int) -> tuple[int, int, int]:
        """Multiply-adds of the forward part and of the whole step, and the bytes kept for the backward pass.

        What is before the cut counts in both.
        """
        sizes = Sizes(self.graph.model.graph, {}, batch)
        forward, back = (multiply_adds(nodes, sizes.shape) for nodes in self._parts())
        if self.graph.frozen is not None:
            forward += multiply_adds(self.graph.frozen.graph, Sizes(self.graph.frozen.graph, {}, batch).shape)
        return forward, forward + back, sum(sizes.size(value) for value in self._saved)

    def _parts(self) -> tuple[Sequence[ir.Node], Sequence[ir.Node]]:
        return self._order[: self._split], self._order[self._split :]


def _split(order: Sequence[ir.Node], step: StepGraph) -> int:
    """How many nodes run before the first that needs the labels."""
    needing = (i for i, node in enumerate(order) for value in reads(node) if value and value.name == step.labels)
    return next(needing, len(order))


def _saved(order: Sequence[ir.Node], split: int, step: StepGraph) -> list[ir.Value]:
    """What is made from the data before the loss, the data itself included, and read after it; the logits are not."""
    owner: dict[ir.Value, ir.Value] = {}
    made: set[ir.Value] = set()
    for node in order[:split]:
        inputs = [value for value in reads(node) if value is not None]
        made.update(value for value in inputs if value.name in step.data)
        if any(value in made for value in inputs):
            made.update(node.outputs)
        if node.op_type in VIEWS and inputs:
            owner[node.outputs[0]] = owner.get(inputs[0], inputs[0])
    read = (value for node in order[split:] for value in reads(node) if value is not None and value in made)
    return [value for value in dict.fromkeys(owner.get(v, v) for v in read) if value.name != step.logits]
