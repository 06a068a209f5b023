"""The inputs of a report: a run, a comparison, a stability study, a fleet, and the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cost.predict import Prediction
from ..model.open import Model
from ..scoring.record import Scores
from ..selection.record import Selection
from ..study.results import Result, Summary, summarise
from ..study.stability_record import Stability
from ..trainability.choices import Choices
from ..training.manifest import Manifest
from .classes import Evaluation


@dataclass(frozen=True)
class Curve:
    """The course of a training: values per epoch, None if unknown.

    Attributes:
        name: name of the curve.
        train_loss: training loss after each epoch; the first is before training.
        eval_loss, eval_accuracy: the same on validation data.
    """

    name: str
    train_loss: tuple[float | None, ...]
    eval_loss: tuple[float | None, ...]
    eval_accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class RunFigures:
    """The content of run.json.

    Attributes:
        before, after: accuracy, 0 to 1; None if the loss has none.
        evaluated_on: the data on which accuracy was measured.
        trainable_share: trained parameters as a share of all.
        measured: (bytes, seconds) of a step by name (inference, selection, all), as far as measured.
        command: the command line, or None.
        batch_size: samples of the step that was measured.
        model_file: the model that was adapted, or None.
        samples, epochs, kept_views: size of the training; 0 if unknown.
        evaluation: figures of classes or outputs; None if there are none.
    """

    before: float | None
    after: float | None
    evaluated_on: str
    trainable_share: float
    measured: dict[str, tuple[int, float]]
    command: str | None
    batch_size: int = 32
    model_file: str | None = None
    samples: int = 0
    epochs: int = 0
    kept_views: int = 0
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class AdaptedRun:
    """The results of `adapt`.

    Attributes:
        selection: the trained selection.
        figures: the content of run.json; None if it does not exist.
        curve: the learning curve; None if there is none.
        manifest: the manifest of the artifacts; None if they do not exist.
    """

    selection: Selection
    figures: RunFigures | None
    curve: Curve | None
    manifest: Manifest | None


@dataclass(frozen=True)
class Compared:
    """The results of `compare`.

    Attributes:
        plan: the content of plan.json.
        test_samples: number of test samples.
        results: one per strategy, rho and seed.
        curves: learning curves for the first seed of each strategy: the loss of the final training, and validation
            figures of the training by which its learning rate was chosen.
        batch_size, backend, choices: settings of the trainings.
    """

    plan: dict[str, Any]
    test_samples: int
    results: list[Result]
    curves: list[Curve]
    batch_size: int = 32
    backend: str = "auto"
    choices: Choices = field(default_factory=Choices)


@dataclass
class ReportInputs:
    """Everything a report shows; None or empty if it does not exist.

    Attributes:
        folder: the folder that was read.
        scores: scores of all layers; for a selection without scores, the layers of its model, if that is found, without
            measurements (``scores.samples`` is empty).
        run: the results of `adapt`.
        compared: the results of `compare`.
        stability: the results of `stability`.
        fleet: the content of fleet.json and the rows of fleet.jsonl; None if there are none.
        model: the model that was scored, or selected from without scores.
        costs: predicted costs by name: inference, selection, all.
        reach: by layer name, step memory in bytes if only this layer and the head are trained; for at most 64 layers.
        batch_size: samples of the step that costs refer to.
        commands: command lines that produced the results.
        notes: what is missing, and how to get it.
    """

    folder: Path
    scores: Scores | None = None
    run: AdaptedRun | None = None
    compared: Compared | None = None
    stability: Stability | None = None
    fleet: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
    model: Model | None = None
    costs: dict[str, Prediction] = field(default_factory=dict)
    reach: dict[str, int] = field(default_factory=dict)
    batch_size: int = 32
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def model_file(self) -> str | None:
        """The path of the model, if a record contains it."""
        if self.scores is not None:
            return self.scores.model_file
        if self.run is not None and self.run.figures is not None:
            return self.run.figures.model_file
        if self.fleet is not None and self.run is not None:
            return self.fleet[0].get("model_file")
        return None if self.stability is None else self.stability.model_file

    @property
    def votes(self) -> dict[str, dict[str, Any]]:
        """A fleet's combined votes by layer name, as in fleet.json; empty if the fleet did not vote."""
        poll = None if self.fleet is None else self.fleet[0]["poll"]
        return {} if poll is None else {layer["name"]: layer for layer in poll.get("layers", [])}

    @property
    def summaries(self) -> list[Summary]:
        """The comparison's results by strategy; empty without a comparison."""
        return [] if self.compared is None else summarise(self.compared.results, self.compared.test_samples)
