"""One epoch of training and the evaluation after it."""

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
    """A loss is not finite: if the data is right, the learning rate is too high. Users see a TrainingError."""


class Epochs:
    """Trains and evaluates one epoch at a time.

    Args:
        session: holds the parameter values.
        manifest: the manifest of the artifacts.
        data: the training data.
        source: provides the features that steps start from.
        settings: the training settings.

    Attributes:
        steps: updates per epoch.
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
        """Train for an epoch and evaluate; return the row of its metrics, without its time, and a progress text.

        Progress is reported for every step but the last, which is reported after the epoch has been evaluated.

        Raises:
            NotFiniteError: the training or validation loss is not finite.
        """
        loss, rate, summary = self._train(epoch, progress)
        row = {"epoch": epoch, "train_loss": loss, **self.evaluate(rate)}
        if row["eval_loss"] is not None:
            summary += f", eval loss {row['eval_loss']:.3f}"
        elif self._judged:  # without a label that counts, there is no loss
            raise self._not_finite("validation loss is not finite after", epoch)
        if row["eval_accuracy"] is not None:
            summary += f", eval accuracy {row['eval_accuracy']:.1%}"
        return row, summary

    def _train(self, epoch: int, progress: Progress | None) -> tuple[float, float, str]:
        """Return the mean loss, the learning rate of the last step and a progress text."""
        session, settings, rows = self._session, self._settings, self._data.training
        order = rows[seeds.epoch(settings.seed, epoch).permutation(len(rows))]
        share = SCHEDULES[settings.schedule]
        before, steps = (epoch - 1) * self.steps, settings.epochs * self.steps
        views = self._data.views.of_epoch(epoch)
        total, rate, accuracy, seen, text = 0.0, 0.0, Accuracy(self._manifest), 0.0, ""
        for step in range(self.steps):
            rate = settings.rate * share((before + step) / steps)
            size = settings.size * settings.parts
            batches = _split_batches(order[step * size : (step + 1) * size], settings.size)
            for batch in batches:
                feeds = self._source.of(batch, None if views is None else views[batch])
                labels = self._data.labels(batch)
                if len(batches) == 1:
                    loss, logits = session.step(feeds, labels, rate)
                else:
                    loss, logits = session.gradients(feeds, labels)
                if not math.isfinite(loss):
                    raise self._not_finite(f"loss became {loss} in", epoch)
                weight = counted(labels, self._weights)
                total += loss * (weight or 1)
                seen += weight
                accuracy.add(logits, labels)
            if len(batches) > 1:
                session.update(rate)
            text = f"epoch {epoch}/{settings.epochs}, loss {total / (seen or 1):.3f}"
            if accuracy.share is not None:
                text += f", accuracy {accuracy.share:.1%}"
            if progress is not None and step + 1 < self.steps:
                progress(text, before + step + 1, steps)
        return total / (seen or 1), rate, text

    def evaluate(self, rate: float) -> dict[str, Any]:
        """Return the part of a metrics row that describes the validation data, with the learning rate."""
        row: dict[str, Any] = {"eval_loss": None, "eval_accuracy": None, "learning_rate": rate, "seconds": 0.0}
        rows, settings = self._data.held_out, self._settings
        if rows is None:
            return row
        loss, seen, accuracy = 0.0, 0.0, Accuracy(self._manifest)
        # Micro-batches keep memory low: evaluation must not need more than training.
        size = settings.size if settings.parts > 1 else max(settings.size, _EVAL_BATCH)
        for batch in _split_batches(rows, size):
            labels = self._data.labels(batch)
            batch_loss, logits = self._session.evaluate(self._source.of(batch), labels)
            weight = counted(labels, self._weights)
            loss += batch_loss * (weight or 1)
            seen += weight
            accuracy.add(logits, labels)
        row["eval_loss"] = loss / seen if seen and math.isfinite(loss) else None
        row["eval_accuracy"] = accuracy.share
        return row

    def _not_finite(self, problem: str, epoch: int) -> NotFiniteError:
        rate = self._settings.rate
        return NotFiniteError(
            f"the {problem} epoch {epoch}. Lower the learning rate from {rate:g} to {rate / 10:g} or less "
            "(`learning_rate`), and check the preprocessing. The last good epoch is kept."
        )


class Accuracy:
    """The share of class labels predicted correctly, accumulated over batches."""

    def __init__(self, manifest: Manifest) -> None:
        self._axis = manifest.class_axis
        self._right = self._seen = 0

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch; labels that the loss ignores do not count."""
        if self._axis is None:
            return
        valid = labels != IGNORED
        self._right += int(np.count_nonzero((logits.argmax(self._axis) == labels) & valid))
        self._seen += int(np.count_nonzero(valid))

    @property
    def share(self) -> float | None:
        """The accuracy from 0 to 1, or None without labels."""
        return self._right / self._seen if self._seen else None


def _split_batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
