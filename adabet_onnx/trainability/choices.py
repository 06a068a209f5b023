"""The choices of what a training computes, and the backend for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import UsageError
from ..model.logits_axes import axes_of, class_axis, detected_class_axis
from ..model.open import Model
from ..options import check_fields
from ..portable.optimizers import Optimizer
from ..portable.profiles import allowed
from ..portable.recipe import Recipe
from ..showing import changed
from ..vocabulary import BACKENDS, BATCH_NORMS, FROZEN, FROZEN_PRECISIONS, LOSSES, OPTIMIZERS, PROFILES

BALANCED = "balanced"
_MOST = 1e9  # the largest class weight
_PACKAGES = {"ort": "onnxruntime-training", "portable": "the portable backend"}


@dataclass(frozen=True)
class Choices:
    """Loss, optimizer and form of a training.

    Attributes:
        loss: cross-entropy, mse, bce-with-logits or l1.
        optimizer: adamw (onnxruntime-training's), adamw-torch or sgd; see portable/optimizers.py.
        weight_decay: weight decay of the optimizer.
        momentum: momentum of sgd.
        clip_norm: scale gradients down to this global norm; None: never.
        label_smoothing: label smoothing of cross-entropy, from 0 to below 1.
        class_weights: class weights of cross-entropy: a number for each class, in the order of the outputs; or by class
            name, with 1 for unnamed classes; or ``balanced``: n / (classes * count) from the labels of the training
            data, as in scikit-learn, for which `make_artifacts` needs the data (an absent class gets 1 and is not
            counted among the classes). The loss is divided by the sum of the labels' weights, as in torch. None: all
            classes count alike.
        class_axis: class axis of the logits, if cross-entropy is per pixel or token; None: that of the model's Softmax
            or head, else 1, or the last of three axes.
        ignore_label: a label per pixel or token to ignore, besides -100 (255 in masks).
        batch_norm: ``frozen`` (stored statistics), or ``batch``: the selected BatchNormalization layers normalise by
            the batch and update their statistics.
        recompute: trade time for memory: recompute activations in the backward pass.
        frozen: where frozen weights are stored: ``embedded`` in the graphs as constants, or once in the ``checkpoint``.
        frozen_precision: precision of the frozen part with the portable backend: ``int8``: quantised, with ranges
            measured on samples of the training data (see `make_artifacts`); ``float32``; or ``auto``: float32, but
            unchanged if the file is quantised. The model is exported with the precision it was trained with.
        ort_format: train from ``.ort`` files.
        profile: ``webgpu``: graphs that both WebGPU providers of onnxruntime-web compute correctly: only operators and
            forms that they support, with few buffers per node. None: all operators.

    Raises:
        UsageError: a value is unknown or out of range.

    Example:
        >>> from adabet_onnx import Choices
        >>> Choices(loss="mse", optimizer="sgd", momentum=0.9).batch_norm
        'frozen'
    """

    loss: str = "cross-entropy"
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | Mapping[str, float] | str | None = None
    class_axis: int | None = None
    ignore_label: int | None = None
    batch_norm: str = "frozen"
    recompute: bool = False
    frozen: str = "embedded"
    frozen_precision: str = "auto"
    ort_format: bool = False
    profile: str | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        for option, value, known in (
            ("loss", self.loss, LOSSES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("storage of frozen weights", self.frozen, FROZEN),
            ("precision of the frozen part", self.frozen_precision, FROZEN_PRECISIONS),
            ("batch normalisation mode", self.batch_norm, BATCH_NORMS),
            ("profile", self.profile, (None, *PROFILES)),
        ):
            if value not in known:
                choices = ", ".join(str(choice) for choice in known if choice is not None)
                raise UsageError(f"unknown {option} {value!r}: choose one of {choices}.")
        self.update.check()
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label smoothing must be at least 0 and below 1, not {self.label_smoothing}.")
        of_classes = self.class_axis is not None or self.ignore_label is not None or self.class_weights is not None
        if self.loss != "cross-entropy" and (self.label_smoothing or of_classes):
            raise UsageError(
                "label smoothing, a class axis, a label to ignore and class weights belong to cross-entropy, not to "
                f"{self.loss}."
            )
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", _weights(self.class_weights))

    def for_model(self, model: Model) -> Choices:
        """Return the choices with the class axis of the model's own Softmax, if none is given.

        A given axis is converted to a non-negative index.

        Raises:
            UsageError: the number of class weights differs from the number of classes.
        """
        resolved = self._with_axis(model)
        if isinstance(resolved.class_weights, tuple):
            shape = axes_of(model.graph, model.logits).batch_first(model.name)
            axis = class_axis(shape, resolved.class_axis, resolved.loss)
            classes = None if axis is None else shape[axis]
            if len(resolved.class_weights) != classes:
                raise UsageError(
                    f"`class_weights` has {len(resolved.class_weights)} numbers, but {model.name} has {classes} "
                    "classes. Give one number for each class, in the order of the outputs."
                )
        return resolved

    def _with_axis(self, model: Model) -> Choices:
        if self.loss != "cross-entropy":
            return self
        if self.class_axis is not None:
            rank = len(axes_of(model.graph, model.logits).shape) if self.class_axis < 0 else 0
            return replace(self, class_axis=self.class_axis + rank) if -rank <= self.class_axis < 0 else self
        softmax_axis = detected_class_axis(model)
        has_more_axes = softmax_axis is not None and len(axes_of(model.graph, model.logits).shape) > 2
        return replace(self, class_axis=softmax_axis) if has_more_axes else self

    @property
    def update(self) -> Optimizer:
        """The optimizer."""
        return Optimizer(self.optimizer, self.weight_decay, self.momentum, self.clip_norm)

    @property
    def recipe(self) -> Recipe:
        """The recipe for the portable backend's graphs."""
        return Recipe(
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            class_weights=() if isinstance(self.class_weights, str | Mapping) else self.class_weights,
            class_axis=self.class_axis,
            optimizer=self.update,
            allowed=allowed(self.profile),
            batch_norm=self.batch_norm,
            recompute=self.recompute,
            frozen_precision=self.frozen_precision,
        )

    def lacking(self, backend: str, *, channels: bool = False) -> list[str]:
        """Return descriptions of the requested features that a backend does not support.

        Args:
            backend: portable or ort.
            channels: whether only some channels of a layer are to be trained.
        """
        if backend == "portable":
            requested = {"frozen weights in a checkpoint": self.frozen == "checkpoint", ".ort files": self.ort_format}
        else:
            requested = {
                "adamw-torch": self.optimizer == "adamw-torch",
                "momentum": bool(self.momentum),
                "weight decay in sgd": self.optimizer == "sgd" and bool(self.weight_decay),
                "clipping": self.clip_norm is not None,
                "label smoothing": bool(self.label_smoothing),
                "class weights": self.class_weights is not None,
                "a class axis": self.class_axis is not None,
                "labels to ignore": self.ignore_label is not None,
                "batch normalisation by the batch": self.batch_norm == "batch",
                "recomputing": self.recompute,
                "profiles": self.profile is not None,
                "frozen part in int8": self.frozen_precision == "int8",
                "training of some channels of a layer": channels,
            }
        return [feature for feature, is_requested in requested.items() if is_requested]

    @classmethod
    def from_manifest(cls, content: dict[str, Any]) -> Choices:
        """Restore the choices from a manifest."""
        own = cls.__dataclass_fields__.keys() - {"loss", "optimizer"}  # "loss" is an output's name there
        stored = {key: content[key] for key in own if key in content}
        if not content.get("class_axis_given", True):
            stored["class_axis"] = None
        optimizer = dict(content["optimizer"])
        return cls(loss=content["loss_function"], optimizer=optimizer.pop("name"), **optimizer, **stored)

    def to_json(self) -> dict[str, Any]:
        """Return the choices as stored in the manifest."""
        entries = asdict(self)
        optimizer = {"name": entries.pop("optimizer")}
        optimizer |= {key: entries.pop(key) for key in ("weight_decay", "momentum", "clip_norm")}
        return {"loss_function": entries.pop("loss"), "optimizer": optimizer, **entries}


def _weights(given: tuple[float, ...] | Mapping[str, float] | str) -> tuple[float, ...] | dict[str, float] | str:
    """Check class weights."""
    if isinstance(given, str):
        if given != BALANCED:
            raise UsageError(f"unknown class weights {given!r}: give {BALANCED!r}, or a number for each class.")
        return given
    weights = list(given.values()) if isinstance(given, Mapping) else list(given)
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _MOST:
            raise UsageError(f"class weights must be numbers from 0 to {_MOST:g}, not {weight!r}.")
    if not any(weights):
        raise UsageError("at least one class must have a weight above 0.")
    if isinstance(given, Mapping):
        return {str(name): float(weight) for name, weight in given.items()}
    return tuple(map(float, weights))


def choose_backend(asked: str, choices: Choices, *, channels: bool = False) -> str:
    """Choose the backend that makes and trains artifacts.

    ``auto`` is the portable one, unless a requested feature is only supported by onnxruntime-training.

    Args:
        asked: auto, portable or ort.
        choices: loss, optimizer and form of the training.
        channels: whether only some channels of a layer are to be trained, which only the portable backend supports.

    Raises:
        UsageError: the backend is unknown or does not support a requested feature.
    """
    if asked not in BACKENDS:
        raise UsageError(f"unknown backend {asked!r}: choose one of {', '.join(BACKENDS)}.")
    backend = asked
    if asked == "auto":
        only_ort = choices.lacking("portable") and not choices.lacking("ort", channels=channels)
        backend = "ort" if only_ort else "portable"
    missing = choices.lacking(backend, channels=channels)
    if missing:
        other = "ort" if backend == "portable" else "portable"
        able = not choices.lacking(other, channels=channels)
        hint = f"Use `backend={other!r}`" if able else "No backend supports all requested options"
        raise UsageError(f"{_PACKAGES[backend]} has no {missing[0]}. {hint}, or leave it out.")
    return backend
