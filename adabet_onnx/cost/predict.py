"""What training a selection will cost, predicted from the graphs that would run: memory, multiply-adds, bytes.

What no training changes is computed once for each sample, by the frozen pass, and kept; all steps go on from there.
Step memory is what `cost.measure` measures: the peak resident memory of a fresh process during the frozen pass or the
steps, whichever is more, minus its resident memory when imports are done and no model is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import ModelError, UsageError
from ..model.layers import Layer
from ..model.liveness import weight_bytes
from ..model.open import ModelSource, open_model
from ..options import typed
from ..portable.shapes import annotate
from ..selection.record import Selection
from ..showing import file_name, one_line
from ..sizes import size_text
from ..trainability.choices import Choices, choose_backend
from ..trainability.preflight import untrainable_layers
from ..training.settings import BATCH_SIZE
from .domination import Domination
from .graphs import ort_step, portable_step, selection_with
from .memory import (
    Simulation,
    gathered_bytes,
    inference_bytes,
    ort_bytes,
)
from .multiply_adds import multiply_adds
from .optimized import Sizes
from .step import PredictedStep, StepMemory

# Measurements were up to 24 % above predictions. In which order ONNX Runtime puts weights into its arena differs from
# process to process, and with it what fits into the gaps: the same step has taken 310 and 336 MB.
_MARGIN = 1 / 3
_Channels = tuple[tuple[str, tuple[int, ...]], ...]
_Trained = tuple[tuple[str, ...], tuple[str, ...] | None, _Channels]  # parameters, layers, channels of layers


@dataclass(frozen=True)
class Training:
    """What a whole training takes: the frozen pass over its samples, and steps from what that gave.

    Attributes:
        samples: that are trained on.
        epochs: passes over them.
        kept_views: of all of them together: several of each where pictures are augmented; an epoch takes one of each.
        stored_bytes: what is kept of these.
        multiply_adds: of all.
        without_features: the same where nothing is kept and the frozen graph runs in each step.
    """

    samples: int
    epochs: int
    kept_views: int
    stored_bytes: int
    multiply_adds: int
    without_features: int

    @property
    def share(self) -> float:
        """Multiply-adds over those where nothing is kept."""
        return self.multiply_adds / max(1, self.without_features)


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
        forward_multiply_adds: of the forward part of a step, after the frozen pass.
        step_multiply_adds: of the whole step: forward and backward, after the frozen pass.
        batch_size: samples of all this.
        frozen_bytes: memory of the frozen pass; 0 where nothing is frozen.
        tail_bytes: memory of a step after it.
        frozen_multiply_adds: of the frozen pass over the samples of a step.
        stored_bytes: what is kept of one sample; 0 where nothing is frozen.
        without_features_bytes: step memory where nothing is kept and the frozen graph runs in each step.
        with_more_bytes: step memory is at least that where more layers are trained,
        with_fewer_bytes: and at least that where fewer of them are.
    """

    memory_bytes: int
    margin_bytes: int
    saved_bytes: int
    state_bytes: int
    update_bytes: int
    weight_bytes: int
    forward_multiply_adds: int
    step_multiply_adds: int
    batch_size: int
    frozen_bytes: int
    tail_bytes: int
    frozen_multiply_adds: int
    stored_bytes: int
    without_features_bytes: int
    with_more_bytes: int
    with_fewer_bytes: int

    def __repr__(self) -> str:
        return one_line(
            self,
            f"{size_text(self.memory_bytes)} (+{size_text(self.margin_bytes)})",
            f"activations kept {size_text(self.saved_bytes)}",
            f"optimizer state {size_text(self.state_bytes)}",
            f"update {size_text(self.update_bytes)}",
            f"{self.step_multiply_adds:,} multiply-adds",
            f"kept of a sample {size_text(self.stored_bytes)}" if self.stored_bytes else None,
        )

    def before(self) -> Prediction:
        """The frozen pass alone, over the samples of a step."""
        work = self.frozen_multiply_adds
        return replace(
            self,
            memory_bytes=self.frozen_bytes,
            saved_bytes=0,
            state_bytes=0,
            update_bytes=0,
            forward_multiply_adds=work,
            step_multiply_adds=work,
        )

    def after(self) -> Prediction:
        """A step after it alone."""
        return replace(self, memory_bytes=self.tail_bytes)

    def work_beside(self, other: Prediction) -> float:
        """This step's multiply-adds over another's."""
        return self.step_multiply_adds / max(1, other.step_multiply_adds)

    def of_training(self, samples: int, epochs: int, views: int | None = None) -> Training:
        """A whole training, without what evaluations take.

        Args:
            samples: that are trained on.
            epochs: passes over them.
            views: of all of them together; None: one of each.
        """
        frozen, step = (
            work * samples // self.batch_size for work in (self.frozen_multiply_adds, self.step_multiply_adds)
        )
        views = samples if views is None else views
        once = self.frozen_multiply_adds * views // self.batch_size
        kept = self.stored_bytes * views
        return Training(samples, epochs, views, kept, once + epochs * step, epochs * (frozen + step))


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
        self._steps: dict[_Trained, PredictedStep] = {}
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
        """Of a training step after the frozen pass, and of that; of a batch in parts, memory of one at a time.

        Multiply-adds are of all parts.

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
                self._steps[key] = PredictedStep(
                    build(self.model, selection, self.choices), packing=self.backend == "portable"
                )
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
        return Prediction(
            memory_bytes=memory,
            margin_bytes=int(_MARGIN * memory),
            saved_bytes=0,
            state_bytes=0,
            update_bytes=0,
            weight_bytes=weight_bytes(self.model.graph),
            forward_multiply_adds=work,
            step_multiply_adds=work,
            batch_size=self.batch_size,
            frozen_bytes=0,
            tail_bytes=memory,
            frozen_multiply_adds=0,
            stored_bytes=0,
            without_features_bytes=memory,
            with_more_bytes=memory,
            with_fewer_bytes=0,
        )

    def dearer(self, layer: str, other: str) -> bool:
        """Whether training a layer takes at least what another takes; False where that is not known.

        On top of layers that all come later in the model. See `domination`.
        """
        return not self.choices.recompute and self._domination.holds(layer, other)

    @functools.cached_property
    def _domination(self) -> Domination:
        return Domination(self.model)

    def _of_step(self, given: PredictedStep, accumulate: int) -> Prediction:
        part, step = self.batch_size // accumulate, given.graph
        work = given.work(part)
        if self.backend == "portable":
            memory = given.memory(part)
        else:
            frozen = weight_bytes(self.model.graph) - step.update_bytes
            memory = StepMemory(0, ort_bytes(given.simulation.parts(part), frozen, step.state_bytes))
        gathered = gathered_bytes(step.update_bytes) if accumulate > 1 else 0
        tail = memory.tail + gathered
        most = max(memory.frozen, tail)
        return Prediction(
            memory_bytes=most,
            margin_bytes=int(_MARGIN * most),
            saved_bytes=work.saved,
            state_bytes=step.state_bytes,
            update_bytes=step.update_bytes,
            weight_bytes=weight_bytes(self.model.graph),
            forward_multiply_adds=accumulate * work.forward,
            step_multiply_adds=accumulate * (work.forward + work.back),
            batch_size=self.batch_size,
            frozen_bytes=memory.frozen,
            tail_bytes=tail,
            frozen_multiply_adds=accumulate * work.frozen,
            stored_bytes=step.stored_bytes,
            without_features_bytes=tail + memory.beside,
            with_more_bytes=tail - work.let_go,
            with_fewer_bytes=memory.least_frozen,
        )


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
