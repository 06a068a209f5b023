"""Check whether a training has learned anything, and derive advice about the learning rate from its losses.

Two warnings, each only given if it is meaningful:

* **Accuracy at chance.** Always predicting the most frequent class is right on a share p of n labels. An accuracy is at
  chance if that constant prediction reaches it with a probability above 5 % (binomial). There is no verdict with too
  few labels: fewer than 20, or so few that a model halfway between chance and perfect would look the same.
* **Loss at the baseline.** A model that only knows the class frequencies has their entropy as its loss: ln(classes) if
  all are equally frequent; for numeric targets, their variance (mse) or the like. A training whose loss ends there or
  above has not learned anything. There is no verdict with fewer than 10 updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.labels import IGNORED, fit_labels
from ..model.logits_axes import axes_of, class_axis
from ..model.open import Model
from ..showing import clipped, one_line
from ..trainability.choices import Choices
from .baseline_loss import at_baseline, baseline_loss, format_loss, is_at_baseline, minimum_loss

_CHANCE = 0.05  # probability of reaching the accuracy by chance
_LEAST_LABELS, _LEAST_COUNT, LEAST_UPDATES = 20, 5, 10
_ROSE, _ROSE_ONCE, _PEAK = 1.02, 1.1, 1.5  # times the loss before; the same after a single epoch
_WRONG_SCALE = 20  # times the baseline loss
_BARELY, _LITTLE, _LOW = 0.9, 0.5, 0.25  # times the loss before; times the baseline loss


@dataclass(frozen=True)
class Learned:
    """The verdict on a training.

    Attributes:
        guessing: says that its loss ended at the baseline; None if it did not.
        chance: says that its validation accuracy is at chance level; None if it is not, or if that is unknown.
        advice: advice about the learning rate; None if there is none.
        rate: the learning rate of the first step; None without any step.
        unchanged: says that nothing was trained or fitted at all; None if something was.
    """

    guessing: str | None
    chance: str | None
    advice: str | None
    rate: float | None
    unchanged: str | None = None

    def __repr__(self) -> str:
        summary = "; ".join(self.warnings) or "no warnings"
        rate = "nothing trained" if self.rate is None else f"learning rate {self.rate:g}"
        return one_line(self, clipped(summary, 200), rate)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons why it may have learned nothing, a sentence each."""
        return tuple(text for text in (self.unchanged, self.guessing, self.chance) if text is not None)


def at_chance(accuracy: float | None, labels: np.ndarray, classes: int) -> str | None:
    """Return a clause saying that an accuracy is no better than chance; None if it is better, or if that is unknown.

    Args:
        accuracy: 0 to 1, over the labels that are not ignored; None if there is none.
        labels: class indices; -100 is ignored.
        classes: number of classes.
    """
    valid = labels[labels != IGNORED].reshape(-1)
    if accuracy is None or valid.size < _LEAST_LABELS:
        return None
    from scipy.stats import binom  # slow to import

    largest = int(np.bincount(valid).max())
    counted = largest >= _LEAST_COUNT  # the largest of many small counts is large by chance alone
    share = largest / valid.size if counted else 1 / classes
    needed = int(binom.isf(_CHANCE, valid.size, share)) + 1  # correct answers that are unlikely by chance
    correct = round(accuracy * valid.size)
    # Worse than chance is recognisable even with few labels.
    worse = share < 1 and binom.cdf(correct, valid.size, share) < _CHANCE
    if not worse and (needed > valid.size * (1 + share) / 2 or correct >= needed):
        return None
    strategy = "always answering the most frequent class" if counted else f"guessing among {classes} classes"
    verdict = "cannot be distinguished from" if accuracy > share else "is no better than"
    return (
        f"an accuracy of {accuracy:.1%} on {valid.size:,} labels {verdict} chance: {strategy} is right on {share:.1%}"
    )


def evaluated_at_chance(
    model: Model,
    dataset: Dataset,
    accuracy: float | None,
    choices: Choices,
) -> str | None:
    """The same for an evaluated model; None for losses without an accuracy.

    Args:
        model: the evaluated model.
        dataset: the evaluation data, its labels aligned with the model's classes.
        accuracy: 0 to 1.
        choices: define the loss, the class axis of the logits and the label to ignore.
    """
    loss, axis, ignore = choices.loss, choices.class_axis, choices.ignore_label
    shape = axes_of(model.graph, model.logits).batch_first(model.name)
    at = class_axis(shape, axis, loss)
    if at is None:
        return None
    labels = fit_labels(dataset.need_labels("evaluation"), loss, shape, dataset.name, axis, ignore)
    return at_chance(accuracy, labels, int(shape[at]))


