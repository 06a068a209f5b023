"""Image files decoded once for all steps and trainings of a comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from ..data.dataset import Dataset, Form
from ..data.fingerprint import content_hash
from ..errors import OutputError
from ..files import make_folder
from ..portable.features import Features
from ..progress import Progress
from ..training.feature_store import SUFFIX, Field, Store, file_bytes, open_store, write_store
from ..version import __version__

_TOGETHER = 64  # images that are decoded at a time
_SPARE = 100_000_000  # bytes to leave free on the disk


@dataclass(frozen=True)
class Decoded:
    """Rows of decoded images.

    Attributes:
        kept: the images by input name.
        forms: the forms of the image files.
    """

    kept: Features
    forms: dict[str, Form]

    def __len__(self) -> int:
        return self.kept.samples

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The images at these indices."""
        return dict(self.kept.at(indices))


def decoded(dataset: Dataset, folder: Path, report: Progress) -> Dataset:
    """The data with its image files decoded; unchanged if it has none, or if the disk has no room.

    Args:
        dataset: the data.
        folder: folder for the file of decoded images, which another process may have written already.
        report: called with the progress.

    Raises:
        DataError: a file cannot be read as an image.
    """
    forms = dataset.rows.forms
    if not all(form.files for form in forms.values()):
        return dataset
    fields = [Field(name, str(form.dtype), form.shape) for name, form in forms.items()]
    samples = len(dataset)
    key = hashlib.sha256(f"{__version__} {content_hash(dataset)}".encode()).hexdigest()
    path = folder / f"{key[:32]}{SUFFIX}"
    store = open_store(path, key, fields, samples) or _made(path, key, fields, dataset, report)
    return dataset if store is None else replace(dataset, rows=Decoded(store.features, forms))


def _made(path: Path, key: str, fields: list[Field], dataset: Dataset, report: Progress) -> Store | None:
    samples = len(dataset)
    try:
        make_folder(path.parent)
        if psutil.disk_usage(str(path.parent)).free < file_bytes(fields, samples) + _SPARE:
            return None
        write_store(path, key, fields, samples, _chunks(dataset, report))
    except (OutputError, OSError):
        return None
    return open_store(path, key, fields, samples)


def _chunks(dataset: Dataset, report: Progress) -> Iterator[Mapping[str, np.ndarray]]:
    samples = len(dataset)
    for start in range(0, samples, _TOGETHER):
        report("decoding images", start, samples)
        yield dataset.rows.fetch(np.arange(start, min(start + _TOGETHER, samples)))
    report("decoding images", samples, samples)
