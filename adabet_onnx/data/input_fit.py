"""Decide how samples are interpreted for an input: the order of axes and, for images, colours and size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError, UsageError
from ..model.input_axes import channel_axis
from ..model.open import Model, Tensor
from .axes import AmbiguousAxesError, AxisMapping, decide_axes
from .dataset import Form
from .pictures import (
    ImageLayout,
    Picture,
    as_picture,
    picture_input,
    recolour_step,
    recoloured,
    resized,
    resizing_doubt,
    scales,
)
from .reading import AxisLayout


@dataclass(frozen=True)
class ModelInput:
    """An input of a model and what is known about its axes.

    Attributes:
        spec: name, dtype and shape.
        channels: the channel axis, counting the batch axis, or None.
        picture: the image layout of the input, or None.
        model: the name of the model in messages.
    """

    spec: Tensor
    channels: int | None
    picture: ImageLayout | None
    model: str

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return tuple(int(extent) for extent in self.spec.shape[1:])


def model_input(model: Model, spec: Tensor) -> ModelInput:
    """Describe an input, including what the graph reveals about its axes."""
    picture = picture_input(model, spec)
    channels = channel_axis(model.graph, spec.name) if picture is None else picture.channel_axis
    return ModelInput(spec, channels, picture, model.name)


@dataclass(frozen=True)
class InputFit:
    """How samples are converted for an input, either by rearranging axes or as images.

    Attributes:
        form: form of the samples.
        model_input: the input.
        axes: how axes are rearranged, if nothing else is needed.
        picture: how samples are interpreted as images of another size or colour.
        layout: the layout given by the user in letters, or None.
    """

    form: Form
    model_input: ModelInput
    axes: AxisMapping | None = None
    picture: Picture | None = None
    layout: str | None = None

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Convert samples (N, ...) to the shape that the input takes, unscaled."""
        if self.axes is not None:
            return self.axes.apply(array)
        picture, target = self.picture, self.model_input.picture
        assert picture is not None
        assert target is not None
        images = resized(recoloured(picture.rows_first(array), target.channels), target.size)
        return np.moveaxis(images, 3, 1) if target.channels_first else images


def decide(form: Form, into: ModelInput, layout: AxisLayout | None, allow_resize: bool, where: str) -> InputFit:
    """Decide how the samples of an array are interpreted for an input. No other code decides this.

    Their axes are rearranged if that is sufficient (`decide_axes`). Otherwise, if the input takes images and the
    samples are images (`as_picture`), their colours and size are changed; the size only if there is no doubt about it
    (`resizing_doubt`) or it is allowed. Images that fit both transposed and resized are rejected as ambiguous.

    Args:
        form: form of the samples.
        into: the input.
        layout: the layout given by the user.
        allow_resize: whether samples may be resized even where that is unlikely to be intended.
        where: the name of the data in messages.

    Raises:
        DataError: the samples do not fit the input, or fit it in several ways; the message says what to do.
        UsageError: the layout does not fit the data or the input.
    """
    stored, target_shape, target = form.shape, into.target_shape, into.picture
    if 0 in stored:
        raise DataError(f"{where}: samples of shape {stored} for input {into.spec.name!r} are empty.")
    if layout is not None and target is not None and layout.model is None and set(layout.letters) <= set("CHW"):
        layout = replace(layout, model=tuple(target.letters)) if layout.flattened else layout
    given = None if layout is None else str(layout)
    if form.files and target is not None:
        layout = AxisLayout(("H", "W", "C"), tuple(target.letters))
    try:
        channels = None if into.channels is None else into.channels - 1
        axes = decide_axes(stored, target_shape, layout, channels)
        if axes is not None and (layout is not None or not axes.moved):
            return InputFit(form, into, axes=axes, layout=given)
        picture = None if target is None else as_picture(stored, layout)
    except AmbiguousAxesError:
        raise _ambiguous(form, into, layout, where) from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if axes is not None and _transposed_picture(form, into, picture):
        raise _ambiguous(form, into, layout, where)
    if axes is not None:
        return InputFit(form, into, axes=axes)
    if target is None or picture is None:
        raise _misfit(form, into, layout, where)
    if recolour_step(picture.channels, target.channels) is None:
        raise DataError(
            f"{where}: images have {picture.channels} channels, but {into.model} takes {target.channels} (a sample has "
            f"shape {stored}, input {into.spec.name!r} takes {target_shape}). Give images of {target.channels} "
            "channels; if this is not the shape of an image, name its axes: `Data(..., layout=...)`."
        )
    doubt = resizing_doubt(picture, target, form.dtype)
    if picture.size != target.size and doubt is not None and not allow_resize:
        raise _doubtful_resize(form, into, picture, doubt, where)
    return InputFit(form, into, picture=picture, layout=given)


