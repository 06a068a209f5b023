"""The whole workflow: score, select, make artifacts, train, export, and report gain and cost."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from .adaptation import Adaptation, prepare_adaptation
from .adapting import Adapting
from .cost.measure import Cost
from .cost.overview import Overview
from .data.dataset import Dataset
from .errors import RecordError, UsageError
from .file_names import ADAPTED, MODEL, SCORES, SELECTION
from .files import make_folder, write_bytes
from .measuring import measured, predicted, trainable_share
from .model.bindings import binding_mismatch
from .model.open import Model, ModelSource, open_model
from .options import typed, with_given
from .outcome import Outcome
from .progress import Progress, silent
from .scoring.channel_scores import score_channels
from .scoring.record import Scores, load_scores
from .scoring.score import score
from .selection.record import Selection, load_selection
from .selection.strategies import with_channels
from .trainability.preflight import pick_backend
from .training.artifacts import make_artifacts
from .training.evaluation import evaluate, open_trained, write_predictions
from .training.export import adapted_proto, export_model
from .training.history import METRICS
from .training.learning_check import evaluated_at_chance
from .training.manifest import load_manifest
from .training.trainer import Trainer


@typed
def adapt(
    model: ModelSource,
    data: Any,
    folder: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    preset: str = "auto",
    adapting: Adapting | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Adapt a model to the data of a new domain.

    The folder gets scores.json, selection.json, artifacts/, metrics.jsonl, adapted.onnx, and model.onnx if the model
    got a new head.

    Args:
        model: the trained model, opened or in any form that `open_model` accepts.
        data: labelled data in any form that `Data` describes; scoring does not use the labels.
        folder: the output folder.
        num_classes: give the model a new head with this many outputs first; overrides that of ``adapting``.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        adapting: the options of all steps; None: the defaults of `Adapting`.
        resume: keep what an interrupted call has finished in the folder.
        progress: callback that receives the current activity, the steps done and the total number of steps.

    Returns:
        The selection, the gain and the cost.

    Raises:
        UsageError: options do not fit together, the model or the data, or the folder was made with other options.
        DataError: the data has no labels or does not fit the model.
        ModelError: the model cannot be opened or trained.
        RecordError: the folder to resume is of another model.
        TrainingError: the loss is not finite.
        CheckError: artifacts or the adapted model failed verification.

    Example:
        >>> from adabet_onnx import Adapting, Settings, adapt
        >>> outcome = adapt(
        ...     "model.onnx", "new_domain.npz", "adapted",
        ...     adapting=Adapting(settings=Settings(epochs=2), measure=False),
        ... )
        >>> outcome.after["samples"]
        400
    """
    options = with_given(adapting or Adapting(), num_classes=num_classes)
    adaptation = prepare_adaptation(model, data, folder, options, preset, resume, progress)
    scores, selection = _resumed(adaptation) if adaptation.resumable else _chosen(adaptation)
    return _trained(adaptation, scores, selection)


def _chosen(adaptation: Adaptation) -> tuple[Scores, Selection]:
    """Score the layers, select some and make artifacts."""
    scores, selection = _selected(adaptation)
    selection.save(adaptation.target / SELECTION)
    backend = pick_backend(adaptation.model, selection, adaptation.options.backend, adaptation.choices)
    report = adaptation.progress or silent
    report("making artifacts", 0, 1)
    make_artifacts(
        adaptation.model,
        selection,
        adaptation.artifacts,
        choices=adaptation.choices,
        calibrate=adaptation.splits,
        backend=backend,
        check=adaptation.options.check,
    )
    report("making artifacts", 1, 1)
    return scores, selection


def _selected(adaptation: Adaptation) -> tuple[Scores, Selection]:
    choosing, scoring = adaptation.options.choosing, adaptation.options.scoring
    needed = adaptation.channel_rho is not None or not (choosing.layers or choosing.strategy == "head")
    arguments: dict[str, Any] = {
        "preprocessing": adaptation.used,
        "threads": adaptation.options.threads,
        "progress": adaptation.progress,
    }
    scored = needed or len(adaptation.splits.train) >= scoring.needed
    if scored:
        scores = score(adaptation.model, adaptation.splits, scoring=scoring, seed=adaptation.settings.seed, **arguments)
    else:
        scores = adaptation.unscored(adaptation.used.to_json(), adaptation.splits.train.classes)
    make_folder(adaptation.target)
    if adaptation.headed is not None:
        write_bytes(adaptation.target / MODEL, adaptation.headed)
    if scored:
        scores.save(adaptation.target / SCORES)
    else:
        (adaptation.target / SCORES).unlink(missing_ok=True)  # from an earlier call
    selection = adaptation.select(scores)
    if adaptation.channel_rho is not None:
        scores = score_channels(
            adaptation.model, adaptation.splits, scores, layers=selection.layers, max_memory=scoring.memory, **arguments
        )
        scores.save(adaptation.target / SCORES)
        selection = with_channels(selection, scores, adaptation.channel_rho)
    return scores, selection


