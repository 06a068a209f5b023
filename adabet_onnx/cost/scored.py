"""Open the model that scores belong to."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError
from ..model.bindings import binding_mismatch
from ..model.open import Model, open_model
from ..scoring.record import Scores


def scored_model(scores: Scores, path: str | os.PathLike[str] | None = None) -> Model:
    """Open the model that scores belong to.

    Args:
        scores: the scores, which name the file that was scored.
        path: the current path of the file; None: as in the scores.

    Raises:
        UsageError: the file no longer exists or is another model.
        ModelError: the model cannot be opened.
    """
    where = path if path is not None else scores.model_file
    if where is None or not Path(where).is_file():
        problem = (
            "the scores do not name the file that was scored"
            if where is None
            else f"the scored model {where} does not exist"
        )
        raise UsageError(f"{problem}, and predicting what training costs needs it: give it with `model`.")
    model = open_model(where, bind=scores.inputs)
    if model.sha256 != scores.model_sha256:
        raise UsageError(
            binding_mismatch(scores.inputs, model.bound)
            or f"{where} is not the model that was scored (SHA-256 {model.sha256[:12]}..., the scores are for "
            f"{scores.model_sha256[:12]}...). Give the scored model with `model`, or score again."
        )
    return model
