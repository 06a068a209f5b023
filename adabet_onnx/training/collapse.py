"""Detect that a training has collapsed: its loss is no better than that of a constant prediction.

In a collapsed epoch the training loss and, if present, the validation loss are at or above the baseline loss (see
`learning_check`), and the accuracy is at chance level, if that can be determined. A slow start looks the same, and so
does a task in which little can be learned. So an epoch counts as collapsed only if

* the model was clearly better before (at the start of training, in an earlier epoch, or in a trial of the learning-rate
  search): by a tenth of the distance from the baseline loss to the minimum loss; or
* half of the epochs have passed, in at least 30 updates, and the training loss is lower than neither the baseline loss
  nor that of the previous epoch (within half a percent).

With fewer than 10 updates there is no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..data.labels import IGNORED
from .baseline_loss import at_baseline, baseline_loss, is_at_baseline, minimum_loss
from .learning_check import LEAST_UPDATES, at_chance
from .manifest import Manifest
from .training_data import TrainingData

_CLEARLY, _HALF, _MANY, _FALLS = 0.9, 0.5, 30, 0.995


class CollapseWatch:
    """Watches the epochs of a training for a collapse.

    Args:
        manifest: the manifest of the artifacts.
        data: the training data.
        updates: updates per epoch.
        epochs: number of epochs of the training.
    """

    def __init__(self, manifest: Manifest, data: TrainingData, updates: int, epochs: int) -> None:
        self._manifest, self._data, self._updates, self._epochs = manifest, data, updates, epochs

    def collapsed(
        self, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], trials: Iterable[float | None] = ()
    ) -> str | None:
        """Return a clause saying that an epoch has collapsed; None if it has not.

        Args:
            row: metrics of the epoch.
            rows: metrics of the epochs before it.
            trials: validation losses of the learning-rate trials; None for a loss that was not finite.
        """
        epoch, loss = int(row["epoch"]), row["train_loss"]
        if epoch * self._updates < LEAST_UPDATES or not self._at_baseline(loss):
            return None
        if row["eval_loss"] is not None and not (self._at_baseline(row["eval_loss"]) and self._accuracy_at_chance(row)):
            return None
        losses = [before[key] for before in rows for key in ("train_loss", "eval_loss")] + list(trials)
        level, least = self._levels
        better = any(loss is not None and loss < least + _CLEARLY * (level - least) for loss in losses)
        if not better and not self._stuck(row, rows):
            return None
        message = at_baseline(loss, level, self._classes, least)
        return None if message is None else message.replace("loss ended", f"loss of epoch {epoch} ended")

    def _stuck(self, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether half of the training has passed, and its loss is at the baseline and no longer falls."""
        epoch = int(row["epoch"])
        if epoch < max(2, _HALF * self._epochs) or epoch * self._updates < _MANY:
            return False
        return bool(row["train_loss"] > _FALLS * max(self._levels[0], rows[-1]["train_loss"]))

    def _at_baseline(self, loss: float) -> bool:
        level, least = self._levels
        return is_at_baseline(loss, level, least)

    def _accuracy_at_chance(self, row: Mapping[str, Any]) -> bool:
        """Whether the accuracy is at chance level, or says nothing either way."""
        if row["eval_accuracy"] is None or self._classes is None or self._data.held_out is None:
            return True
        labels = self._data.labels(self._data.held_out)
        return not _chance_detectable(labels, self._classes) or (
            at_chance(row["eval_accuracy"], labels, self._classes) is not None
        )

    @property
    def _classes(self) -> int | None:
        axis = self._manifest.class_axis
        return None if axis is None else int(self._manifest.logits_shape[axis])

    @cached_property
    def _levels(self) -> tuple[float, float]:
        """The baseline loss and the minimum loss."""
        labels = self._data.labels(self._data.training)
        smoothing = self._manifest.label_smoothing
        loss, classes, weights = self._manifest.loss_function, self._classes or 1, self._manifest.class_weights
        return (
            baseline_loss(loss, labels, classes, smoothing, weights),
            minimum_loss(loss, labels, classes, smoothing, weights),
        )


def _chance_detectable(labels: np.ndarray, classes: int) -> bool:
    """Whether an accuracy at chance level would be recognised on these labels."""
    known = labels[labels != IGNORED].reshape(-1)
    share = float(np.bincount(known).max() / known.size) if known.size else 0.0
    return at_chance(min(share, 1 / classes), labels, classes) is not None
