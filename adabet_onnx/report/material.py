"""What a report is made of: runs, comparisons, a stability study, and the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cost.predict import Prediction
from ..model.open import Model
from ..scoring.record import Scores
from ..selection.record import Selection
from ..study.results import Result
from ..study.stability_record import Stability
from ..trainability.choices import Choices
from ..training.manifest import Manifest
from .classes import Evaluation


@dataclass(frozen=True)
class Curve:
    """How a training went: per epoch, None where nothing is known.

    Attributes:
        name: what was trained.
        train_loss: of each epoch; the first is before training.
        eval_loss, eval_accuracy: on data set aside, likewise.
    """

    name: str
    train_loss: tuple[float | None, ...]
    eval_loss: tuple[float | None, ...]
    eval_accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class Figures:
    """What run.json says.

    Attributes:
        before, after: accuracy, 0 to 1; None where the loss has none.
        evaluated_on: which data they are of.
        trainable_share: trained parameters over all.
        measured: (bytes, seconds) of a step by name (inference, selection, all), as far as measured.
        command: the command line, or None.
        batch_size: samples of the step that was measured.
        model_file: the model that was adapted, or None.
        samples, epochs, kept_views: of the training; 0 where it is not said.
        evaluation: what it says of classes or outputs; None where it says nothing.
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
class Run:
    """What `adapt` left.

    Attributes:
        selection: what was trained.
        figures: what run.json says; None where it is not there.
        curve: of the training; None where there is none.
        manifest: of the artifacts; None where they are not there.
    """

    selection: Selection
    figures: Figures | None
    curve: Curve | None
    manifest: Manifest | None


@dataclass(frozen=True)
class Compared:
    """What `compare` left.

    Attributes:
        plan: the content of plan.json.
        test_samples: how many samples accuracies are of.
        results: one per strategy, rho and seed.
        curves: of the first seed of each strategy: the loss of the training that counts, validation figures of the one
            that its rate was chosen by.
        batch_size, backend, choices: of the trainings.
    """

    plan: dict[str, Any]
    test_samples: int
    results: list[Result]
    curves: list[Curve]
    batch_size: int = 32
    backend: str = "auto"
    choices: Choices = field(default_factory=Choices)


@dataclass
class Material:
    """Everything a report shows; None or empty where it is not there.

    Attributes:
        folder: where it is from.
        scores: of all layers; for a selection without scores, the layers of its model, where that is found, with
            nothing measured (``scores.samples`` is empty).
        run: of `adapt`.
        compared: of `compare`.
        stability: how firm rankings are.
        fleet: what fleet.json says, and the rows of fleet.jsonl; None where there is none.
        model: what was scored, or selected from without scores.
        costs: predicted costs by name: inference, selection, all.
        reach: by layer name, step memory in bytes when this layer is trained alone, with the head; of 64 at most.
        batch_size: samples of the step that costs are of.
        commands: command lines that led here.
        notes: what is missing, and how to get it.
    """

    folder: Path
    scores: Scores | None = None
    run: Run | None = None
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
        """Where the model was, as far as a record says."""
        if self.scores is not None:
            return self.scores.model_file
        if self.run is not None:
            return None if self.run.figures is None else self.run.figures.model_file
        return None if self.stability is None else self.stability.model_file
