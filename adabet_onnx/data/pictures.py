"""Images: which inputs take them, and how images of another size or colour are converted for an input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..model.input_axes import channel_axis
from ..model.open import Model, Tensor
from .axes import AmbiguousAxesError
from .reading import AxisLayout

CHANNELS = (1, 3, 4)
COLOURS = {1: "grey", 3: "RGB", 4: "RGBA"}
LEAST_SIDE = 8  # minimum side, in pixels, of a grey image without a channel axis
MOST_SCALE = 8.0  # maximum factor by which a side may be enlarged or shrunk
MOST_DISTORTION = 2.0  # maximum ratio of the two sides' factors
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in Pillow's mode L


@dataclass(frozen=True)
class ImageLayout:
    """How a model takes in images.

    Attributes:
        size: height and width in pixels.
        channels: 1, 3 or 4.
        channels_first: NCHW, else NHWC.
    """

    size: tuple[int, int]
    channels: int
    channels_first: bool

    @property
    def channel_axis(self) -> int:
        """The channel axis, counting the batch axis."""
        return 1 if self.channels_first else 3

    @property
    def letters(self) -> str:
        """Letters of the axes after the batch."""
        return "CHW" if self.channels_first else "HWC"


def image_layout(model: Model) -> ImageLayout | None:
    """The image layout of the model's only input, if it looks like an image; see `picture_input`."""
    return picture_input(model, model.inputs[0]) if len(model.inputs) == 1 else None


def picture_input(model: Model, spec: Tensor) -> ImageLayout | None:
    """The image layout of an input, if its samples stored three axes and the first or last has 1, 3 or 4 channels.

    If both could be the channel axis, it is the one that the graph reads as channels (`channel_axis`), else the first.
    Inputs of bool or with another number of axes do not take images.
    """
    if len(spec.shape) != 4 or spec.dtype == "bool":
        return None
    extents = [int(extent) for extent in spec.shape[1:]]
    could_be = [axis for axis in (1, 3) if extents[axis - 1] in CHANNELS]
    if not could_be:
        return None
    axis = channel_axis(model.graph, spec.name) if len(could_be) > 1 else None
    if axis not in could_be:
        axis = could_be[0]
    size = (extents[1], extents[2]) if axis == 1 else (extents[0], extents[1])
    return ImageLayout(size, extents[axis - 1], axis == 1)


@dataclass(frozen=True)
class Picture:
    """How samples are interpreted as images.

    Attributes:
        order: the axes of a sample that hold rows, columns and channels, in this order; an image without a channel axis
            has two. Additional axes of size 1 are left out.
        size: height and width as stored.
        channels: number of channels as stored.
    """

    order: tuple[int, ...]
    size: tuple[int, int]
    channels: int

    @property
    def letters(self) -> str:
        """Letters of its axes as stored."""
        return "".join("HWC"[self.order.index(axis)] for axis in sorted(self.order))

    def rows_first(self, array: np.ndarray) -> np.ndarray:
        """Rearrange (N, ...) to (N, H, W, C)."""
        ones = [axis for axis in range(array.ndim - 1) if axis not in self.order]
        moved: np.ndarray = array.transpose(0, *(axis + 1 for axis in (*self.order, *ones)))
        return moved.reshape(len(array), *self.size, self.channels)


def as_picture(stored: tuple[int, ...], layout: AxisLayout | None) -> Picture | None:
    """Interpret the axes of a sample as an image: (H, W), (H, W, C) or (C, H, W), C = 1, 3 or 4; None if impossible.

    If there are more than three axes, those of size 1 are ignored. A layout's letters H, W and C assign the axes.

    Raises:
        AmbiguousAxesError: both the first and the last axis could be channels.
    """
    if layout is not None:
        if not {"H", "W"} <= set(layout.axes) <= {"C", "H", "W"} or len(layout.axes) != len(stored):
            return None
        order = tuple(layout.axes.index(letter) for letter in "HWC" if letter in layout.axes)
    else:
        axes = tuple(axis for axis, extent in enumerate(stored) if len(stored) <= 3 or extent != 1)
        if len(axes) not in (2, 3):
            return None
        order = axes if len(axes) == 2 else _channels_last(axes, stored)
        if not order:
            return None
    channels = stored[order[2]] if len(order) == 3 else 1
    return Picture(order, (stored[order[0]], stored[order[1]]), channels) if channels in CHANNELS else None


def _channels_last(axes: tuple[int, ...], stored: tuple[int, ...]) -> tuple[int, ...]:
    """Three axes with the one that could be channels (the last or the first) moved last; empty if neither could be."""
    could_be = [axis for axis in (axes[2], axes[0]) if stored[axis] in CHANNELS]
    if len(could_be) == 2:
        raise AmbiguousAxesError
    return (*(axis for axis in axes if axis not in could_be), *could_be) if could_be else ()


def resizing_doubt(picture: Picture, layout: ImageLayout, dtype: np.dtype) -> str | None:
    """Why resizing an array to the size of an input is probably not intended; None if it needs no confirmation.

    It needs none if all of the following hold; anything else requires ``allow_resize``:

    * its numbers are uint8, which is typical of pixels: floats and wider integers may be measurements;
    * it has an axis of 1, 3 or 4 channels, or is a grey image of at least 8 x 8;
    * neither side is enlarged or shrunk more than 8 times, or more than twice as much as the other.

    Image files never need confirmation: they may have any size and are always resized.
    """
    factors = scales(picture.size, layout.size)
    if dtype != np.uint8:
        return f"{dtype} may be measurements, not pixels"
    if len(picture.order) == 2 and min(picture.size) < LEAST_SIDE:
        return f"grey images have at least {LEAST_SIDE} x {LEAST_SIDE} pixels"
    if max(*factors, *(1 / factor for factor in factors)) > MOST_SCALE:
        return f"that is more than {MOST_SCALE:.0f} times"
    if max(factors) / min(factors) > MOST_DISTORTION:
        return f"one side would change more than {MOST_DISTORTION:.0f} times as much as the other"
    return None


def scales(stored: tuple[int, int], target: tuple[int, int]) -> tuple[float, float]:
    """The factors by which height and width are enlarged."""
    return target[0] / stored[0], target[1] / stored[1]


def recolour_step(stored: int, target: int) -> str | None:
    """Describe how the number of channels is changed: ``""`` if it is not, None if the change is impossible."""
    steps = {(1, 3): "channels repeated", (4, 3): "transparency dropped", (3, 1): "made grey", (4, 1): "made grey"}
    return "" if stored == target else steps.get((stored, target))


def recoloured(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert (N, H, W, C) to the target number of channels, as `recolour_step` describes."""
    stored = images.shape[3]
    if stored == channels:
        return images
    if stored == 1:
        return np.repeat(images, channels, axis=3)
    if channels == 3:
        return images[..., :3]
    grey = images[..., :3].astype(np.float32) @ LUMA
    whole = images.dtype.kind in "iu"
    return (np.rint(grey).astype(images.dtype) if whole else grey)[..., np.newaxis]


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (N, H, W, C) bilinearly; integers keep their type and are rounded."""
    if images.shape[1:3] == size:
        return images
    mode = np.uint8 if images.dtype == np.uint8 else np.float32
    height, width = size
    result = np.empty((len(images), height, width, images.shape[3]), mode)
    for sample, image in enumerate(images.astype(mode, copy=False)):
        for channel in range(images.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            result[sample, ..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    if mode == np.float32 and images.dtype.kind in "iu":
        return np.rint(result).astype(images.dtype)
    return result
