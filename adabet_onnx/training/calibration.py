"""Calibration samples: the frozen part's activation ranges are measured on them before it is quantised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.arithmetic import integer_data
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.preprocess import arithmetic_for, preprocessing_from_json
from ..data.source import open_data
from ..errors import UsageError
from ..model.open import Model
from ..portable.emit import Calibration
from ..selection.record import Selection
from ..trainability.choices import Choices

_SAMPLES, _BATCH = 256, 16


@dataclass(frozen=True)
class _Batches:
    feeder: Feeder
    data: Dataset

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield model inputs for evenly spaced samples."""
        rows = np.unique(np.linspace(0, len(self.data) - 1, min(_SAMPLES, len(self.data))).astype(np.int64))
        for start in range(0, len(rows), _BATCH):
            yield self.feeder.feeds(self.data, rows[start : start + _BATCH])


def calibration_of(model: Model, selection: Selection, data: Any, choices: Choices) -> Calibration | None:
    """Return the data for measuring activation ranges and logit shifts; None if nothing is to be measured.

    Args:
        model: the opened model.
        selection: defines the preprocessing.
        data: training data, in any form that `Data` describes; or None.
        choices: define whether anything is quantised.

    Raises:
        DataError: the data does not fit the model.
        UsageError: data is needed and was not given.
    """
    dataset = None if data is None else open_data(data, model).train  # validates the data even if it is not used
    keeps_quantised = choices.frozen_precision == "auto" and model.quantised is not None
    if choices.frozen_precision != "int8" and (dataset is None or not keeps_quantised):
        return None
    if dataset is None:
        raise UsageError(
            "`frozen_precision='int8'` needs samples of the training data to measure activation ranges. Give "
            "`calibrate`."
        )
    preprocessing = selection.preprocessing
    stored = None if preprocessing is None else preprocessing_from_json(preprocessing, "the selection")
    used = arithmetic_for(model, integer_data(model, dataset), None, stored=stored)
    return Calibration(_Batches(Feeder(model, used), dataset))
