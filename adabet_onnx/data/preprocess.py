"""Preprocessing: the arithmetic between stored data and the input of a model.

    fed = (x * scale - mean) / std          per channel

With ``bgr`` (for networks that take blue, green, red, the channel order of OpenCV and Caffe), the three channels of x
are reversed first: images are read, and arrays expected, as red, green, blue; mean and std are in the order that is
fed.

It is stored with scores, selection, manifest and the exported model's metadata (key ``adabet_onnx.preprocessing``)
as JSON with ``scale`` (a number), ``mean`` and ``std`` (lists, one number per channel or one for all), ``data``
(the kind of data it applies to: "integer" or "float"; it is not applied to the other kind automatically) and, if set,
``bgr`` (true).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import RecordError, UsageError
from ..model.logits_axes import shape_text
from ..model.metadata import METADATA
from ..model.open import Model
from ..options import check_fields
from ..showing import changed, clipped, one_line
from ..vocabulary import PRESETS
from .pictures import picture_input


@dataclass(frozen=True)
class Arithmetic:
    """fed = (x * scale - mean) / std, per channel; see the module. `Preprocessing` resolved for a model and data.

    Attributes:
        scale: a number.
        mean: one number, or one per channel.
        std: likewise.
        data: the kind of data it applies to, ``integer`` (images of 0 to 255) or ``float``.
        bgr: whether images are fed as blue, green, red. (`Feeder` reverses the channels, since it knows the inputs.)

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

    def __repr__(self) -> str:
        scale = "1/255" if self.of_pixels else f"{self.scale:.6g}"
        return one_line(
            self,
            f"scale={scale}",
            *(f"{what}=({_few(values)})" for what, values in (("mean", self.mean), ("std", self.std))),
            f"data={clipped(self.data)!r}",
            "bgr=True" if self.bgr else None,
        )

    @property
    def is_identity(self) -> bool:
        """Whether numbers are fed unchanged."""
        return self.scale == 1 and not any(self.mean) and all(number == 1 for number in self.std)

    @property
    def of_pixels(self) -> bool:
        """Whether it expects integers from 0 to 255, that is, divides by 255."""
        return self.scale == 1 / 255

    def apply(self, array: np.ndarray, channel_axis: int | None) -> np.ndarray:
        """Apply to an array of any numeric type.

        Args:
            array: the data.
            channel_axis: the axis that ``mean`` and ``std`` refer to; None if the data has no channels, in which case
                each must be a single number.

        Returns:
            float32, same shape.

        Raises:
            UsageError: the number of channels differs from that of mean or std.
        """
        with np.errstate(all="ignore"):  # the caller checks that the result is finite
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
        """The JSON form used in our files."""
        entry = {"scale": self.scale, "mean": list(self.mean), "std": list(self.std), "data": self.data}
        return entry | {"bgr": True} if self.bgr else entry


def _few(values: Sequence[float]) -> str:
    """Numbers separated by commas, at most the first four."""
    first = ", ".join(f"{value:.4g}" for value in values[:4])
    return f"{first}, … {len(values) - 4} more" if len(values) > 4 else first


