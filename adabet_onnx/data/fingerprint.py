"""A fingerprint of a whole dataset, used as a key for cached results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL

from .dataset import Dataset, in_blocks
from .sample_names import sample_files

_ROWS = 256  # samples hashed at a time


def samples_hash(dataset: Dataset) -> str:
    """SHA-256 of every sample as it is stored, regardless of labels and reading options.

    For image files, the files are hashed without decoding.

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
    if len(forms) == 1:  # with one input the bytes are the same for any block size
        blocks = in_blocks(dataset, _ROWS)
    else:
        starts = range(0, len(dataset), _ROWS)
        blocks = (dataset.rows.fetch(np.arange(start, min(start + _ROWS, len(dataset)))) for start in starts)
    for rows in blocks:
        for _, array in sorted(rows.items()):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def content_hash(dataset: Dataset, samples: str | None = None) -> str:
    """SHA-256 of every sample and the reading options, including the version of Pillow if it decodes image files.

    Args:
        dataset: the data.
        samples: the result of `samples_hash`, if known.

    Raises:
        DataError: a sample cannot be read.
    """
    decoded = any(form.files for form in dataset.rows.forms.values())
    parts = [samples or samples_hash(dataset), repr(dataset.reading), PIL.__version__ if decoded else None]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _of_file(path: Path) -> bytes:
    """Digest of a file's content; zeros if it cannot be read, since decoding will report that."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return b"\0" * 32
    return digest.digest()
