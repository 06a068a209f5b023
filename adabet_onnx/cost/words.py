"""What the frozen pass takes and saves, in sentences."""

from __future__ import annotations

from ..sizes import size_text
from .measure import Cost
from .predict import Prediction, Training


def frozen_sentences(found: Prediction, training: Training) -> list[str]:
    """What no training changes: the pass that computes it, what is kept, and what that saves.

    Args:
        found: of a step; nothing is said where nothing is frozen.
        training: the whole.
    """
    if not found.stored_bytes:
        return []
    once = "once for each sample" if training.kept_views == training.samples else "once for each view of a sample"
    work = f"{count_text(training.multiply_adds)} of {count_text(training.without_features)}"
    return [
        f"the frozen pass, {once}: {size_text(found.frozen_bytes)}, {count_text(found.frozen_multiply_adds)} "
        f"multiply-adds for a batch; a step after it: {size_text(found.tail_bytes)}, "
        f"{count_text(found.step_multiply_adds)}",
        stored_sentence(found.stored_bytes, training.samples, training.kept_views),
        f"{_training_text(training.epochs, training.samples)} take {training.share:.2f} of the multiply-adds of a "
        f"training that keeps nothing ({work}), a step of which takes {size_text(found.without_features_bytes)}",
    ]


def stored_sentence(each: int, samples: int, views: int) -> str:
    """What is kept of a sample and of all.

    Args:
        each: bytes of one view of one sample.
        samples: how many there are.
        views: of all of them together; as many where there are no others than the samples themselves.
    """
    if views == samples:
        return f"features kept: {size_text(each)} of a sample, {size_text(each * samples)} of {samples:,}"
    return (
        f"features kept: {size_text(each)} of a view of a sample, {size_text(each * views)} of {views:,} views of "
        f"{samples:,} samples"
    )


def measured_sentence(cost: Cost, *, batch_size: int, samples: int, views: int, epochs: int) -> str:
    """What the frozen pass saves of a training, by times that were measured."""
    frozen, step = (seconds * samples / batch_size for seconds in (cost.frozen_seconds, cost.seconds))
    share = (frozen * views / samples + epochs * step) / (epochs * (frozen + step))
    return f"{_training_text(epochs, samples)} take {share:.2f} of the time of a training that keeps nothing"


def count_text(count: int) -> str:
    """A number of multiply-adds."""
    return f"{count / 1e9:,.2f} G" if count >= 1e9 else f"{count / 1e6:,.2f} M"


def _training_text(epochs: int, samples: int) -> str:
    return f"{epochs} epoch{'' if epochs == 1 else 's'} over {samples:,} sample{'' if samples == 1 else 's'}"
