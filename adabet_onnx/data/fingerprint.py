"""A fingerprint of all of the data, for what is computed from it and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL

from .dataset import ChosenRows, Dataset, Rows
from .images import ImageRows

_ROWS = 256  # that are looked at together


def samples_hash(dataset: Dataset) -> str:
    """SHA-256 of every sample as it is stored; labels, and how it is read, play no part.

    Of image files it is that of the files, which are not decoded.

    Raises:
        DataError: a sample cannot be read.
    """
    digest = hashlib.sha256()
    forms = [(name, [list(form.shape), str(form.dtype), form.files]) for name, form in dataset.rows.forms.items()]
    several = len(forms) > 1  # a single input need not be named
    digest.update(json.dumps([len(dataset), [form if several else form[1:] for form in sorted(forms)]]).encode())
    paths = _files(dataset.rows, np.arange(len(dataset)))
    if paths is not None:
        for path in paths:
            digest.update(_of_file(path))
        return digest.hexdigest()
    for start in range(0, len(dataset), _ROWS):
        rows = dataset.rows.fetch(np.arange(start, min(start + _ROWS, len(dataset))))
        for _, array in sorted(rows.items()):
            digest.update(array.tobytes())
    return digest.hexdigest()


def content_hash(dataset: Dataset, samples: str | None = None) -> str:
    """SHA-256 of every sample and of how it is read: also of the version of Pillow, where that decodes image files.

    Args:
        dataset: the data.
        samples: what `samples_hash` gave, where that is known.

    Raises:
        DataError: a sample cannot be read.
    """
    decoded = any(form.files for form in dataset.rows.forms.values())
    how = [samples or samples_hash(dataset), repr(dataset.reading), PIL.__version__ if decoded else None]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()


def _files(rows: Rows, indices: np.ndarray) -> list[Path] | None:
    """The files that samples come from, where they do."""
    if isinstance(rows, ChosenRows):
        return _files(rows.rows, rows.indices[indices])
    return [rows.paths[index] for index in indices] if isinstance(rows, ImageRows) else None


def _of_file(path: Path) -> bytes:
    """Of a file's content; a file that cannot be read has none, which decoding it will say."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return b"\0" * 32
    return digest.digest()
