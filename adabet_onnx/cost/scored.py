"""From scores back to the model they are of."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError
from ..model.bindings import binding_mismatch
from ..model.open import Model, open_model
from ..scoring.record import Scores


def scored_model(scores: Scores, path: str | os.PathLike[str] | None = None) -> Model:
    """Open the model that scores are of.

    Args:
        scores: say which file was scored.
        path: where it is now; None: where it was.

    Raises:
        UsageError: it is not there any more, or is another model.
        ModelError: it cannot be opened.
    """
    where = path if path is not None else scores.model_file
    if where is None or not Path(where).is_file():
        found = (
            "the scores do not say which file was scored" if where is None else f"the scored model {where} is not there"
        )
        raise UsageError(f"{found}, and predicting what training costs needs it: give it with `model`.")
    model = open_model(where, bind=scores.inputs)
    if model.sha256 != scores.model_sha256:
        raise UsageError(
            binding_mismatch(scores.inputs, model.bound)
            or f"{where} is not the model that was scored (SHA-256 {model.sha256[:12]}..., the scores are of "
            f"{scores.model_sha256[:12]}...). Give the scored one with `model`, or score again."
        )
    return model
