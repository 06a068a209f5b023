"""The main job: score, select, make artifacts, train, export, and say what it gained and cost."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from .cost.measure import Cost, measure_inference, measure_training
from .cost.overview import overview
from .cost.predict import Predictor
from .data.arithmetic import integer_data
from .data.dataset import Splits
from .data.feeder import Feeder
from .data.labels import align_classes, fit_labels
from .data.preprocess import choose
from .data.reading import Reading
from .data.source import open_data
from .errors import AdabetError, ModelError, RecordError, UsageError
from .files import check_folder, make_folder, write_bytes
from .model.bindings import bound_otherwise
from .model.channels import channels_of
from .model.head import check_head_options, new_head
from .model.logits_axes import axes_of
from .model.open import Model, open_model
from .outcome import Outcome
from .progress import Progress, silent
from .scoring.channels import score_channels
from .scoring.record import Scores, load_scores
from .scoring.score import score
from .selection.budget import Budget
from .selection.record import Selection, load_selection
from .selection.strategies import NEEDS_COSTS, check_choices, matching, select, with_channels
from .selection.unscored import unscored
from .training.artifacts import make_artifacts
from .training.choices import Choices, choose_backend, need_runtime
from .training.evaluation import evaluate
from .training.export import export_model
from .training.learned import evaluated_at_chance
from .training.manifest import FILE, load_manifest
from .training.preflight import loss_obstacle, pick_backend
from .training.trainer import METRICS, Settings, Trainer

_MODEL = "model.onnx"  # the model with its new head
_POINTS, _BATCHES = 32, 4  # of `score`, where nothing else is asked for


def adapt(
    source: str | os.PathLike[str] | onnx.ModelProto | Model,
    data: Any,
    folder: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    keep_tail: bool = False,
    append: bool = False,
    preprocessing: dict[str, Any] | None = None,
    layout: str | Sequence[str] | Mapping[str, str] | None = None,
    allow_resize: bool = False,
    scoring: dict[str, Any] | None = None,
    strategy: str = "adabet",
    rho: float | None = None,
    head: str = "auto",
    layers: Sequence[str] = (),
    channel_rho: float | None = None,
    budget: Budget | None = None,
    max_accumulate: int | None = None,
    backend: str = "auto",
    choices: Choices | None = None,
    training: dict[str, Any] | None = None,
    seed: int = 0,
    threads: int | None = None,
    check: bool = True,
    measure: bool = True,
    resume: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Adapt a model to the data of a new domain.

    The folder gets scores.json, selection.json, artifacts/, metrics.jsonl, adapted.onnx, and model.onnx where a new
    head was made.

    Args:
        source: the trained model.
        data: labelled data in any form `open_data` takes; scoring does not look at the labels.
        folder: where results go.
        num_classes: first give the model a new head of so many outputs.
        keep_tail: with what belongs to the old head's outputs (a normalisation, an activation) kept.
        append: with all layers kept, and a linear classifier put on the outputs.
        preprocessing: keyword arguments of `data.preprocess.choose` (preset, scale, mean, std, bgr).
        layout: letters of the data's axes, such as ``NTC``, where its shape leaves them open; see `data.reading`.
        allow_resize: whether arrays may be resized where that is hardly meant; see `data.pictures.resizing_doubt`.
        scoring: keyword arguments of `score` (estimator, samples, order, max_memory, ...).
        strategy: of `select`, as are ``rho``, ``head`` and ``layers``.
        rho: fraction of layers; None: of `select`.
        head: auto, always, pool or never.
        layers: patterns of layer names, in place of a strategy.
        channel_rho: fraction of output channels to train in each selected layer, whose channels are then scored; None:
            all.
        budget: limits of what a training step may take, at the batch size of ``training``.
        max_accumulate: into how many parts a batch may be cut to keep to it, as in `select`.
        backend: of `make_artifacts`.
        choices: loss, optimizer and form of the training.
        training: keyword arguments of `Trainer.fit` (epochs, batch_size, learning_rate, schedule, ...).
        seed: of everything that is random.
        threads: for ONNX Runtime.
        check: verify artifacts and export.
        measure: measure step time and memory, against all layers and inference.
        resume: keep what an interrupted call has finished in the folder.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The outcome.

    Raises:
        AdabetError: see the functions this one calls.
    """
    choices, asked_backend = choices or Choices(), backend
    check_choices(strategy, rho, head, channel_rho)
    if channel_rho == 1:
        channel_rho = None
    backend = choose_backend(backend, choices, channels=channel_rho is not None)
    need_runtime(backend)  # say at once if training is not possible
    target = check_folder(folder)  # nothing is written before there are scores
    Settings(**{key: value for key, value in (training or {}).items() if value is not None}).check()
    kept = {"keep_tail": keep_tail, "append": append}
    check_head_options(num_classes, kept)
    model, headed = _with_head(open_model(source), num_classes, kept, target, seed, resume)
    choices = choices.for_model(model)
    matching([layer.name for layer in model.layers], layers)
    splits = open_data(data, model, reading=Reading(layout, allow_resize))
    known = model.metadata("classes")
    ignore = choices.ignore_label
    test = splits.test and align_classes(splits.test, known, ignore=ignore)
    splits = Splits(align_classes(splits.train, known, ignore=ignore), test)
    used = choose(model, integer_data=integer_data(model, splits.train), **(preprocessing or {}))
    feeder = Feeder(model, used)
    taken = feeder.taken(splits.train)
    if splits.test is not None:
        feeder.taken(splits.test)  # what is wrong with it is said now, not after the training
    _check_labels(model, splits, choices)

    batch_size = int((training or {}).get("batch_size") or 32)
    asked: dict[str, Any] = {"strategy": strategy, "rho": rho, "head": head, "layers": layers, "seed": seed}
    if budget or strategy in NEEDS_COSTS:
        costs_of = Predictor(model, batch_size=batch_size, backend=backend, choices=choices)
        asked |= {"budget": budget, "costs": costs_of, "max_accumulate": max_accumulate}
    artifacts = target / "artifacts"
    if resume and (artifacts / FILE).is_file():
        scores, selection = _finished(model, target, strategy, layers)
        again = select(scores, **asked)
        if channel_rho is not None and selection.channel_rho == channel_rho:
            again = with_channels(again, scores, channel_rho)
        backend = pick_backend(model, again, asked_backend, choices)
        made = load_manifest(artifacts).content
        same = again == selection and used.to_json() == selection.preprocessing
        same = same and scores.settings.get("data", taken) == taken
        if not (same and Choices.from_manifest(made) == choices and made["backend"] == backend):
            raise UsageError(
                f"{target} was made with other options (preprocessing, layout, selection, backend, loss, optimizer "
                "or the like). Give the same ones to `resume`, or start again without it."
            )
    else:
        measured = channel_rho is not None or not (layers or strategy == "head") or _enough(splits, scoring or {})
        if measured:
            scores = score(
                model, splits, preprocessing=used, seed=seed, threads=threads, progress=progress, **(scoring or {})
            )
        else:
            scores = _unscored(model, strategy, layers, used.to_json(), splits.train.classes)
        make_folder(target)
        if headed is not None:
            write_bytes(target / _MODEL, headed)
        if measured:
            scores.save(target / "scores.json")
        else:
            (target / "scores.json").unlink(missing_ok=True)  # of an earlier call
        selection = select(scores, **asked)
        if channel_rho is not None:
            scores = score_channels(
                model,
                splits,
                scores,
                layers=selection.layers,
                preprocessing=used,
                max_memory=(scoring or {}).get("max_memory"),
                threads=threads,
                progress=progress,
            )
            scores.save(target / "scores.json")
            selection = with_channels(selection, scores, channel_rho)
        selection.save(target / "selection.json")
        backend = pick_backend(model, selection, asked_backend, choices)
        say = progress or silent
        say("making artifacts", 0, 1)
        make_artifacts(model, selection, artifacts, backend=backend, check=check, **asdict(choices))
        say("making artifacts", 1, 1)
    held = splits.for_evaluation
    how: dict[str, Any] = {"loss": choices.loss, "axis": choices.class_axis, "ignore": choices.ignore_label}
    how |= {"threads": threads, "progress": progress}
    before = evaluate(model, held, used, **how)
    settings = {"seed": seed, **(training or {})}
    parts = selection.parts_of(batch_size)
    if parts > 1:
        settings |= {"batch_size": batch_size // parts, "accumulate": parts * (settings.get("accumulate") or 1)}
    trainer = Trainer(artifacts, threads=threads)
    metrics = trainer.fit(
        splits, preprocessing=used, resume=resume, metrics=target / METRICS, progress=progress, **settings
    )
    adapted = open_model(export_model(artifacts, target / "adapted.onnx", check=check))
    after = evaluate(adapted, held, used, **how)
    costs: dict[str, Cost] = {}
    not_measured: str | None = None
    if measure:
        try:
            for what, cost in _costs(model, scores, artifacts, batch_size, backend, choices, threads, progress):
                costs[what] = cost
        except AdabetError as error:  # training all layers may be impossible; the adapted model is there all the same
            not_measured = str(error)
    predicted = None
    if set(costs) != {"selection", "inference", "all"}:
        with contextlib.suppress(AdabetError):  # the adapted model is there all the same
            predicted = overview(model, selection, batch_size=batch_size, backend=backend, choices=choices)
    of_labels = {name: how[name] for name in ("loss", "axis", "ignore")}
    chance = evaluated_at_chance(model, held, after["accuracy"], **of_labels)
    learned = trainer.learned
    assert learned is not None
    return Outcome(
        model=model,
        scores=scores,
        selection=selection,
        before=before,
        after=after,
        evaluated_on=f"{len(held)} test samples"
        if splits.test is not None
        else f"the {len(held)} samples it was trained on: give x_test and y_test for honest figures",
        trainable_share=_trainable_share(model, selection),
        costs=costs,
        not_measured=not_measured,
        metrics=metrics,
        folder=target,
        batch_size=batch_size,
        data=taken,
        predicted=predicted,
        warnings=tuple(text for text in (learned.guessing, chance) if text is not None),
        advice=learned.advice,
        learning_rate=learned.rate,
    )


def _with_head(
    model: Model, num_classes: int | None, kept: Mapping[str, bool], folder: Path, seed: int, resume: bool
) -> tuple[Model, bytes | None]:
    """The model itself, or with a new head and the file to save, on which scores and selection can be replayed."""
    if num_classes is None:
        return model, None
    path = folder / _MODEL
    made = new_head(model, num_classes, seed=seed, **kept)
    proto = made.proto()
    if resume and path.is_file() and path.read_bytes() != proto.SerializeToString():
        raise RecordError(f"{path} is not this model with this head. Give another folder, or leave out `resume`.")
    return dataclasses.replace(open_model(proto), name=str(path), notes=made.notes), proto.SerializeToString()


def _check_labels(model: Model, splits: Splits, choices: Choices) -> None:
    """Say before anything long begins that labels are missing or out of range, or that there are no logits."""
    refused = loss_obstacle(model, choices.loss, "portable", choices.class_axis)
    if refused is not None:
        raise ModelError(f"{model.name}: {refused}")
    shape = axes_of(model.graph, model.logits).batch_first(model.name)
    for part in (splits.train, splits.test):
        if part is not None:
            labels = part.need_labels("training")
            fit_labels(labels, choices.loss, shape, part.name, choices.class_axis, choices.ignore_label)


def _enough(splits: Splits, scoring: Mapping[str, Any]) -> bool:
    """Whether there are the samples that scoring needs; a choice that needs no scores is made without them."""
    if scoring.get("estimator") == "batches":
        needed = (scoring.get("batches") or _BATCHES) * (scoring.get("batch_size") or _POINTS)
    else:
        needed = scoring.get("subset_size") or _POINTS
    return len(splits.train) >= int(needed)


def _unscored(
    model: Model, strategy: str, layers: Sequence[str], preprocessing: dict[str, Any], classes: list[str] | None
) -> Scores:
    made = unscored(model, strategy, layers=layers)
    return dataclasses.replace(made, preprocessing=preprocessing, classes=classes)


def _finished(model: Model, folder: Path, strategy: str, layers: Sequence[str]) -> tuple[Scores, Selection]:
    selection = load_selection(folder / "selection.json")
    if (folder / "scores.json").is_file() or selection.estimator is not None:
        scores = load_scores(folder / "scores.json")
    else:
        scores = _unscored(model, strategy, layers, selection.preprocessing or {}, selection.classes)
    made_for = load_manifest(folder / "artifacts").content["model_sha256"]
    if not model.sha256 == scores.model_sha256 == selection.model_sha256 == made_for:
        raise RecordError(
            bound_otherwise(scores.inputs, model.bound)
            or f"{folder} holds results for another model. Give another folder, or leave out `resume`."
        )
    return scores, selection


def _trainable_share(model: Model, selection: Selection) -> float:
    chosen = set(selection.parameters)
    sizes = {parameter.name: parameter.size for layer in model.layers for parameter in layer.parameters}
    left_out = 0.0
    if selection.channels:
        known = channels_of(model)
        for name, indices in selection.channels.items():
            inside = {parameter.name for parameter in model.layer(name).parameters} & chosen
            left_out += sum(sizes[key] for key in inside) * (1 - len(indices) / known[name].count)
    return (sum(sizes[name] for name in chosen) - left_out) / model.weight_count


def _costs(
    model: Model,
    scores: Scores,
    artifacts: Path,
    batch_size: int,
    backend: str,
    choices: Choices,
    threads: int | None,
    progress: Progress | None,
) -> Iterator[tuple[str, Cost]]:
    say = progress or silent
    say("measuring", 0, 3)
    parts = load_manifest(artifacts, verify=False).selection.parts_of(batch_size)
    yield "selection", measure_training(artifacts, batch_size=batch_size, accumulate=parts, threads=threads)
    yield "inference", measure_inference(artifacts, batch_size=batch_size, threads=threads)
    say("measuring", 1, 3)
    with tempfile.TemporaryDirectory() as folder:
        everything = select(scores, strategy="all")
        made = Path(folder) / "all"
        make_artifacts(model, everything, made, backend=backend, check=False, **asdict(choices))
        say("measuring", 2, 3)
        yield "all", measure_training(made, batch_size=batch_size, threads=threads)
    say("measuring", 3, 3)