def _resumed(adaptation: Adaptation) -> tuple[Scores, Selection]:
    """Load what an earlier call selected, after checking that the same options were given.

    Raises:
        RecordError: the folder is of another model.
        UsageError: the folder was made with other options.
    """
    scores, selection = _finished(adaptation)
    again = adaptation.select(scores)
    if adaptation.channel_rho is not None and selection.channel_rho == adaptation.channel_rho:
        again = with_channels(again, scores, adaptation.channel_rho)
    backend = pick_backend(adaptation.model, again, adaptation.options.backend, adaptation.choices)
    manifest = load_manifest(adaptation.artifacts)
    same = again == selection and adaptation.used.to_json() == selection.preprocessing
    same = same and scores.settings.get("data", adaptation.taken) == adaptation.taken
    if not (same and manifest.choices == adaptation.choices and manifest.backend == backend):
        raise UsageError(
            f"{adaptation.target} was made with other options (such as preprocessing, layout, selection, backend, loss "
            "or optimizer). Give the same options to `resume`, or start again without it."
        )
    return scores, selection


def _trained(adaptation: Adaptation, scores: Scores, selection: Selection) -> Outcome:
    """Train, export, evaluate and measure."""
    options, held = adaptation.options, adaptation.splits.for_evaluation
    arguments: dict[str, Any] = {
        "preprocessing": adaptation.used,
        "choices": adaptation.choices,
        "threads": options.threads,
    }
    before = evaluate(adaptation.model, held, progress=adaptation.progress, **arguments)
    settings, parts = adaptation.settings, selection.parts_of(adaptation.settings.size)
    if parts > 1:
        settings = dataclasses.replace(settings, batch_size=settings.size // parts, accumulate=parts * settings.parts)
    trainer = Trainer(adaptation.artifacts, threads=options.threads, metrics=adaptation.target / METRICS)
    metrics = trainer.fit(
        adaptation.splits,
        settings=settings,
        preprocessing=adaptation.used,
        resume=adaptation.resume,
        progress=adaptation.progress,
    )
    adapted = open_model(export_model(adaptation.artifacts, adaptation.target / ADAPTED, check=options.check))
    plain = None
    if trainer.manifest.float_file is not None:
        plain = evaluate(adapted_proto(trainer.manifest, full_precision=True), held, **arguments)
        adapted = open_trained(adaptation.artifacts)
    after = _after(adaptation, adapted, held, arguments)
    costs, not_measured, prediction = _costs(adaptation, scores, selection, trainer.kept_views)
    chance = evaluated_at_chance(adaptation.model, held, after["accuracy"], adaptation.choices)
    learned = trainer.learned
    assert learned is not None
    return Outcome(
        model=adaptation.model,
        scores=scores,
        selection=selection,
        before=before,
        after=after,
        full_precision=plain,
        evaluated_on=adaptation.evaluated_on,
        trainable_share=trainable_share(adaptation.model, selection),
        costs=costs,
        not_measured=not_measured,
        metrics=metrics,
        folder=adaptation.target,
        batch_size=adaptation.settings.size,
        data=adaptation.taken,
        features=trainer.features,
        head_start=trainer.head_start,
        predicted=prediction,
        warnings=tuple(text for text in (learned.unchanged, learned.guessing, chance) if text is not None),
        advice=learned.advice,
        learning_rate=learned.rate,
        rates=trainer.rates,
        stored_bytes=trainer.manifest.stored_bytes,
        notes=tuple(trainer.manifest.notes),
        samples=len(adaptation.splits.train),
        views=adaptation.settings.variants,
        kept_views=trainer.kept_views,
        epochs=sum(1 for row in metrics if row["epoch"]),
        validation_samples=trainer.validation_samples,
        kept_epoch=trainer.kept_epoch,
    )


def _costs(
    adaptation: Adaptation, scores: Scores, selection: Selection, kept_views: int
) -> tuple[dict[str, Cost], str | None, Overview | None]:
    """Measure the costs if requested, and predict them if not all were measured.

    Returns:
        The measured costs, the reason why one could not be measured, and the predicted costs.
    """
    arguments: dict[str, Any] = {"choices": adaptation.choices, "batch_size": adaptation.settings.size}
    costs: dict[str, Cost] = {}
    not_measured: str | None = None
    if adaptation.options.measure:
        costs, not_measured = measured(
            adaptation.model,
            adaptation.artifacts,
            scores,
            threads=adaptation.options.threads,
            progress=adaptation.progress,
            **arguments,
        )
    if set(costs) == {"selection", "inference", "all"}:
        return costs, not_measured, None
    prediction = predicted(
        adaptation.model,
        selection,
        adaptation.artifacts,
        samples=len(adaptation.splits.train),
        kept_views=kept_views,
        epochs=max(1, adaptation.settings.epochs),  # without training, the cost of one epoch
        **arguments,
    )
    return costs, not_measured, prediction


def _after(adaptation: Adaptation, adapted: Model, held: Dataset, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of the adapted model, and write its predictions if requested."""
    output = adaptation.options.save_predictions
    if output is None:
        return evaluate(adapted, held, progress=adaptation.progress, **arguments)
    return write_predictions(adapted, held, output, progress=adaptation.progress, **arguments)


def _finished(adaptation: Adaptation) -> tuple[Scores, Selection]:
    model, folder = adaptation.model, adaptation.target
    selection = load_selection(folder / SELECTION)
    if (folder / SCORES).is_file() or selection.estimator is not None:
        scores = load_scores(folder / SCORES)
    else:
        scores = adaptation.unscored(selection.preprocessing or {}, selection.classes)
    made_for = load_manifest(adaptation.artifacts).model_sha256
    if not model.sha256 == scores.model_sha256 == selection.model_sha256 == made_for:
        raise RecordError(
            binding_mismatch(scores.inputs, model.bound)
            or f"{folder} holds results for another model. Give another folder, or leave out `resume`."
        )
    return scores, selection
