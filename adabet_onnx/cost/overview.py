"""What inference, training a selection and training all layers cost, beside each other."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, RecordError
from ..model.bindings import bound_otherwise
from ..model.open import Model, ModelSource, open_model
from ..progress import Progress
from ..selection.record import Selection, selection_of
from ..trainability.choices import Choices, choose_backend
from ..training.artifacts import make_artifacts
from ..training.manifest import Manifest
from .measure import measure_inference, measure_training
from .predict import Prediction, Predictor


@dataclass(frozen=True)
class Row:
    """What one of the three costs.

    Attributes:
        prediction: from the graph.
        measured_bytes: step memory of a fresh process; None where it was not measured.
        measured_seconds: median time of a step, likewise.
    """

    prediction: Prediction
    measured_bytes: int | None = None
    measured_seconds: float | None = None

    @property
    def difference(self) -> float | None:
        """(predicted - measured) / measured, None where it was not measured."""
        if not self.measured_bytes:
            return None
        return (self.prediction.memory_bytes - self.measured_bytes) / self.measured_bytes

    def to_json(self) -> dict[str, Any]:
        """For programs; ``measured_bytes`` is there only where something was measured."""
        found = self.prediction
        entry: dict[str, Any] = {"predicted_bytes": found.memory_bytes, "margin_bytes": found.margin_bytes}
        if self.measured_bytes is not None:
            entry |= {"measured_bytes": self.measured_bytes, "measured_seconds": self.measured_seconds}
        return entry | {
            "saved_bytes": found.saved_bytes,
            "state_bytes": found.state_bytes,
            "update_bytes": found.update_bytes,
            "forward_multiply_adds": found.forward_multiply_adds,
            "step_multiply_adds": found.step_multiply_adds,
        }


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
    """

    batch_size: int
    backend: str
    inference: Row
    selection: Row | None
    everything: Row | None
    notes: tuple[str, ...] = ()

    def rows(self) -> dict[str, Row]:
        """Those that are there, by name: inference, selection, all."""
        found = {"inference": self.inference, "selection": self.selection, "all": self.everything}
        return {name: row for name, row in found.items() if row is not None}

    def to_json(self) -> dict[str, Any]:
        """inference, selection (where one was given) and all (null where not all layers can be trained)."""
        found: dict[str, Any] = {name: row.to_json() for name, row in self.rows().items()}
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

    Raises:
        RecordError: the selection was made for another model.
        UsageError: a batch size below 1, an unknown backend, or one that lacks what is asked for.
        ModelError: the selection cannot be trained.
        CheckError: a measurement failed.
        RuntimeMissingError: the runtime the backend needs is not installed.
    """
    model = open_model(model)
    selection = None if selection is None else selection_of(selection)
    if selection is not None and selection.model_sha256 != model.sha256:
        raise RecordError(
            bound_otherwise(selection.inputs, model.bound)
            or f"the selection was made for another model (SHA-256 {selection.model_sha256[:12]}..., {model.name} has "
            f"{model.sha256[:12]}...). Score and select again for this model."
        )
    choices = choices or Choices()
    backend = choose_backend(backend, choices, channels=selection is not None and bool(selection.channels))
    predictor = Predictor(model, batch_size=batch_size, backend=backend, choices=choices)
    total = (2 + (selection is not None)) * (1 + measure)
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(what, done, total)
        done += 1

    notes: list[str] = []
    parts: dict[str, int] = {}
    tell("predicting inference")
    predictions = {"inference": predictor.inference()}
    chosen = {}
    if selection is not None:
        tell("predicting the selection")
        parts["selection"] = selection.parts_of(batch_size) if predictor.divisible else 1
        predictions["selection"] = predictor.training(
            selection.parameters, selection.layers, accumulate=parts["selection"], channels=selection.channels
        )
        if parts["selection"] > 1:
            notes.append(f"the selection's batch is forwarded {batch_size // parts['selection']} samples at a time")
        chosen["selection"] = selection
    tell("predicting all layers")
    try:
        predictions["all"] = predictor.everything()
        chosen["all"] = predictor.whole
        if len(predictor.whole.layers) < len(model.layers):
            notes.append(f"of {len(model.layers)} layers, {len(predictor.whole.layers)} can be trained: these are all")
    except ModelError as error:
        notes.append(f"training all layers is left out: {error}")
    measured: dict[str, tuple[int, float]] = {}
    if measure:
        with tempfile.TemporaryDirectory() as folder:
            for what, which in chosen.items():
                tell(f"measuring {'the selection' if what == 'selection' else 'all layers'}")
                manifest = _artifacts(model, which, Path(folder) / what, predictor.backend, choices)
                cost = measure_training(
                    manifest.folder, batch_size=batch_size, accumulate=parts.get(what, 1), threads=threads
                )
                measured[what] = cost.memory_bytes, cost.seconds
                if "inference" not in measured:
                    tell("measuring inference")
                    cost = measure_inference(manifest.folder, batch_size=batch_size, threads=threads)
                    measured["inference"] = cost.memory_bytes, cost.seconds
    rows = {what: Row(prediction, *measured.get(what, ())) for what, prediction in predictions.items()}
    return Overview(
        batch_size, predictor.backend, rows["inference"], rows.get("selection"), rows.get("all"), tuple(notes)
    )


def _artifacts(model: Model, selection: Selection, folder: Path, backend: str, choices: Choices) -> Manifest:
    return make_artifacts(model, selection, folder, backend=backend, check=False, choices=choices)
