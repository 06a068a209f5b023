"""The cost of an adaptation, measured on its artifacts or predicted, and the share of parameters that it trains."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .cost.measure import Cost, measure_inference, measure_training
from .cost.overview import Overview, overview
from .errors import AdabetError
from .files import temporary_folder
from .model.channels import channels_of
from .model.open import Model
from .progress import Progress, silent
from .runtime import Threads, on
from .scoring.record import Scores
from .selection.record import Selection
from .selection.strategies import select
from .trainability.choices import Choices
from .training.artifacts import make_artifacts
from .training.manifest import load_manifest


def measured(
    model: Model,
    artifacts: Path,
    scores: Scores,
    *,
    choices: Choices,
    batch_size: int,
    threads: Threads = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Cost], str | None]:
    """Measure the costs of selection, inference and all layers.

    Args:
        model: the model that is trained.
        artifacts: folder of the artifacts of the selection.
        scores: the scores used for the selection, from which all layers are selected.
        choices: the choices that the artifacts were made with.
        batch_size: samples per update.
        threads: threads for ONNX Runtime.
        progress: callback that receives the current activity, the steps done and the total number of steps.

    Returns:
        The costs that could be measured, and the reason why the rest could not, or None.
    """
    costs: dict[str, Cost] = {}
    try:
        for kind, cost in _costs(
            model, artifacts, scores, choices, batch_size, on(threads).threads, progress or silent
        ):
            costs[kind] = cost
    except AdabetError as error:  # training all layers may be impossible; the adapted model exists anyway
        return costs, str(error)
    return costs, None


def _costs(
    model: Model, artifacts: Path, scores: Scores, choices: Choices, size: int, threads: int | None, report: Progress
) -> Iterator[tuple[str, Cost]]:
    report("measuring", 0, 3)
    manifest = load_manifest(artifacts, verify=False)
    parts = manifest.selection.parts_of(size)
    yield "selection", measure_training(artifacts, batch_size=size, accumulate=parts, threads=threads)
    yield "inference", measure_inference(artifacts, batch_size=size, threads=threads)
    report("measuring", 1, 3)
    with temporary_folder() as folder:
        everything = select(scores, strategy="all")
        made = folder / "all"
        choices = dataclasses.replace(choices, frozen_precision="float32")  # nothing is frozen
        make_artifacts(model, everything, made, backend=manifest.backend, check=False, choices=choices)
        report("measuring", 2, 3)
        yield "all", measure_training(made, batch_size=size, threads=threads)
    report("measuring", 3, 3)


def predicted(
    model: Model,
    selection: Selection,
    artifacts: Path,
    *,
    choices: Choices,
    batch_size: int,
    samples: int,
    kept_views: int,
    epochs: int,
) -> Overview | None:
    """Predict the costs; None if that is not possible.

    Args:
        model: the model that is trained.
        selection: the layers that are trained.
        artifacts: folder of the artifacts of the selection.
        choices: the choices that the artifacts were made with.
        batch_size: samples per update.
        samples: samples per epoch.
        kept_views: number of stored views of all samples; several per sample with augmentation.
        epochs: epochs of the training.
    """
    backend = load_manifest(artifacts, verify=False).backend
    with contextlib.suppress(AdabetError):  # the adapted model exists anyway
        return overview(
            model,
            selection,
            batch_size=batch_size,
            backend=backend,
            choices=choices,
            samples=samples,
            kept_views=kept_views,
            epochs=epochs,
        )
    return None


def trainable_share(model: Model, selection: Selection) -> float:
    """Return the fraction of parameters that are trained, 0 to 1; of partly trained layers, only chosen channels."""
    chosen = set(selection.parameters)
    sizes = {parameter.name: parameter.size for layer in model.layers for parameter in layer.parameters}
    left_out = 0.0
    if selection.channels:
        known = channels_of(model)
        for name, indices in selection.channels.items():
            inside = {parameter.name for parameter in model.layer(name).parameters} & chosen
            left_out += sum(sizes[key] for key in inside) * (1 - len(indices) / known[name].count)
    return (sum(sizes[name] for name in chosen) - left_out) / model.weight_count
