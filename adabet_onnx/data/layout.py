"""What the samples of data are taken for: the axes, and for pictures colour and size, that an input gets them in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError, UsageError
from ..model.input_axes import channel_axis
from ..model.open import Model, Tensor
from .axes import AmbiguousAxesError, Axes, decide_axes
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
from .reading import Layout


@dataclass(frozen=True)
class Entrance:
    """An input of a model, and what is known of its axes.

    Attributes:
        spec: name, dtype and shape.
        channels: the axis of channels, counted with the batch, or None.
        picture: how it takes pictures, or None.
        model: what messages call the model.
    """

    spec: Tensor
    channels: int | None
    picture: ImageLayout | None
    model: str

    @property
    def want(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return tuple(int(extent) for extent in self.spec.shape[1:])


def entrance(model: Model, spec: Tensor) -> Entrance:
    """An input, with what the graph tells of its axes."""
    picture = picture_input(model, spec)
    channels = channel_axis(model.graph, spec.name) if picture is None else picture.channel_axis
    return Entrance(spec, channels, picture, model.name)


@dataclass(frozen=True)
class Fit:
    """How samples become what an input takes; either their axes suffice, or they are pictures.

    Attributes:
        form: of the samples.
        entrance: the input.
        axes: how axes are laid out, where nothing else is needed.
        picture: how samples are pictures of another size or colour.
        layout: what the user said of them, in letters, or None.
    """

    form: Form
    entrance: Entrance
    axes: Axes | None = None
    picture: Picture | None = None
    layout: str | None = None

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Samples (N, ...) as the input takes them, numbers unscaled."""
        if self.axes is not None:
            return self.axes.apply(array)
        picture, target = self.picture, self.entrance.picture
        assert picture is not None
        assert target is not None
        images = resized(recoloured(picture.rows_first(array), target.channels), target.size)
        return np.moveaxis(images, 3, 1) if target.channels_first else images


def decide(form: Form, into: Entrance, layout: Layout | None, allow_resize: bool, where: str) -> Fit:
    """The one place that decides what the samples of an array are taken for.

    Their axes are laid out anew if that suffices (`decide_axes`). Otherwise, where the input takes pictures and the
    samples are some (`as_picture`), their colour and size are changed; size only where nothing speaks against it
    (`resizing_doubt`) or it is allowed. Pixels that would fit both with rows for columns and resized are asked about.

    Args:
        form: of the samples.
        into: the input.
        layout: what the user says of them.
        allow_resize: whether they may be resized where that is hardly meant.
        where: what messages call the data.

    Raises:
        DataError: they do not fit the input, or several ways of laying them out do; the message says what to do.
        UsageError: the layout does not fit the data or the input.
    """
    have, want, target = form.shape, into.want, into.picture
    if 0 in have:
        raise DataError(f"{where}: samples of shape {have} for input {into.spec.name!r} are empty.")
    if layout is not None and target is not None and layout.model is None and set(layout.letters) <= set("CHW"):
        layout = replace(layout, model=tuple(target.letters)) if layout.flattened else layout
    told = None if layout is None else str(layout)
    if form.files and target is not None:
        layout = Layout(("H", "W", "C"), tuple(target.letters))
    try:
        channels = None if into.channels is None else into.channels - 1
        axes = decide_axes(have, want, layout, channels)
        if axes is not None and (layout is not None or not axes.moved):
            return Fit(form, into, axes=axes, layout=told)
        picture = None if target is None else as_picture(have, layout)
    except AmbiguousAxesError:
        raise _ambiguous(form, into, layout, where) from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if axes is not None and _transposed_picture(form, into, picture):
        raise _ambiguous(form, into, layout, where)
    if axes is not None:
        return Fit(form, into, axes=axes)
    if target is None or picture is None:
        raise _misfit(form, into, layout, where)
    if recolour_step(picture.channels, target.channels) is None:
        raise DataError(
            f"{where}: images have {picture.channels} channels, but {into.model} takes {target.channels} (a sample has "
            f"shape {have}, input {into.spec.name!r} takes {want}). Give images of {target.channels} channels; if the "
            "shape is no image's, give its axes: `Data(..., layout=...)`."
        )
    doubt = resizing_doubt(picture, target, form.dtype)
    if picture.size != target.size and doubt is not None and not allow_resize:
        raise _hardly_meant(form, into, picture, doubt, where)
    return Fit(form, into, picture=picture, layout=told)


