"""Learning-rate search before a training: short trial trainings on the same data, judged on validation data.

**Setup.** Each trial starts from the initial state of the training (including a fitted head), uses the same features,
batch size, schedule shape, loss and optimizer, and is discarded afterwards. Trials are judged on the validation split
and, since that is often too small to distinguish rates, on randomly drawn training samples, which trials then do not
train on: 30 % of the data, at most 1,000 samples. If samples form groups of near-duplicates, whole groups are held out.
A fitted head is refitted for the trials to the samples they train on, because results on samples it was fitted to are
meaningless.

**Rates tried.** First 1, 3 and 10 times a base rate (0.001 for AdamW, 0.01 for SGD, times 1 - momentum); while the best
is at an edge, half a decade further, up to three times (see `rates`). The best two are then tried for longer. If a part
of the model is frozen, and so computed only once, a trial takes a fifth of the training's updates, but at most 64 or a
thirtieth, whichever is more; a longer one takes a third, but at most 128 or a twelfth. So a search takes at most 640
updates or 0.37 of the training's, whichever is more, and usually two thirds of that. If nothing is frozen, or the
backend is ort, each step computes everything: a trial takes a thirtieth (at least ten updates, or an eighth if that is
less), a longer one a twelfth (at least twice as many). In all that is at most 0.37 of the training's updates; more for
a training of fewer than 300 updates, up to 1.4 times the training's for one of 30.

**Decision.** Accuracies at most two standard errors below the highest count as equal. Among these, losses count as
equal if they exceed the lowest by at most a seventh of its improvement over the baseline, or of itself, if that is
less. Among those the highest rate is chosen, because the benefit of a high rate shows only after the end of a trial. If
the loss has no accuracy, the lowest loss wins. A trial whose loss is not finite has failed; if all have failed, the
lowest rate is chosen.

The optimizer's default rate (0.001, SGD: 0.01) is used if a search would be meaningless: with fewer than 30 updates of
training, or fewer than 10 samples to judge trials on.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import seeds
from ..data.labels import counted
from ..errors import RecordError
from ..portable.linear_head import NotLinearError
from ..progress import Progress, silent
from ..showing import counted as number_of
from ..showing import one_line
from .baseline_loss import baseline_loss
from .epochs import Epochs, NotFiniteError
from .features import FeatureSource
from .head_start import HeadFit
from .manifest import Manifest, TrainingSession
from .rates import EXTENSIONS, TrialOutcome, best_rate, decision_text, next_rate
from .settings import LEARNING_RATES, Settings
from .training_data import TrainingData

_GRID = (1, 3, 10)  # times the base rate
_SHORT, _LONG = 1 / 30, 1 / 12  # updates of a trial, and of a longer one, as shares of the training's
_LEAST, _LEAST_SHARE, _LONGER = (
    10,
    1 / 8,
    2,
)  # at least this many, or this share if less; a longer trial: at least this multiple
_SHORT_ONCE, _LONG_ONCE, _FEW, _MANY = 1 / 5, 1 / 3, 64, 128  # the same with features that are computed once
_LEAST_UPDATES, _LEAST_SAMPLES, _MOST_SAMPLES = 30, 10, 1000
_HELD_OUT, _ERRORS, _SLACK = 0.3, 2.0, 1 / 7


@dataclass(frozen=True)
class Trial:
    """One short training.

    Attributes:
        rate: the learning rate of its first step.
        updates: number of updates.
        loss: the validation loss; None: it was not finite.
        accuracy: the validation accuracy; None if the loss has none.
    """

    rate: float
    updates: int
    loss: float | None
    accuracy: float | None

    @property
    def outcome(self) -> TrialOutcome | None:
        """The result it is judged by; None: it failed."""
        return None if self.loss is None else TrialOutcome(self.accuracy or 0.0, self.loss)


@dataclass(frozen=True)
class Rates:
    """An automatically chosen learning rate, and how it was found.

    Attributes:
        rate: the learning rate of the first step.
        trials: the trials, in order.
        samples: number of samples that trials were judged on.
        seconds: duration of the search.
        kept: why nothing was tried and the rate is the optimizer's default; None after a search.
        lowered: why training was restarted with this rate, a tenth of the one found; None if it was not.
    """

    rate: float
    trials: tuple[Trial, ...] = ()
    samples: int = 0
    seconds: float = 0.0
    kept: str | None = None
    lowered: str | None = None

    def __repr__(self) -> str:
        return one_line(self, self.summary)

    @property
    def summary(self) -> str:
        """The trials and their result, in a line."""
        if self.kept is not None:
            text = f"{self.rate:g}, the default: {self.kept}"
        else:
            first = min((trial.updates for trial in self.trials), default=0)
            tried = sorted((trial for trial in self.trials if trial.updates == first), key=lambda trial: trial.rate)
            more = [trial for trial in self.trials if trial.updates != first]
            text = f"{self._found:g}, found in {self.seconds:.1f} s by {first} updates each: "
            text += ", ".join(map(_trial_text, tried))
            if more:
                text += f"; by {more[0].updates}: " + ", ".join(map(_trial_text, more))
            text += f" ({'accuracy' if self._by_accuracy else 'loss'} on {self.samples} samples)"
        reasons = (self._decision(), self.lowered)
        return "; ".join([text, *(reason for reason in reasons if reason is not None)])

    def _decision(self) -> str | None:
        """What decided between the longest trials; None if that was the loss alone."""
        longest = max((trial.updates for trial in self.trials), default=0)
        outcomes = {trial.rate: trial.outcome for trial in self.trials if trial.updates == longest}
        if not self._by_accuracy or self.samples == 0:
            return None
        return decision_text(outcomes, self._found, _doubt(outcomes, self.samples))

    @property
    def _by_accuracy(self) -> bool:
        return any(trial.accuracy is not None for trial in self.trials)

    @property
    def _found(self) -> float:
        return self.rate if self.lowered is None else float(f"{self.rate * 10:.6g}")

    def to_json(self) -> dict[str, Any]:
        """Return the content to store in a checkpoint."""
        return {**asdict(self), "trials": [asdict(trial) for trial in self.trials]}


def _trial_text(trial: Trial) -> str:
    if trial.loss is None:
        return f"{trial.rate:g} not finite"
    return f"{trial.rate:g} {trial.loss:.3g}" if trial.accuracy is None else f"{trial.rate:g} {trial.accuracy:.1%}"


def rates_from_json(content: Any, where: str) -> Rates:
    """Restore the rates from a checkpoint.

    Args:
        content: the result of `Rates.to_json`.
        where: the source, for messages.

    Raises:
        RecordError: the content is invalid.
    """
    try:
        rate = float(content["rate"])
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(rate)
        return Rates(**{**content, "rate": rate, "trials": tuple(Trial(**trial) for trial in content["trials"])})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{where} has no valid record of the learning rate that was found; start again without `resume`."
        ) from error


def lowered(rates: Rates, reason: str) -> Rates:
    """Return a tenth of the rate, for restarting the training.

    Args:
        rates: the rate that was found.
        reason: a clause.
    """
    rate = rates.rate / 10
    text = f"{reason}, so training was restarted with {rate:g}"
    return replace(rates, rate=float(f"{rate:.6g}"), lowered=text)


def search(
    session: TrainingSession,
    manifest: Manifest,
    data: TrainingData,
    source: FeatureSource,
    settings: Settings,
    start: Path,
    progress: Progress | None = None,
    head: HeadFit | None = None,
) -> Rates:
    """Find the learning rate of a training.

    Args:
        session: the session of the training; it is restored to ``start`` afterwards.
        manifest: the manifest of the artifacts.
        data: the training data.
        source: provides the features that steps start from.
        settings: the training settings.
        start: a checkpoint of the initial state.
        progress: receives the progress over the updates.
        head: has fitted a new head and knows groups of near-duplicates, which are not split between training and
            judging. None: every sample is its own group, and nothing is refitted.

    Raises:
        TrainingError: a step fails.
        DataError: a sample cannot be read or fed.
    """
    began = time.perf_counter()
    optimizer = manifest.optimizer_entry
    default = LEARNING_RATES[manifest.optimizer]
    training, judging = _split(data, settings.seed, None if head is None else head.groups)
    size = settings.size * settings.parts
    updates = settings.epochs * math.ceil(len(data.training) / size)
    if updates < _LEAST_UPDATES:
        return Rates(default, kept=_too_few(updates, "update", "for a search"))
    valid_samples = _counted_samples(data, judging, manifest)
    if valid_samples < _LEAST_SAMPLES:
        return Rates(default, kept=_too_few(valid_samples, "sample", "to judge by"))
    if not counted(data.labels(training), manifest.class_weights):
        return Rates(default, kept="no label counts of those that trials would train on")
    base = default * (1.0 - float(optimizer.get("momentum") or 0.0))
    trials = _Trials(session, manifest, replace(data, training=training, held_out=judging), source, settings, start)
    if head is not None:
        trials.refit(head)
    best = trials.run([float(f"{base * times:.0e}") for times in _GRID], updates, progress or silent)
    session.load(start)
    return Rates(
        best if best is not None else min(trial.rate for trial in trials.done),
        tuple(trials.done),
        len(judging),
        round(time.perf_counter() - began, 3),
    )


def _split(data: TrainingData, seed: int, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples that trials train on, and those they are judged on."""
    held_out = np.empty(0, np.int64) if data.held_out is None else data.held_out
    rng, rows = seeds.rate_search(seed), np.concatenate([held_out, data.training])
    size = min(_MOST_SAMPLES, round(_HELD_OUT * len(rows)))
    if groups is None:
        order = np.concatenate([rng.permutation(held_out), rng.permutation(data.training)])
        return np.sort(order[max(size, len(held_out)) :]), np.sort(order[:size])
    names, inverse, counts = np.unique(np.asarray(groups)[rows], return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    order = order[counts[order] <= size]  # a larger group would leave no samples to judge on
    judging = np.isin(inverse, order[np.cumsum(counts[order]) <= size])
    return np.sort(rows[~judging]), np.sort(rows[judging])


def _too_few(count: int, noun: str, purpose: str) -> str:
    return f"{number_of(count, noun)} {'is' if count == 1 else 'are'} too few {purpose}"


def _counted_samples(data: TrainingData, samples: np.ndarray, manifest: Manifest) -> int:
    """Return how many of the samples have a label that counts."""
    weights = manifest.class_weights
    return sum(counted(data.labels(samples[place : place + 1]), weights) > 0 for place in range(len(samples)))


def lengths(updates: int, *, once: bool) -> tuple[int, int]:
    """Return the number of updates of a trial, and of a longer one.

    Args:
        updates: updates of the training.
        once: whether a part of the model is frozen and only computed once.
    """
    if once:
        short = min(round(_SHORT_ONCE * updates), max(_FEW, round(_SHORT * updates)))
        return short, min(round(_LONG_ONCE * updates), max(_MANY, round(_LONG * updates)))
    short = max(round(_SHORT * updates), min(_LEAST, round(_LEAST_SHARE * updates)))
    return short, max(round(_LONG * updates), _LONGER * short)


def _doubt(outcomes: Mapping[float, TrialOutcome | None], samples: int) -> float:
    """Two standard errors of the highest accuracy."""
    most = max((outcome.accuracy for outcome in outcomes.values() if outcome is not None), default=0.0)
    return _ERRORS * math.sqrt(most * (1 - most) / samples)


class _Trials:
    """Short trial trainings from the same state."""

    def __init__(
        self,
        session: TrainingSession,
        manifest: Manifest,
        data: TrainingData,
        source: FeatureSource,
        settings: Settings,
        start: Path,
    ) -> None:
        self._session, self._manifest, self._data, self._source = session, manifest, data, source
        self._settings, self._start = settings, start
        self._order = seeds.rate_search(settings.seed, 1).permutation(data.training)
        self._head: Mapping[str, np.ndarray] = {}
        self.done: list[Trial] = []

    def refit(self, head: HeadFit) -> None:
        """Refit the head without the samples that trials are judged on, for use by all trials."""
        with contextlib.suppress(NotLinearError, np.linalg.LinAlgError):
            head.fit(self._data.training)
            self._head = head.values

    def run(self, grid: list[float], updates: int, progress: Progress) -> float | None:
        """Try a grid of rates, then the best two for longer; return the best rate, None if all failed."""
        short, long = lengths(updates, once=self._manifest.frozen)
        ahead = (len(grid) + EXTENSIONS) * short + 2 * long

        def attempt(rate: float, count: int) -> TrialOutcome | None:
            before = sum(trial.updates for trial in self.done)
            activity = f"trying the rate {rate:g}: updates made"
            made = self._trial(rate, count, lambda done: progress(activity, before + done, ahead))
            self.done.append(made)
            return made.outcome

        first = {rate: attempt(rate, short) for rate in grid}
        for _ in range(EXTENSIONS):
            more = next_rate(first, self._doubt(first), self._slack)
            if more is None:
                break
            first[more] = attempt(more, short)
        last = {rate: attempt(rate, long) for rate in self._best_two(first)}
        progress(f"learning rate found by {sum(trial.updates for trial in self.done):,} updates", ahead, ahead)
        return best_rate(last, self._doubt(last), self._slack)

    def _best_two(self, outcomes: Mapping[float, TrialOutcome | None]) -> list[float]:
        left, best_rates = dict(outcomes), []
        for _ in range(2):
            best = best_rate(left, self._doubt(left), self._slack)
            if best is not None:
                best_rates.append(best)
                del left[best]
        return best_rates

    @cached_property
    def _slack(self) -> Callable[[float], float] | None:
        """By how much a loss may exceed the lowest to count as equal; None if there are no accuracies."""
        manifest, held_out = self._manifest, self._data.held_out
        if manifest.class_axis is None or held_out is None:
            return None
        classes = int(manifest.logits_shape[manifest.class_axis])
        smoothing = manifest.label_smoothing
        labels = self._data.labels(held_out)
        baseline = baseline_loss(manifest.loss_function, labels, classes, smoothing, manifest.class_weights)
        return lambda lowest: _SLACK * max(0.0, min(baseline - lowest, lowest))

    def _doubt(self, outcomes: Mapping[float, TrialOutcome | None]) -> float:
        assert self._data.held_out is not None
        return _doubt(outcomes, len(self._data.held_out))

    def _trial(self, rate: float, updates: int, report: Any) -> Trial:
        """Train for about this many updates: on a part of the samples, or for whole epochs."""
        size = self._settings.size * self._settings.parts
        epochs = max(1, round(updates * size / len(self._order)))
        rows = self._order if epochs > 1 else np.sort(self._order[: updates * size])
        settings = replace(self._settings, epochs=epochs, learning_rate=rate)
        data = replace(self._data, training=rows)
        self._session.load(self._start)
        for name, value in self._head.items():
            self._session.set_parameter(name, value)
        passes = Epochs(self._session, self._manifest, data, self._source, settings)
        row: dict[str, Any] = {}
        try:
            for epoch in range(1, epochs + 1):
                row, _ = passes.run(epoch, lambda _, done, __: report(done))
        except NotFiniteError:
            return Trial(rate, epochs * passes.steps, None, None)
        return Trial(rate, epochs * passes.steps, row["eval_loss"], row["eval_accuracy"])
