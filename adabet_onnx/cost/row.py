"""What inference, or a step of a training, costs: predicted, and measured where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..showing import one_line
from ..sizes import size_text
from .measure import Cost
from .predict import Prediction, Training


@dataclass(frozen=True)
class Row:
    """What one of the three costs.

    Attributes:
        prediction: from the graph.
        measured_bytes: step memory of a fresh process; None where it was not measured.
        measured_seconds: median time of a step after the frozen pass, likewise.
        measured_frozen_bytes: memory of the frozen pass; None also where nothing is frozen.
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
        """(predicted - measured) / measured, None where it was not measured."""
        if not self.measured_bytes:
            return None
        return (self.prediction.memory_bytes - self.measured_bytes) / self.measured_bytes

    @property
    def measured(self) -> Cost | None:
        """What was measured."""
        if self.measured_bytes is None or self.measured_seconds is None:
            return None
        frozen = self.measured_frozen_bytes or 0, self.measured_frozen_seconds or 0.0, self.measured_tail_bytes or 0
        return Cost(self.measured_bytes, self.measured_seconds, *frozen)

    def to_json(self, training: Training | None = None) -> dict[str, Any]:
        """For programs; what was not measured is left out, and so are the frozen pass and the training of inference.

        Args:
            training: the whole, of which this is a step.
        """
        found = self.prediction
        entry: dict[str, Any] = {"predicted_bytes": found.memory_bytes, "margin_bytes": found.margin_bytes}
        if self.measured_bytes is not None:
            entry |= {"measured_bytes": self.measured_bytes, "measured_seconds": self.measured_seconds}
        if self.measured_frozen_bytes is not None:
            entry |= {
                "measured_frozen_bytes": self.measured_frozen_bytes,
                "measured_frozen_seconds": self.measured_frozen_seconds,
                "measured_tail_bytes": self.measured_tail_bytes,
            }
        entry |= {
            "saved_bytes": found.saved_bytes,
            "state_bytes": found.state_bytes,
            "update_bytes": found.update_bytes,
            "forward_multiply_adds": found.forward_multiply_adds,
            "step_multiply_adds": found.step_multiply_adds,
        }
        if training is None:
            return entry
        return entry | {
            "frozen_bytes": found.frozen_bytes,
            "tail_bytes": found.tail_bytes,
            "without_features_bytes": found.without_features_bytes,
            "frozen_multiply_adds": found.frozen_multiply_adds,
            "stored_bytes": found.stored_bytes,
            "training": {
                "samples": training.samples,
                "epochs": training.epochs,
                "kept_views": training.kept_views,
                "stored_bytes": training.stored_bytes,
                "multiply_adds": training.multiply_adds,
                "without_features_multiply_adds": training.without_features,
            },
        }
