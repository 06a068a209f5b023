"""A fingerprint of all of the data, for what is computed from it and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL

from .dataset import Dataset, in_blocks
from .sample_names import sample_files

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
    paths = sample_files(dataset.rows, np.arange(len(dataset)))
    if paths is not None:
        for path in paths:
            digest.update(_of_file(path))
        return digest.hexdigest()
    if len(forms) == 1:  # of which blocks of any size are the same bytes
        blocks = in_blocks(dataset, _ROWS)
    else:
        starts = range(0, len(dataset), _ROWS)
        blocks = (dataset.rows.fetch(np.arange(start, min(start + _ROWS, len(dataset)))) for start in starts)
    for rows in blocks:
        for _, array in sorted(rows.items()):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
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
