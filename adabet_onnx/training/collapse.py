"""Whether a training has collapsed: its loss is that of an answer that is always the same.

The training loss of an epoch and, where there is one, its validation loss are then at the loss of guessing, or above
(see `learned`), and its accuracy is at chance where that can be told. A slow start looks alike, and so does a task of
which little can be learned. So an epoch counts as a collapse only if

* the model was clearly better before (when training began, in an earlier epoch, or in a trial of the search for a
  rate): by a tenth of the way from the loss of guessing to the least; or
* half of the epochs have passed, in 30 updates or more, and the training loss is no lower than that of guessing, nor
  than in the epoch before (by half a percent).

Nothing is said of fewer than 10 updates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..data.labels import IGNORED
from .fed import Fed
from .guessing import at_guessing, guessing_loss, least_loss, stays
from .learned import LEAST_UPDATES, at_chance
from .manifest import Manifest

_CLEARLY, _HALF, _MANY, _FALLS = 0.9, 0.5, 30, 0.995


class Watch:
    """Looks at a training's epochs.

    Args:
        manifest: of the artifacts.
        used: the data.
        updates: of an epoch.
        epochs: of the training.
    """

    def __init__(self, manifest: Manifest, used: Fed, updates: int, epochs: int) -> None:
        self._manifest, self._used, self._updates, self._epochs = manifest, used, updates, epochs

    def collapsed(
        self, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], trials: Iterable[float | None] = ()
    ) -> str | None:
        """Say that an epoch has collapsed, in a clause; None where it has not.

        Args:
            row: of the epoch.
            rows: before it.
            trials: validation losses of the trials that the rate was found by; None where one was not finite.
        """
        epoch, loss = int(row["epoch"]), row["train_loss"]
        if epoch * self._updates < LEAST_UPDATES or not self._guesses(loss):
            return None
        if row["eval_loss"] is not None and not (self._guesses(row["eval_loss"]) and self._by_chance(row)):
            return None
        losses = [before[key] for before in rows for key in ("train_loss", "eval_loss")] + list(trials)
        level, least = self._levels
        better = any(loss is not None and loss < least + _CLEARLY * (level - least) for loss in losses)
        if not better and not self._stuck(row, rows):
            return None
        said = at_guessing(loss, level, self._classes, least)
        return None if said is None else said.replace("loss ended", f"loss of epoch {epoch} ended")

    def _stuck(self, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether half of a training has passed, and its loss is that of guessing and no longer falls."""
        epoch = int(row["epoch"])
        if epoch < max(2, _HALF * self._epochs) or epoch * self._updates < _MANY:
            return False
        return bool(row["train_loss"] > _FALLS * max(self._levels[0], rows[-1]["train_loss"]))

    def _guesses(self, loss: float) -> bool:
        level, least = self._levels
        return stays(loss, level, least)

    def _by_chance(self, row: Mapping[str, Any]) -> bool:
        """Whether the accuracy is at chance, or cannot tell."""
        if row["eval_accuracy"] is None or self._classes is None or self._used.held_out is None:
            return True
        labels = self._used.labels(self._used.held_out)
        return not _telling(labels, self._classes) or (
            at_chance(row["eval_accuracy"], labels, self._classes) is not None
        )

    @property
    def _classes(self) -> int | None:
        axis = self._manifest.class_axis
        return None if axis is None else int(self._manifest.logits_shape[axis])

    @cached_property
    def _levels(self) -> tuple[float, float]:
        """The loss of guessing, and the least there can be."""
        labels = self._used.labels(self._used.training)
        smoothing = self._manifest.label_smoothing
        loss, classes, weights = self._manifest.loss_function, self._classes or 1, self._manifest.class_weights
        return (
            guessing_loss(loss, labels, classes, smoothing, weights),
            least_loss(loss, labels, classes, smoothing, weights),
        )


def _telling(labels: np.ndarray, classes: int) -> bool:
    """Whether an accuracy at chance would be told as such: that of the most frequent class is tried."""
    known = labels[labels != IGNORED].reshape(-1)
    share = float(np.bincount(known).max() / known.size) if known.size else 0.0
    return at_chance(min(share, 1 / classes), labels, classes) is not None
