"""The cost of inference or of a training step, predicted and optionally measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..showing import one_line
from ..sizes import size_text
from .measure import Cost
from .predict import Prediction, Training


@dataclass(frozen=True)
class StepCost:
    """The cost of inference or of a training step.

    Attributes:
        prediction: the prediction from the graph.
        measured_bytes: step memory of a fresh process; None if it was not measured.
        measured_seconds: median time of a step after the frozen pass, likewise.
        measured_frozen_bytes: memory of the frozen pass; None also if nothing is frozen.
        measured_frozen_seconds: median time of the frozen pass over the samples of a step, likewise.
        measured_tail_bytes: memory of the steps after it, likewise.
    """

    prediction: Prediction
    measured_bytes: int | None = None
    measured_seconds: float | None = None
    measured_frozen_bytes: int | None = None
    measured_frozen_seconds: float | None = None
    measured_tail_bytes: int | None = None

    def __repr__(self) -> str:
        measured = None if self.measured_bytes is None else f"measured {size_text(self.measured_bytes)}"
        return one_line(self, f"predicted {size_text(self.prediction.memory_bytes)}", measured)

    @property
    def difference(self) -> float | None:
        """(predicted - measured) / measured, None if it was not measured."""
        if not self.measured_bytes:
            return None
        return (self.prediction.memory_bytes - self.measured_bytes) / self.measured_bytes

    @property
    def measured(self) -> Cost | None:
        """The measured cost, or None."""
        if self.measured_bytes is None or self.measured_seconds is None:
            return None
        frozen = self.measured_frozen_bytes or 0, self.measured_frozen_seconds or 0.0, self.measured_tail_bytes or 0
        return Cost(self.measured_bytes, self.measured_seconds, *frozen)

    def to_json(self, training: Training | None = None) -> dict[str, Any]:
        """The cost as JSON, without values that were not measured or do not apply to inference.

        Args:
            training: the whole training that this is a step of; None for inference.
        """
        predicted = self.prediction
        entry: dict[str, Any] = {"predicted_bytes": predicted.memory_bytes, "margin_bytes": predicted.margin_bytes}
        if self.measured_bytes is not None:
            entry |= {"measured_bytes": self.measured_bytes, "measured_seconds": self.measured_seconds}
        if self.measured_frozen_bytes is not None:
            entry |= {
                "measured_frozen_bytes": self.measured_frozen_bytes,
                "measured_frozen_seconds": self.measured_frozen_seconds,
                "measured_tail_bytes": self.measured_tail_bytes,
            }
        entry |= {
            "saved_bytes": predicted.saved_bytes,
            "state_bytes": predicted.state_bytes,
            "update_bytes": predicted.update_bytes,
            "forward_multiply_adds": predicted.forward_multiply_adds,
            "step_multiply_adds": predicted.step_multiply_adds,
        }
        if training is None:
            return entry
        return entry | {
            "frozen_bytes": predicted.frozen_bytes,
            "tail_bytes": predicted.tail_bytes,
            "without_features_bytes": predicted.without_features_bytes,
            "frozen_multiply_adds": predicted.frozen_multiply_adds,
            "stored_bytes": predicted.stored_bytes,
            "training": {
                "samples": training.samples,
                "epochs": training.epochs,
                "kept_views": training.kept_views,
                "stored_bytes": training.stored_bytes,
                "multiply_adds": training.multiply_adds,
                "without_features_multiply_adds": training.without_features,
            },
        }
