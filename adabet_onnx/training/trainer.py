"""The training loop: epochs on a training graph, with a checkpoint after each (see `history`)."""

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
from .collapse import CollapseWatch
from .epochs import Epochs, NotFiniteError
from .features import Computed, FeatureSource, Place, micro_batch, open_features, remove_others
from .head_start import KEY as HEAD_START
from .head_start import HeadFit, HeadStart, start_head, stored_start
from .history import FEATURES, LAST, METRICS, PROPERTY, History, stored_state
from .learning_check import Learned, assess_training
from .manifest import Manifest, TrainingSession, load_manifest
from .rate_search import Rates, lowered, rates_from_json, search
from .settings import Settings
from .training_data import TrainingData, open_training_data


class Trainer:
    """Trains the selected layers of an artifact folder.

    Args:
        folder: an artifact folder made by `make_artifacts`.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
        metrics: path for metrics.jsonl; None: in the folder.
        features: a folder for the file of `Settings(features='disk')`, which trainings of several artifact folders can
            share; None: inside this folder.

    Attributes:
        folder: the artifact folder.
        manifest: its manifest.
        data: how the data of the last `fit` was interpreted, in a line; None before.
        features: where the last `fit` kept the outputs of the frozen part, or why it did not, in a line; None before,
            and if there is nothing to report.
        head_start: how the last `fit` fitted a new head before the first epoch, or why it did not; None before, and if
            the head is not new, not trained, or meant to be random.
        rates: the learning rate that the last `fit` found, and its trials; None before, and if the rate was given or
            nothing is trained.
        kept_views: number of views in the last `fit`, one for each validation sample; equal to the number of samples
            without augmentation; 0 before.
        validation_samples: number of samples that eval_loss and eval_accuracy of the last `fit` were measured on.
        kept_epoch: number of the epoch whose state the last `fit` kept: the best with early stopping, else the last.
        learned: whether the last `fit` learned anything, and what its losses say about the learning rate; None before.

    Raises:
        RecordError: the folder is not an artifact folder, or its files were changed.
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
        self.kept_views = self.validation_samples = self.kept_epoch = 0
        self._model: Model = open_model(self.manifest.float_file or self.manifest.file("model"))

    def __repr__(self) -> str:
        fitted = "fit() not called yet" if self.learned is None else f"fit() on {clipped(self.data, 60)}"
        return one_line(self, *self.manifest.described, fitted)

    @property
    def interrupted(self) -> Settings | None:
        """The settings of the training that ``resume=True`` would continue; None if there is none.

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
        """Train, from the initial values or from where an earlier call was interrupted.

        Args:
            data: labelled data in any form that `Data` describes; its test split is not used.
            epochs: passes over the training data (default 10); overrides ``settings``. 0: nothing is trained but a new
                head, which is fitted; this state can be exported.
            batch_size: samples per step (default 32, or that of the selection's budget); overrides ``settings``.
            learning_rate: learning rate of the first step, or ``"auto"`` (the default): found by a short search, see
                `rate_search`; overrides ``settings``.
            settings: these three and the following, with defaults in brackets: ``augment`` and ``views`` (also train on
                flipped, cropped or recoloured images; no), ``accumulate`` (batches accumulated for one update; 1),
                ``schedule`` of the rate (constant, linear or cosine; cosine), ``seed`` of the data order and the
                validation split (0), ``validation`` (the fraction of the training data used for eval_loss; 0.1),
                ``patience`` (stop after this many epochs without a lower eval_loss and keep the best; never) and
                ``features``, ``features_memory`` and ``keep_features`` (where to keep the outputs of the frozen part:
                see `Settings`). None: the defaults, or the settings of the resumed training.
            preprocessing: overrides the manifest's preprocessing.
            resume: continue after the last finished epoch, with exactly the same result as without the interruption. A
                training of 0 epochs starts again if epochs are requested.
            progress: called with a description, the steps done and the total number of steps.

        Returns:
            The rows of metrics.jsonl: one per epoch with ``epoch``, ``train_loss``, ``eval_loss``, ``eval_accuracy``,
            ``learning_rate`` and ``seconds``; the first row describes the state before training.

        Raises:
            DataError: labels are missing, or the data does not fit the model.
            TrainingError: the loss is not finite, or a step fails.
            UsageError: a setting is out of range, or differs from that of the training to resume.
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
        training_data = open_training_data(
            self.manifest, self._model, data, settings, preprocessing=preprocessing, resumed=state
        )
        if state is not None and not state["settings"]["epochs"] and settings.epochs:
            # Without epochs the head was fitted as the final result; now training follows, so start again.
            session, state = self.manifest.session(self.manifest.initial, threads=self._threads), None
        training_data.about.update(
            {key: state[key] for key in ("rates", "start") if state is not None and key in state}
        )
        self.data, self.kept_views = training_data.taken, training_data.views.total
        self.validation_samples = 0 if training_data.held_out is None else len(training_data.held_out)
        training_data.about[HEAD_START] = (state or {}).get(HEAD_START)
        rows = state["metrics"] if state is not None else []
        history = History(self.folder, self._metrics, settings, training_data.about, rows)
        source = self._source(session, training_data, history, state, progress)
        try:
            self.head_start, fit = self._started(session, training_data, source, history, progress)
            self._run(session, training_data, source, history, fit, progress)
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
        training_data: TrainingData,
        history: History,
        state: dict[str, Any] | None,
        progress: Progress | None,
    ) -> FeatureSource:
        """Open the source of features; its micro-batch size is recorded with the training."""
        settings = history.settings
        micro = micro_batch(self.manifest, settings.size, len(training_data.data), (state or {}).get("micro_batch"))
        training_data.about["micro_batch"] = micro
        own = self._stores is None
        folder = self._stores or self.folder / FEATURES
        computed = Computed(
            session, training_data.feeder, training_data.data, micro, training_data.views, on(self._threads)
        )
        if history.finished:
            source = FeatureSource(computed)
        else:
            source = open_features(computed, self.manifest, training_data, settings, Place(folder, own), progress)
        self.features = source.message
        if own:
            remove_others(folder, source.path)
        return source

    def _started(
        self,
        session: TrainingSession,
        training_data: TrainingData,
        source: FeatureSource,
        history: History,
        progress: Progress | None,
    ) -> tuple[HeadStart | None, HeadFit | None]:
        """Fit a new head and return the result and the fitter, or the result stored by an earlier call."""
        if history.rows:
            return stored_start(training_data.about), None
        return start_head(
            session,
            self.manifest,
            self._model,
            training_data,
            source,
            history.settings,
            threads=self._threads,
            progress=progress,
        )

    def _run(
        self,
        session: TrainingSession,
        training_data: TrainingData,
        source: FeatureSource,
        history: History,
        fit: HeadFit | None,
        progress: Progress | None,
    ) -> None:
        """Find a learning rate and run the remaining epochs."""
        settings, rows = history.settings, history.rows
        epochs, rates = settings.epochs, self._rates(session, training_data, source, history, fit, progress)
        passes = Epochs(session, self.manifest, training_data, source, _with_rate(settings, rates))
        watch = CollapseWatch(self.manifest, training_data, passes.steps, epochs)
        if not rows:
            history.begin(session, {"epoch": 0, "train_loss": None, **passes.evaluate(0.0)})
        while len(rows) <= epochs and not history.stopped:
            epoch, began = len(rows), time.perf_counter()
            lower = rates is not None and rates.lowered is None and history.start_is(training_data.about.get("start"))
            try:
                row, summary = passes.run(epoch, progress)
                trials = () if rates is None else (trial.loss for trial in rates.trials)
                collapse = watch.collapsed(row, rows, trials)
            except NotFiniteError as error:
                if not lower:
                    raise TrainingError(str(error)) from error
                row, summary, collapse = {}, "", f"a loss of epoch {epoch} was not finite"
            if collapse is not None and lower and rates is not None:
                rates = lowered(rates, collapse)
                training_data.about["rates"] = rates.to_json()
                session.load(history.start)
                history.restart(session)
                passes = Epochs(session, self.manifest, training_data, source, _with_rate(settings, rates))
                summary = f"{collapse}: again with a rate of {rates.rate:g}"
            else:
                history.add(session, {**row, "seconds": round(time.perf_counter() - began, 3)})
                summary += "" if collapse is None else ": no better than guessing"
            if progress is not None:
                progress(summary, (len(rows) - 1) * passes.steps, epochs * passes.steps)
        history.write_metrics()
        history.forget_start()
        self.rates, self.kept_epoch = rates, history.kept
        self.learned = self._assess(session, history, training_data, passes.steps * (len(rows) - 1))

    def _rates(
        self,
        session: TrainingSession,
        training_data: TrainingData,
        source: FeatureSource,
        history: History,
        fit: HeadFit | None,
        progress: Progress | None,
    ) -> Rates | None:
        """Return the stored rate or search for one; None if it was given, or nothing is trained."""
        settings = history.settings
        if not settings.searched or settings.epochs == 0:
            return None
        if "rates" in training_data.about:
            return rates_from_json(training_data.about["rates"], str(self.folder / LAST))
        training_data.about["start"] = history.keep_start(session)
        try:
            rates = search(session, self.manifest, training_data, source, settings, history.start, progress, fit)
        except BaseException:  # it will be written again
            history.forget_start()
            raise
        training_data.about["rates"] = rates.to_json()
        return rates

    def _settled(self, requested: Settings | None, state: dict[str, Any] | None, overrides: dict[str, Any]) -> Settings:
        """Return the complete settings of a new or resumed training."""
        if state is not None:
            stored = Settings(**state["settings"])
            settings = stored.resumed(with_given(requested or stored, **overrides))
        else:
            settings = self._with_budget(with_given(requested or Settings(), **overrides)).settled()
        if settings.parts > 1 and self.manifest.backend == "ort":
            raise UsageError(
                "onnxruntime-training sums accumulated gradients instead of averaging them. Use the portable backend, "
                "or leave `accumulate` out."
            )
        return settings

    def _with_budget(self, requested: Settings) -> Settings:
        """Apply the micro-batches of the selection's budget, unless batch sizes are requested explicitly."""
        budget = self.manifest.selection.budget
        if budget is None or budget.accumulate == 1 or (requested.batch_size, requested.accumulate) != (None, None):
            return requested
        return replace(requested, batch_size=budget.part, accumulate=budget.accumulate)

    def _assess(self, session: TrainingSession, history: History, training_data: TrainingData, updates: int) -> Learned:
        """Assess from the metrics whether something was learned."""
        axis, shape = self.manifest.class_axis, self.manifest.logits_shape
        verdict = assess_training(
            history.rows,
            rate=_with_rate(history.settings, self.rates).rate if updates else None,
            updates=updates,
            loss=self.manifest.loss_function,
            classes=None if axis is None else int(shape[axis]),
            labels=training_data.labels(training_data.training),
            held_out=None if training_data.held_out is None else training_data.labels(training_data.held_out),
            smoothing=self.manifest.label_smoothing,
            weights=self.manifest.class_weights,
            searched=self.rates is not None and self.rates.kept is None,
        )
        if updates or not self._untouched(session):
            return verdict
        return replace(verdict, unchanged="nothing was trained (`epochs=0`) or fitted: the model is unchanged")

    def _untouched(self, session: TrainingSession) -> bool:
        """Whether all parameters have their initial values."""
        initial, _ = self.manifest.read_checkpoint(self.manifest.initial, PROPERTY)
        names = self.manifest.parameters
        return all(np.array_equal(session.parameter(name), initial[name]) for name in names)


def _with_rate(settings: Settings, rates: Rates | None) -> Settings:
    """Return the settings with the rate that was found."""
    return settings if rates is None else replace(settings, learning_rate=rates.rate)
