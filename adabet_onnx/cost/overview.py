"""Compare the costs of inference, training a selection and training all layers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..drawing import finished
from ..errors import ModelError, RecordError, UsageError
from ..files import temporary_folder
from ..model.bindings import binding_mismatch
from ..model.open import ModelSource, open_model
from ..options import typed
from ..progress import Progress
from ..selection.record import Selection, load_selection
from ..showing import html_table, one_line
from ..sizes import size_text
from ..trainability.choices import Choices, choose_backend
from ..trainability.class_weights import without_data
from ..training.artifacts import make_artifacts
from ..training.manifest import Manifest
from .drawing import LABELS, draw_costs
from .measure import Cost, measure_inference, measure_training
from .predict import Prediction, Predictor, Training
from .row import StepCost
from .words import frozen_sentences, measured_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, EPOCHS = 1000, 10  # defaults for the whole training that is reported


@dataclass(frozen=True)
class Overview:
    """The three costs.

    Attributes:
        batch_size: samples of a step.
        backend: portable or ort.
        inference: cost of a forward pass.
        selection: cost of a training step of the selection; None if none was given.
        everything: cost of a training step of all layers; None if they cannot be trained.
        notes: why something is missing.
        samples: number of samples of the whole training that is reported.
        epochs: number of its epochs.
        kept_views: number of its views of samples, see `Training`; None: one per sample.
    """

    batch_size: int
    backend: str
    inference: StepCost
    selection: StepCost | None
    everything: StepCost | None
    notes: tuple[str, ...] = ()
    samples: int = SAMPLES
    epochs: int = EPOCHS
    kept_views: int | None = None

    def __repr__(self) -> str:
        sizes = [f"{name} {size_text(row.prediction.memory_bytes)}" for name, row in self.rows().items()]
        return one_line(self, self._title(), f"predicted memory of a step: {', '.join(sizes)}")

    def _repr_html_(self) -> str:
        rows = []
        for name, row in self.rows().items():
            predicted, measured = row.prediction, row.measured_bytes
            bounds = (predicted.memory_bytes, predicted.memory_bytes + predicted.margin_bytes)
            sizes = [size_text(size) for size in bounds]
            work = (predicted.forward_multiply_adds, predicted.step_multiply_adds)
            rows.append((LABELS[name], *sizes, "-" if measured is None else size_text(measured), *work))
        headings = ("one step", "memory, predicted", "at most", "measured", "multiply-adds forward", "of the step")
        return html_table(self._title(), headings, rows, lines=[*self.frozen(), *self.notes])

    def _title(self) -> str:
        return f"batch {self.batch_size}, {self.backend} backend"

    @typed
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Plot the costs of inference, training the selection and training all layers.

        The plot shows memory by purpose, and the time of a step, or its multiply-adds if no time was measured. If part
        of the model is frozen, the frozen pass and a step after it are shown separately, with the size of the features.

        Args:
            path: also write the plot to this file: ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The figure, which a notebook displays automatically.

        Raises:
            UsageError: the suffix is not supported.
            OutputError: the file cannot be written.
        """
        return finished(draw_costs(self.rows(), self._title(), [*self.frozen()[1:], *self.saved()]), path)

    def rows(self) -> dict[str, StepCost]:
        """The available costs by name: inference, selection, all."""
        costs = {"inference": self.inference, "selection": self.selection, "all": self.everything}
        return {name: cost for name, cost in costs.items() if cost is not None}

    def frozen(self) -> list[str]:
        """Sentences about the frozen part of the model; empty if nothing is frozen."""
        if self.selection is None:
            return []
        predicted = self.selection.prediction
        return frozen_sentences(predicted, self._training(predicted))

    def _training(self, predicted: Prediction) -> Training:
        return predicted.of_training(self.samples, self.epochs, self.kept_views)

    def saved(self) -> list[str]:
        """The training time saved by keeping features, by measured times; empty if none were measured."""
        cost = None if self.selection is None else self.selection.measured
        if cost is None or not cost.frozen_bytes:
            return []
        views = self.samples if self.kept_views is None else self.kept_views
        counts = {"batch_size": self.batch_size, "samples": self.samples, "epochs": self.epochs, "views": views}
        return [measured_sentence(cost, **counts)]

    def to_json(self) -> dict[str, Any]:
        """Entries inference, selection (if one was given) and all (null if the layers cannot be trained)."""
        content: dict[str, Any] = {
            name: row.to_json(None if name == "inference" else self._training(row.prediction))
            for name, row in self.rows().items()
        }
        return content if "all" in content else content | {"all": None}


