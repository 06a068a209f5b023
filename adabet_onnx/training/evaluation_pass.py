"""One pass over labelled data: loss, metrics and, if requested, saved predictions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.labels import IGNORED, align_classes, fit_labels
from ..data.preprocess import Arithmetic
from ..data.sample_names import sample_names
from ..errors import ModelError
from ..model.dims import Dims
from ..model.logits import refusal
from ..model.logits_axes import class_axis, detected_class_axis
from ..model.open import Model
from ..progress import Progress
from ..runtime import Threads
from ..trainability.choices import Choices
from .exact_loss import loss_of
from .logits import batch_for, compute_logits, logits_in_batches
from .metrics import ClassFigures, MetricCollector, figures_for
from .predictions import Add, PredictionFormat, saving


def evaluate_dataset(
    model: Model,
    dataset: Dataset,
    preprocessing: Arithmetic,
    choices: Choices,
    *,
    threads: Threads = None,
    progress: Progress | None = None,
    save: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Return the result of `evaluate`; logits are discarded batch by batch.

    Args:
        model: the opened model. dataset: the labelled data.
        preprocessing: converts the data to model input.
        choices: define the loss, the class axis and the label to ignore.
        threads: for ONNX Runtime.
        progress: called with the number of samples done.
        save: also write the predictions to this file; see `training.predictions`.

    Raises:
        DataError: labels are missing, or data or labels do not fit the model.
        ModelError: the loss needs logits and the outputs may be probabilities, or as for `compute_logits`.
        UsageError: the class axis is wrong, cross-entropy has only one output, or ``save`` has an unsupported suffix.
        OutputError: the predictions cannot be written.
    """
    loss, axis, ignore = choices.loss, choices.class_axis, choices.ignore_label
    obstacle = refusal(model.doubt, loss, model.name)
    if obstacle is not None:
        raise ModelError(f"{model.name}: {obstacle}")
    if axis is None and loss == "cross-entropy":
        axis = detected_class_axis(model)
    dataset = align_classes(dataset, model.metadata("classes"), strict=True, ignore=ignore)
    labels = dataset.need_labels("evaluation")
    data_summary = Feeder(model, preprocessing).describe(dataset)
    first = compute_logits(model, dataset.subset([0]), preprocessing, threads=threads)
    shape: Dims = ("N", *first.shape[1:])
    classes_at = class_axis(shape, axis, loss)
    labels = fit_labels(labels, loss, shape, dataset.name, axis, ignore)
    form = PredictionFormat(loss, first.shape[1:], classes_at, names_of(model, dataset, shape, classes_at))
    collector = _collector(form)
    with _saving(save, form, dataset) as add:
        total, count, done = 0.0, 0, 0
        options: dict[str, Any] = {"batch_size": batch_for(first), "threads": threads, "progress": progress}
        for logits in logits_in_batches(model, dataset, preprocessing, **options):
            batch_labels = labels[done : done + len(logits)]
            done += len(logits)
            if add is not None:
                add(logits, batch_labels)
            if classes_at is not None:  # flatten pixels or tokens, if there are any
                logits, batch_labels = (
                    np.moveaxis(logits, classes_at, -1).reshape(-1, first.shape[classes_at]),
                    batch_labels.reshape(-1),
                )
                logits, batch_labels = logits[batch_labels != IGNORED], batch_labels[batch_labels != IGNORED]
            if len(batch_labels):
                total += len(batch_labels) * loss_of(
                    loss, logits, batch_labels, class_axis=None if classes_at is None else -1
                )
                count += len(batch_labels)
                collector.add(logits, batch_labels)
    return {
        "loss": total / count,
        "accuracy": collector.accuracy if isinstance(collector, ClassFigures) else None,
        "samples": len(dataset),
        "data": data_summary,
        **collector.result(form.classes),
    }


def names_of(model: Model, dataset: Dataset | None, shape: Dims, axis: int | None) -> Sequence[str] | None:
    """Return names of the classes or outputs: the data's, else the model's; None if none match their number.

    Args:
        model: opened.
        dataset: data whose labels follow the model's class order, or None.
        shape: shape of the logits, batch first.
        axis: class axis of the logits, or None.
    """
    extents = [extent for extent in shape[1:] if extent != 1] or [1]
    count = shape[axis] if axis is not None else extents[0] if len(extents) == 1 else None
    for names in (None if dataset is None else dataset.classes, model.metadata("classes")):
        if isinstance(names, list) and len(names) == count:
            return [str(name) for name in names]
    return None


def _collector(form: PredictionFormat) -> MetricCollector:
    if form.axis is None:
        return figures_for(form.loss, form.shape)
    return figures_for(form.loss, [form.shape[form.axis - 1]], dense=form.dense)


@contextlib.contextmanager
def _saving(save: str | os.PathLike[str] | None, form: PredictionFormat, dataset: Dataset) -> Iterator[Add | None]:
    if save is None:
        yield None
    else:
        with saving(save, form, sample_names(dataset)) as add:
            yield add
