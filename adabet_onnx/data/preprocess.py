"""Preprocessing: the arithmetic between stored data and what a model takes in.

    fed = (x * scale - mean) / std          per channel

With ``bgr`` (for networks that take blue, green, red, as OpenCV and Caffe read pictures), the three channels of x
change places first: pictures are read, and arrays expected, as red, green, blue; mean and std are in the order that is
fed.

It travels with scores, selection, manifest and the exported model's metadata (key ``adabet_onnx.preprocessing``)
as JSON with ``scale`` (a number), ``mean`` and ``std`` (lists, one number per channel or one for all), ``data``,
the kind of data it is for: "integer" or "float" (it is never applied to the other kind unasked), and, where it holds,
``bgr`` (true).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import RecordError, UsageError
from ..model.logits_axes import written
from ..model.open import METADATA, Model
from .pictures import picture_input

PRESETS = ("auto", "unit", "imagenet", "none")


@dataclass(frozen=True)
class Preprocessing:
    """fed = (x * scale - mean) / std, per channel; see the module.

    Attributes:
        scale: a number.
        mean: one number, or one per channel.
        std: likewise.
        data: what it is for, ``integer`` (images of 0 to 255) or ``float``.
        bgr: whether pictures are fed as blue, green, red. (`Feeder` sees to it, with what it knows of inputs.)

    Raises:
        UsageError: a number is not finite, or a standard deviation is zero.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    data: str = "integer"
    bgr: bool = False

    def __post_init__(self) -> None:
        numbers = (self.scale, *self.mean, *self.std)
        if not self.mean or not self.std or not all(math.isfinite(number) for number in numbers):
            raise UsageError(f"preprocessing needs finite numbers for scale, mean and std, not {self.to_json()}.")
        if any(number == 0 for number in self.std) or self.scale == 0:
            raise UsageError("preprocessing cannot have a scale of 0 or a standard deviation of 0.")

    @property
    def is_identity(self) -> bool:
        """Whether numbers are fed as they are."""
        return self.scale == 1 and not any(self.mean) and all(number == 1 for number in self.std)

    @property
    def of_pixels(self) -> bool:
        """Whether it takes integers from 0 to 255: it divides by 255."""
        return self.scale == 1 / 255

    def apply(self, array: np.ndarray, channel_axis: int | None) -> np.ndarray:
        """Apply to an array of any number type.

        Args:
            array: the data.
            channel_axis: the axis that ``mean`` and ``std`` belong to; None where data has no channels, which
                allows one number each only.

        Returns:
            float32, same shape.

        Raises:
            UsageError: the number of channels differs from that of mean or std.
        """
        with np.errstate(all="ignore"):  # who feeds the result checks that it is finite
            return self._apply(array.astype(np.float32), channel_axis)

    def _apply(self, fed: np.ndarray, channel_axis: int | None) -> np.ndarray:
        if self.is_identity:
            return fed
        channels = fed.shape[channel_axis] if channel_axis is not None else 1
        for what, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise UsageError(
                    f"preprocessing has {len(values)} numbers for {what}, but the data has {channels} channels."
                )
        shape = [1] * fed.ndim
        if channel_axis is not None:
            shape[channel_axis] = -1
        fed *= np.float32(self.scale)
        fed -= np.asarray(self.mean, np.float32).reshape(shape if len(self.mean) > 1 else [1] * fed.ndim)
        fed /= np.asarray(self.std, np.float32).reshape(shape if len(self.std) > 1 else [1] * fed.ndim)
        return fed

    def to_json(self) -> dict[str, Any]:
        """As it stands in our files."""
        found = {"scale": self.scale, "mean": list(self.mean), "std": list(self.std), "data": self.data}
        return found | {"bgr": True} if self.bgr else found


UNIT = Preprocessing(scale=1 / 255)
IMAGENET = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NONE = Preprocessing()


def preprocessing_from_json(value: Any, where: str) -> Preprocessing:
    """Rebuild from JSON.

    Raises:
        RecordError: it is not of the form the module describes.
    """
    try:
        return Preprocessing(
            float(value["scale"]),
            tuple(float(number) for number in value["mean"]),
            tuple(float(number) for number in value["std"]),
            str(value.get("data", "integer")),
            _flag(value.get("bgr", False)),
        )
    except (TypeError, ValueError, KeyError, UsageError) as error:
        raise RecordError(f"{where}: the preprocessing entry is damaged ({error}). Make it again.") from error


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"'bgr' is {value!r}, neither true nor false")
    return value


