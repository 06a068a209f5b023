"""Evaluation of the server's values on held-out data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..training.settings import Settings
from .client import features_of, metrics_on, open_fed
from .client_artifacts import ClientArtifacts


class Evaluator:
    """Evaluation of values on held-out data.

    Args:
        artifacts: the artifacts of the client.
        data: labelled data, used only for evaluation.
        folder: folder for stored features.
        preprocessing: preprocessing that replaces that of the artifacts; None: the artifacts'.
    """

    def __init__(self, artifacts: ClientArtifacts, data: Dataset, folder: Path, preprocessing: Any = None) -> None:
        self._artifacts = artifacts
        self._used = open_fed(artifacts, data, Settings(validation=0.0), preprocessing)
        self._source = features_of(artifacts, self._used, Settings(validation=0.0), folder)

    def __call__(self, values: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Return ``eval_loss`` and ``eval_accuracy``; personal layers have their initial values."""
        self._artifacts.put(self._artifacts.initial(), values)
        return metrics_on(self._artifacts, self._used, self._source, self._used.training)

    def close(self) -> None:
        """Release the stored features."""
        self._source.close(keep=False)
