"""The training loop: epochs over a training graph, with a checkpoint after each.

After every epoch ``training/last.ckpt`` in the artifact folder holds parameters, optimizer state, settings and all
metrics so far; it is written beside and renamed, so an interrupted or killed training loses at most the epoch
it was in. ``training/best.ckpt`` is kept where early stopping is asked for.

``metrics.jsonl`` has one object per epoch: epoch, train_loss, eval_loss, eval_accuracy, learning_rate, seconds.
Epoch 0 is the state before training (its train_loss is null). eval_* are on the validation data split off
the training data, null where none was.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.arithmetic import integer_data
from ..data.dataset import Dataset, split_off
from ..data.feeder import Feeder
from ..data.labels import IGNORED, align_classes, counted, fit_labels
from ..data.preprocess import Arithmetic, Preprocessing, arithmetic_for
from ..data.source import open_data
from ..errors import DataError, RecordError, TrainingError, UsageError
from ..files import make_folder, replacing, write_bytes
from ..model.open import Model, open_model
from ..options import with_given
from ..progress import Progress
from .choices import need_runtime
from .learned import Learned, judge
from .manifest import Manifest, TrainingSession, load_manifest
from .schedule import SCHEDULES
from .settings import Settings

LAST, BEST, METRICS = "training/last.ckpt", "training/best.ckpt", "metrics.jsonl"
PROPERTY = "adabet_onnx"
_EVAL_BATCH = 64
_FINGERPRINTED = 16  # samples that tell whether a training is resumed with the same data


class Trainer:
    """Trains the selected layers of an artifact folder.

    Args:
        folder: made by `make_artifacts`.
        threads: for ONNX Runtime; None is its own choice.
        metrics: where to write metrics.jsonl; None: in the folder.

    Attributes:
        folder: the artifacts.
        manifest: what they say of themselves.
        data: what the data of the last `fit` was taken for, in a line; None before.
        learned: whether the last `fit` learned anything, and what its losses say about the learning rate; None before.

    Raises:
        RecordError: it is no artifact folder, or its files were changed.
        RuntimeMissingError: the runtime that the folder's backend needs is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        metrics: str | os.PathLike[str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._metrics = self.folder / METRICS if metrics is None else Path(metrics)
        self.manifest: Manifest = load_manifest(self.folder)
        need_runtime(self.manifest.backend)
        self._threads = threads
        self.data: str | None = None
        self.learned: Learned | None = None
        self._model: Model = open_model(self.manifest.file("model"))

    @property
    def interrupted(self) -> Settings | None:
        """Settings of the training that ``resume=True`` goes on with; None where there is none.

        Raises:
            RecordError: the checkpoint was not written by this trainer.
        """
        if not (self.folder / LAST).is_file():
            return None
        _, state = self.manifest.read_checkpoint(self.folder / LAST, PROPERTY)
        return Settings(**self._state(state)["settings"])

    def fit(
        self,
        data: Any,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        settings: Settings | None = None,
        preprocessing: Preprocessing | Arithmetic | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Train, from the initial values or where an earlier call was interrupted.

        Args:
            data: labelled data in any form that `Data` describes; its test split is not touched.
            epochs: passes over the training data (10 if nothing says otherwise), in place of that of ``settings``.
            batch_size: samples per step (32, or as the selection's budget was made for), likewise.
            learning_rate: of the first step (1e-3 for adamw, 1e-2 for sgd), likewise.
            settings: these and the following: ``accumulate`` (batches gathered for one update; 1), ``schedule`` of the
                rate (constant, linear or cosine; cosine), ``seed`` of the data order and the validation split (0),
                ``validation`` (the fraction of the training data that eval_loss is of; 0.1) and ``patience`` (stop
                after so many epochs without a lower eval_loss and keep the best; never). None: their defaults, or what
                the resumed training had.
            preprocessing: in place of the manifest's.
            resume: go on after the last finished epoch; exact, that is, as if it had not been interrupted.
            progress: called with what is going on, steps done and steps in all.

        Returns:
            The rows of metrics.jsonl: one per epoch with ``epoch``, ``train_loss``, ``eval_loss``, ``eval_accuracy``,
            ``learning_rate`` and ``seconds``; the first is of the state before training.

        Raises:
            DataError: no labels, or data that does not fit.
            TrainingError: the loss is not finite, or a step fails.
            UsageError: a setting is out of range, or differs from that of the training to be resumed.
            OutputError: a checkpoint cannot be written.

        Example:
            >>> from adabet_onnx import Trainer, make_artifacts, select
            >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
            >>> rows = Trainer("artifacts").fit("new_domain.npz", epochs=2)
            >>> [row["epoch"] for row in rows]
            [0, 1, 2]
        """
        last = self.folder / LAST
        resume = resume and last.is_file()
        session = self.manifest.session(last if resume else self.manifest.initial, threads=self._threads)
        state = self._state(session.property(PROPERTY)) if resume else None
        given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        if state is None:
            settings = self._cut(with_given(settings or Settings(), **given)).settled(self.manifest.optimizer)
        else:
            settings = Settings(**state["settings"]).resumed(settings, **given)
        if settings.parts > 1 and self.manifest.backend == "ort":
            raise UsageError(
                "onnxruntime-training adds gathered gradients up rather than averaging them. Use the portable backend, "
                "or leave `accumulate` out."
            )

        dataset = open_data(data, self._model).train
        ignore = self.manifest.ignore_label
        dataset = align_classes(dataset, self.manifest.classes, strict=True, ignore=ignore)
        labels = fit_labels(
            dataset.need_labels("training"),
            self.manifest.loss_function,
            self.manifest.logits_shape,
            dataset.name,
            self.manifest.given_axis,  # where it was not given, two may fit
            ignore,
        )
        fingerprint = hashlib.sha256(labels.tobytes()).hexdigest()
        if state is not None and state["data"] != fingerprint:
            raise DataError(
                f"{dataset.name} is not the data that the training in {self.folder} was started with (its labels "
                "differ). Resume with the same data, or start again without `resume`."
            )
        dataset = replace(dataset, labels=labels)
        training, held_out = split_off(dataset, settings.validation, settings.seed)
        if settings.patience is not None and held_out is None:
            raise UsageError(
                f"early stopping needs validation data, but {settings.validation:g} of {len(dataset)} samples is "
                "none. Raise `validation`, or leave out `patience`."
            )
        stored = self.manifest.preprocessing
        used = arithmetic_for(self._model, integer_data(self._model, dataset), preprocessing, stored=stored)
        feeder = Feeder(self._model, used)
        self.data = feeder.taken(dataset)
        if state is not None and state.get("taken_for", self.data) != self.data:
            raise DataError(
                f"{dataset.name} is taken for something else ({self.data}) than when the training in {self.folder} was "
                f"started ({state['taken_for']}). Resume with the same data and `Data(..., layout=...)`, or start "
                "again without `resume`."
            )
        samples = _sampled(feeder, dataset)
        if state is not None and state.get("samples", samples) != samples:
            raise DataError(
                f"{dataset.name} is not the data that the training in {self.folder} was started with: its labels are "
                "the same, but what is fed of its samples differs. Resume with the same data and preprocessing, or "
                "start again without `resume`."
            )
        about = {
            "data": fingerprint,
            "samples": samples,
            "classes": dataset.classes,
            "preprocessing": used.to_json(),
            "taken_for": self.data,
        }

        rows: list[dict[str, Any]] = state["metrics"] if state else []
        target = self._metrics
        feeder.feeds(training, np.arange(1))  # data that does not fit must not cost an earlier training's checkpoints
        if state is None:
            rows = [{"epoch": 0, "train_loss": None, **self._evaluated(session, held_out, feeder, settings, 0.0)}]
            make_folder(last.parent)
            (self.folder / BEST).unlink(missing_ok=True)  # last is replaced when the new one is complete
            self._store(session, rows, settings, about, target)
        steps = math.ceil(len(training) / (settings.size * settings.parts))
        for epoch in range(len(rows), settings.epochs + 1):
            if _stopped_early(rows, settings):
                break
            began = time.perf_counter()
            loss, rate, told = self._epoch(session, training, feeder, settings, epoch, steps, progress)
            row = {"epoch": epoch, "train_loss": loss, **self._evaluated(session, held_out, feeder, settings, rate)}
            if held_out is not None and row["eval_loss"] is None:
                raise _exploded("validation loss is not finite after", epoch, settings)
            row["seconds"] = round(time.perf_counter() - began, 3)
            rows.append(row)
            self._store(session, rows, settings, about, target)
            if progress is not None:
                progress(told + _told(row), epoch * steps, settings.epochs * steps)
        else:
            _write_metrics(target, rows)
        self.learned = self._judged(rows, settings, training, held_out, steps)
        return rows

    def _judged(
        self, rows: list[dict[str, Any]], settings: Settings, training: Dataset, held_out: Dataset | None, steps: int
    ) -> Learned:
        """What the figures say of whether something was learned."""
        axis, shape = self.manifest.class_axis, self.manifest.logits_shape
        assert training.labels is not None
        return judge(
            rows,
            rate=settings.rate,
            updates=steps * (len(rows) - 1),
            loss=self.manifest.loss_function,
            classes=None if axis is None else int(shape[axis]),
            labels=training.labels,
            held_out=None if held_out is None else held_out.labels,
            smoothing=float(self.manifest.content.get("label_smoothing") or 0.0),
        )

    def _cut(self, asked: Settings) -> Settings:
        """Batches in parts where the selection's budget was made for that, and nothing else is asked for."""
        budget = self.manifest.selection.budget
        if budget is None or budget.accumulate == 1 or (asked.batch_size, asked.accumulate) != (None, None):
            return asked
        return replace(asked, batch_size=budget.part, accumulate=budget.accumulate)

    def _state(self, stored: Any) -> dict[str, Any]:
        """What a checkpoint says of its training."""
        try:
            state = json.loads(str(stored))
            _ = state["settings"], state["metrics"], state["data"]
        except (TypeError, ValueError, KeyError) as error:
            raise RecordError(
                f"{self.folder / LAST} was not written by this trainer; start again without `resume`."
            ) from error
        return dict(state)

    def _store(
        self,
        session: TrainingSession,
        rows: list[dict[str, Any]],
        settings: Settings,
        about: dict[str, Any],
        metrics: Path,
    ) -> None:
        """Write the checkpoint, then the metrics (which the checkpoint holds too)."""
        state = {"settings": asdict(settings), "metrics": rows, **about}
        session.set_property(PROPERTY, json.dumps(state))
        if settings.patience is not None and _best(rows) == len(rows) - 1:
            with replacing(self.folder / BEST) as part:
                session.save(part)
        with replacing(self.folder / LAST) as part:
            session.save(part)
        _write_metrics(metrics, rows)

    def _epoch(
        self,
        session: TrainingSession,
        data: Dataset,
        feeder: Feeder,
        settings: Settings,
        epoch: int,
        steps: int,
        progress: Progress | None,
    ) -> tuple[float, float, str]:
        """One pass over the data: (mean loss, rate of the last step, what to say of it).

        Progress is told of every step but the last: that is told when the epoch has been evaluated.
        """
        order = np.random.default_rng([settings.seed, 4, epoch]).permutation(len(data))
        share = SCHEDULES[settings.schedule]
        total, rate, right, seen, what = 0.0, 0.0, Accuracy(self.manifest), 0, ""
        for step in range(steps):
            rate = settings.rate * share(((epoch - 1) * steps + step) / (settings.epochs * steps))
            size = settings.size * settings.parts
            parts = _parts(order[step * size : (step + 1) * size], settings.size)
            for batch in parts:
                feeds, labels = feeder.feeds(data, batch), _labels(data, batch)
                if len(parts) == 1:
                    loss, logits = session.step(feeds, labels, rate)
                else:
                    loss, logits = session.gradients(feeds, labels)
                if not math.isfinite(loss):
                    raise _exploded(f"loss became {loss} in", epoch, settings)
                total += loss * counted(labels)
                seen += counted(labels)
                right.add(logits, labels)
            if len(parts) > 1:
                session.update(rate)
            what = f"epoch {epoch}/{settings.epochs}, loss {total / max(seen, 1):.3f}"
            if right.share is not None:
                what += f", accuracy {right.share:.1%}"
            if progress is not None and step + 1 < steps:
                progress(what, (epoch - 1) * steps + step + 1, settings.epochs * steps)
        return total / max(seen, 1), rate, what

    def _evaluated(
        self, session: TrainingSession, data: Dataset | None, feeder: Feeder, settings: Settings, rate: float
    ) -> dict[str, Any]:
        """The eval part of a metrics row."""
        row: dict[str, Any] = {"eval_loss": None, "eval_accuracy": None, "learning_rate": rate, "seconds": 0.0}
        if data is None:
            return row
        loss, seen, right = 0.0, 0, Accuracy(self.manifest)
        # Parts of a batch are there to keep memory low: evaluation must not take more.
        size = settings.size if settings.parts > 1 else max(settings.size, _EVAL_BATCH)
        for batch in _in_order(len(data), size):
            labels = _labels(data, batch)
            each, logits = session.evaluate(feeder.feeds(data, batch), labels)
            loss += each * counted(labels)
            seen += counted(labels)
            right.add(logits, labels)
        row["eval_loss"] = loss / seen if seen and math.isfinite(loss) else None
        row["eval_accuracy"] = right.share
        return row


def _told(row: dict[str, Any]) -> str:
    """What evaluation after an epoch adds to what is said of it."""
    told = "" if row["eval_loss"] is None else f", eval loss {row['eval_loss']:.3f}"
    return told if row["eval_accuracy"] is None else f"{told}, eval accuracy {row['eval_accuracy']:.1%}"


def _exploded(what: str, epoch: int, settings: Settings) -> TrainingError:
    rate = settings.rate
    return TrainingError(
        f"the {what} epoch {epoch}. Lower the learning rate from {rate:g} to {rate / 10:g} or less "
        "(`learning_rate`), and check the preprocessing. The last good epoch is kept."
    )


def _best(rows: list[dict[str, Any]]) -> int:
    """Index of the row with the lowest eval_loss, the earliest of equals."""
    losses = [math.inf if row["eval_loss"] is None else row["eval_loss"] for row in rows]
    return losses.index(min(losses))


def _stopped_early(rows: list[dict[str, Any]], settings: Settings) -> bool:
    return settings.patience is not None and len(rows) - 1 - _best(rows) >= settings.patience


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


def _sampled(feeder: Feeder, data: Dataset) -> str:
    """A fingerprint of what is fed for a few samples: all of them may be too many to read."""
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(data) - 1, _FINGERPRINTED).astype(np.int64)):
        for _, array in sorted(feeder.feeds(data, np.array([index])).items()):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _parts(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _in_order(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _labels(data: Dataset, indices: np.ndarray) -> np.ndarray:
    assert data.labels is not None
    return np.asarray(data.labels[indices])


def _write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def trained_on(state: str | None) -> dict[str, Any]:
    """What a checkpoint says about the data it was trained on: ``classes`` and ``preprocessing``, where it says so."""
    try:
        content = json.loads(state or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def trained_checkpoint(manifest: Manifest) -> tuple[Path, bool]:
    """The checkpoint an export takes, and whether it is a trained one: the best, else the last, else the initial."""
    for name in (BEST, LAST):
        path = manifest.folder / name
        if path.is_file():
            return path, True
    return manifest.initial, False
