"""A search for the learning rate before a training: short trainings on the same data, judged by validation data.

**Where.** Each trial starts from the state that the training will start from (a fitted head included), takes its steps
over the same features, has the same batches, schedule shape, loss and optimizer, and is thrown away afterwards. Trials
are judged by the validation split and, since that is often too small to tell rates apart, by seeded samples of the
training data, which trials then do not train on: 30 % of the data, 1,000 samples at most. Where samples come in groups
of near-duplicates, whole groups are held out. A head that is fitted is fitted anew for them, to what trials train on:
what it has been fitted to says nothing of it.

**Which.** First 1, 3 and 10 times a base rate, 0.001 for AdamW, 0.01 for SGD, times 1 - momentum; while the best is at
an edge, half a decade further, up to three times (see `rates`). The best two are then tried longer. Where a part of the
model is frozen, and computed once, a trial takes a fifth of the training's updates, at most 64 or a thirtieth,
whichever is more, and a longer one a third, at most 128 or a twelfth. So a search takes 640 updates or 0.37 of the
training's at most, whichever is more, and commonly two thirds of that. Where nothing is frozen, or the backend is ort,
each step computes everything: a trial takes a thirtieth (ten updates at least, or an eighth if that is less), a longer
one a twelfth (twice as many at least): at most 0.37 of the training's updates in all; of one of fewer than 300, more,
up to 1.4 times those of one of 30.

**The rule.** Accuracies that are less than two standard errors below the highest (of as many samples) are taken for
equal. Of these, losses are that are above the lowest by at most a seventh of what that has gained on guessing, or of
itself, if that is less; and of these the highest rate is taken, for what a high rate gains shows later than a trial
ends. Where the loss has no accuracy, the lowest loss. A trial whose loss is not finite has failed; where all have, the
lowest rate is taken.

The optimizer's usual rate (0.001, SGD: 0.01) is kept where a search can say nothing: a training of fewer than 30
updates, or fewer than 10 samples to judge by.
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
from .epochs import Epochs, NotFiniteError
from .features import Source
from .fed import Fed
from .guessing import guessing_loss
from .head_start import HeadFit
from .manifest import Manifest, TrainingSession
from .rates import EXTENSIONS, Outcome, best_rate, next_rate
from .settings import LEARNING_RATES, Settings

_GRID = (1, 3, 10)  # times the base rate
_SHORT, _LONG = 1 / 30, 1 / 12  # updates of a trial, and of one of the best two, as shares of the training's
_LEAST, _LEAST_SHARE, _LONGER = 10, 1 / 8, 2  # not fewer, or this share if less; so many times that
_SHORT_ONCE, _LONG_ONCE, _FEW, _MANY = 1 / 5, 1 / 3, 64, 128  # the same over features that are computed once
_LEAST_UPDATES, _LEAST_SAMPLES, _MOST_SAMPLES = 30, 10, 1000
_HELD_OUT, _ERRORS, _SLACK = 0.3, 2.0, 1 / 7


@dataclass(frozen=True)
class Trial:
    """One short training.

    Attributes:
        rate: of its first step.
        updates: it took.
        loss: on the validation data; None: it was not finite.
        accuracy: likewise; None where the loss has none.
    """

    rate: float
    updates: int
    loss: float | None
    accuracy: float | None

    @property
    def outcome(self) -> Outcome | None:
        """What it is judged by; None: it failed."""
        return None if self.loss is None else Outcome(self.accuracy or 0.0, self.loss)


@dataclass(frozen=True)
class Rates:
    """The learning rate of a training that was left to find it, and how it was found.

    Attributes:
        rate: of the first step.
        trials: what was tried, in this order.
        samples: that trials were judged by.
        seconds: that the search took.
        kept: why nothing was tried and the rate is the optimizer's usual one; None where a search was made.
        lowered: why training was started again with this rate, a tenth of what was found; None where it was not.
    """

    rate: float
    trials: tuple[Trial, ...] = ()
    samples: int = 0
    seconds: float = 0.0
    kept: str | None = None
    lowered: str | None = None

    def __repr__(self) -> str:
        return one_line(self, self.said)

    @property
    def said(self) -> str:
        """What was tried and found, in a line."""
        if self.kept is not None:
            said = f"{self.rate:g}, the usual one: {self.kept}"
        else:
            first = min((trial.updates for trial in self.trials), default=0)
            tried = sorted((trial for trial in self.trials if trial.updates == first), key=lambda trial: trial.rate)
            more = [trial for trial in self.trials if trial.updates != first]
            said = f"{self._found:g}, found in {self.seconds:.1f} s by {first} updates each: "
            said += ", ".join(map(_said, tried))
            if more:
                said += f"; by {more[0].updates}: " + ", ".join(map(_said, more))
            said += f" ({'accuracy' if tried and tried[0].accuracy is not None else 'loss'} on {self.samples} samples)"
        return said if self.lowered is None else f"{said}; {self.lowered}"

    @property
    def _found(self) -> float:
        return self.rate if self.lowered is None else self.rate * 10

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint stores it."""
        return {**asdict(self), "trials": [asdict(trial) for trial in self.trials]}


