"""Augmented views of images: the same sample flipped, cropped, or with changed colours.

View 0 of a sample is the sample itself. Every other view depends only on the seed, the sample and the view number, so
it does not matter when, or in which batch, it is computed. Images are changed after they have the size and channels
that the model takes and before the arithmetic: uint8 in, uint8 out, rounded once.

    flip     horizontal flip for views 1, 3, 5, ..., which is half of all views; with flip alone there are two views
    crop     a random crop of 50 % to 100 % of the area, with an aspect ratio of 4:5 to 5:4 (log-uniform) relative to
             the whole image, resized to the original size (bilinear)
    colour   brightness times 0.7 to 1.3, then contrast (distance from the mean grey) and, for colour images,
             saturation (distance from each pixel's own grey) likewise; all three uniform. Transparency is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .. import seeds
from .pictures import LUMA

VIEWS = 4  # default number of views of a sample
_AREA, _SHAPE, _COLOUR = 0.5, 1.25, 0.3  # minimum area of a crop; maximum aspect change; maximum colour change


def most_views(kinds: Sequence[str]) -> int | None:
    """The maximum number of distinct views of a sample; None if there is no limit."""
    return 2 if tuple(kinds) == ("flip",) else None


@dataclass(frozen=True)
class Augmentation:
    """How views differ from their samples.

    Attributes:
        kinds: names from vocabulary.AUGMENTS.
        seed: the random seed.
    """

    kinds: tuple[str, ...]
    seed: int

    def views(self, images: np.ndarray, samples: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Compute views of images.

        Args:
            images: the originals, uint8 (N, height, width, channels).
            samples: the index of each image in its dataset.
            numbers: the view number for each image.
        """
        result = images.copy()
        for index in np.flatnonzero(numbers):
            result[index] = self._view(images[index], int(samples[index]), int(numbers[index]))
        return np.asarray(result)

    def _view(self, image: np.ndarray, sample: int, number: int) -> np.ndarray:
        drawn = seeds.view(self.seed, sample, number).random(7)  # always 7, so that one kind does not affect another
        if "crop" in self.kinds:
            image = _resized(image, _box(image.shape[:2], drawn[:4]))
        if "flip" in self.kinds and number % 2:
            image = image[:, ::-1]
        if "colour" in self.kinds:
            image = _coloured(image, 1 + _COLOUR * (2 * drawn[4:] - 1))
        return image


def _box(size: tuple[int, ...], drawn: np.ndarray) -> tuple[float, float, float, float]:
    """A random crop box: left, upper, right and lower edge, in pixels."""
    area, shape = _AREA + (1 - _AREA) * drawn[0], _SHAPE ** (2 * drawn[1] - 1)
    height, width = min(1.0, float(np.sqrt(area / shape))), min(1.0, float(np.sqrt(area * shape)))
    top, left = (1 - height) * drawn[2], (1 - width) * drawn[3]
    return left * size[1], top * size[0], min(left + width, 1.0) * size[1], min(top + height, 1.0) * size[0]


def _resized(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Crop an image and resize the crop to the size of the whole image."""
    height, width, channels = image.shape
    planes = [Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(channels)]
    crops = [plane.resize((width, height), Image.Resampling.BILINEAR, box=box) for plane in planes]
    return np.stack([np.asarray(crop) for crop in crops], axis=-1)


def _coloured(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply brightness, contrast and saturation by these factors."""
    brightness, contrast, saturation = factors.astype(np.float32)
    colours = min(image.shape[2], 3)  # a fourth channel is transparency
    pixels = image[..., :colours].astype(np.float32) * brightness
    grey = _grey(pixels)
    middle = np.float32(grey.mean(dtype=np.float64))
    pixels = middle + contrast * (pixels - middle)
    if colours == 3:
        grey = _grey(pixels)[..., np.newaxis]
        pixels = grey + saturation * (pixels - grey)
    result = image.copy()
    result[..., :colours] = np.rint(pixels).clip(0, 255)
    return np.asarray(result)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """The luma of each pixel, float32. No matrix product is used, because its last bits differ between machines."""
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    red, green, blue = (pixels[..., channel] * LUMA[channel] for channel in range(3))
    return np.asarray(red + green + blue)