def _transposed_picture(form: Form, into: ModelInput, picture: Picture | None) -> bool:
    """Whether samples whose axes fit when moved may also be images with height and width swapped."""
    target = into.picture
    if target is None or picture is None or target.size[0] == target.size[1]:
        return False
    return picture.size == target.size[::-1] and resizing_doubt(picture, target, form.dtype) is None


def _ambiguous(form: Form, into: ModelInput, layout: AxisLayout | None, where: str) -> DataError:
    start = (
        f"{where}: a sample has shape {form.shape}, input {into.spec.name!r} of {into.model} takes "
        f"{into.target_shape}, and "
    )
    if layout is not None:
        return DataError(
            f"{start}layout {layout} fits in several ways: give the model's layout after a colon, such as `Data(..., "
            f"layout={f'{layout.data}:{_example(into.target_shape, into.channels)}'!r})`."
        )
    return DataError(
        f"{start}its axes fit in several ways: give a layout with a letter for each axis of the data, such as "
        f"`Data(..., layout={_letters(form.shape)!r})`."
    )


def _misfit(form: Form, into: ModelInput, layout: AxisLayout | None, where: str) -> DataError:
    stored, target_shape = form.shape, into.target_shape
    start = (
        f"{where}: a sample for input {into.spec.name!r} has shape {stored}, but {into.model} takes {target_shape}. "
    )
    if layout is not None:
        known = "" if into.channels is None else f" (it reads axis {into.channels} as channels)"
        return DataError(
            f"{start}Layout {layout} does not convert one to the other{known}: correct it, or give the model's layout "
            f"after a colon, such as `Data(..., layout={f'{layout.data}:{_example(target_shape, into.channels)}'!r})`."
        )
    if (
        int(np.prod(stored)) == int(np.prod(target_shape))
        and len(stored) != len(target_shape)
        and 1 in (len(stored), len(target_shape))
    ):
        return DataError(
            f"{start}It is not reshaped automatically: give a layout that says how its axes are flattened, such as "
            f"{_flattened(form, into)}; the last letter varies fastest."
        )
    return DataError(
        f"{start}Give data of that shape. (If its axes are in another order, name them with a layout, such as "
        f"`Data(..., layout={_letters(stored)!r})`.)"
    )


def _flattened(form: Form, into: ModelInput) -> str:
    """Example layouts that flatten or split axes."""
    stored, target_shape = form.shape, into.target_shape
    if len(stored) > len(target_shape):
        letters = _letters(stored)[1:]
        return f"`Data(..., layout='N{letters}:N({letters})')`"
    if into.picture is not None and len(stored) == 1:
        colours = "`Data(..., layout='N(HWC)')` or `Data(..., layout='N(CHW)')`"
        return "`Data(..., layout='N(HW)')`" if into.picture.channels == 1 else colours
    letters = _example(target_shape, into.channels)[1:]
    return f"`Data(..., layout='N({letters}):N{letters}')`"


def _doubtful_resize(form: Form, into: ModelInput, picture: Picture, doubt: str, where: str) -> DataError:
    (height, width), target = picture.size, into.picture
    assert target is not None
    factors = scales(picture.size, target.size)
    kind = {1: "grey", 3: "RGB", 4: "RGBA"}[picture.channels]
    return DataError(
        f"{where}: samples of shape {form.shape} ({form.dtype}) would be {kind} images of {height} x {width}, to be "
        f"resized to {target.size[0]} x {target.size[1]} (height {factors[0]:.2g}x, width {factors[1]:.2g}x) for input "
        f"{into.spec.name!r} {into.target_shape}, which is probably not intended: {doubt}. Give data of that shape; or "
        f"name its axes, such as `Data(..., layout={_letters(form.shape)!r})`; or, if it is intended, give `Data(..., "
        "allow_resize=True)`."
    )


def _example(target_shape: tuple[int, ...], channels: int | None) -> str:
    """Example letters for the axes of an input."""
    names = {0: "", 1: "T", 2: "HW", 3: "DHW"}.get(len(target_shape) - 1, "ABDEFGHIJKLM"[: len(target_shape) - 1])
    at = 0 if channels is None else channels - 1
    return "N" + names[:at] + "C" + names[at:]


def _letters(stored: tuple[int, ...]) -> str:
    """Example letters for data with this number of axes."""
    return {1: "NC", 2: "NTC", 3: "NHWC", 4: "NTHWC"}.get(len(stored), "NABDEFGHIJKLM"[: len(stored) + 1])