UNIT = Arithmetic(scale=1 / 255)
IMAGENET = Arithmetic(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NONE = Arithmetic()


def preprocessing_from_json(value: Any, where: str) -> Arithmetic:
    """Rebuild from JSON.

    Raises:
        RecordError: the value does not have the form that the module describes.
    """
    try:
        return Arithmetic(
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


def _from_metadata(model: ir.Model, data: str) -> Arithmetic | None:
    """Preprocessing from a model's metadata_props for this kind of data.

    Either our own entry, or ``mean`` and ``std`` of x / 255 as JSON lists.
    """
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


def stored_in(model: ir.Model) -> Arithmetic | None:
    """Preprocessing from a model's metadata, for integers or else for floats; None if there is none."""
    return _from_metadata(model, "integer") or _from_metadata(model, "float")


@dataclass(frozen=True)
class Preprocessing:
    """How stored data is converted to model input: fed = (x * scale - mean) / std.

    Values that are not given follow from the preset; `Preprocessing()` is the default of all functions. If a number is
    given and the preset is ``auto``, the others default to scale 1, mean 0 and std 1; for integers of 0 to 255, a mean
    and a std of at most 1 then need a scale or a preset, because they usually belong to x / 255.

    Attributes:
        preset: ``auto``, ``unit`` (x / 255), ``imagenet`` (x / 255 with the usual mean and standard deviation) or
            ``none`` (unchanged). ``auto`` uses, in this order, the preprocessing stored earlier for the same kind of
            data (integers or floats), that in the model's metadata, and for float data none: it is fed unchanged.
        scale: a number.
        mean: one number, or one per channel, after scaling.
        std: likewise.
        bgr: whether images are fed as blue, green, red; None: as stored earlier, else as red, green, blue. The usual
            mean and standard deviation of ``imagenet`` are reversed along with the channels; values that are given,
            stored, or in the model's metadata are not.

    Raises:
        UsageError: the preset is unknown, a number is not finite, or scale or a standard deviation is zero.

    Example:
        >>> from adabet_onnx import Preprocessing
        >>> Preprocessing(scale=1 / 255, mean=0.5, std=0.25).mean
        (0.5,)
    """

    preset: str = "auto"
    scale: float | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    bgr: bool | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"unknown preset {self.preset!r}: choose one of {', '.join(PRESETS)}.")
        check_fields(self)
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        self._override(NONE, "integer", False)

    def resolve(self, model: Model, *, integer_data: bool, stored: Arithmetic | None = None) -> Arithmetic:
        """Decide the arithmetic for a model and a kind of data. No other code decides this.

        Args:
            model: the model, whose metadata ``auto`` reads.
            integer_data: whether the data are integers (images of 0 to 255).
            stored: the arithmetic stored in a selection or manifest.

        Raises:
            UsageError: ``auto`` finds no information, mean and std may belong to another scale, or no input can take
                the requested arithmetic.
        """
        takes_floats = any(spec.dtype == "float32" for spec in model.inputs)
        data = "integer" if integer_data and takes_floats else "float"
        if data == "integer":
            self._check_scale()
        base = self._base(model, data, stored)
        if base is None:
            raise UsageError(
                f"{model.name} does not specify how its images are preprocessed (no mean and std in its metadata). "
                "Give `preset='unit'` (x/255), imagenet or none (unchanged), or "
                "`preprocessing=Preprocessing(scale=..., mean=..., std=...)`."
            )
        swapped = base.bgr if self.bgr is None else self.bgr
        if swapped and base is IMAGENET:
            base = Arithmetic(base.scale, base.mean[::-1], base.std[::-1])
        used = self._override(base, data, swapped)
        check_applicable(model, used)
        return used

    def _check_scale(self) -> None:
        """Reject a mean and a std of images between 0 and 1 if they would apply to values of 0 to 255."""
        mean, std = _numbers("mean", self.mean) or (0.0,), _numbers("std", self.std) or (1.0,)
        changes = any(mean) or any(number != 1 for number in std)
        if self.preset != "auto" or self.scale is not None or not changes:
            return
        if max(map(abs, (*mean, *std))) <= 1:
            raise UsageError(
                "a mean and a standard deviation of at most 1 usually belong to images between 0 and 1, but these "
                "images have values of 0 to 255. Give `preset='unit'` too (mean and std then apply to x/255), or "
                "`scale=1` if they apply to x."
            )

    def _base(self, model: Model, data: str, stored: Arithmetic | None) -> Arithmetic | None:
        if self.preset != "auto":
            return {"unit": UNIT, "imagenet": IMAGENET, "none": NONE}[self.preset]
        if any(value is not None for value in (self.scale, self.mean, self.std)):
            return NONE
        if stored is not None and stored.data == data:
            return stored
        return _from_metadata(model.graph, data) or (NONE if data == "float" else None)

    def _override(self, base: Arithmetic, data: str, swapped: bool) -> Arithmetic:
        """A base with the given values in place of its own."""
        return Arithmetic(
            base.scale if self.scale is None else float(self.scale),
            base.mean if self.mean is None else _numbers("mean", self.mean) or (),
            base.std if self.std is None else _numbers("std", self.std) or (),
            data,
            swapped,
        )


def _numbers(name: str, value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return (float(value),) if isinstance(value, int | float) else tuple(float(number) for number in value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} must be a number, or a number per channel, not {value!r}.") from error


def arithmetic_for(
    model: Model,
    integer_data: bool,
    requested: Preprocessing | Arithmetic | None,
    *,
    preset: str = "auto",
    stored: Arithmetic | None = None,
) -> Arithmetic:
    """Resolve the arithmetic from the parameters of a function.

    Args:
        model: the model.
        integer_data: whether the data are integers.
        requested: the caller's preprocessing; an `Arithmetic` is returned unchanged.
        preset: replaces the preset of ``requested``, unless ``auto``.
        stored: the arithmetic stored in a selection or manifest.

    Raises:
        UsageError: see `Preprocessing.resolve`.
    """
    if isinstance(requested, Arithmetic):
        return requested
    requested = requested or Preprocessing()
    if preset != "auto":
        requested = replace(requested, preset=preset)
    return requested.resolve(model, integer_data=integer_data, stored=stored)


def check_applicable(model: Model, preprocessing: Arithmetic) -> None:
    """Check that there is a float32 input the arithmetic can be applied to and, for ``bgr``, one that takes colours.

    Raises:
        UsageError: there is no such input, and the preprocessing needs one.
    """
    pictures = [picture_input(model, spec) for spec in model.inputs]
    if preprocessing.bgr and not any(picture is not None and picture.channels == 3 for picture in pictures):
        kinds = ", ".join(f"{spec.name!r} {shape_text(spec.shape)}" for spec in model.inputs)
        raise UsageError(
            f"{model.name} takes no images of three channels (input {kinds}), so there are no colours to swap. Leave "
            "out `bgr`."
        )
    if not preprocessing.is_identity and all(spec.dtype != "float32" for spec in model.inputs):
        kinds = ", ".join(f"{spec.name!r} {spec.dtype}" for spec in model.inputs)
        raise UsageError(
            f"{model.name} takes integers (input {kinds}), to which scale, mean and std cannot be applied: what "
            "arithmetic it needs is in its graph. Leave out `scale`, `mean`, `std` and `preset`, or give "
            "`preset='none'`."
        )
