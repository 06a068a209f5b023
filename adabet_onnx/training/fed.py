"""The data of a training: labels that fit, what is held out for validation, and whether a resumed one has the same."""

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

_FINGERPRINTED = 16  # samples that tell whether what is fed is the same


@dataclass(frozen=True)
class Fed:
    """The data of a training, as its graph takes it.

    Attributes:
        data: all of it.
        training: which samples are trained on.
        held_out: which are not, for validation; None where none is.
        feeder: makes input of it.
        views: of its samples.
        about: what is stored with the training: ``data``, ``samples`` and ``content`` (fingerprints of the labels, of
            what is fed of a few samples, and of all of them as they are stored), ``classes``, ``preprocessing``, and
            ``taken_for`` (a line).
    """

    data: Dataset
    training: np.ndarray
    held_out: np.ndarray | None
    feeder: Feeder
    views: Views
    about: dict[str, Any]

    @property
    def taken(self) -> str:
        """What the data was taken for, in a line."""
        return str(self.about["taken_for"])

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Of samples."""
        assert self.data.labels is not None
        return np.asarray(self.data.labels[rows])


def fed(
    manifest: Manifest,
    model: Model,
    data: Any,
    settings: Settings,
    *,
    preprocessing: Preprocessing | Arithmetic | None,
    resumed: Mapping[str, Any] | None,
) -> Fed:
    """Open the data of a training.

    Args:
        manifest: of the artifacts.
        model: the one they were made from.
        data: in any form that `Data` describes.
        settings: of the training.
        preprocessing: in place of the manifest's.
        resumed: what is stored of the training that goes on; None for a new one.

    Raises:
        DataError: no labels, none that counts, or data that does not fit, or other data than the resumed training's.
        UsageError: early stopping, and nothing is held out.
    """
    resumed = resumed or {}
    dataset = _labelled(open_data(data, model).train, manifest)
    assert dataset.labels is not None
    fingerprint = hashlib.sha256(dataset.labels.tobytes()).hexdigest()
    other = f"{dataset.name} is not the data that the training in {manifest.folder} was started with"
    if resumed.get("data", fingerprint) != fingerprint:
        raise DataError(f"{other} (its labels differ). Resume with the same data, or start again without `resume`.")
    training, held_out = split_rows(len(dataset), settings.validation, settings.seed)
    if settings.patience is not None and held_out is None:
        raise UsageError(
            f"early stopping needs validation data, but {settings.validation:g} of {len(dataset)} samples is none. "
            "Raise `validation`, or leave out `patience`."
        )
    _check_counted(dataset, training, None if settings.patience is None else held_out, manifest)
    stored = manifest.preprocessing
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, stored=stored)
    feeder = Feeder(model, used, settings.augmentation)
    taken = feeder.describe(dataset)
    check_augmented(settings.augment, feeder, dataset, labelled=manifest.logits_shape)
    _same_meaning(dataset, taken, manifest.folder, resumed)
    samples, content = _sampled(feeder, dataset), samples_hash(dataset)
    if resumed.get("samples", samples) != samples:
        raise DataError(
            f"{other}: its labels are the same, but what is fed of its samples differs. Resume with the same data and "
            "preprocessing, or start again without `resume`."
        )
    if resumed.get("content", content) != content:  # not told by checkpoints of earlier releases
        raise DataError(
            f"{other}: its labels are the same, but some of its samples differ. Resume with the same data, or start "
            "again without `resume`."
        )
    about = {
        "data": fingerprint,
        "samples": samples,
        "content": content,
        "classes": dataset.classes,
        "preprocessing": used.to_json(),
        "taken_for": taken,
    }
    feeder.feeds(dataset, training[:1])  # data that does not fit must not cost an earlier training's checkpoints
    views = Views(len(dataset), training, settings.variants, settings.augmentation)
    return Fed(dataset, training, held_out, feeder, views, about)


def _check_counted(dataset: Dataset, training: np.ndarray, judged: np.ndarray | None, manifest: Manifest) -> None:
    """See that there is something to learn from, and to judge early stopping by: a label that counts."""
    assert dataset.labels is not None
    weights = manifest.class_weights
    why = "is ignored" if weights is None else "is ignored, or of a class of weight 0 (`class_weights`)"
    if not counted(dataset.labels[training], weights):
        raise DataError(f"{dataset.name}: every label that would be trained on {why}. Give labels that count.")
    if judged is not None and not counted(dataset.labels[judged], weights):
        raise DataError(
            f"{dataset.name}: every label that is held out for early stopping {why}. Raise `validation`, or leave out "
            "`patience`."
        )


def _labelled(dataset: Dataset, manifest: Manifest) -> Dataset:
    """With labels as the loss takes them."""
    dataset = align_classes(dataset, manifest.classes, strict=True, ignore=manifest.ignore_label)
    labels = fit_labels(
        dataset.need_labels("training"),
        manifest.loss_function,
        manifest.logits_shape,
        dataset.name,
        manifest.given_axis,  # where it was not given, two may fit
        manifest.ignore_label,
    )
    return replace(dataset, labels=labels)


def _same_meaning(dataset: Dataset, taken: str, folder: Path, resumed: Mapping[str, Any]) -> None:
    before = resumed.get("taken_for", taken)
    if before != taken:
        raise DataError(
            f"{dataset.name} is taken for something else ({taken}) than when the training in {folder} was started "
            f"({before}). Resume with the same data and `Data(..., layout=...)`, or start again "
            "without `resume`."
        )


def _sampled(feeder: Feeder, data: Dataset) -> str:
    """A fingerprint of what is fed for a few samples: to decode and resize all of them may take long."""
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(data) - 1, _FINGERPRINTED).astype(np.int64)):
        for _, array in sorted(feeder.feeds(data, np.array([index])).items()):
            digest.update(array.tobytes())
    return digest.hexdigest()
