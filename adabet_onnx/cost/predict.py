"""Predict the cost of training a selection from the graphs that would run: memory, multiply-adds, sizes.

The part of the model that training does not change is computed once per sample, by the frozen pass, and its results are
kept; all steps start from them. Step memory is defined as in `cost.measure`: the peak resident memory of a fresh
process during the frozen pass or the steps, whichever is more, minus its resident memory after imports and before a
model is loaded.
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
from .memory import Simulation, accumulation_bytes, inference_bytes, ort_bytes
from .multiply_adds import multiply_adds
from .step import PredictedStep, StepMemory
from .value_sizes import ValueSizes

# Measurements were up to 24 % above predictions. The order in which ONNX Runtime puts weights into its arena differs
# between processes, and so does what fits into the gaps: the same step has taken 310 and 336 MB.
_MARGIN = 1 / 3
_Channels = tuple[tuple[str, tuple[int, ...]], ...]
_Trained = tuple[tuple[str, ...], tuple[str, ...] | None, _Channels]  # parameters, layers, channels of layers


@dataclass(frozen=True)
class Training:
    """The cost of a whole training: the frozen pass over its samples, and steps from the resulting features.

    Attributes:
        samples: number of training samples.
        epochs: number of epochs.
        kept_views: total number of views: several per sample if images are augmented; an epoch uses one of each.
        stored_bytes: size of the features kept for these views.
        multiply_adds: total multiply-adds.
        without_features: total multiply-adds if nothing is kept and the frozen graph runs in each step.
    """

    samples: int
    epochs: int
    kept_views: int
    stored_bytes: int
    multiply_adds: int
    without_features: int

    @property
    def share(self) -> float:
        """Multiply-adds as a share of those without kept features."""
        return self.multiply_adds / max(1, self.without_features)


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of a step, or of a forward pass for inference.

    Attributes:
        memory_bytes: step memory, see the module.
        margin_bytes: how much a measurement may exceed it.
        saved_bytes: activations kept for the backward pass.
        state_bytes: the optimizer's state.
        update_bytes: the trained parameters, float32.
        weight_bytes: all weights of the model.
        forward_multiply_adds: multiply-adds of the forward part of a step, after the frozen pass.
        step_multiply_adds: multiply-adds of the whole step, forward and backward, after the frozen pass.
        batch_size: number of samples that all figures refer to.
        frozen_bytes: memory of the frozen pass; 0 if nothing is frozen.
        tail_bytes: memory of a step after the frozen pass.
        frozen_multiply_adds: multiply-adds of the frozen pass over the samples of a step.
        stored_bytes: size of the features kept per sample; 0 if nothing is frozen.
        without_features_bytes: step memory if nothing is kept and the frozen graph runs in each step.
        with_more_bytes: lower bound of step memory if more layers are trained.
        with_fewer_bytes: lower bound of step memory if fewer of the layers are trained.
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
            f"kept per sample {size_text(self.stored_bytes)}" if self.stored_bytes else None,
        )

    def before(self) -> Prediction:
        """The cost of only the frozen pass over the samples of a step."""
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
        """The cost of only a step after the frozen pass."""
        return replace(self, memory_bytes=self.tail_bytes)

    def work_ratio(self, other: Prediction) -> float:
        """This step's multiply-adds divided by another's."""
        return self.step_multiply_adds / max(1, other.step_multiply_adds)

    def of_training(self, samples: int, epochs: int, views: int | None = None) -> Training:
        """The cost of a whole training, without evaluations.

        Args:
            samples: number of training samples.
            epochs: number of epochs.
            views: total number of views; None: one per sample.
        """
        frozen, step = (
            work * samples // self.batch_size for work in (self.frozen_multiply_adds, self.step_multiply_adds)
        )
        views = samples if views is None else views
        once = self.frozen_multiply_adds * views // self.batch_size
        kept = self.stored_bytes * views
        return Training(samples, epochs, views, kept, once + epochs * step, epochs * (frozen + step))


class Predictor:
    """Predicts the cost of training parts of one model; predictions are cached by set of parameters.

    Args:
        model: an opened model, or what `open_model` takes.
        batch_size: samples of a step.
        backend: auto, portable or ort.
        choices: loss, optimizer and form of the training.

    Raises:
        UsageError: the batch size is below 1, or the backend is unknown or does not support the choices.

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
        """Whether a batch can be split into micro-batches with accumulated gradients, with the same result."""
        return self.backend == "portable" and self.choices.batch_norm == "frozen"

    def training(
        self,
        parameters: Sequence[str],
        layers: Sequence[str] | None = None,
        *,
        accumulate: int = 1,
        channels: Mapping[str, Sequence[int]] | None = None,
    ) -> Prediction:
        """Predict the cost of a training step and of the frozen pass before it.

        With micro-batches, memory is that of one at a time, and multiply-adds are those of all.

        Args:
            parameters: names of the initializers to train, as in a selection.
            layers: names of the layers they are trained in, if several share one; None: all that have one.
            accumulate: number of micro-batches with accumulated gradients that the batch is split into.
            channels: the trained output channels of layers that are only partly trained.

        Raises:
            UsageError: there are no parameters, one belongs to no layer, or the backend cannot train single channels.
            ModelError: a node on the backward path has no gradient.
            RuntimeMissingError: the ort backend's runtime is not installed.
        """
        if accumulate < 1 or self.batch_size % accumulate:
            raise UsageError(f"a batch of {self.batch_size} cannot be split into {accumulate} equal micro-batches.")
        key = _key(parameters, layers, channels)
        with _garbage_collection_paused():
            if (key, accumulate) not in self._known:
                self._known[key, accumulate] = self._of_step(self._predicted_step(key), accumulate)
        return self._known[key, accumulate]

    def note(self, selection: Selection) -> str | None:
        """What makes a step of a selection dearer than it should be, or None.

        Raises:
            ModelError: a node on the backward path has no gradient.
        """
        return self._predicted_step(_key(selection.parameters, selection.layers, selection.channels)).graph.note

    def _predicted_step(self, key: _Trained) -> PredictedStep:
        if key not in self._steps:
            selection = selection_with(self.model, *key[:2], dict(key[2]))
            build = portable_step if self.backend == "portable" else ort_step
            self._steps[key] = PredictedStep(
                build(self.model, selection, self.choices), packing=self.backend == "portable"
            )
        return self._steps[key]

    def everything(self) -> Prediction:
        """Predict the cost of a step that trains all layers that can be trained.

        Raises:
            ModelError: no layer can be trained.
        """
        return self.training(self.whole.parameters, self.whole.layers)

    @functools.cached_property
    def whole(self) -> Selection:
        """A selection of all layers that can be trained. (They are checked one by one only if not all can be.)"""
        everything = self._selection(self.model.layers)
        try:
            self.training(everything.parameters, everything.layers)
        except ModelError:
            untrainable = untrainable_layers(self.model)
            trainable = [layer for layer in self.model.layers if layer.name not in untrainable]
            if not untrainable or not trainable:
                raise
            return self._selection(trainable)
        return everything

    def _selection(self, layers: Sequence[Layer]) -> Selection:
        names = dict.fromkeys(parameter.name for layer in layers for parameter in layer.parameters)
        return selection_with(self.model, list(names), [layer.name for layer in layers])

    def inference(self) -> Prediction:
        """Predict the cost of a forward pass."""
        return self._inference

    @functools.cached_property
    def _inference(self) -> Prediction:
        graph = self.model.graph.clone()
        annotate(graph)
        work = multiply_adds(graph.graph, ValueSizes(graph.graph, {}, self.batch_size).shape)
        # It is not known here which shapes ONNX Runtime infers, and so what memory it plans in advance. The smaller of
        # the predictions with all shapes and with none matches the measurements.
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
        """Whether training a layer costs at least as much as training another; False if that is not known.

        Both are compared in addition to layers that all come later in the model. See `domination`.
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
        tail = memory.tail + (accumulation_bytes(step.update_bytes) if accumulate > 1 else 0)
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
            without_features_bytes=tail + memory.loaded_frozen,
            with_more_bytes=tail - work.let_go,
            with_fewer_bytes=memory.least_frozen,
        )


def _key(
    parameters: Sequence[str], layers: Sequence[str] | None, channels: Mapping[str, Sequence[int]] | None
) -> _Trained:
    part = tuple((name, tuple(indices)) for name, indices in (channels or {}).items())
    return tuple(dict.fromkeys(parameters)), None if layers is None else tuple(layers), part


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector, which scans large graphs many times: this takes a quarter less time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
