"""Find the model that a report is about, and predict the cost of training each of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from .inputs import ReportInputs

_MOST_PREDICTED = 64  # maximum number of layers whose cost is predicted


def find_model(inputs: ReportInputs, given: Path | None) -> None:
    """Find and open the model that was scored, or selected from.

    If there are no scores, the model's layers are shown instead.

    Args:
        inputs: the report's inputs, to which the model, or a note, is added.
        given: the path of the model, if the caller gave one.

    Raises:
        UsageError: the given model is another one.
        ModelError: the given model cannot be opened.
    """
    record: Scores | Selection
    if inputs.scores is not None:
        record = inputs.scores
    elif inputs.run is not None:
        record = inputs.run.selection
    else:
        return
    expected = record.model_sha256
    selected = isinstance(record, Selection)
    done, missing = ("adapted", "Layers and training costs are") if selected else ("scored", "Training costs are")
    places = [given] if given is not None else [inputs.folder / MODEL]
    if given is None:
        places += [path / MODEL for path in sorted(inputs.folder.iterdir()) if path.is_dir()]
        places += [Path(inputs.model_file)] if inputs.model_file else []
    for path in places:
        if path is None or not path.is_file():
            continue
        try:
            model = open_model(path, bind=record.inputs)
        except AdabetError:
            if given is not None:
                raise
            continue
        if model.sha256 == expected:
            inputs.model = model
            if isinstance(record, Selection):
                inputs.scores = _with_votes(unscored(model, record.strategy, layers=record.layers), inputs.votes)
            return
        if given is not None:
            raise UsageError(f"{given} is not the model that was {done} (SHA-256 {expected[:12]}...).")
    inputs.notes.append(f"{missing} left out: the model that was {done} was not found; give it with `model`.")


def _with_votes(scores: Scores, votes: Mapping[str, Mapping[str, Any]]) -> Scores:
    """Fill in the means of a fleet's votes, if it voted on these layers."""
    if votes.keys() != {layer.name for layer in scores.layers}:
        return scores
    layers = [
        replace(layer, b1_hat=float(votes[layer.name]["b1_hat"]), shift=votes[layer.name]["shift"])
        for layer in scores.layers
    ]
    return replace(scores, layers=tuple(layers))


def predict_costs(inputs: ReportInputs, progress: Any = None) -> None:
    """Predict the costs of inference, the selection, all layers, and each layer with the head.

    Each prediction builds a step of the whole network, so predicting every layer takes time quadratic in their number.
    For more than 64 layers, 64 are predicted, evenly spaced from the first to the last.

    Args:
        inputs: the report's inputs with the model, to which costs and reach are added.
        progress: called with the current activity, the steps done and the total number of steps.
    """
    model = inputs.model
    if model is None:
        return
    choices, backend = Choices(), "auto"
    if inputs.run is not None and inputs.run.manifest is not None:
        choices = inputs.run.manifest.choices
        backend = str(inputs.run.manifest.backend)
    if inputs.run is None and inputs.compared is not None:
        choices, backend = inputs.compared.choices, inputs.compared.backend
        inputs.batch_size = inputs.compared.batch_size
    elif inputs.run is not None and inputs.run.figures is not None:
        inputs.batch_size = inputs.run.figures.batch_size
    elif inputs.run is not None and inputs.run.selection.budget is not None:
        inputs.batch_size = inputs.run.selection.budget.batch_size
    predictor = Predictor(model, batch_size=inputs.batch_size, backend=backend, choices=choices)
    inputs.costs["inference"] = predictor.inference()
    if inputs.run is not None:
        selection = inputs.run.selection
        parts = selection.parts_of(inputs.batch_size) if predictor.divisible else 1
        inputs.costs["selection"] = predictor.training(
            selection.parameters, selection.layers, accumulate=parts, channels=selection.channels
        )
    head = [] if model.head is None else [parameter.name for parameter in model.head.parameters]
    try:
        layers = _spread(model.layers, _MOST_PREDICTED)
        for number, layer in enumerate(layers):
            if progress is not None:
                progress("predicting", number, len(layers))
            names = [parameter.name for parameter in layer.parameters]
            inputs.reach[layer.name] = predictor.training([*names, *head]).memory_bytes
        inputs.costs["all"] = predictor.everything()
    except AdabetError as error:
        inputs.notes.append(f"The cost of training some layers is left out: {error}")


def _spread(layers: Sequence[Layer], most: int) -> list[Layer]:
    """At most ``most`` layers (at least two), evenly spaced, including the first and the last."""
    if len(layers) <= most:
        return list(layers)
    return [layers[i * (len(layers) - 1) // (most - 1)] for i in range(most)]
