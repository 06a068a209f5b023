"""Class weights as numbers, if choices give ``balanced`` or weights by class name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..data.dataset import Dataset
from ..data.labels import IGNORED, align_classes, fit_labels
from ..errors import UsageError
from ..model.logits_axes import axes_of, class_axis
from ..model.open import Model
from ..showing import listed
from .choices import BALANCED, Choices


def balanced(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """Return n / (classes * count) for each class, like scikit-learn's ``compute_class_weight``.

    Only classes with labels are counted. An absent class gets 1, so that its labels are not silently ignored in other
    data.

    Args:
        labels: class indices; -100 is ignored.
        classes: number of outputs.
    """
    counts = np.bincount(labels[labels != IGNORED].reshape(-1), minlength=classes)
    present = np.count_nonzero(counts)
    return tuple(float(counts.sum() / (present * count)) if count else 1.0 for count in counts)


def resolved(choices: Choices, model: Model, dataset: Dataset | None, classes: Sequence[str] | None = None) -> Choices:
    """Return the choices with their class weights as numbers.

    Args:
        choices: as returned by `Choices.for_model`.
        model: the model to train.
        dataset: training data, or None.
        classes: class names in the order of the outputs, as in a selection; None: those of the model or the data.

    Raises:
        DataError: labels are missing or do not fit.
        UsageError: data is needed and missing, or a class name is unknown.
    """
    given = choices.class_weights
    if given is None or isinstance(given, tuple):
        return choices
    known = list(classes) if classes else model.metadata("classes")
    shape = axes_of(model.graph, model.logits).batch_first(model.name)
    axis = class_axis(shape, choices.class_axis, choices.loss)
    assert axis is not None
    if given == BALANCED:
        if dataset is None:
            raise UsageError(
                "`class_weights='balanced'` counts the labels of the training data. Give it as `calibrate`, or a "
                "number for each class."
            )
        dataset = align_classes(dataset, known, strict=True, ignore=choices.ignore_label)
        labels = fit_labels(
            dataset.need_labels("balancing the classes"),
            choices.loss,
            shape,
            dataset.name,
            choices.class_axis,
            choices.ignore_label,
        )
        return replace(choices, class_weights=balanced(labels, int(shape[axis])))
    return replace(choices, class_weights=_by_name(given, known or (dataset and dataset.classes), int(shape[axis])))


def without_data(choices: Choices, model: Model) -> Choices:
    """Return choices for measuring the cost of a step, with 1 for every class weight that is not a number yet."""
    if not choices.class_weights or isinstance(choices.class_weights, tuple):
        return choices
    shape = axes_of(model.graph, model.logits).batch_first(model.name)
    axis = class_axis(shape, choices.class_axis, choices.loss)
    assert axis is not None
    return replace(choices, class_weights=(1.0,) * int(shape[axis]))


def _by_name(given: object, known: object, classes: int) -> tuple[float, ...]:
    """Return a weight for each class, 1 where none is given."""
    assert isinstance(given, dict)
    if not isinstance(known, list) or len(known) != classes:
        raise UsageError(
            f"`class_weights` names classes, but the {classes} outputs have no known names. Give one number for each, "
            "or data that names its classes."
        )
    names = [str(name) for name in known]
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise UsageError(f"`class_weights` names a class {unknown!r}, but the classes are {listed(names)}.")
    return tuple(given.get(name, 1.0) for name in names)
