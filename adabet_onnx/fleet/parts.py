"""Of the selected layers, those that a client with less memory can train.

A part has artifacts of its own, made of the model as it is in a round: the layers that are not trained are frozen with
the values that they have by then, and what is computed before the step takes as little memory as inference does. It is
made again in every round, for the values of the others have changed.
"""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

from ..cost.predict import Predictor
from ..errors import UsageError
from ..model.open import Model, open_model
from ..selection.budget import Budget
from ..selection.options import Choosing
from ..selection.record import Selection
from ..selection.strategies import select
from ..sizes import size_text
from ..training.artifacts import make_artifacts
from ..training.export import proto_with
from ..training.manifest import Manifest
from .messages import Tensors


def layers_within(manifest: Manifest, model: Model, memory: int, batch_size: int) -> tuple[str, ...] | None:
    """The selected layers that fit into memory: as many as do, from the last on; None where all do.

    Args:
        manifest: of the artifacts that train all.
        model: that they were made from.
        memory: bytes of a training step.
        batch_size: samples of it.

    Raises:
        UsageError: none fits.
    """
    choices = replace(manifest.choices, class_axis=manifest.class_axis)
    costs = Predictor(model, batch_size=batch_size, choices=choices, backend="portable")
    wanted = manifest.selection.layers
    choosing = Choosing(
        layers=tuple(glob.escape(name) for name in reversed(wanted)), head="pool", budget=Budget(max_memory=memory)
    )
    try:
        found = select(model, choosing=choosing, costs=costs).layers
    except UsageError as error:
        raise UsageError(f"none of the selected layers can be trained in {size_text(memory)}: {error}") from error
    return None if set(found) == set(wanted) else found


def make_part(
    manifest: Manifest, model: Model, layers: tuple[str, ...], values: Tensors, trained: Tensors, folder: Path
) -> Manifest:
    """Artifacts that train some of the selected layers, of the model with the values of a round.

    Args:
        manifest: of the artifacts that train all.
        model: that they were made from.
        layers: that are trained.
        values: of all parameters and statistics.
        trained: what is known of the data: classes and preprocessing; empty: the manifest's.
        folder: for the artifacts.
    """
    now = open_model(proto_with(manifest, values, "the server's values", trained=dict(trained)))
    choices = replace(manifest.choices, class_axis=manifest.class_axis)
    chosen = _only(manifest.selection, model, layers)
    return make_artifacts(
        now, replace(chosen, model_sha256=now.sha256), folder, choices=choices, backend="portable", check=False
    )


def _only(selection: Selection, model: Model, layers: tuple[str, ...]) -> Selection:
    """A selection of these layers alone."""
    names = {parameter.name for layer in model.layers if layer.name in layers for parameter in layer.parameters}
    channels = {name: part for name, part in (selection.channels or {}).items() if name in layers}
    return replace(
        selection,
        layers=tuple(name for name in selection.layers if name in layers),
        parameters=tuple(name for name in selection.parameters if name in names),
        channels=channels or None,
        budget=None,
    )