def _transposed_picture(form: Form, into: Entrance, picture: Picture | None) -> bool:
    """Whether samples whose axes fit when moved may as well be pictures that lie where the input's stand."""
    target = into.picture
    if target is None or picture is None or target.size[0] == target.size[1]:
        return False
    return picture.size == target.size[::-1] and resizing_doubt(picture, target, form.dtype) is None


def _ambiguous(form: Form, into: Entrance, layout: Layout | None, where: str) -> DataError:
    said = f"{where}: a sample has shape {form.shape}, input {into.spec.name!r} of {into.model} takes {into.want}, and "
    if layout is not None:
        return DataError(
            f"{said}layout {layout} leaves open how: say after a colon what the model takes, such as `Data(..., "
            f"layout={f'{layout.data}:{_example(into.want, into.channels)}'!r})`."
        )
    return DataError(
        f"{said}its axes fit in several ways: say which is which, with a letter for each axis of the data, such as "
        f"`Data(..., layout={_letters(form.shape)!r})`."
    )


def _misfit(form: Form, into: Entrance, layout: Layout | None, where: str) -> DataError:
    have, want = form.shape, into.want
    said = f"{where}: a sample for input {into.spec.name!r} has shape {have}, but {into.model} takes {want}. "
    if layout is not None:
        known = "" if into.channels is None else f" (it reads axis {into.channels} as channels)"
        return DataError(
            f"{said}Layout {layout} does not lead from one to the other{known}: correct it, or say after a colon what "
            f"the model takes, such as `Data(..., layout={f'{layout.data}:{_example(want, into.channels)}'!r})`."
        )
    if int(np.prod(have)) == int(np.prod(want)) and len(have) != len(want) and 1 in (len(have), len(want)):
        return DataError(
            f"{said}It is not reshaped unasked: say how its axes are flattened, such as {_flattened(form, into)}, the "
            "last letter running fastest."
        )
    return DataError(
        f"{said}Give data of that shape. (Its axes may come in another order, which a layout can name, such as "
        f"`Data(..., layout={_letters(have)!r})`.)"
    )


def _flattened(form: Form, into: Entrance) -> str:
    """Layouts that flatten, or take apart, in one order or another."""
    have, want = form.shape, into.want
    if len(have) > len(want):
        letters = _letters(have)[1:]
        return f"`Data(..., layout='N{letters}:N({letters})')`"
    if into.picture is not None and len(have) == 1:
        colours = "`Data(..., layout='N(HWC)')` or `Data(..., layout='N(CHW)')`"
        return "`Data(..., layout='N(HW)')`" if into.picture.channels == 1 else colours
    letters = _example(want, into.channels)[1:]
    return f"`Data(..., layout='N({letters}):N{letters}')`"


def _hardly_meant(form: Form, into: Entrance, picture: Picture, doubt: str, where: str) -> DataError:
    (height, width), target = picture.size, into.picture
    assert target is not None
    factors = scales(picture.size, target.size)
    kind = {1: "grey", 3: "RGB", 4: "RGBA"}[picture.channels]
    return DataError(
        f"{where}: samples of shape {form.shape} ({form.dtype}) would be {kind} images of {height} x {width}, to be "
        f"resized to {target.size[0]} x {target.size[1]} (height {factors[0]:.2g}x, width {factors[1]:.2g}x) for input "
        f"{into.spec.name!r} {into.want}, which is hardly meant: {doubt}. Give data of that shape; or name its axes, "
        f"such as `Data(..., layout={_letters(form.shape)!r})`; or `Data(..., allow_resize=True)` if they are."
    )


def _example(want: tuple[int, ...], channels: int | None) -> str:
    """Letters that an input may have."""
    names = {0: "", 1: "T", 2: "HW", 3: "DHW"}.get(len(want) - 1, "ABDEFGHIJKLM"[: len(want) - 1])
    at = 0 if channels is None else channels - 1
    return "N" + names[:at] + "C" + names[at:]


def _letters(have: tuple[int, ...]) -> str:
    """Letters that data of so many axes may have."""
    return {1: "NC", 2: "NTC", 3: "NHWC", 4: "NTHWC"}.get(len(have), "NABDEFGHIJKLM"[: len(have) + 1])
