"""The names of samples in written results: their files, or their positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset import ChosenRows, Dataset, Rows
from .images import ImageRows


def sample_names(dataset: Dataset) -> list[str]:
    """The file of each sample if samples come from image files, else its position in the data."""
    paths = sample_files(dataset.rows, np.arange(len(dataset)))
    return [str(name) for name in (range(len(dataset)) if paths is None else paths)]


def sample_files(rows: Rows, indices: np.ndarray) -> list[Path] | None:
    """The files that samples come from; None if they do not come from image files."""
    if isinstance(rows, ChosenRows):
        return sample_files(rows.rows, rows.indices[indices])
    return [rows.paths[index] for index in indices] if isinstance(rows, ImageRows) else None