def overview(
    model: ModelSource,
    selection: Selection | str | os.PathLike[str] | None = None,
    *,
    batch_size: int,
    backend: str = "auto",
    choices: Choices | None = None,
    measure: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    samples: int = SAMPLES,
    epochs: int = EPOCHS,
    kept_views: int | None = None,
) -> Overview:
    """Predict, and optionally measure, the costs of inference and training.

    Args:
        model: an opened model, or what `open_model` takes.
        selection: the selection to train, with its batch split into micro-batches if its budget was made for that;
            None: inference and all layers only.
        batch_size: samples of a step.
        backend: auto, portable or ort.
        choices: loss, optimizer and form of the training.
        measure: also run steps, each kind in a fresh process.
        threads: number of threads for ONNX Runtime when measuring.
        progress: called with the current activity, the steps done and the total number of steps.
        samples: number of samples of a whole training.
        epochs: number of epochs of a whole training.
        kept_views: total number of views of these samples if images are augmented; None: one per sample.

    Raises:
        RecordError: the selection was made for another model.
        UsageError: a batch size or number of samples or epochs is below 1, or the backend is unknown or does not
            support the choices.
        ModelError: the selection cannot be trained.
        CheckError: a measurement failed.
        RuntimeMissingError: the runtime the backend needs is not installed.
    """
    if samples < 1 or epochs < 1:
        raise UsageError(f"a training has at least 1 sample and 1 epoch, not {samples} and {epochs}.")
    model = open_model(model)
    selection = None if selection is None else load_selection(selection)
    if selection is not None and selection.model_sha256 != model.sha256:
        raise RecordError(
            binding_mismatch(selection.inputs, model.bound)
            or f"the selection was made for another model (SHA-256 {selection.model_sha256[:12]}..., {model.name} has "
            f"{model.sha256[:12]}...). Score and select again for this model."
        )
    choices = choices or Choices()
    backend = choose_backend(backend, choices, channels=selection is not None and bool(selection.channels))
    predictor = Predictor(model, batch_size=batch_size, backend=backend, choices=choices)
    steps = itertools.count()
    total = (2 + (selection is not None)) * (1 + measure)

    def report(activity: str) -> None:
        if progress is not None:
            progress(activity, next(steps), total)

    predicted = _predicted(predictor, selection, report)
    measured = _measured(predictor, predicted, threads, report) if measure else {}
    rows = {name: _row(prediction, measured.get(name)) for name, prediction in predicted.rows.items()}
    return Overview(
        batch_size,
        predictor.backend,
        rows["inference"],
        rows.get("selection"),
        rows.get("all"),
        predicted.notes,
        samples,
        epochs,
        kept_views,
    )


def _row(prediction: Prediction, cost: Cost | None) -> StepCost:
    if cost is None:
        return StepCost(prediction)
    if not cost.frozen_bytes:
        return StepCost(prediction, cost.memory_bytes, cost.seconds)
    frozen = cost.frozen_bytes, cost.frozen_seconds, cost.tail_bytes
    return StepCost(prediction, cost.memory_bytes, cost.seconds, *frozen)


@dataclass(frozen=True)
class _Predicted:
    """Predictions of a step.

    Attributes:
        rows: predictions by ``inference``, ``selection`` and ``all``.
        chosen: the selections that are trained in the latter two.
        parts: number of micro-batches of the selection's batch.
        notes: notes, one sentence each.
    """

    rows: dict[str, Prediction]
    chosen: dict[str, Selection]
    parts: int
    notes: tuple[str, ...]


def _predicted(predictor: Predictor, selection: Selection | None, report: Callable[[str], None]) -> _Predicted:
    size, parts, notes = predictor.batch_size, 1, []
    report("predicting inference")
    rows, chosen = {"inference": predictor.inference()}, {}
    if selection is not None:
        report("predicting the selection")
        parts = selection.parts_of(size) if predictor.divisible else 1
        rows["selection"] = predictor.training(
            selection.parameters, selection.layers, accumulate=parts, channels=selection.channels
        )
        note = predictor.note(selection)
        notes += [] if note is None else [note]
        if parts > 1:
            notes.append(f"the selection's batch is forwarded {size // parts} samples at a time")
        chosen["selection"] = selection
    report("predicting all layers")
    try:
        rows["all"], chosen["all"] = predictor.everything(), predictor.whole
    except ModelError as error:
        notes.append(f"training all layers is left out: {error}")
    else:
        trainable, layers = len(predictor.whole.layers), len(predictor.model.layers)
        if trainable < layers:
            notes.append(f"only {trainable} of {layers} layers can be trained: 'all layers' means these")
    return _Predicted(rows, chosen, parts, tuple(notes))


def _measured(
    predictor: Predictor, predicted: _Predicted, threads: int | None, report: Callable[[str], None]
) -> dict[str, Cost]:
    """Measured costs by name."""
    size, costs = predictor.batch_size, dict[str, Cost]()
    with temporary_folder() as folder:
        for name, selection in predicted.chosen.items():
            report(f"measuring {'the selection' if name == 'selection' else 'all layers'}")
            artifacts = _artifacts(predictor, selection, folder / name).folder
            parts = predicted.parts if name == "selection" else 1
            costs[name] = measure_training(artifacts, batch_size=size, accumulate=parts, threads=threads)
            if "inference" not in costs:
                report("measuring inference")
                costs["inference"] = measure_inference(artifacts, batch_size=size, threads=threads)
    return costs


def _artifacts(predictor: Predictor, selection: Selection, folder: Path) -> Manifest:
    choices = replace(predictor.choices, frozen_precision="float32")  # there are no samples for calibration
    choices = without_data(choices, predictor.model)
    return make_artifacts(predictor.model, selection, folder, backend=predictor.backend, check=False, choices=choices)
