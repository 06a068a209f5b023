"""An adaptation before it starts: model, data and options, opened and checked together."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .adapting import Adapting
from .cost.predict import Predictor
from .data.arithmetic import integer_data
from .data.dataset import Splits
from .data.feeder import Feeder
from .data.labels import align_classes, fit_labels
from .data.preprocess import Arithmetic, arithmetic_for
from .data.source import open_data
from .errors import ModelError, RecordError
from .file_names import ARTIFACTS, MODEL
from .files import check_folder, check_output, keep_apart
from .model.dims import Dims
from .model.head import check_head_options, with_head
from .model.logits_axes import axes_of, class_axis
from .model.open import Model, ModelSource, open_model
from .progress import Progress
from .scoring.record import Scores
from .selection.pool import matching
from .selection.record import Selection
from .selection.strategies import NEEDS_COSTS, select
from .selection.unscored import unscored
from .trainability.choices import Choices, choose_backend
from .trainability.class_weights import resolved
from .trainability.preflight import loss_obstacle
from .training.manifest import FILE
from .training.predictions import PredictionFormat, check_form, read_from
from .training.settings import Settings
from .training.views import check_augmented
from .training_runtime import need_runtime


@dataclass(frozen=True)
class Adaptation:
    """What is determined before any long computation starts.

    Attributes:
        model: the model, with its new head if it gets one.
        headed: the file content of the model with a new head, or None.
        splits: the data, with checked labels.
        used: how data becomes input.
        taken: one line that describes how the data was interpreted.
        choices: the choices of the options, completed from the model.
        settings: the settings of the options, with the random seed of the adaptation.
        options: the options as given.
        target: the output folder.
        resume: whether to keep finished results.
        progress: the progress callback, or None.
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
        """The folder of the artifacts."""
        return self.target / ARTIFACTS

    @property
    def resumable(self) -> bool:
        """Whether there are artifacts of an earlier call to keep."""
        return self.resume and (self.artifacts / FILE).is_file()

    @property
    def channel_rho(self) -> float | None:
        """The fraction of channels to train; None for all."""
        rho = self.options.choosing.channel_rho
        return None if rho == 1 else rho

    @property
    def evaluated_on(self) -> str:
        """The data that metrics are computed on."""
        samples = len(self.splits.for_evaluation)
        return f"{samples} test samples" if self.splits.test is not None else f"the {samples} samples it was trained on"

    @cached_property
    def backend(self) -> str:
        """The backend that budgets are predicted for."""
        return choose_backend(self.options.backend, self.choices, channels=self.channel_rho is not None)

    def select(self, scores: Scores) -> Selection:
        """Select whole layers."""
        choosing = dataclasses.replace(self.options.choosing, channel_rho=None)
        costs = None
        if choosing.budget or choosing.strategy in NEEDS_COSTS:
            costs = Predictor(self.model, batch_size=self.settings.size, backend=self.backend, choices=self.choices)
        return select(scores, choosing=choosing, costs=costs, seed=self.settings.seed)

    def unscored(self, preprocessing: dict[str, Any], classes: list[str] | None) -> Scores:
        """Return a record without scores, for strategies that need none."""
        choosing = self.options.choosing
        made = unscored(self.model, choosing.strategy, layers=choosing.patterns)
        return dataclasses.replace(made, preprocessing=preprocessing, classes=classes)


def prepare_adaptation(
    source: ModelSource,
    data: Any,
    folder: str | os.PathLike[str],
    options: Adapting,
    preset: str,
    resume: bool,
    progress: Progress | None,
) -> Adaptation:
    """Open the model and the data and check all options before any long computation; nothing is written yet."""
    channels = options.choosing.channel_rho not in (None, 1)
    need_runtime(choose_backend(options.backend, options.choices, channels=channels))
    predictions, read = options.save_predictions, read_from(source, data)
    keep_apart(folder, read, "the folder to write")
    target = check_folder(folder)
    if predictions is not None:
        keep_apart(predictions, read, "the file of predictions")
        if Path(predictions).absolute().parent != target.absolute():  # that folder will exist
            check_output(predictions)
    check_head_options(options.num_classes, options.kept)
    seed = options.settings.seed if options.seed is None else options.seed
    original = open_model(source)
    model, headed = _headed(original, options, target, seed, resume)
    choices = options.choices.for_model(model)
    matching([layer.name for layer in model.layers], options.choosing.patterns)
    splits = open_data(data, model)
    known = model.metadata("classes")
    test = splits.test and align_classes(splits.test, known, ignore=choices.ignore_label)
    splits = Splits(align_classes(splits.train, known, ignore=choices.ignore_label), test)
    named = dataclasses.replace(model, name=original.name)  # messages name the file that the user gave
    used = arithmetic_for(named, integer_data(model, splits.train), options.preprocessing, preset=preset)
    feeder = Feeder(model, used)
    taken = feeder.describe(splits.train)
    if splits.test is not None:
        feeder.describe(splits.test)  # report problems now, not after the training
    shape = _check_labels(model, splits, choices, options.save_predictions)
    check_augmented(options.settings.augment, feeder, splits.train, labelled=shape)
    choices = resolved(choices, model, splits.train)
    settings = dataclasses.replace(options.settings, seed=seed)
    return Adaptation(model, headed, splits, used, taken, choices, settings, options, target, resume, progress)


def _headed(model: Model, options: Adapting, folder: Path, seed: int, resume: bool) -> tuple[Model, bytes | None]:
    """Return the model, with a new head if requested; in that case also the content of its file, for later calls."""
    path = folder / MODEL
    made, headed = with_head(model, options.num_classes, kept=options.kept, seed=seed, name=str(path))
    if headed is not None and resume and path.is_file() and path.read_bytes() != headed:
        raise RecordError(f"{path} is not this model with this head. Give another folder, or leave out `resume`.")
    return made, headed


def _check_labels(
    model: Model, splits: Splits, choices: Choices, predictions: str | os.PathLike[str] | None = None
) -> Dims:
    """Check, before any long computation, the logits and that labels exist and are in range.

    Returns:
        The shape of the logits.
    """
    obstacle = loss_obstacle(model, choices.loss, "portable", choices.class_axis)
    if obstacle is not None:
        raise ModelError(f"{model.name}: {obstacle}")
    shape = axes_of(model.graph, model.logits).batch_first(model.name)
    for part in (splits.train, splits.test):
        if part is not None:
            labels = part.need_labels("training")
            fit_labels(labels, choices.loss, shape, part.name, choices.class_axis, choices.ignore_label)
    if predictions is not None:
        axis = class_axis(shape, choices.class_axis, choices.loss)
        check_form(predictions, PredictionFormat(choices.loss, tuple(map(int, shape[1:])), axis))
    return shape