def rate_advice(
    rows: Sequence[Mapping[str, Any]],
    rate: float,
    baseline: float | None = None,
    least: float = 0.0,
    *,
    searched: bool = False,
) -> str | None:
    """Derive advice about the learning rate from the losses of a training.

    The training loss is compared with that of the first epoch, the validation loss with that before training.

    Args:
        rows: the rows of metrics.jsonl.
        rate: the learning rate of the first step.
        baseline: see `baseline_loss`.
        least: see `minimum_loss`.
        searched: whether the rate was found by trials; larger rates have then been tried and are not advised.

    Returns:
        A sentence; None if the loss fell well, is low or is unknown.
    """
    changes = _changes(rows)
    if not changes:
        return None
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"] is not None]
    level = least if baseline is None else baseline
    low = least + _LOW * (level - least)
    first = changes[0]
    if first.ratio > (_ROSE if first.what == "training" else _ROSE_ONCE):
        return f"{first.text('rose')}: try a smaller learning rate, `learning_rate={rate / 10:g}`"
    if max(losses) > max(_PEAK * changes[-1].start, _LOW * level):
        peak = f", with a training loss of {format_loss(max(losses))} on the way"
        return f"{changes[-1].text('went')}{peak}: try a smaller learning rate, `learning_rate={rate / 10:g}`"
    strongest = min(changes, key=lambda change: change.ratio)
    if searched or losses[-1] < low:
        return None
    if strongest.ratio > _BARELY:
        fell = "barely fell," if strongest.ratio < 1 else "did not fall, it went"
        return f"{strongest.text(fell)}: try a larger learning rate, `learning_rate={rate * 10:g}`"
    at_baseline_now = baseline is not None and is_at_baseline(losses[-1], baseline, least)
    if at_baseline_now and len(losses) > 1 and losses[-1] >= losses[-2]:
        return f"{strongest.text('went')} and stayed there: try both `learning_rate={rate / 10:g}` and {rate * 10:g}"
    if baseline is not None and (strongest.ratio > _LITTLE or at_baseline_now):
        return (
            f"{strongest.text('only fell')}: try a larger learning rate, `learning_rate={rate * 3:g}` or "
            f"{rate * 10:g}, or more epochs"
        )
    return None


def scaling_advice(rows: Sequence[Mapping[str, Any]], baseline: float) -> str | None:
    """Return advice about preprocessing if the loss before training is far above that of guessing; else None.

    Inputs of another scale than the model was trained with give logits, and so a loss, of that scale.

    Args:
        rows: the rows of metrics.jsonl.
        baseline: see `baseline_loss`.
    """
    before = rows[0]["eval_loss"]
    if before is None or before <= _WRONG_SCALE * baseline:
        return None
    return (
        f"the loss before training was {format_loss(float(before))}, {before / baseline:.0f} times that of "
        "guessing: check that inputs are scaled as for the model's first training (`preset`, or `scale`, `mean` and "
        "`std`)"
    )


@dataclass(frozen=True)
class _Change:
    """The change of a loss, ``training`` or ``validation``."""

    what: str
    start: float
    end: float

    @property
    def ratio(self) -> float:
        return self.end / self.start if self.start > 0 else 1.0

    def text(self, verb: str) -> str:
        return f"the {self.what} loss {verb} from {format_loss(self.start)} to {format_loss(self.end)}"


def _changes(rows: Sequence[Mapping[str, Any]]) -> list[_Change]:
    """Changes of the training loss after at least two epochs, and of the validation loss if there is one."""
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"] is not None]
    before, after = rows[0]["eval_loss"], rows[-1]["eval_loss"]
    changes = [_Change("training", losses[0], losses[-1])] if len(losses) > 1 else []
    if losses and before is not None and after is not None:
        changes.append(_Change("validation", float(before), float(after)))
    return changes


def assess_training(
    rows: Sequence[Mapping[str, Any]],
    *,
    rate: float | None,
    updates: int,
    loss: str,
    classes: int | None,
    labels: np.ndarray,
    held_out: np.ndarray | None,
    smoothing: float = 0.0,
    weights: Sequence[float] | None = None,
    searched: bool = False,
) -> Learned:
    """Return warnings and advice about a training.

    Args:
        rows: the rows of metrics.jsonl.
        rate: the learning rate of the first step; None if there was none.
        updates: number of updates.
        loss: the loss that was minimised.
        classes: number of classes; None if the loss has none.
        labels: the training labels, as returned by `fit_labels`.
        held_out: the validation labels, or None.
        smoothing: label smoothing.
        weights: class weights.
        searched: whether the rate was found by trials.
    """
    arguments = loss, labels, classes or 1, smoothing, weights
    baseline, least = baseline_loss(*arguments), minimum_loss(*arguments)
    last = rows[-1]
    scaling = None if classes is None else scaling_advice(rows, baseline)
    valid = updates >= LEAST_UPDATES and last["train_loss"] is not None
    return Learned(
        guessing=at_baseline(last["train_loss"], baseline, classes, least) if valid else None,
        chance=None if held_out is None or classes is None else at_chance(last["eval_accuracy"], held_out, classes),
        advice=None if rate is None else scaling or rate_advice(rows, rate, baseline, least, searched=searched),
        rate=rate,
    )