def _said(trial: Trial) -> str:
    if trial.loss is None:
        return f"{trial.rate:g} not finite"
    return f"{trial.rate:g} {trial.loss:.3g}" if trial.accuracy is None else f"{trial.rate:g} {trial.accuracy:.1%}"


def rates_from_json(content: Any, where: str) -> Rates:
    """What a checkpoint stores.

    Args:
        content: of `Rates.to_json`.
        where: for the message.

    Raises:
        RecordError: it is something else.
    """
    try:
        rate = float(content["rate"])
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(rate)
        return Rates(**{**content, "rate": rate, "trials": tuple(Trial(**trial) for trial in content["trials"])})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{where} does not say which learning rate was found; start again without `resume`."
        ) from error


def lowered(rates: Rates, why: str) -> Rates:
    """A tenth of the rate, which training starts again with.

    Args:
        rates: what was found.
        why: a clause.
    """
    rate = rates.rate / 10
    said = f"{why}, so training was started again with {rate:g}"
    return replace(rates, rate=float(f"{rate:.6g}"), lowered=said)


def search(
    session: TrainingSession,
    manifest: Manifest,
    used: Fed,
    source: Source,
    settings: Settings,
    start: Path,
    progress: Progress | None = None,
    head: HeadFit | None = None,
) -> Rates:
    """Find the learning rate of a training.

    Args:
        session: that will train; it is left as it is in ``start``.
        manifest: of the artifacts.
        used: the data.
        source: what steps begin with.
        settings: of the training.
        start: a checkpoint of the state it starts from.
        progress: told of the updates.
        head: what has fitted a new head, and knows which samples are near-duplicates: no trial trains on some of them
            and is judged by others. None: every sample is of its own, and nothing is fitted anew.

    Raises:
        TrainingError: a step fails.
        DataError: a sample cannot be read or fed.
    """
    began = time.perf_counter()
    optimizer = manifest.optimizer_entry
    usual = LEARNING_RATES[manifest.optimizer]
    training, judged = _split(used, settings.seed, None if head is None else head.groups)
    size = settings.size * settings.parts
    updates = settings.epochs * math.ceil(len(used.training) / size)
    if updates < _LEAST_UPDATES:
        return Rates(usual, kept=_too_few(updates, "update", "for a search"))
    telling = _telling(used, judged, manifest)
    if telling < _LEAST_SAMPLES:
        return Rates(usual, kept=_too_few(telling, "sample", "to judge by"))
    if not counted(used.labels(training), manifest.class_weights):
        return Rates(usual, kept="no label counts of those that trials would train on")
    base = usual * (1.0 - float(optimizer.get("momentum") or 0.0))
    trials = _Trials(session, manifest, replace(used, training=training, held_out=judged), source, settings, start)
    if head is not None:
        trials.fit_anew(head)
    found = trials.run([float(f"{base * times:.0e}") for times in _GRID], updates, progress or silent)
    session.load(start)
    return Rates(
        found if found is not None else min(trial.rate for trial in trials.done),
        tuple(trials.done),
        len(judged),
        round(time.perf_counter() - began, 3),
    )


