"""What a server's values are worth on data of its own, which nobody trains on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..training.settings import Settings
from .bench import Bench
from .client import features_of, judged, open_fed


class Judge:
    """Evaluates values on held-out data.

    Args:
        bench: of the artifacts.
        data: labelled, all of it for this.
        folder: where what is computed once may be kept.
        preprocessing: by hand; None: the artifacts'.
    """

    def __init__(self, bench: Bench, data: Dataset, folder: Path, preprocessing: Any = None) -> None:
        self._bench = bench
        self._used = open_fed(bench, data, Settings(validation=0.0), preprocessing)
        self._source = features_of(bench, self._used, Settings(validation=0.0), folder)

    def __call__(self, values: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """``eval_loss`` and ``eval_accuracy``; where layers are personal, with their initial values."""
        self._bench.put(self._bench.initial(), values)
        return judged(self._bench, self._used, self._source, self._used.training)

    def close(self) -> None:
        """Let go of what was computed once."""
        self._source.close(keep=False)
