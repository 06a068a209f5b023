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

_TOGETHER = 64  # pictures that are decoded at a time
_SPARE = 100_000_000  # bytes that are left free on a disk


@dataclass(frozen=True)
class Decoded:
    """Rows of decoded pictures.

    Attributes:
        kept: the pictures by input name.
        forms: what they look like, those of the files.
    """

    kept: Features
    forms: dict[str, Form]

    def __len__(self) -> int:
        return self.kept.samples

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The pictures of these indices."""
        return dict(self.kept.at(indices))


def decoded(dataset: Dataset, folder: Path, say: Progress) -> Dataset:
    """The data with its image files decoded; as it is where it has none, or the disk no room.

    Args:
        dataset: the data.
        folder: where a file of the pictures is put, or was put by another process.
        say: told of the pictures.

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
    store = open_store(path, key, fields, samples) or _made(path, key, fields, dataset, say)
    return dataset if store is None else replace(dataset, rows=Decoded(store.features, forms))


def _made(path: Path, key: str, fields: list[Field], dataset: Dataset, say: Progress) -> Store | None:
    samples = len(dataset)
    try:
        make_folder(path.parent)
        if psutil.disk_usage(str(path.parent)).free < file_bytes(fields, samples) + _SPARE:
            return None
        write_store(path, key, fields, samples, _chunks(dataset, say))
    except (OutputError, OSError):
        return None
    return open_store(path, key, fields, samples)


def _chunks(dataset: Dataset, say: Progress) -> Iterator[Mapping[str, np.ndarray]]:
    samples = len(dataset)
    for start in range(0, samples, _TOGETHER):
        say("decoding pictures", start, samples)
        yield dataset.rows.fetch(np.arange(start, min(start + _TOGETHER, samples)))
    say("decoding pictures", samples, samples)