def _split(used: Fed, seed: int, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Which samples trials train on, and which they are judged by."""
    held_out = np.empty(0, np.int64) if used.held_out is None else used.held_out
    rng, rows = seeds.rate_search(seed), np.concatenate([held_out, used.training])
    wanted = min(_MOST_SAMPLES, round(_HELD_OUT * len(rows)))
    if groups is None:
        order = np.concatenate([rng.permutation(held_out), rng.permutation(used.training)])
        return np.sort(order[max(wanted, len(held_out)) :]), np.sort(order[:wanted])
    names, inverse, counts = np.unique(np.asarray(groups)[rows], return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    order = order[counts[order] <= wanted]  # one that is larger would leave none to judge by
    judged = np.isin(inverse, order[np.cumsum(counts[order]) <= wanted])
    return np.sort(rows[~judged]), np.sort(rows[judged])


def _too_few(count: int, what: str, why: str) -> str:
    return f"{number_of(count, what)} {'is' if count == 1 else 'are'} too few {why}"


def _telling(used: Fed, samples: np.ndarray, manifest: Manifest) -> int:
    """How many of some samples have a label that counts."""
    weights = manifest.class_weights
    return sum(counted(used.labels(samples[place : place + 1]), weights) > 0 for place in range(len(samples)))


def lengths(updates: int, *, once: bool) -> tuple[int, int]:
    """Updates of a trial, and of one of the best two.

    Args:
        updates: of the training.
        once: whether a part of the model is frozen and computed once.
    """
    if once:
        short = min(round(_SHORT_ONCE * updates), max(_FEW, round(_SHORT * updates)))
        return short, min(round(_LONG_ONCE * updates), max(_MANY, round(_LONG * updates)))
    short = max(round(_SHORT * updates), min(_LEAST, round(_LEAST_SHARE * updates)))
    return short, max(round(_LONG * updates), _LONGER * short)


class _Trials:
    """Short trainings from the same state."""

    def __init__(
        self, session: TrainingSession, manifest: Manifest, used: Fed, source: Source, settings: Settings, start: Path
    ) -> None:
        self._session, self._manifest, self._used, self._source = session, manifest, used, source
        self._settings, self._start = settings, start
        self._order = seeds.rate_search(settings.seed, 1).permutation(used.training)
        self._head: Mapping[str, np.ndarray] = {}
        self.done: list[Trial] = []

    def fit_anew(self, head: HeadFit) -> None:
        """Have trials start with a head that has seen nothing of what they are judged by."""
        with contextlib.suppress(NotLinearError, np.linalg.LinAlgError):
            head.to(self._used.training)
            self._head = head.values

    def run(self, grid: list[float], updates: int, progress: Progress) -> float | None:
        """Try a grid, then the best two longer: the best rate, None if all failed."""
        short, long = lengths(updates, once=self._manifest.frozen)
        ahead = (len(grid) + EXTENSIONS) * short + 2 * long

        def tried(rate: float, count: int) -> Outcome | None:
            before = sum(trial.updates for trial in self.done)
            made = self._tried(rate, count, lambda done: progress(f"trying the rate {rate:g}", before + done, ahead))
            self.done.append(made)
            return made.outcome

        first = {rate: tried(rate, short) for rate in grid}
        for _ in range(EXTENSIONS):
            more = next_rate(first, self._doubt(first), self._slack)
            if more is None:
                break
            first[more] = tried(more, short)
        last = {rate: tried(rate, long) for rate in self._best_two(first)}
        progress("learning rate found", ahead, ahead)
        return best_rate(last, self._doubt(last), self._slack)

    def _best_two(self, outcomes: Mapping[float, Outcome | None]) -> list[float]:
        left, found = dict(outcomes), []
        for _ in range(2):
            best = best_rate(left, self._doubt(left), self._slack)
            if best is not None:
                found.append(best)
                del left[best]
        return found

    @cached_property
    def _slack(self) -> Callable[[float], float] | None:
        """By how much a loss may be above the lowest; None where there are no accuracies beside losses."""
        manifest, held_out = self._manifest, self._used.held_out
        if manifest.class_axis is None or held_out is None:
            return None
        classes = int(manifest.logits_shape[manifest.class_axis])
        smoothing = manifest.label_smoothing
        labels = self._used.labels(held_out)
        guessing = guessing_loss(manifest.loss_function, labels, classes, smoothing, manifest.class_weights)
        return lambda lowest: _SLACK * max(0.0, min(guessing - lowest, lowest))

    def _doubt(self, outcomes: Mapping[float, Outcome | None]) -> float:
        """Two standard errors of the highest accuracy."""
        most = max((outcome.accuracy for outcome in outcomes.values() if outcome is not None), default=0.0)
        assert self._used.held_out is not None
        return _ERRORS * math.sqrt(most * (1 - most) / len(self._used.held_out))

    def _tried(self, rate: float, updates: int, told: Any) -> Trial:
        """A training of so many updates: of a part of the samples, or of whole epochs."""
        size = self._settings.size * self._settings.parts
        epochs = max(1, round(updates * size / len(self._order)))
        rows = self._order if epochs > 1 else np.sort(self._order[: updates * size])
        settings = replace(self._settings, epochs=epochs, learning_rate=rate)
        used = replace(self._used, training=rows)
        self._session.load(self._start)
        for name, value in self._head.items():
            self._session.set_parameter(name, value)
        passes = Epochs(self._session, self._manifest, used, self._source, settings)
        row: dict[str, Any] = {}
        try:
            for epoch in range(1, epochs + 1):
                row, _ = passes.run(epoch, lambda _, done, __: told(done))
        except NotFiniteError:
            return Trial(rate, epochs * passes.steps, None, None)
        return Trial(rate, epochs * passes.steps, row["eval_loss"], row["eval_accuracy"])
