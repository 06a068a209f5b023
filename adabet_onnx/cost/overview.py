"""What inference, training a selection and training all layers cost, beside each other."""

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
from .row import Row
from .words import frozen_sentences, measured_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, EPOCHS = 1000, 10  # of the training that is told of, where nothing else is said


@dataclass(frozen=True)
class Overview:
    """The three.

    Attributes:
        batch_size: samples of a step.
        backend: portable or ort.
        inference: a forward pass.
        selection: a training step of the selection; None where none was given.
        everything: a training step of all layers; None where not all can be trained.
        notes: why something is missing.
        samples: of the whole training that is told of.
        epochs: likewise.
        kept_views: of its samples, see `Training`; None: one of each.
    """

    batch_size: int
    backend: str
    inference: Row
    selection: Row | None
    everything: Row | None
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
            found, measured = row.prediction, row.measured_bytes
            sizes = [size_text(size) for size in (found.memory_bytes, found.memory_bytes + found.margin_bytes)]
            work = (found.forward_multiply_adds, found.step_multiply_adds)
            rows.append((LABELS[name], *sizes, "-" if measured is None else size_text(measured), *work))
        headings = ("one step", "memory, predicted", "at most", "measured", "multiply-adds forward", "of the step")
        return html_table(self._title(), headings, rows, lines=[*self.frozen(), *self.notes])

    def _title(self) -> str:
        return f"batch {self.batch_size}, {self.backend} backend"

    @typed
    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw what inference, training the selection and training all layers take.

        That is the memory and what it is for, and the time of a step; its arithmetic where no time was measured. Of
        what no training of the selection changes, the pass that computes it, a step after it and what is kept.

        Args:
            path: also write the plot: ``.png``, ``.svg`` or ``.pdf``.

        Returns:
            The figure, which a notebook shows by itself.

        Raises:
            UsageError: another suffix.
            OutputError: the file cannot be written.
        """
        return finished(draw_costs(self.rows(), self._title(), [*self.frozen()[1:], *self.saved()]), path)

    def rows(self) -> dict[str, Row]:
        """Those that are there, by name: inference, selection, all."""
        found = {"inference": self.inference, "selection": self.selection, "all": self.everything}
        return {name: row for name, row in found.items() if row is not None}

    def frozen(self) -> list[str]:
        """What no training of the selection changes, in sentences; none where that is nothing."""
        if self.selection is None:
            return []
        found = self.selection.prediction
        return frozen_sentences(found, self._training(found))

    def _training(self, found: Prediction) -> Training:
        return found.of_training(self.samples, self.epochs, self.kept_views)

    def saved(self) -> list[str]:
        """What keeping it saves of a training's time, by times that were measured; nothing where they were not."""
        cost = None if self.selection is None else self.selection.measured
        if cost is None or not cost.frozen_bytes:
            return []
        views = self.samples if self.kept_views is None else self.kept_views
        how = {"batch_size": self.batch_size, "samples": self.samples, "epochs": self.epochs, "views": views}
        return [measured_sentence(cost, **how)]

    def to_json(self) -> dict[str, Any]:
        """inference, selection (where one was given) and all (null where not all layers can be trained)."""
        found: dict[str, Any] = {
            name: row.to_json(None if name == "inference" else self._training(row.prediction))
            for name, row in self.rows().items()
        }
        return found if "all" in found else found | {"all": None}


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
    """Predict, and measure if asked to, what inference and training cost.

    Args:
        model: opened, or what `open_model` takes.
        selection: what is to be trained, its batch cut into parts where its budget was made for that; None: inference
            and all layers only.
        batch_size: samples of a step.
        backend: auto, portable or ort.
        choices: loss, optimizer and form of the training.
        measure: also run steps, each kind in a fresh process.
        threads: for ONNX Runtime, when measuring.
        progress: called with what is going on, steps done and steps in all.
        samples: of a whole training.
        epochs: likewise.
        kept_views: of these samples where pictures are augmented, of all together; None: one of each.

    Raises:
        RecordError: the selection was made for another model.
        UsageError: a batch size or number of samples or epochs below 1, an unknown backend, or one that lacks what is
            asked for.
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

    def tell(what: str) -> None:
        if progress is not None:
            progress(what, next(steps), total)

    predicted = _predicted(predictor, selection, tell)
    measured = _measured(predictor, predicted, threads, tell) if measure else {}
    rows = {what: _row(prediction, measured.get(what)) for what, prediction in predicted.rows.items()}
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


def _row(prediction: Prediction, cost: Cost | None) -> Row:
    if cost is None:
        return Row(prediction)
    if not cost.frozen_bytes:
        return Row(prediction, cost.memory_bytes, cost.seconds)
    frozen = cost.frozen_bytes, cost.frozen_seconds, cost.tail_bytes
    return Row(prediction, cost.memory_bytes, cost.seconds, *frozen)


@dataclass(frozen=True)
class _Predicted:
    """Predictions of a step.

    Attributes:
        rows: by ``inference``, ``selection`` and ``all``.
        chosen: what is trained in the latter two.
        parts: into how many parts the selection's batch is cut.
        notes: a sentence each.
    """

    rows: dict[str, Prediction]
    chosen: dict[str, Selection]
    parts: int
    notes: tuple[str, ...]


def _predicted(predictor: Predictor, selection: Selection | None, tell: Callable[[str], None]) -> _Predicted:
    size, parts, notes = predictor.batch_size, 1, []
    tell("predicting inference")
    rows, chosen = {"inference": predictor.inference()}, {}
    if selection is not None:
        tell("predicting the selection")
        parts = selection.parts_of(size) if predictor.divisible else 1
        rows["selection"] = predictor.training(
            selection.parameters, selection.layers, accumulate=parts, channels=selection.channels
        )
        if parts > 1:
            notes.append(f"the selection's batch is forwarded {size // parts} samples at a time")
        chosen["selection"] = selection
    tell("predicting all layers")
    try:
        rows["all"], chosen["all"] = predictor.everything(), predictor.whole
    except ModelError as error:
        notes.append(f"training all layers is left out: {error}")
    else:
        able, layers = len(predictor.whole.layers), len(predictor.model.layers)
        if able < layers:
            notes.append(f"of {layers} layers, {able} can be trained: these are all")
    return _Predicted(rows, chosen, parts, tuple(notes))


def _measured(
    predictor: Predictor, predicted: _Predicted, threads: int | None, tell: Callable[[str], None]
) -> dict[str, Cost]:
    """What was measured of each."""
    size, found = predictor.batch_size, dict[str, Cost]()
    with temporary_folder() as folder:
        for what, selection in predicted.chosen.items():
            tell(f"measuring {'the selection' if what == 'selection' else 'all layers'}")
            made = _artifacts(predictor, selection, folder / what).folder
            parts = predicted.parts if what == "selection" else 1
            found[what] = measure_training(made, batch_size=size, accumulate=parts, threads=threads)
            if "inference" not in found:
                tell("measuring inference")
                found["inference"] = measure_inference(made, batch_size=size, threads=threads)
    return found


def _artifacts(predictor: Predictor, selection: Selection, folder: Path) -> Manifest:
    choices = replace(predictor.choices, frozen_precision="float32")  # there are no samples to quantise with
    choices = without_data(choices, predictor.model)
    return make_artifacts(predictor.model, selection, folder, backend=predictor.backend, check=False, choices=choices)
