"""A fingerprint of all of the data, for what is computed from it and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL

from .dataset import Dataset
from .sample_names import sample_files

_ROWS = 256  # that are looked at together


def content_hash(dataset: Dataset) -> str:
    """SHA-256 of every sample as it is stored, and of how it is read; labels play no part.

    Of image files it is that of the files, which are not decoded, with the version of Pillow, which decodes them.

    Raises:
        DataError: a sample cannot be read.
    """
    digest = hashlib.sha256()
    forms = {name: [list(form.shape), str(form.dtype), form.files] for name, form in sorted(dataset.rows.forms.items())}
    digest.update(json.dumps([len(dataset), forms, repr(dataset.reading)]).encode())
    paths = sample_files(dataset.rows, np.arange(len(dataset)))
    if paths is not None:
        digest.update(PIL.__version__.encode())
        for path in paths:
            digest.update(_of_file(path))
        return digest.hexdigest()
    for start in range(0, len(dataset), _ROWS):
        rows = dataset.rows.fetch(np.arange(start, min(start + _ROWS, len(dataset))))
        for _, array in sorted(rows.items()):
            digest.update(array.tobytes())
    return digest.hexdigest()


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
