"""What the main job gained and cost, and the ``run.json`` that says so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cost.measure import Cost
from .cost.overview import Overview
from .model.open import Model
from .records import write_json
from .scoring.record import Scores
from .selection.record import Selection


@dataclass(frozen=True)
class Outcome:
    """What `adapt` did.

    Attributes:
        model: the model that was adapted (with its new head, where one was asked for).
        scores: of all layers.
        selection: what was trained.
        before: loss, accuracy and samples of the model before, on the test data.
        after: the same of the adapted model.
        evaluated_on: which data these figures are of.
        trainable_share: trained parameters over all, those that belong to no layer included.
        costs: of a training step of the ``selection`` and of ``all`` layers, and of ``inference``, as far as measured.
        not_measured: why something was not, or None.
        predicted: costs from the graphs that would run, where not all was measured; None where all was, or where they
            cannot be predicted.
        warnings: why the training may have learned nothing, a sentence each; see `training.learned`.
        advice: what the training's losses say about the learning rate, or None.
        learning_rate: of the first step.
        metrics: the rows of metrics.jsonl.
        folder: where everything is.
        batch_size: of training.
        data: what the training data was taken for, in a line.

    Example:
        >>> from adabet_onnx import Adapting, Settings, adapt
        >>> how = Adapting(settings=Settings(epochs=1), measure=False)
        >>> outcome = adapt("model.onnx", "new_domain.npz", "adapted", adapting=how)
        >>> outcome.evaluated_on
        '400 test samples'
    """

    model: Model
    scores: Scores
    selection: Selection
    before: dict[str, Any]
    after: dict[str, Any]
    evaluated_on: str
    trainable_share: float
    costs: dict[str, Cost]
    not_measured: str | None
    metrics: list[dict[str, Any]]
    folder: Path
    batch_size: int = 32
    data: str = ""
    predicted: Overview | None = None
    warnings: tuple[str, ...] = ()
    advice: str | None = None
    learning_rate: float | None = None

    @property
    def trainable_layers(self) -> int:
        """How many of the layers a backend can train: what "all layers" means in ``costs``."""
        return sum(layer.untrainable is None for layer in self.scores.layers)


def summary(outcome: Outcome) -> dict[str, Any]:
    """The outcome's figures as JSON values; `adapt`'s caller may save them."""
    return {
        "data": outcome.data,
        "layers": list(outcome.selection.layers),
        "strategy": outcome.selection.strategy,
        "model_file": None if outcome.model.name.startswith("<") else outcome.model.name,
        "before": outcome.before,
        "after": outcome.after,
        "evaluated_on": outcome.evaluated_on,
        "trainable_share": outcome.trainable_share,
        "batch_size": outcome.batch_size,
        "size_tau": outcome.selection.size_tau,
        "costs": {what: dataclasses.asdict(cost) for what, cost in outcome.costs.items()},
        "not_measured": outcome.not_measured,
        "predicted": None if outcome.predicted is None else outcome.predicted.to_json(),
        "trainable_layers": outcome.trainable_layers,
        "warnings": list(outcome.warnings),
        "advice": outcome.advice,
        "learning_rate": outcome.learning_rate,
    }


def save_summary(outcome: Outcome, *, command: str | None = None) -> None:
    """Write ``run.json`` into the outcome's folder, with the command line that led to it where there is one."""
    write_json(outcome.folder / "run.json", summary(outcome) | {"command": command})
