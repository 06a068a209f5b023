"""Pictures: which inputs take them, and how arrays and files of another size or colour become what an input takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..model.input_axes import channel_axis
from ..model.open import Model, Tensor
from .axes import AmbiguousAxesError
from .reading import Layout

CHANNELS = (1, 3, 4)
COLOURS = {1: "grey", 3: "RGB", 4: "RGBA"}
LEAST_SIDE = 8  # pixels of a grey picture that has no axis of channels
MOST_SCALE = 8.0  # how much a side may be enlarged or shrunk
MOST_DISTORTION = 2.0  # how much more one side than the other
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601, as Pillow's mode L


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
        """Counted with the batch."""
        return 1 if self.channels_first else 3

    @property
    def letters(self) -> str:
        """Of the axes after the batch."""
        return "CHW" if self.channels_first else "HWC"


def image_layout(model: Model) -> ImageLayout | None:
    """The layout of the model's only input where it looks like an image; see `picture_input`."""
    return picture_input(model, model.inputs[0]) if len(model.inputs) == 1 else None


def picture_input(model: Model, spec: Tensor) -> ImageLayout | None:
    """How an input takes pictures: samples of three axes, of numbers, the first or last axis of 1, 3 or 4 channels.

    Where both axes could be, the one that the graph reads as channels is (`channel_axis`), else the first. Inputs of
    bool or of another number of axes take no pictures.
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
    """How samples are pictures.

    Attributes:
        order: of the axes of a sample, such that rows, columns and channels come in this order; a picture without an
            axis of channels has two. Axes of size 1 beyond these are left out.
        size: height and width as stored.
        channels: as stored.
    """

    order: tuple[int, ...]
    size: tuple[int, int]
    channels: int

    @property
    def letters(self) -> str:
        """Of its axes as stored."""
        return "".join("HWC"[self.order.index(axis)] for axis in sorted(self.order))

    def rows_first(self, array: np.ndarray) -> np.ndarray:
        """(N, ...) as (N, H, W, C)."""
        ones = [axis for axis in range(array.ndim - 1) if axis not in self.order]
        moved: np.ndarray = array.transpose(0, *(axis + 1 for axis in (*self.order, *ones)))
        return moved.reshape(len(array), *self.size, self.channels)


def as_picture(have: tuple[int, ...], layout: Layout | None) -> Picture | None:
    """The axes of a sample that is a picture: (H, W), (H, W, C) or (C, H, W), C being 1, 3 or 4; None if it is none.

    Of more than three axes, those of size 1 do not count. A layout's letters H, W and C say which axis is which.

    Raises:
        AmbiguousAxesError: the first and the last axis could be channels.
    """
    if layout is not None:
        if not {"H", "W"} <= set(layout.axes) <= {"C", "H", "W"} or len(layout.axes) != len(have):
            return None
        order = tuple(layout.axes.index(letter) for letter in "HWC" if letter in layout.axes)
    else:
        axes = tuple(axis for axis, extent in enumerate(have) if len(have) <= 3 or extent != 1)
        if len(axes) not in (2, 3):
            return None
        order = axes if len(axes) == 2 else _channels_behind(axes, have)
        if not order:
            return None
    channels = have[order[2]] if len(order) == 3 else 1
    return Picture(order, (have[order[0]], have[order[1]]), channels) if channels in CHANNELS else None


def _channels_behind(axes: tuple[int, ...], have: tuple[int, ...]) -> tuple[int, ...]:
    """Three axes with the one that could be channels, the last or the first, behind the others; none if none could."""
    could_be = [axis for axis in (axes[2], axes[0]) if have[axis] in CHANNELS]
    if len(could_be) == 2:
        raise AmbiguousAxesError
    return (*(axis for axis in axes if axis not in could_be), *could_be) if could_be else ()


def resizing_doubt(picture: Picture, layout: ImageLayout, dtype: np.dtype) -> str | None:
    """Why an array is hardly meant to be resized to the size of an input; None if it may be without being asked.

    It may be if all of this holds; anything else takes ``allow_resize``:

    * its numbers are uint8, as only pixels are: floats and wider integers may be measurements;
    * it has an axis of 1, 3 or 4 channels, or is a grey picture of at least 8 x 8;
    * neither side is enlarged or shrunk more than 8 times, or more than twice as much as the other.

    Files of images are not asked about: they are of any size, and always resized.
    """
    factors = scales(picture.size, layout.size)
    if dtype != np.uint8:
        return f"{dtype} may be measurements, not pixels"
    if len(picture.order) == 2 and min(picture.size) < LEAST_SIDE:
        return f"grey pictures have at least {LEAST_SIDE} x {LEAST_SIDE} pixels"
    if max(*factors, *(1 / factor for factor in factors)) > MOST_SCALE:
        return f"that is more than {MOST_SCALE:.0f} times"
    if max(factors) / min(factors) > MOST_DISTORTION:
        return f"one side would change more than {MOST_DISTORTION:.0f} times as much as the other"
    return None


def scales(have: tuple[int, int], want: tuple[int, int]) -> tuple[float, float]:
    """How much height and width are enlarged."""
    return want[0] / have[0], want[1] / have[1]


def recolour_step(found: int, wanted: int) -> str | None:
    """What happens to the channels, in words: ``""`` if nothing does, None if they cannot be what is wanted."""
    steps = {(1, 3): "channels repeated", (4, 3): "transparency dropped", (3, 1): "made grey", (4, 1): "made grey"}
    return "" if found == wanted else steps.get((found, wanted))


def recoloured(images: np.ndarray, channels: int) -> np.ndarray:
    """(N, H, W, C) with the channels wanted, as `recolour_step` says."""
    found = images.shape[3]
    if found == channels:
        return images
    if found == 1:
        return np.repeat(images, channels, axis=3)
    if channels == 3:
        return images[..., :3]
    grey = images[..., :3].astype(np.float32) @ LUMA
    whole = images.dtype.kind in "iu"
    return (np.rint(grey).astype(images.dtype) if whole else grey)[..., np.newaxis]


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W, C) at another size, bilinear; integers stay what they are, rounded."""
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
