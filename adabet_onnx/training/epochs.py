"""One pass over the data of a training: to train, and to evaluate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import seeds
from ..data.labels import IGNORED, counted
from ..errors import TrainingError
from ..progress import Progress
from .features import FeatureSource
from .manifest import Manifest, TrainingSession
from .schedule import SCHEDULES
from .settings import Settings
from .training_data import TrainingData

_EVAL_BATCH = 64


class NotFiniteError(TrainingError):
    """A loss is not finite: the rate is too high, if the data is right. Users see a TrainingError."""


class Epochs:
    """Trains and evaluates, an epoch at a time.

    Args:
        session: that holds the values.
        manifest: of the artifacts.
        data: of the training.
        source: what steps begin with.
        settings: of the training.

    Attributes:
        steps: updates of an epoch.
    """

    def __init__(
        self,
        session: TrainingSession,
        manifest: Manifest,
        data: TrainingData,
        source: FeatureSource,
        settings: Settings,
    ) -> None:
        self._session, self._manifest, self._data, self._settings = session, manifest, data, settings
        self._source, self._weights = source, manifest.class_weights
        self._judged = data.held_out is not None and counted(data.labels(data.held_out), self._weights) > 0
        self.steps = math.ceil(len(data.training) / (settings.size * settings.parts))

    def run(self, epoch: int, progress: Progress | None) -> tuple[dict[str, Any], str]:
        """Train for an epoch and evaluate: the row of its metrics, without its time, and what to say of it.

        Progress is told of every step but the last: that is told when the epoch has been evaluated.

        Raises:
            NotFiniteError: the loss, or that on the validation data, is not finite.
        """
        loss, rate, told = self._train(epoch, progress)
        row = {"epoch": epoch, "train_loss": loss, **self.evaluated(rate)}
        if row["eval_loss"] is not None:
            told += f", eval loss {row['eval_loss']:.3f}"
        elif self._judged:  # where no label of theirs counts, there is none
            raise self._exploded("validation loss is not finite after", epoch)
        if row["eval_accuracy"] is not None:
            told += f", eval accuracy {row['eval_accuracy']:.1%}"
        return row, told

    def _train(self, epoch: int, progress: Progress | None) -> tuple[float, float, str]:
        """Mean loss, rate of the last step, and what to say of it."""
        session, settings, rows = self._session, self._settings, self._data.training
        order = rows[seeds.epoch(settings.seed, epoch).permutation(len(rows))]
        share = SCHEDULES[settings.schedule]
        before, steps = (epoch - 1) * self.steps, settings.epochs * self.steps
        views = self._data.views.of_epoch(epoch)
        total, rate, right, seen, what = 0.0, 0.0, Accuracy(self._manifest), 0.0, ""
        for step in range(self.steps):
            rate = settings.rate * share((before + step) / steps)
            size = settings.size * settings.parts
            parts = _parts(order[step * size : (step + 1) * size], settings.size)
            for batch in parts:
                feeds = self._source.of(batch, None if views is None else views[batch])
                labels = self._data.labels(batch)
                if len(parts) == 1:
                    loss, logits = session.step(feeds, labels, rate)
                else:
                    loss, logits = session.gradients(feeds, labels)
                if not math.isfinite(loss):
                    raise self._exploded(f"loss became {loss} in", epoch)
                weight = counted(labels, self._weights)
                total += loss * (weight or 1)
                seen += weight
                right.add(logits, labels)
            if len(parts) > 1:
                session.update(rate)
            what = f"epoch {epoch}/{settings.epochs}, loss {total / (seen or 1):.3f}"
            if right.share is not None:
                what += f", accuracy {right.share:.1%}"
            if progress is not None and step + 1 < self.steps:
                progress(what, before + step + 1, steps)
        return total / (seen or 1), rate, what

    def evaluated(self, rate: float) -> dict[str, Any]:
        """The part of a row that is on the validation data, and the rate it comes with."""
        row: dict[str, Any] = {"eval_loss": None, "eval_accuracy": None, "learning_rate": rate, "seconds": 0.0}
        rows, settings = self._data.held_out, self._settings
        if rows is None:
            return row
        loss, seen, right = 0.0, 0.0, Accuracy(self._manifest)
        # Parts of a batch are there to keep memory low: evaluation must not take more.
        size = settings.size if settings.parts > 1 else max(settings.size, _EVAL_BATCH)
        for batch in _parts(rows, size):
            labels = self._data.labels(batch)
            each, logits = self._session.evaluate(self._source.of(batch), labels)
            weight = counted(labels, self._weights)
            loss += each * (weight or 1)
            seen += weight
            right.add(logits, labels)
        row["eval_loss"] = loss / seen if seen and math.isfinite(loss) else None
        row["eval_accuracy"] = right.share
        return row

    def _exploded(self, what: str, epoch: int) -> NotFiniteError:
        rate = self._settings.rate
        return NotFiniteError(
            f"the {what} epoch {epoch}. Lower the learning rate from {rate:g} to {rate / 10:g} or less "
            "(`learning_rate`), and check the preprocessing. The last good epoch is kept."
        )


class Accuracy:
    """Share of labels that the logits get right, over batches; of class labels only."""

    def __init__(self, manifest: Manifest) -> None:
        self._axis = manifest.class_axis
        self._right = self._seen = 0

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch; labels that the loss ignores do not count."""
        if self._axis is None:
            return
        counted = labels != IGNORED
        self._right += int(np.count_nonzero((logits.argmax(self._axis) == labels) & counted))
        self._seen += int(np.count_nonzero(counted))

    @property
    def share(self) -> float | None:
        """0 to 1, or None where there is none."""
        return self._right / self._seen if self._seen else None


def _parts(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