def _from_metadata(model: ir.Model, data: str) -> Preprocessing | None:
    """What a model's metadata_props say for this kind of data: ours, or ``mean`` and ``std`` of x / 255 "
    "as JSON lists."""
    props = model.metadata_props
    where = "the model's metadata"
    try:
        if METADATA + "preprocessing" in props:
            ours = preprocessing_from_json(json.loads(props[METADATA + "preprocessing"]), where)
            if ours.data == data:
                return ours
        if data == "integer" and "mean" in props and "std" in props:
            mean, std = json.loads(props["mean"]), json.loads(props["std"])
            return preprocessing_from_json({"scale": 1 / 255, "mean": mean, "std": std}, where)
    except (ValueError, RecordError):
        return None
    return None


def choose(
    model: Model,
    *,
    preset: str = "auto",
    scale: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    bgr: bool | None = None,
    integer_data: bool,
    stored: Preprocessing | None = None,
) -> Preprocessing:
    """The preprocessing to use: the one place that decides, for scoring, training, evaluation and prediction.

    ``auto`` takes, in this order, what was stored earlier for the same kind of data (integers or floats), what the
    model's metadata say, and for float data nothing at all: it is fed as it is.

    Args:
        model: the model, whose metadata ``auto`` reads.
        preset: auto, unit (x / 255), imagenet (x / 255 with the usual mean and deviation) or none (as it is).
        scale: by hand, in place of the preset's; likewise ``mean`` and ``std``.
        mean: per channel, after scaling.
        std: per channel, after scaling.
        bgr: whether pictures are fed as blue, green, red; None: what was stored, else as red, green, blue. The usual
            mean and deviation of ``imagenet`` change places with the channels; those given by hand, stored, or of the
            model's metadata do not.
        integer_data: whether the data are integers (images of 0 to 255).
        stored: from a selection or manifest.

    Raises:
        UsageError: the preset is unknown, ``auto`` finds nothing to go by, or arithmetic is asked for that no input
            takes.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    takes_floats = any(spec.dtype == "float32" for spec in model.inputs)
    data = "integer" if integer_data and takes_floats else "float"
    by_hand = any(value is not None for value in (scale, mean, std))
    if preset == "auto" and by_hand:
        base: Preprocessing | None = NONE
    elif preset == "auto" and stored is not None and stored.data == data:
        base = stored
    elif preset == "auto":
        base = _from_metadata(model.graph, data) or (NONE if data == "float" else None)
    else:
        base = {"unit": UNIT, "imagenet": IMAGENET, "none": NONE}[preset]
    if base is None:
        raise UsageError(
            f"{model.name} does not say how its images are prepared (no mean and std in its metadata). Give "
            "`preset='unit'` (x/255), imagenet or none (as they are), or "
            "`preprocessing=Preprocessing(scale=..., mean=..., std=...)`."
        )
    swapped = base.bgr if bgr is None else bgr
    if swapped and base is IMAGENET:
        base = Preprocessing(base.scale, base.mean[::-1], base.std[::-1])
    used = Preprocessing(
        base.scale if scale is None else scale,
        base.mean if mean is None else mean,
        base.std if std is None else std,
        data,
        swapped,
    )
    check_applicable(model, used)
    return used


def check_applicable(model: Model, preprocessing: Preprocessing) -> None:
    """See that there is an input that arithmetic can be applied to, one of float32; and one that takes colours.

    Raises:
        UsageError: there is none, and the preprocessing does something.
    """
    pictures = [picture_input(model, spec) for spec in model.inputs]
    if preprocessing.bgr and not any(picture is not None and picture.channels == 3 for picture in pictures):
        kinds = ", ".join(f"{spec.name!r} {written(spec.shape)}" for spec in model.inputs)
        raise UsageError(
            f"{model.name} takes no pictures of three channels (input {kinds}), whose colours could change places. "
            "Leave out `bgr`."
        )
    if not preprocessing.is_identity and all(spec.dtype != "float32" for spec in model.inputs):
        kinds = ", ".join(f"{spec.name!r} {spec.dtype}" for spec in model.inputs)
        raise UsageError(
            f"{model.name} takes integers (input {kinds}), to which scale, mean and std cannot be applied: "
            "what arithmetic it needs is in its graph. Leave out `scale`, `mean`, `std` and `preset`, or give "
            "`preset='none'`."
        )
