"""The part of the selected layers that a client with less memory can train.

A part has its own artifacts, made from the model with the values of a round: the other layers are frozen with their
current values, and the computation before the step needs as little memory as inference. It is made again in every
round, because the values of the other layers change.
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
    """Return the selected layers that fit into memory, starting from the last; None if all do.

    Args:
        manifest: manifest of the artifacts that train all selected layers.
        model: the model that they were made from.
        memory: bytes for a training step.
        batch_size: samples per step.

    Raises:
        UsageError: no layer fits.
    """
    choices = replace(manifest.choices, class_axis=manifest.class_axis)
    costs = Predictor(model, batch_size=batch_size, choices=choices, backend="portable")
    selected = manifest.selection.layers
    choosing = Choosing(
        layers=tuple(glob.escape(name) for name in reversed(selected)), head="pool", budget=Budget(max_memory=memory)
    )
    try:
        fitting = select(model, choosing=choosing, costs=costs).layers
    except UsageError as error:
        raise UsageError(f"none of the selected layers can be trained in {size_text(memory)}: {error}") from error
    return None if set(fitting) == set(selected) else fitting


def make_part(
    manifest: Manifest, model: Model, layers: tuple[str, ...], values: Tensors, trained: Tensors, folder: Path
) -> Manifest:
    """Make artifacts that train some of the selected layers, from the model with the values of a round.

    Args:
        manifest: manifest of the artifacts that train all selected layers.
        model: the model that they were made from.
        layers: the layers to train.
        values: values of all parameters and statistics.
        trained: classes and preprocessing of the data; empty: the manifest's.
        folder: folder for the artifacts.
    """
    current = open_model(proto_with(manifest, values, "the server's values", trained=dict(trained)))
    choices = replace(manifest.choices, class_axis=manifest.class_axis)
    chosen = _only(manifest.selection, model, layers)
    return make_artifacts(
        current, replace(chosen, model_sha256=current.sha256), folder, choices=choices, backend="portable", check=False
    )


def _only(selection: Selection, model: Model, layers: tuple[str, ...]) -> Selection:
    """Return the selection restricted to these layers."""
    names = {parameter.name for layer in model.layers if layer.name in layers for parameter in layer.parameters}
    channels = {name: part for name, part in (selection.channels or {}).items() if name in layers}
    return replace(
        selection,
        layers=tuple(name for name in selection.layers if name in layers),
        parameters=tuple(name for name in selection.parameters if name in names),
        channels=channels or None,
        budget=None,
    )
