"""The main job: score, select, make artifacts, train, export, and say what it gained and cost."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .adapting import Adapting
from .cost.measure import Cost
from .cost.predict import Predictor
from .data.arithmetic import integer_data
from .data.dataset import Dataset, Splits
from .data.feeder import Feeder
from .data.labels import align_classes, fit_labels
from .data.preprocess import Arithmetic, arithmetic_for
from .data.source import open_data
from .errors import ModelError, RecordError, UsageError
from .file_names import ADAPTED, ARTIFACTS, MODEL, SCORES, SELECTION
from .files import check_folder, check_output, keep_apart, make_folder, write_bytes
from .measuring import measured, predicted, trainable_share
from .model.bindings import binding_mismatch
from .model.dims import Dims
from .model.head import check_head_options, with_head
from .model.logits_axes import axes_of, class_axis
from .model.open import Model, ModelSource, open_model
from .options import typed, with_given
from .outcome import Outcome
from .progress import Progress, silent
from .scoring.channel_scores import score_channels
from .scoring.record import Scores, load_scores
from .scoring.score import score
from .selection.pool import matching
from .selection.record import Selection, load_selection
from .selection.strategies import NEEDS_COSTS, select, with_channels
from .selection.unscored import unscored
from .trainability.choices import Choices, choose_backend
from .trainability.class_weights import resolved
from .trainability.preflight import loss_obstacle, pick_backend
from .training.artifacts import make_artifacts
from .training.evaluation import evaluate, open_trained, write_predictions
from .training.export import adapted_proto, export_model
from .training.history import METRICS
from .training.learning_check import evaluated_at_chance
from .training.manifest import FILE, load_manifest
from .training.predictions import PredictionFormat, check_form, read_from
from .training.settings import Settings
from .training.trainer import Trainer
from .training.views import check_augmented
from .training_runtime import need_runtime


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

    The folder gets scores.json, selection.json, artifacts/, metrics.jsonl, adapted.onnx, and model.onnx where a new
    head was made.

    Args:
        model: the trained model: opened, or what `open_model` takes.
        data: labelled data in any form that `Data` describes; scoring does not look at the labels.
        folder: where results go.
        num_classes: first give the model a new head of so many outputs, in place of that of ``adapting``.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        adapting: the options of all steps; None: the defaults of `Adapting`.
        resume: keep what an interrupted call has finished in the folder.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        What was chosen, gained and spent.

    Raises:
        UsageError: options that do not fit together, the model or the data, or a folder made with others.
        DataError: data without labels, or that does not fit the model.
        ModelError: the model cannot be opened, or not be trained.
        RecordError: a folder of another model is resumed.
        TrainingError: the loss is not finite.
        CheckError: artifacts or the adapted model are not what they should be.

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
    job = _begin(model, data, folder, options, preset, resume, progress)
    scores, selection = _resumed(job) if job.resumable else _chosen(job)
    return _trained(job, scores, selection)


@dataclass(frozen=True)
class _Job:
    """What is settled before anything long begins.

    Attributes:
        model: with its new head, where it gets one.
        headed: the file of that model, or None.
        splits: the data, its labels checked.
        used: how it becomes input.
        taken: what it was taken for.
        choices: those of the options, with what the model says.
        settings: those of the options, with the seed of everything.
        options: as given.
        target: the folder.
        resume: whether what is finished is kept.
        progress: told of everything, or None.
    """

    model: Model
    headed: bytes | None
    splits: Splits
    used: Arithmetic
    taken: str
    choices: Choices
    settings: Settings
    options: Adapting
    target: Path
    resume: bool
    progress: Progress | None

    @property
    def artifacts(self) -> Path:
        """Their folder."""
        return self.target / ARTIFACTS

    @property
    def resumable(self) -> bool:
        """Whether an earlier call has made artifacts that are to be kept."""
        return self.resume and (self.artifacts / FILE).is_file()

    @property
    def channel_rho(self) -> float | None:
        """The fraction of channels, where not all are trained."""
        rho = self.options.choosing.channel_rho
        return None if rho == 1 else rho

    @cached_property
    def backend(self) -> str:
        """What budgets are predicted for."""
        return choose_backend(self.options.backend, self.choices, channels=self.channel_rho is not None)

    def select(self, scores: Scores) -> Selection:
        """Choose whole layers."""
        choosing = dataclasses.replace(self.options.choosing, channel_rho=None)
        costs = None
        if choosing.budget or choosing.strategy in NEEDS_COSTS:
            costs = Predictor(self.model, batch_size=self.settings.size, backend=self.backend, choices=self.choices)
        return select(scores, choosing=choosing, costs=costs, seed=self.settings.seed)

    def unscored(self, preprocessing: dict[str, Any], classes: list[str] | None) -> Scores:
        """What stands for scores where a choice needs none."""
        choosing = self.options.choosing
        made = unscored(self.model, choosing.strategy, layers=choosing.patterns)
        return dataclasses.replace(made, preprocessing=preprocessing, classes=classes)


def _begin(
    source: ModelSource,
    data: Any,
    folder: str | os.PathLike[str],
    options: Adapting,
    preset: str,
    resume: bool,
    progress: Progress | None,
) -> _Job:
    """Say what is wrong with anything before something long begins; nothing is written before there are scores."""
    channels = options.choosing.channel_rho not in (None, 1)
    need_runtime(choose_backend(options.backend, options.choices, channels=channels))
    predictions, read = options.save_predictions, read_from(source, data)
    keep_apart(folder, read, "the folder to write")
    target = check_folder(folder)
    if predictions is not None:
        keep_apart(predictions, read, "the file of predictions")
        if Path(predictions).absolute().parent != target.absolute():  # which will be there
            check_output(predictions)
    check_head_options(options.num_classes, options.kept)
    seed = options.settings.seed if options.seed is None else options.seed
    model, headed = _headed(open_model(source), options, target, seed, resume)
    choices = options.choices.for_model(model)
    matching([layer.name for layer in model.layers], options.choosing.patterns)
    splits = open_data(data, model)
    known = model.metadata("classes")
    test = splits.test and align_classes(splits.test, known, ignore=choices.ignore_label)
    splits = Splits(align_classes(splits.train, known, ignore=choices.ignore_label), test)
    used = arithmetic_for(model, integer_data(model, splits.train), options.preprocessing, preset=preset)
    feeder = Feeder(model, used)
    taken = feeder.describe(splits.train)
    if splits.test is not None:
        feeder.describe(splits.test)  # what is wrong with it is said now, not after the training
    shape = _check_labels(model, splits, choices, options.save_predictions)
    check_augmented(options.settings.augment, feeder, splits.train, labelled=shape)
    choices = resolved(choices, model, splits.train)
    settings = dataclasses.replace(options.settings, seed=seed)
    return _Job(model, headed, splits, used, taken, choices, settings, options, target, resume, progress)


def _chosen(job: _Job) -> tuple[Scores, Selection]:
    """Score, select and make artifacts."""
    scores, selection = _selected(job)
    selection.save(job.target / SELECTION)
    backend = pick_backend(job.model, selection, job.options.backend, job.choices)
    say = job.progress or silent
    say("making artifacts", 0, 1)
    make_artifacts(
        job.model,
        selection,
        job.artifacts,
        choices=job.choices,
        calibrate=job.splits,
        backend=backend,
        check=job.options.check,
    )
    say("making artifacts", 1, 1)
    return scores, selection


def _selected(job: _Job) -> tuple[Scores, Selection]:
    choosing, scoring = job.options.choosing, job.options.scoring
    needed = job.channel_rho is not None or not (choosing.layers or choosing.strategy == "head")
    how: dict[str, Any] = {"preprocessing": job.used, "threads": job.options.threads, "progress": job.progress}
    scored = needed or len(job.splits.train) >= scoring.needed
    if scored:
        scores = score(job.model, job.splits, scoring=scoring, seed=job.settings.seed, **how)
    else:
        scores = job.unscored(job.used.to_json(), job.splits.train.classes)
    make_folder(job.target)
    if job.headed is not None:
        write_bytes(job.target / MODEL, job.headed)
    if scored:
        scores.save(job.target / SCORES)
    else:
        (job.target / SCORES).unlink(missing_ok=True)  # of an earlier call
    selection = job.select(scores)
    if job.channel_rho is not None:
        scores = score_channels(
            job.model, job.splits, scores, layers=selection.layers, max_memory=scoring.memory, **how
        )
        scores.save(job.target / SCORES)
        selection = with_channels(selection, scores, job.channel_rho)
    return scores, selection


def _resumed(job: _Job) -> tuple[Scores, Selection]:
    """What an earlier call has chosen, where it would be chosen again.

    Raises:
        RecordError: the folder is of another model.
        UsageError: other options were given.
    """
    scores, selection = _finished(job)
    again = job.select(scores)
    if job.channel_rho is not None and selection.channel_rho == job.channel_rho:
        again = with_channels(again, scores, job.channel_rho)
    backend = pick_backend(job.model, again, job.options.backend, job.choices)
    made = load_manifest(job.artifacts)
    same = again == selection and job.used.to_json() == selection.preprocessing
    same = same and scores.settings.get("data", job.taken) == job.taken
    if not (same and made.choices == job.choices and made.backend == backend):
        raise UsageError(
            f"{job.target} was made with other options (preprocessing, layout, selection, backend, loss, optimizer "
            "or the like). Give the same ones to `resume`, or start again without it."
        )
    return scores, selection


def _trained(job: _Job, scores: Scores, selection: Selection) -> Outcome:
    """Train, export, evaluate and measure."""
    options, held = job.options, job.splits.for_evaluation
    how: dict[str, Any] = {"preprocessing": job.used, "choices": job.choices, "threads": options.threads}
    before = evaluate(job.model, held, progress=job.progress, **how)
    settings, parts = job.settings, selection.parts_of(job.settings.size)
    if parts > 1:
        settings = dataclasses.replace(settings, batch_size=settings.size // parts, accumulate=parts * settings.parts)
    trainer = Trainer(job.artifacts, threads=options.threads, metrics=job.target / METRICS)
    metrics = trainer.fit(
        job.splits, settings=settings, preprocessing=job.used, resume=job.resume, progress=job.progress
    )
    adapted = open_model(export_model(job.artifacts, job.target / ADAPTED, check=options.check))
    plain = None
    if trainer.manifest.float_file is not None:
        plain = evaluate(adapted_proto(trainer.manifest, full_precision=True), held, **how)
        adapted = open_trained(job.artifacts)
    after = _after(job, adapted, held, how)
    told: dict[str, Any] = {"choices": job.choices, "batch_size": job.settings.size}
    costs: dict[str, Cost] = {}
    not_measured: str | None = None
    if options.measure:
        costs, not_measured = measured(
            job.model, job.artifacts, scores, threads=options.threads, progress=job.progress, **told
        )
    complete = set(costs) == {"selection", "inference", "all"}
    chance = evaluated_at_chance(job.model, held, after["accuracy"], job.choices)
    learned = trainer.learned
    assert learned is not None
    return Outcome(
        model=job.model,
        scores=scores,
        selection=selection,
        before=before,
        after=after,
        full_precision=plain,
        evaluated_on=f"{len(held)} test samples"
        if job.splits.test is not None
        else f"the {len(held)} samples it was trained on",
        trainable_share=trainable_share(job.model, selection),
        costs=costs,
        not_measured=not_measured,
        metrics=metrics,
        folder=job.target,
        batch_size=job.settings.size,
        data=job.taken,
        features=trainer.features,
        head_start=trainer.head_start,
        predicted=None
        if complete
        else predicted(
            job.model,
            selection,
            job.artifacts,
            samples=len(job.splits.train),
            kept_views=trainer.kept_views,
            epochs=max(1, job.settings.epochs),  # where nothing is trained, what an epoch would take
            **told,
        ),
        warnings=tuple(text for text in (learned.unchanged, learned.guessing, chance) if text is not None),
        advice=learned.advice,
        learning_rate=learned.rate,
        rates=trainer.rates,
        stored_bytes=load_manifest(job.artifacts, verify=False).stored_bytes,
        samples=len(job.splits.train),
        views=job.settings.variants,
        kept_views=trainer.kept_views,
        epochs=sum(1 for row in metrics if row["epoch"]),
    )


def _after(job: _Job, adapted: Model, held: Dataset, how: dict[str, Any]) -> dict[str, Any]:
    """Figures of the adapted model, and its predictions where they are asked for."""
    output = job.options.save_predictions
    if output is None:
        return evaluate(adapted, held, progress=job.progress, **how)
    return write_predictions(adapted, held, output, progress=job.progress, **how)


def _headed(model: Model, options: Adapting, folder: Path, seed: int, resume: bool) -> tuple[Model, bytes | None]:
    """The model itself, or with a new head and the file to save, on which scores and selection can be replayed."""
    path = folder / MODEL
    made, headed = with_head(model, options.num_classes, kept=options.kept, seed=seed, name=str(path))
    if headed is not None and resume and path.is_file() and path.read_bytes() != headed:
        raise RecordError(f"{path} is not this model with this head. Give another folder, or leave out `resume`.")
    return made, headed


def _check_labels(
    model: Model, splits: Splits, choices: Choices, predictions: str | os.PathLike[str] | None = None
) -> Dims:
    """Say before anything long begins that labels are missing or out of range, or that there are no logits.

    Returns:
        The shape of the logits.
    """
    refused = loss_obstacle(model, choices.loss, "portable", choices.class_axis)
    if refused is not None:
        raise ModelError(f"{model.name}: {refused}")
    shape = axes_of(model.graph, model.logits).batch_first(model.name)
    for part in (splits.train, splits.test):
        if part is not None:
            labels = part.need_labels("training")
            fit_labels(labels, choices.loss, shape, part.name, choices.class_axis, choices.ignore_label)
    if predictions is not None:
        axis = class_axis(shape, choices.class_axis, choices.loss)
        check_form(predictions, PredictionFormat(choices.loss, tuple(map(int, shape[1:])), axis))
    return shape


def _finished(job: _Job) -> tuple[Scores, Selection]:
    model, folder = job.model, job.target
    selection = load_selection(folder / SELECTION)
    if (folder / SCORES).is_file() or selection.estimator is not None:
        scores = load_scores(folder / SCORES)
    else:
        scores = job.unscored(selection.preprocessing or {}, selection.classes)
    made_for = load_manifest(job.artifacts).model_sha256
    if not model.sha256 == scores.model_sha256 == selection.model_sha256 == made_for:
        raise RecordError(
            binding_mismatch(scores.inputs, model.bound)
            or f"{folder} holds results for another model. Give another folder, or leave out `resume`."
        )
    return scores, selection
