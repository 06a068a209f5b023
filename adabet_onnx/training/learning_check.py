"""Whether a training has learned anything, and what its losses say about the learning rate.

Two warnings, each only where it means something:

* **Accuracy at chance.** Whoever always answers the most frequent class is right on a share p of n labels. An accuracy
  is at chance if so many right answers or more are to be expected of him with a probability above 5 % (binomial).
  Nothing is said where labels are too few to tell: fewer than 20, or so few that a model halfway between chance and
  perfect would look the same.
* **Loss of guessing.** A model that knows nothing but the classes' shares has their entropy as its loss: ln(classes)
  where all are equally frequent; of targets, their variance (mse) or the like. A training loss that ends there, or
  above, is not learning. Nothing is said of fewer than 10 updates.
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
from .baseline_loss import at_baseline, baseline_loss, is_at_baseline, minimum_loss, number

_CHANCE = 0.05  # probability of as many right answers by chance
_LEAST_LABELS, _LEAST_COUNT, LEAST_UPDATES = 20, 5, 10
_ROSE, _ROSE_ONCE, _PEAK = 1.02, 1.1, 1.5  # of the loss before; of it where there was one epoch alone
_BARELY, _LITTLE, _LOW = 0.9, 0.5, 0.25  # of the loss before; of the loss of guessing


@dataclass(frozen=True)
class Learned:
    """What a training's figures say.

    Attributes:
        guessing: that its loss ended where guessing has it; None where it did not.
        chance: that its accuracy on the validation data is at chance; None where it is not, or where that is unknown.
        advice: what its losses say about the learning rate; None where they say nothing.
        rate: the learning rate of the first step; None where there was no step.
        unchanged: that nothing was trained or fitted at all; None where something was.
    """

    guessing: str | None
    chance: str | None
    advice: str | None
    rate: float | None
    unchanged: str | None = None

    def __repr__(self) -> str:
        said = "; ".join(self.warnings) or "nothing speaks against it"
        rate = "nothing trained" if self.rate is None else f"learning rate {self.rate:g}"
        return one_line(self, clipped(said, 200), rate)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why it may have learned nothing, a sentence each."""
        return tuple(text for text in (self.unchanged, self.guessing, self.chance) if text is not None)


def at_chance(accuracy: float | None, labels: np.ndarray, classes: int) -> str | None:
    """Say that an accuracy is no better than chance; None where it is, or where that cannot be told.

    Args:
        accuracy: 0 to 1, of the labels that are not ignored; None where there is none.
        labels: class indices; -100 is ignored.
        classes: how many there are.
    """
    known = labels[labels != IGNORED].reshape(-1)
    if accuracy is None or known.size < _LEAST_LABELS:
        return None
    from scipy.stats import binom  # slow to import

    most = int(np.bincount(known).max())
    counted = most >= _LEAST_COUNT  # the largest of many small counts is large by chance
    share = most / known.size if counted else 1 / classes
    needed = int(binom.isf(_CHANCE, known.size, share)) + 1  # right answers that chance hardly gives
    right = round(accuracy * known.size)
    worse = share < 1 and binom.cdf(right, known.size, share) < _CHANCE  # than chance: told of few labels, too
    if not worse and (needed > known.size * (1 + share) / 2 or right >= needed):
        return None
    what = "always answering the most frequent class" if counted else f"guessing among {classes} classes"
    verdict = "cannot be told from" if accuracy > share else "is no better than"
    return f"an accuracy of {accuracy:.1%} on {known.size:,} labels {verdict} chance: {what} is right on {share:.1%}"


