"""One pass over labelled data: loss, figures, and predictions where they are to be written."""

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
from .metrics import ClassFigures, Figures, figures_for
from .predictions import Add, Form, saving


def evaluated(
    model: Model,
    dataset: Dataset,
    preprocessing: Arithmetic,
    choices: Choices,
    *,
    threads: Threads = None,
    progress: Progress | None = None,
    save: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """What `evaluate` returns; logits are forgotten batch by batch.

    Args:
        model: opened.
        dataset: with labels.
        preprocessing: how it becomes input.
        choices: the loss, the axis of the classes and the label that does not count.
        threads: for ONNX Runtime.
        progress: called with samples done.
        save: also write what is predicted; see `training.predictions`.

    Raises:
        DataError: no labels, or data or labels that do not fit the model.
        ModelError: the loss needs logits and the outputs may be probabilities, or as `compute_logits`.
        UsageError: a wrong class axis, cross-entropy of one output, or another suffix of ``save``.
        OutputError: the predictions cannot be written.
    """
    loss, axis, ignore = choices.loss, choices.class_axis, choices.ignore_label
    refused = refusal(model.doubt, loss, model.name)
    if refused is not None:
        raise ModelError(f"{model.name}: {refused}")
    if axis is None and loss == "cross-entropy":
        axis = detected_class_axis(model)
    dataset = align_classes(dataset, model.metadata("classes"), strict=True, ignore=ignore)
    labels = dataset.need_labels("evaluation")
    taken = Feeder(model, preprocessing).taken(dataset)
    first = compute_logits(model, dataset.subset([0]), preprocessing, threads=threads)
    shape: Dims = ("N", *first.shape[1:])
    where = class_axis(shape, axis, loss)
    labels = fit_labels(labels, loss, shape, dataset.name, axis, ignore)
    form = Form(loss, first.shape[1:], where, names_of(model, dataset, shape, where))
    figures = _figures(form)
    with _saving(save, form, dataset) as add:
        total, count, done = 0.0, 0, 0
        how: dict[str, Any] = {"batch_size": batch_for(first), "threads": threads, "progress": progress}
        for logits in logits_in_batches(model, dataset, preprocessing, **how):
            part = labels[done : done + len(logits)]
            done += len(logits)
            if add is not None:
                add(logits, part)
            if where is not None:  # of each pixel or token, if there are such
                logits, part = np.moveaxis(logits, where, -1).reshape(-1, first.shape[where]), part.reshape(-1)
                logits, part = logits[part != IGNORED], part[part != IGNORED]
            if len(part):
                total += len(part) * loss_of(loss, logits, part, class_axis=None if where is None else -1)
                count += len(part)
                figures.add(logits, part)
    return {
        "loss": total / count,
        "accuracy": figures.accuracy if isinstance(figures, ClassFigures) else None,
        "samples": len(dataset),
        "data": taken,
        **figures.found(form.classes),
    }


def names_of(model: Model, dataset: Dataset | None, shape: Dims, axis: int | None) -> Sequence[str] | None:
    """Names of the classes, or of the outputs: the data's, else the model's; None where none fit their number.

    Args:
        model: opened.
        dataset: whose labels have the model's order, or None.
        shape: of the logits, the batch first.
        axis: of the classes in them, or None.
    """
    extents = [extent for extent in shape[1:] if extent != 1] or [1]
    count = shape[axis] if axis is not None else extents[0] if len(extents) == 1 else None
    for names in (None if dataset is None else dataset.classes, model.metadata("classes")):
        if isinstance(names, list) and len(names) == count:
            return [str(name) for name in names]
    return None


def _figures(form: Form) -> Figures:
    if form.axis is None:
        return figures_for(form.loss, form.shape)
    return figures_for(form.loss, [form.shape[form.axis - 1]], dense=form.dense)


@contextlib.contextmanager
def _saving(save: str | os.PathLike[str] | None, form: Form, dataset: Dataset) -> Iterator[Add | None]:
    if save is None:
        yield None
    else:
        with saving(save, form, sample_names(dataset)) as add:
            yield add
