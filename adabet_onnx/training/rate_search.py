"""A search for the learning rate before a training: short trainings on the same data, judged by validation data.

**Where.** Each trial starts from the state that the training will start from (a fitted head included), takes its steps
over the same features, has the same batches, schedule shape, loss and optimizer, and is thrown away afterwards. It is
judged by the validation split. Where there is none, and where samples come in groups of near-duplicates, whole groups
(or samples) of a seeded tenth of the data are held out for the search alone. At most 1,000 samples are judged by.

**Which.** First 1, 3 and 10 times a base rate, 0.001 for AdamW, 0.01 for SGD, times 1 - momentum; while the best is at
an edge, half a decade further, up to three times (see `rates`). Each trial has a thirtieth of the training's updates;
the best two are then tried with a twelfth. So a search takes a third of the training's updates or little more
(0.37 at most). Of short trainings trials are longer, for less says nothing: ten updates, or an eighth of the training's
if that is less, and twice as many; with fewer than 300 updates a search may take up to 1.25 times the training's.

**The rule.** Accuracies that are less than a standard error below the highest (of as many samples) are taken for equal;
of these the lowest loss wins, then the lower rate. Where the loss has no accuracy, the lowest loss. A trial whose loss
is not finite has failed.

The optimizer's usual rate (0.001, SGD: 0.01) is kept where a search can say nothing: a training of fewer than 30
updates, or fewer than 10 samples to judge by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import seeds
from ..errors import RecordError
from ..progress import Progress, silent
from ..showing import one_line
from .epochs import Epochs, NotFiniteError
from .features import Source
from .fed import Fed
from .manifest import Manifest, TrainingSession
from .rates import EXTENSIONS, Outcome, best_rate, next_rate
from .settings import LEARNING_RATES, Settings

_GRID = (1, 3, 10)  # times the base rate
_SHORT, _LONG, _LONGER = 1 / 30, 1 / 12, 2  # of the training's updates; the best two; at least so many times the first
_LEAST, _LEAST_SHARE = 10, 1 / 8  # updates of a trial of a short training, or this share of it
_LEAST_UPDATES, _LEAST_SAMPLES, _MOST_SAMPLES = 30, 10, 1000
_HELD_OUT = 0.1


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
    groups: np.ndarray | None = None,
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
        groups: a number for each sample; samples of the same one are near-duplicates, and no trial trains on some and
            is judged by others. None: every sample is of its own.

    Raises:
        TrainingError: a step fails.
        DataError: a sample cannot be read or fed.
    """
    began = time.perf_counter()
    optimizer = manifest.content["optimizer"]
    usual = LEARNING_RATES[manifest.optimizer]
    training, judged = _split(used, settings.seed, groups)
    size = settings.size * settings.parts
    updates = settings.epochs * math.ceil(len(used.training) / size)
    if updates < _LEAST_UPDATES:
        return Rates(usual, kept=f"{updates} updates are too few for a search")
    if len(judged) < _LEAST_SAMPLES:
        return Rates(usual, kept=f"{len(judged)} samples are too few to judge by")
    base = usual * (1.0 - float(optimizer.get("momentum") or 0.0))
    trials = _Trials(session, manifest, replace(used, training=training, held_out=judged), source, settings, start)
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
    rng = seeds.rate_search(seed)
    if used.held_out is not None and groups is None:
        training, judged = used.training, used.held_out
    else:
        rows = used.training if used.held_out is None else np.sort(np.concatenate([used.training, used.held_out]))
        of = rows if groups is None else np.asarray(groups)[rows]
        names, inverse, counts = np.unique(of, return_inverse=True, return_counts=True)
        order = rng.permutation(len(names))
        within = np.cumsum(counts[order]) <= max(1, round(_HELD_OUT * len(rows)))
        chosen = np.isin(inverse, order[within])
        training, judged = rows[~chosen], rows[chosen]
    if len(judged) > _MOST_SAMPLES:
        judged = np.sort(rng.permutation(judged)[:_MOST_SAMPLES])
    return training, judged


class _Trials:
    """Short trainings from the same state."""

    def __init__(
        self, session: TrainingSession, manifest: Manifest, used: Fed, source: Source, settings: Settings, start: Path
    ) -> None:
        self._session, self._manifest, self._used, self._source = session, manifest, used, source
        self._settings, self._start = settings, start
        self._order = seeds.rate_search(settings.seed, 1).permutation(used.training)
        self.done: list[Trial] = []

    def run(self, grid: list[float], updates: int, progress: Progress) -> float | None:
        """Try a grid, then the best two longer: the best rate, None if all failed."""
        short = max(round(_SHORT * updates), min(_LEAST, round(_LEAST_SHARE * updates)))
        long = max(round(_LONG * updates), _LONGER * short)
        ahead = (len(grid) + EXTENSIONS) * short + 2 * long

        def tried(rate: float, count: int) -> Outcome | None:
            before = sum(trial.updates for trial in self.done)
            made = self._tried(rate, count, lambda done: progress(f"trying the rate {rate:g}", before + done, ahead))
            self.done.append(made)
            return made.outcome

        first = {rate: tried(rate, short) for rate in grid}
        for _ in range(EXTENSIONS):
            more = next_rate(first, self._doubt(first))
            if more is None:
                break
            first[more] = tried(more, short)
        last = {rate: tried(rate, long) for rate in self._best_two(first)}
        progress("learning rate found", ahead, ahead)
        return best_rate(last, self._doubt(last))

    def _best_two(self, outcomes: Mapping[float, Outcome | None]) -> list[float]:
        left, found = dict(outcomes), []
        for _ in range(2):
            best = best_rate(left, self._doubt(left))
            if best is not None:
                found.append(best)
                del left[best]
        return found

    def _doubt(self, outcomes: Mapping[float, Outcome | None]) -> float:
        """A standard error of the highest accuracy."""
        most = max((outcome.accuracy for outcome in outcomes.values() if outcome is not None), default=0.0)
        assert self._used.held_out is not None
        return math.sqrt(most * (1 - most) / len(self._used.held_out))

    def _tried(self, rate: float, updates: int, told: Any) -> Trial:
        """A training of so many updates: of a part of the samples, or of whole epochs."""
        size = self._settings.size * self._settings.parts
        epochs = max(1, round(updates * size / len(self._order)))
        rows = self._order if epochs > 1 else np.sort(self._order[: updates * size])
        settings = replace(self._settings, epochs=epochs, learning_rate=rate)
        used = replace(self._used, training=rows)
        self._session.load(self._start)
        passes = Epochs(self._session, self._manifest, used, self._source, settings)
        row: dict[str, Any] = {}
        try:
            for epoch in range(1, epochs + 1):
                row, _ = passes.run(epoch, lambda _, done, __: told(done))
        except NotFiniteError:
            return Trial(rate, epochs * passes.steps, None, None)
        return Trial(rate, epochs * passes.steps, row["eval_loss"], row["eval_accuracy"])
