"""The model that a report is about, and what training each of its layers takes by prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cost.predict import Predictor
from ..errors import AdabetError, UsageError
from ..file_names import MODEL
from ..model.layers import Layer
from ..model.open import open_model
from ..scoring.record import Scores
from ..selection.record import Selection
from ..selection.unscored import unscored
from ..trainability.choices import Choices
from .material import Material

_MOST_PREDICTED = 64  # layers of a network


def find_model(found: Material, given: Path | None) -> None:
    """Open the model that was scored, or selected from, where it can be found, for what needs its graph.

    Its layers are shown where they were not scored.

    Args:
        found: gets the model, or a note.
        given: its path, where it was given.

    Raises:
        UsageError: the model given is another one.
        ModelError: it cannot be opened.
    """
    record: Scores | Selection
    if found.scores is not None:
        record = found.scores
    elif found.run is not None:
        record = found.run.selection
    else:
        return
    wanted = record.model_sha256
    selected = isinstance(record, Selection)
    done, missing = (
        ("adapted", "Layers and what training costs are") if selected else ("scored", "What training costs is")
    )
    places = [given] if given is not None else [found.folder / MODEL]
    if given is None:
        places += [path / MODEL for path in sorted(found.folder.iterdir()) if path.is_dir()]
        places += [Path(found.model_file)] if found.model_file else []
    for path in places:
        if path is None or not path.is_file():
            continue
        try:
            model = open_model(path, bind=record.inputs)
        except AdabetError:
            if given is not None:
                raise
            continue
        if model.sha256 == wanted:
            found.model = model
            if isinstance(record, Selection):
                found.scores = unscored(model, record.strategy, layers=record.layers)
            return
        if given is not None:
            raise UsageError(f"{given} is not the model that was {done} (SHA-256 {wanted[:12]}...).")
    found.notes.append(f"{missing} left out: the model that was {done} was not found; give it with `model`.")


def predict_costs(found: Material, progress: Any = None) -> None:
    """Predict what inference, the selection, all layers, and each layer with the head take.

    A prediction builds a step of the whole network, so that of every layer would take time by the square of their
    number: of more than 64 layers, 64 are predicted, spread evenly from the first to the last.

    Args:
        found: with its model; gets costs and reach.
        progress: called with what is going on, steps done and steps in all.
    """
    model = found.model
    if model is None:
        return
    choices, backend = Choices(), "auto"
    if found.run is not None and found.run.manifest is not None:
        choices = found.run.manifest.choices
        backend = str(found.run.manifest.backend)
    if found.run is None and found.compared is not None:
        choices, backend = found.compared.choices, found.compared.backend
        found.batch_size = found.compared.batch_size
    elif found.run is not None and found.run.figures is not None:
        found.batch_size = found.run.figures.batch_size
    elif found.run is not None and found.run.selection.budget is not None:
        found.batch_size = found.run.selection.budget.batch_size
    predictor = Predictor(model, batch_size=found.batch_size, backend=backend, choices=choices)
    found.costs["inference"] = predictor.inference()
    if found.run is not None:
        selection = found.run.selection
        parts = selection.parts_of(found.batch_size) if predictor.divisible else 1
        found.costs["selection"] = predictor.training(
            selection.parameters, selection.layers, accumulate=parts, channels=selection.channels
        )
    head = [] if model.head is None else [parameter.name for parameter in model.head.parameters]
    try:
        asked = _spread(model.layers, _MOST_PREDICTED)
        for number, layer in enumerate(asked):
            if progress is not None:
                progress("predicting", number, len(asked))
            names = [parameter.name for parameter in layer.parameters]
            found.reach[layer.name] = predictor.training([*names, *head]).memory_bytes
        found.costs["all"] = predictor.everything()
    except AdabetError as error:
        found.notes.append(f"What training some layers costs is left out: {error}")


def _spread(layers: Sequence[Layer], most: int) -> list[Layer]:
    """At most so many layers (two or more), evenly spread, the first and the last among them."""
    if len(layers) <= most:
        return list(layers)
    return [layers[i * (len(layers) - 1) // (most - 1)] for i in range(most)]
