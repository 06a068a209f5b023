"""The data of a training: checked labels, the validation split, and the comparison with a resumed training's data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.arithmetic import integer_data
from ..data.dataset import Dataset, split_rows
from ..data.feeder import Feeder
from ..data.fingerprint import samples_hash
from ..data.labels import align_classes, counted, fit_labels
from ..data.preprocess import Arithmetic, Preprocessing, arithmetic_for
from ..data.source import open_data
from ..errors import DataError, UsageError
from ..model.open import Model
from .manifest import Manifest
from .settings import Settings
from .views import Views, check_augmented

_FINGERPRINTED = 16  # samples whose model inputs are compared on resuming


@dataclass(frozen=True)
class TrainingData:
    """The data of a training, ready for its graph.

    Attributes:
        data: all samples.
        training: indices of the samples to train on.
        held_out: indices of the validation samples; None without validation.
        feeder: converts samples to model input.
        views: the views of the samples.
        about: the entries stored with the training: ``data``, ``samples`` and ``content`` (fingerprints of the labels,
            of the model inputs of a few samples, and of all samples as stored), ``classes``, ``preprocessing``, and
            ``taken_for`` (how the data was interpreted, in a line).
    """

    data: Dataset
    training: np.ndarray
    held_out: np.ndarray | None
    feeder: Feeder
    views: Views
    about: dict[str, Any]

    @property
    def taken(self) -> str:
        """How the data was interpreted, in a line."""
        return str(self.about["taken_for"])

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of samples."""
        assert self.data.labels is not None
        return np.asarray(self.data.labels[rows])


def open_training_data(
    manifest: Manifest,
    model: Model,
    data: Any,
    settings: Settings,
    *,
    preprocessing: Preprocessing | Arithmetic | None,
    resumed: Mapping[str, Any] | None,
) -> TrainingData:
    """Open the data of a training.

    Args:
        manifest: the manifest of the artifacts.
        model: the model the artifacts were made from.
        data: labelled data in any form that `Data` describes.
        settings: the training settings.
        preprocessing: overrides the manifest's preprocessing.
        resumed: the stored state of the training to resume; None for a new one.

    Raises:
        DataError: there are no labels, or none that counts; the data does not fit the model, or is not the data of the
            resumed training.
        UsageError: early stopping is requested without validation data.
    """
    resumed = resumed or {}
    dataset = _labelled(open_data(data, model).train, manifest)
    assert dataset.labels is not None
    fingerprint = hashlib.sha256(dataset.labels.tobytes()).hexdigest()
    mismatch = f"{dataset.name} is not the data that the training in {manifest.folder} was started with"
    if resumed.get("data", fingerprint) != fingerprint:
        raise DataError(f"{mismatch} (its labels differ). Resume with the same data, or start again without `resume`.")
    training, held_out = split_rows(len(dataset), settings.validation, settings.seed)
    if settings.patience is not None and held_out is None:
        raise UsageError(
            f"early stopping needs validation data, but {settings.validation:g} of {len(dataset)} samples is not a "
            "whole sample. Raise `validation`, or leave out `patience`."
        )
    _check_counted(dataset, training, None if settings.patience is None else held_out, manifest)
    stored = manifest.preprocessing
    arithmetic = arithmetic_for(model, integer_data(model, dataset), preprocessing, stored=stored)
    feeder = Feeder(model, arithmetic, settings.augmentation)
    interpretation = feeder.describe(dataset)
    check_augmented(settings.augment, feeder, dataset, labelled=manifest.logits_shape)
    _check_interpretation(dataset, interpretation, manifest.folder, resumed)
    samples, content = _sampled(feeder, dataset), samples_hash(dataset)
    if resumed.get("samples", samples) != samples:
        raise DataError(
            f"{mismatch}: its labels are the same, but the model inputs made from its samples differ. Resume with the "
            "same data and preprocessing, or start again without `resume`."
        )
    if resumed.get("content", content) != content:  # missing in checkpoints of earlier releases
        raise DataError(
            f"{mismatch}: its labels are the same, but some of its samples differ. Resume with the same data, or start "
            "again without `resume`."
        )
    about = {
        "data": fingerprint,
        "samples": samples,
        "content": content,
        "classes": dataset.classes,
        "preprocessing": arithmetic.to_json(),
        "taken_for": interpretation,
    }
    feeder.feeds(dataset, training[:1])  # fail before an earlier training's checkpoints are replaced
    views = Views(len(dataset), training, settings.variants, settings.augmentation)
    return TrainingData(dataset, training, held_out, feeder, views, about)


def _check_counted(dataset: Dataset, training: np.ndarray, judged: np.ndarray | None, manifest: Manifest) -> None:
    """Check that labels that count exist for training and, with early stopping, for validation."""
    assert dataset.labels is not None
    weights = manifest.class_weights
    reason = "is ignored" if weights is None else "is ignored, or of a class of weight 0 (`class_weights`)"
    if not counted(dataset.labels[training], weights):
        raise DataError(f"{dataset.name}: every label that would be trained on {reason}. Give labels that count.")
    if judged is not None and not counted(dataset.labels[judged], weights):
        raise DataError(
            f"{dataset.name}: every label that is held out for early stopping {reason}. Raise `validation`, or leave "
            "out `patience`."
        )


def _labelled(dataset: Dataset, manifest: Manifest) -> Dataset:
    """Return the data with labels in the form the loss needs."""
    dataset = align_classes(dataset, manifest.classes, strict=True, ignore=manifest.ignore_label)
    labels = fit_labels(
        dataset.need_labels("training"),
        manifest.loss_function,
        manifest.logits_shape,
        dataset.name,
        manifest.given_axis,  # if it was not given, two axes may fit
        manifest.ignore_label,
    )
    return replace(dataset, labels=labels)


def _check_interpretation(dataset: Dataset, interpretation: str, folder: Path, resumed: Mapping[str, Any]) -> None:
    before = resumed.get("taken_for", interpretation)
    if before != interpretation:
        raise DataError(
            f"{dataset.name} is interpreted differently ({interpretation}) than when the training in {folder} was "
            f"started ({before}). Resume with the same data and `Data(..., layout=...)`, or start again without "
            "`resume`."
        )


def _sampled(feeder: Feeder, data: Dataset) -> str:
    """A fingerprint of the model inputs of a few samples; decoding and resizing all of them may take long."""
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(data) - 1, _FINGERPRINTED).astype(np.int64)):
        for _, array in sorted(feeder.feeds(data, np.array([index])).items()):
            digest.update(array.tobytes())
    return digest.hexdigest()
