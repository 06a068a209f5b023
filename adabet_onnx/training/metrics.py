"""Metrics of predictions against labels, accumulated batch by batch without keeping samples.

Each kind of loss has its collector. Every collector returns the same keys (`FIGURES`), with None for metrics that do
not apply:

* cross-entropy: `ClassFigures`. ``balanced_accuracy``, ``f1_macro``, ``top5_accuracy`` (of more than 20 classes),
  ``mean_iou`` (for labels per pixel or token), ``per_class``, ``confusion_matrix`` (rows are labels; up to 512
  classes), ``most_confused``.
* bce-with-logits: `LabelFigures`. ``f1_macro``, ``f1_micro``, ``exact_match``, ``per_output``. An output is positive
  above a probability of 0.5 (a logit of 0); so is a target.
* mse and l1: `NumberFigures`. ``r2``, ``mae``, ``rmse`` (each the mean over the outputs), ``per_output``.

Definitions are scikit-learn's with ``zero_division=nan``: an undefined ratio is None, and means skip undefined values.
So the recall (and accuracy) of a class without labels is None, as is the precision of one that is never predicted; its
F1 is 0 if it is in the labels or the predictions, else None; R2 of a constant target is 1 if the prediction is exact,
else 0, and None for a single sample. Of equal logits the first counts as the larger, as in argmax (for the top five,
scikit-learn takes the last).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

FIGURES = (
    "balanced_accuracy",
    "f1_macro",
    "f1_micro",
    "top5_accuracy",
    "mean_iou",
    "exact_match",
    "r2",
    "mae",
    "rmse",
    "per_class",
    "confusion_matrix",
    "most_confused",
    "per_output",
)
TOP, TOP_FROM = 5, 20  # top-k, and only with more classes than this
MOST_LISTED = 2048  # most classes or outputs with metrics of their own
MOST_IN_MATRIX = 512  # most classes for which the confusion matrix is returned
_PAIRS = 20  # entries of most_confused


class MetricCollector(Protocol):
    """Accumulates metrics over batches."""

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take a batch."""
        ...

    def result(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the metrics by the keys in FIGURES; classes or outputs are listed by name if names are given."""
        ...


def figures_for(loss: str, shape: Sequence[int], *, dense: bool = False) -> MetricCollector:
    """Create the collector for a loss.

    Args:
        loss: cross-entropy, mse, bce-with-logits or l1.
        shape: shape of one sample's logits; for cross-entropy with the class axis last.
        dense: whether labels are per pixel or token, for cross-entropy.
    """
    if loss == "cross-entropy":
        return ClassFigures(int(shape[-1]), dense=dense)
    return LabelFigures(shape) if loss == "bce-with-logits" else NumberFigures(shape)


class ClassFigures:
    """Metrics of single-label classification.

    Args:
        classes: number of classes.
        dense: whether labels are per pixel or token; then the intersection over union is also computed.
    """

    def __init__(self, classes: int, *, dense: bool = False) -> None:
        self._classes, self._dense = classes, dense
        self._right, self._labels, self._predicted = (np.zeros(classes, np.int64) for _ in range(3))
        self._pairs = np.zeros((classes, classes), np.int64) if classes <= MOST_LISTED else None
        self._among_best = 0

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: logits (N, classes) and labels (N,), without ignored labels."""
        predicted = logits.argmax(-1)
        count = self._classes
        self._labels += np.bincount(labels, minlength=count)
        self._predicted += np.bincount(predicted, minlength=count)
        self._right += np.bincount(labels[predicted == labels], minlength=count)
        if self._pairs is not None:
            codes, counts = np.unique(labels * count + predicted, return_counts=True)
            self._pairs.reshape(-1)[codes] += counts
        if count > TOP_FROM:
            own = np.take_along_axis(logits, labels[:, None], -1)
            before = (logits > own) | ((logits == own) & (np.arange(count) < labels[:, None]))
            self._among_best += int(np.count_nonzero(before.sum(-1) < TOP))

    @property
    def accuracy(self) -> float | None:
        """The share of labels predicted correctly."""
        return _share(self._right.sum(), self._labels.sum())

    def result(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """See `MetricCollector`."""
        recall, precision = _shares(self._right, self._labels), _shares(self._right, self._predicted)
        f1 = _shares(2 * self._right, self._labels + self._predicted)
        overlap = _shares(self._right, self._labels + self._predicted - self._right)
        names_or_indices = _names_or_indices(names, self._classes)
        rows = [
            {
                "class": names_or_indices[i],
                "labels": int(self._labels[i]),
                "predicted": int(self._predicted[i]),
                "accuracy": _number(recall[i]),
                "precision": _number(precision[i]),
                "recall": _number(recall[i]),
                "f1": _number(f1[i]),
                **({"iou": _number(overlap[i])} if self._dense else {}),
            }
            for i in range(self._classes if self._pairs is not None else 0)
        ]
        return _figures(
            balanced_accuracy=_mean(recall),
            f1_macro=_mean(f1),
            top5_accuracy=_share(self._among_best, self._labels.sum()) if self._classes > TOP_FROM else None,
            mean_iou=_mean(overlap) if self._dense else None,
            per_class=rows or None,
            confusion_matrix=self._pairs.tolist()
            if self._pairs is not None and self._classes <= MOST_IN_MATRIX
            else None,
            most_confused=self._most_confused(names_or_indices),
        )

    def _most_confused(self, names_or_indices: Sequence[str | int]) -> list[dict[str, Any]] | None:
        """Pairs of a label and a wrong prediction for it, the most frequent first."""
        if self._pairs is None:
            return None
        wrong = self._pairs.copy()
        np.fill_diagonal(wrong, 0)
        codes = np.flatnonzero(wrong)
        counts = wrong.reshape(-1)[codes]
        best = codes[np.argsort(-counts, kind="stable")[:_PAIRS]]
        return [
            {"label": names_or_indices[i], "predicted": names_or_indices[j], "count": int(wrong[i, j])}
            for i, j in (divmod(int(code), self._classes) for code in best)
        ]


class LabelFigures:
    """Metrics of multi-label classification.

    Args:
        shape: shape of one sample's logits. If more than one axis is larger than 1, as for pixels, all elements count
            as one output.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._outputs = _outputs(shape)
        self._right, self._targets, self._predicted = (np.zeros(self._outputs or 1, np.int64) for _ in range(3))
        self._all_right = self._samples = self._rows = 0
        self._same = np.zeros(self._outputs or 1, np.int64)

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch of logits and targets of the same shape."""
        self._samples += len(logits)
        predicted = (logits > 0).reshape(-1, self._outputs or 1)
        target = (labels > 0.5).reshape(-1, self._outputs or 1)
        self._rows += len(target)
        self._right += (predicted & target).sum(0)
        self._targets += target.sum(0)
        self._predicted += predicted.sum(0)
        self._same += (predicted == target).sum(0)
        self._all_right += int((predicted == target).all(-1).sum())

    def result(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """See `MetricCollector`."""
        recall, precision = _shares(self._right, self._targets), _shares(self._right, self._predicted)
        f1 = _shares(2 * self._right, self._targets + self._predicted)
        names_or_indices = _names_or_indices(names, len(f1))
        rows = [
            {
                "output": names_or_indices[i],
                "labels": int(self._targets[i]),
                "predicted": int(self._predicted[i]),
                "accuracy": _share(self._same[i], self._rows),
                "precision": _number(precision[i]),
                "recall": _number(recall[i]),
                "f1": _number(f1[i]),
            }
            for i in range(len(f1) if len(f1) <= MOST_LISTED else 0)
        ]
        return _figures(
            f1_macro=_mean(f1),
            f1_micro=_share(2 * self._right.sum(), self._targets.sum() + self._predicted.sum()),
            exact_match=_share(self._all_right, self._samples) if self._outputs else None,
            per_output=rows or None,
        )


class NumberFigures:
    """Metrics of regression.

    Args:
        shape: shape of one sample's outputs. If more than one axis is larger than 1, as for pixels, all elements count
            as one output.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._outputs = _outputs(shape)
        self._absolute, self._square, self._mean, self._spread = (np.zeros(self._outputs or 1) for _ in range(4))
        self._first: np.ndarray | None = None
        self._rows = 0

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch of outputs and targets of the same shape."""
        outputs, targets = (array.astype(np.float64).reshape(-1, self._outputs or 1) for array in (logits, labels))
        if not len(targets):
            return
        if self._first is None:
            self._first = targets[0].copy()
        self._absolute += np.abs(outputs - targets).sum(0)
        self._square += np.square(outputs - targets).sum(0)
        # Means and sums of squares of batches are combined as by Chan, Golub and LeVeque (1979), relative to the first
        # target, so that the spread of a constant is exactly 0.
        centred = targets - self._first
        mean, rows = centred.mean(0), len(centred)
        shift, total = mean - self._mean, self._rows + rows
        self._spread += np.square(centred - mean).sum(0) + np.square(shift) * (self._rows * rows / total)
        self._mean += shift * (rows / total)
        self._rows = total

    def result(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """See `MetricCollector`."""
        if not self._rows:
            return _figures()
        constant = self._spread == 0
        explained = 1 - self._square / np.where(constant, 1.0, self._spread)
        r2 = np.where(constant, np.where(self._square == 0, 1.0, 0.0), explained)
        if self._rows < 2:
            r2 = np.full_like(r2, np.nan)
        mae, rmse = self._absolute / self._rows, np.sqrt(self._square / self._rows)
        names_or_indices = _names_or_indices(names, len(r2))
        rows = [
            {"output": names_or_indices[i], "r2": _number(r2[i]), "mae": float(mae[i]), "rmse": float(rmse[i])}
            for i in range(len(r2) if len(r2) <= MOST_LISTED else 0)
        ]
        return _figures(r2=_mean(r2), mae=_mean(mae), rmse=_mean(rmse), per_output=rows or None)


def _outputs(shape: Sequence[int]) -> int:
    """Return the number of outputs with metrics of their own; 0 if the outputs are pixels or the like."""
    extents = [int(extent) for extent in shape if extent != 1]
    return 0 if len(extents) > 1 else extents[0] if extents else 1


def _figures(**metrics: Any) -> dict[str, Any]:
    return dict.fromkeys(FIGURES) | metrics


def _names_or_indices(names: Sequence[str] | None, count: int) -> list[str | int]:
    return list(names) if names is not None and len(names) == count else list(range(count))


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Element-wise ratios; NaN where the denominator is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float | None:
    """The mean of the values that are not NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