def evaluated_at_chance(
    model: Model,
    dataset: Dataset,
    accuracy: float | None,
    choices: Choices,
) -> str | None:
    """The same of a model that was evaluated; None for losses that have no accuracy.

    Args:
        model: it.
        dataset: what it was evaluated on, its labels aligned with the model's classes.
        accuracy: 0 to 1.
        choices: the loss, the axis of the classes in the logits, and the label that does not count.
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
    guessing: float | None = None,
    least: float = 0.0,
    *,
    searched: bool = False,
) -> str | None:
    """What the losses of a training say about its learning rate.

    Like is compared with like: training loss with that of the first epoch, validation loss with that before training.

    Args:
        rows: of metrics.jsonl.
        rate: the learning rate of the first step.
        guessing: see `baseline_loss`.
        least: see `minimum_loss`.
        searched: whether the rate was found by trials: then no larger one is advised, which has been tried.

    Returns:
        A sentence, or None: the loss fell well, or is low, or is unknown.
    """
    moves = _moves(rows)
    if not moves:
        return None
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"] is not None]
    level = least if guessing is None else guessing
    low = least + _LOW * (level - least)
    first = moves[0]
    if first.ratio > (_ROSE if first.what == "training" else _ROSE_ONCE):
        return f"{first.said('rose')}: try a smaller learning rate, `learning_rate={rate / 10:g}`"
    if max(losses) > max(_PEAK * moves[-1].start, _LOW * level):
        peak = f", with a training loss of {number(max(losses))} on the way"
        return f"{moves[-1].said('went')}{peak}: try a smaller learning rate, `learning_rate={rate / 10:g}`"
    most = min(moves, key=lambda move: move.ratio)
    if searched or losses[-1] < low:
        return None
    if most.ratio > _BARELY:
        fell = "barely fell," if most.ratio < 1 else "did not fall, it went"
        return f"{most.said(fell)}: try a larger learning rate, `learning_rate={rate * 10:g}`"
    stayed = guessing is not None and is_at_baseline(losses[-1], guessing, least)
    if stayed and len(losses) > 1 and losses[-1] >= losses[-2]:
        return f"{most.said('went')} and stayed there: try both `learning_rate={rate / 10:g}` and {rate * 10:g}"
    if guessing is not None and (most.ratio > _LITTLE or stayed):
        return (
            f"{most.said('only fell')}: try a larger learning rate, `learning_rate={rate * 3:g}` or {rate * 10:g}, or "
            "more epochs"
        )
    return None


@dataclass(frozen=True)
class _Move:
    """What became of a loss, ``training`` or ``validation``."""

    what: str
    start: float
    end: float

    @property
    def ratio(self) -> float:
        return self.end / self.start if self.start > 0 else 1.0

    def said(self, verb: str) -> str:
        return f"the {self.what} loss {verb} from {number(self.start)} to {number(self.end)}"


def _moves(rows: Sequence[Mapping[str, Any]]) -> list[_Move]:
    """Of the training loss after two epochs or more, and of the validation loss where there is one."""
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"] is not None]
    before, after = rows[0]["eval_loss"], rows[-1]["eval_loss"]
    moves = [_Move("training", losses[0], losses[-1])] if len(losses) > 1 else []
    if losses and before is not None and after is not None:
        moves.append(_Move("validation", float(before), float(after)))
    return moves


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
    """Warnings and advice about a training.

    Args:
        rows: of metrics.jsonl.
        rate: the learning rate of the first step; None where there was none.
        updates: how many there were.
        loss: that was minimised.
        classes: how many there are; None where the loss has none.
        labels: that were trained on, as `fit_labels` gives them.
        held_out: labels that ``eval_accuracy`` is of, or None.
        smoothing: of the labels.
        weights: of the classes.
        searched: whether the rate was found by trials.
    """
    guessing, least = (find(loss, labels, classes or 1, smoothing, weights) for find in (baseline_loss, minimum_loss))
    end = rows[-1]
    known = updates >= LEAST_UPDATES and end["train_loss"] is not None
    return Learned(
        guessing=at_baseline(end["train_loss"], guessing, classes, least) if known else None,
        chance=None if held_out is None or classes is None else at_chance(end["eval_accuracy"], held_out, classes),
        advice=None if rate is None else rate_advice(rows, rate, guessing, least, searched=searched),
        rate=rate,
    )
