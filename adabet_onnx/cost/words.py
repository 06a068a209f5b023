"""Sentences about the cost and the savings of the frozen pass."""

from __future__ import annotations

from ..sizes import size_text
from .measure import Cost
from .predict import Prediction, Training

LITTLE = 0.95  # a cost above this share of another saves little


def frozen_sentences(predicted: Prediction, training: Training) -> list[str]:
    """Describe the frozen pass, the features kept, and the savings.

    Args:
        predicted: prediction for a step; the list is empty if nothing is frozen.
        training: the whole training.
    """
    if not predicted.stored_bytes:
        return []
    once = "once for each sample" if training.kept_views == training.samples else "once for each view of a sample"
    without = f"the {count_text(training.without_features)} without kept features"
    little = ": keeping them saves little here" if training.share > LITTLE else ""
    return [
        f"the frozen pass, {once}: {size_text(predicted.frozen_bytes)}, {count_text(predicted.frozen_multiply_adds)} "
        f"multiply-adds for a batch; a step after it: {size_text(predicted.tail_bytes)}, "
        f"{count_text(predicted.step_multiply_adds)}",
        stored_sentence(predicted.stored_bytes, training.samples, training.kept_views),
        f"{_training_text(training.epochs, training.samples)}: {count_text(training.multiply_adds)} multiply-adds, "
        f"{ratio_text(training.share)} of {without}{little}",
        f"without kept features, the memory of a step would be {size_text(predicted.without_features_bytes)}",
    ]


def stored_sentence(each: int, samples: int, views: int) -> str:
    """Describe the size of features per sample and in total.

    Args:
        each: bytes of one view of one sample.
        samples: number of samples.
        views: total number of views; equal to ``samples`` without augmentation.
    """
    if views == samples:
        return f"features kept: {size_text(each)} per sample, {size_text(each * samples)} for {samples:,}"
    return (
        f"features kept: {size_text(each)} per view of a sample, {size_text(each * views)} for {views:,} views of "
        f"{samples:,} samples"
    )


def measured_sentence(cost: Cost, *, batch_size: int, samples: int, views: int, epochs: int) -> str:
    """Describe the training time saved by the frozen pass, by measured times."""
    frozen, step = (seconds * samples / batch_size for seconds in (cost.frozen_seconds, cost.seconds))
    share = (frozen * views / samples + epochs * step) / (epochs * (frozen + step))
    little = ": keeping them saves little here" if share > LITTLE else ""
    return f"{_training_text(epochs, samples)}: {ratio_text(share)} of the time without kept features{little}"


def ratio_text(ratio: float) -> str:
    """A ratio with two decimals, or two significant digits if it is below 0.1."""
    if ratio >= 0.0995:
        return f"{ratio:.2f}"
    return f"{ratio:.2g}" if ratio >= 0.0001 else "less than 0.0001"


def count_text(count: int) -> str:
    """A number of multiply-adds as text."""
    return f"{count / 1e9:,.2f} G" if count >= 1e9 else f"{count / 1e6:,.2f} M"


def _training_text(epochs: int, samples: int) -> str:
    return f"{epochs} epoch{'' if epochs == 1 else 's'} over {samples:,} sample{'' if samples == 1 else 's'}"
