"""The training loop: epochs over a training graph, with a checkpoint after each (see `history`)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.preprocess import Arithmetic, Preprocessing
from ..errors import TrainingError, UsageError
from ..model.open import Model, open_model
from ..options import typed, with_given
from ..progress import Progress
from ..runtime import Threads, on
from ..showing import clipped, one_line
from ..training_runtime import need_runtime
from .collapse import Watch
from .epochs import Epochs, NotFiniteError
from .features import Computed, Place, Source, micro_batch, open_features, remove_others
from .fed import Fed, fed
from .head_start import KEY as HEAD_START
from .head_start import HeadFit, HeadStart, start_head, stored_start
from .history import FEATURES, LAST, METRICS, PROPERTY, History, stored_state
from .learned import Learned, judge
from .manifest import Manifest, TrainingSession, load_manifest
from .rate_search import Rates, lowered, rates_from_json, search
from .settings import Settings


class Trainer:
    """Trains the selected layers of an artifact folder.

    Args:
        folder: made by `make_artifacts`.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
        metrics: where to write metrics.jsonl; None: in the folder.
        features: a folder for the file of `Settings(features='disk')`, for trainings of several folders to share; None:
            one of this folder's own.

    Attributes:
        folder: the artifacts.
        manifest: what they say of themselves.
        data: what the data of the last `fit` was taken for, in a line; None before.
        features: where the last `fit` kept what no training changes, or why nowhere, in a line; None before, and where
            there is nothing to say.
        head_start: how the last `fit` fitted a new head before the first epoch, or why it did not; None before, and
            where the head is not new, not trained, or was to be random.
        rates: which learning rate the last `fit` found and what it tried for that; None before, and where the rate was
            given or nothing is trained.
        kept_views: how many views of samples the last `fit` had, those for validation having one; as many as samples
            where pictures were not augmented; 0 before.
        learned: whether the last `fit` learned anything, and what its losses say about the learning rate; None before.

    Raises:
        RecordError: it is no artifact folder, or its files were changed.
        RuntimeMissingError: the runtime that the folder's backend needs is not installed.

    Example:
        >>> from adabet_onnx import Trainer, make_artifacts, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> trainer = Trainer("artifacts")
        >>> rows = trainer.fit("new_domain.npz", epochs=2)
        >>> trainer.data
        '900 grey images of 16 x 16 -> 1 x 16 x 16'
    """

    @typed
    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: Threads = None,
        metrics: str | os.PathLike[str] | None = None,
        features: str | os.PathLike[str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._metrics = self.folder / METRICS if metrics is None else Path(metrics)
        self.manifest: Manifest = load_manifest(self.folder)
        need_runtime(self.manifest.backend)
        self._threads = threads
        self._stores = None if features is None else Path(features)
        self.data: str | None = None
        self.features: str | None = None
        self.head_start: HeadStart | None = None
        self.rates: Rates | None = None
        self.learned: Learned | None = None
        self.kept_views = 0
        self._model: Model = open_model(self.manifest.float_file or self.manifest.file("model"))

    def __repr__(self) -> str:
        fitted = "fit() not called yet" if self.learned is None else f"fit() on {clipped(self.data, 60)}"
        return one_line(self, *self.manifest.described, fitted)

    @property
    def interrupted(self) -> Settings | None:
        """Settings of the training that ``resume=True`` goes on with; None where there is none.

        Raises:
            RecordError: the checkpoint was not written by this trainer.
        """
        if not (self.folder / LAST).is_file():
            return None
        _, state = self.manifest.read_checkpoint(self.folder / LAST, PROPERTY)
        return Settings(**stored_state(self.folder, state)["settings"])

    @typed
    def fit(
        self,
        data: Any,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | str | None = None,
        settings: Settings | None = None,
        preprocessing: Preprocessing | Arithmetic | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Train, from the initial values or where an earlier call was interrupted.

        Args:
            data: labelled data in any form that `Data` describes; its test split is not touched.
            epochs: passes over the training data (10 if nothing says otherwise), in place of that of ``settings``; 0:
                nothing is trained, and what can be exported is the state before.
            batch_size: samples per step (32, or as the selection's budget was made for), likewise.
            learning_rate: of the first step, or ``"auto"`` (the default): found by a short search, see `rate_search`;
                likewise.
            settings: these and the following: ``augment`` and ``views`` (also train on pictures that are flipped,
                cropped or in other colours; not), ``accumulate`` (batches gathered for one update; 1), ``schedule`` of
                the rate (constant, linear or cosine; cosine), ``seed`` of the data order and the validation split (0),
                ``validation`` (the fraction of the training data that eval_loss is of; 0.1), ``patience`` (stop after
                so many epochs without a lower eval_loss and keep the best; never) and ``features``, ``features_memory``
                and ``keep_features`` (where to keep what no training changes: see `Settings`). None: their defaults, or
                what the resumed training had.
            preprocessing: in place of the manifest's.
            resume: go on after the last finished epoch; exact, that is, as if it had not been interrupted. A training
                of no epochs begins anew with some.
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
        state = stored_state(self.folder, session.property(PROPERTY)) if resume else None
        settings = self._settled(
            settings, state, {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        )
        used = fed(self.manifest, self._model, data, settings, preprocessing=preprocessing, resumed=state)
        if state is not None and not state["settings"]["epochs"] and settings.epochs:
            # No epoch was wanted, so the head was fitted to be the last word; now it is to be trained on.
            session, state = self.manifest.session(self.manifest.initial, threads=self._threads), None
        used.about.update({key: state[key] for key in ("rates", "start") if state is not None and key in state})
        self.data, self.kept_views = used.taken, used.views.total
        used.about[HEAD_START] = (state or {}).get(HEAD_START)
        rows = state["metrics"] if state is not None else []
        history = History(self.folder, self._metrics, settings, used.about, rows)
        source = self._source(session, used, history, state, progress)
        try:
            self.head_start, fit = self._started(session, used, source, history, progress)
            self._run(session, used, source, history, fit, progress)
        except Exception:
            source.close(keep=settings.keep_features)
            raise
        except BaseException:  # interrupted, to be resumed
            source.close(keep=True)
            raise
        source.close(keep=settings.keep_features)
        return rows

    def _source(
        self,
        session: TrainingSession,
        used: Fed,
        history: History,
        state: dict[str, Any] | None,
        progress: Progress | None,
    ) -> Source:
        """What steps begin with; how many samples it is computed for at once is noted with the training."""
        settings = history.settings
        micro = micro_batch(self.manifest, settings.size, len(used.data), (state or {}).get("micro_batch"))
        used.about["micro_batch"] = micro
        own = self._stores is None
        folder = self._stores or self.folder / FEATURES
        computed = Computed(session, used.feeder, used.data, micro, used.views, on(self._threads))
        if history.finished:
            source = Source(computed)
        else:
            source = open_features(computed, self.manifest, used, settings, Place(folder, own), progress)
        self.features = source.said
        if own:
            remove_others(folder, source.path)
        return source

    def _started(
        self, session: TrainingSession, used: Fed, source: Source, history: History, progress: Progress | None
    ) -> tuple[HeadStart | None, HeadFit | None]:
        """A new head fitted and what fitted it, or what an earlier call found of it."""
        if history.rows:
            return stored_start(used.about), None
        return start_head(
            session,
            self.manifest,
            self._model,
            used,
            source,
            history.settings,
            threads=self._threads,
            progress=progress,
        )

    def _run(
        self,
        session: TrainingSession,
        used: Fed,
        source: Source,
        history: History,
        fit: HeadFit | None,
        progress: Progress | None,
    ) -> None:
        """Find a rate, and do the epochs that are left."""
        settings, rows = history.settings, history.rows
        epochs, rates = settings.epochs, self._rates(session, used, source, history, fit, progress)
        passes = Epochs(session, self.manifest, used, source, _at(settings, rates))
        watch = Watch(self.manifest, used, passes.steps, epochs)
        if not rows:
            history.begin(session, {"epoch": 0, "train_loss": None, **passes.evaluated(0.0)})
        while len(rows) <= epochs and not history.stopped:
            epoch, began = len(rows), time.perf_counter()
            lower = rates is not None and rates.lowered is None and history.start_is(used.about.get("start"))
            try:
                row, told = passes.run(epoch, progress)
                trials = () if rates is None else (trial.loss for trial in rates.trials)
                fallen = watch.collapsed(row, rows, trials)
            except NotFiniteError as error:
                if not lower:
                    raise TrainingError(str(error)) from error
                row, told, fallen = {}, "", f"a loss of epoch {epoch} was not finite"
            if fallen is not None and lower and rates is not None:
                rates = lowered(rates, fallen)
                used.about["rates"] = rates.to_json()
                session.load(history.start)
                history.again(session)
                passes = Epochs(session, self.manifest, used, source, _at(settings, rates))
                told = f"{fallen}: again with a rate of {rates.rate:g}"
            else:
                history.add(session, {**row, "seconds": round(time.perf_counter() - began, 3)})
                told += "" if fallen is None else ": no better than guessing"
            if progress is not None:
                progress(told, (len(rows) - 1) * passes.steps, epochs * passes.steps)
        history.write_metrics()
        history.forget_start()
        self.rates = rates
        self.learned = self._judged(session, history, used, passes.steps * (len(rows) - 1))

    def _rates(
        self,
        session: TrainingSession,
        used: Fed,
        source: Source,
        history: History,
        fit: HeadFit | None,
        progress: Progress | None,
    ) -> Rates | None:
        """What is known of the rate or can be found; None where it was given, or nothing is trained."""
        settings = history.settings
        if not settings.searched or settings.epochs == 0:
            return None
        if "rates" in used.about:
            return rates_from_json(used.about["rates"], str(self.folder / LAST))
        used.about["start"] = history.keep_start(session)
        try:
            rates = search(session, self.manifest, used, source, settings, history.start, progress, fit)
        except BaseException:  # it is made again
            history.forget_start()
            raise
        used.about["rates"] = rates.to_json()
        return rates

    def _settled(self, asked: Settings | None, state: dict[str, Any] | None, given: dict[str, Any]) -> Settings:
        """The settings of a new training, or of one that goes on."""
        if state is not None:
            stored = Settings(**state["settings"])
            settings = stored.resumed(with_given(asked or stored, **given))
        else:
            settings = self._cut(with_given(asked or Settings(), **given)).settled()
        if settings.parts > 1 and self.manifest.backend == "ort":
            raise UsageError(
                "onnxruntime-training adds gathered gradients up rather than averaging them. Use the portable backend, "
                "or leave `accumulate` out."
            )
        return settings

    def _cut(self, asked: Settings) -> Settings:
        """Batches in parts where the selection's budget was made for that, and nothing else is asked for."""
        budget = self.manifest.selection.budget
        if budget is None or budget.accumulate == 1 or (asked.batch_size, asked.accumulate) != (None, None):
            return asked
        return replace(asked, batch_size=budget.part, accumulate=budget.accumulate)

    def _judged(self, session: TrainingSession, history: History, used: Fed, updates: int) -> Learned:
        """What the figures say of whether something was learned."""
        axis, shape = self.manifest.class_axis, self.manifest.logits_shape
        found = judge(
            history.rows,
            rate=_at(history.settings, self.rates).rate if updates else None,
            updates=updates,
            loss=self.manifest.loss_function,
            classes=None if axis is None else int(shape[axis]),
            labels=used.labels(used.training),
            held_out=None if used.held_out is None else used.labels(used.held_out),
            smoothing=self.manifest.label_smoothing,
            weights=self.manifest.class_weights,
            searched=self.rates is not None and self.rates.kept is None,
        )
        if updates or not self._untouched(session):
            return found
        return replace(found, unchanged="nothing was trained (`epochs=0`) or fitted: the model is what it was")

    def _untouched(self, session: TrainingSession) -> bool:
        """Whether parameters have their initial values."""
        initial, _ = self.manifest.read_checkpoint(self.manifest.initial, PROPERTY)
        names = self.manifest.parameters
        return all(np.array_equal(session.parameter(name), initial[name]) for name in names)


def _at(settings: Settings, rates: Rates | None) -> Settings:
    """With the rate that was found."""
    return settings if rates is None else replace(settings, learning_rate=rates.rate)
