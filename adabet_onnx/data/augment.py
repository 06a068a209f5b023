"""Views of pictures: the same sample flipped, cropped, in other colours.

View 0 of a sample is the sample itself. Another view depends on the seed, the sample and the number of the view alone,
so it is the same whenever, and beside whichever other samples, it is made. Pictures are changed at the size and with
the channels that the model takes, before its arithmetic: uint8 in, uint8 out, rounded once.

    flip     left and right: views 1, 3, 5, ... So half of them are; of flip alone there are two views.
    crop     a part of 50 % to 100 % of the area, its sides 4:5 to 5:4 (logarithmically uniform) beside the whole
             picture's, from anywhere in it, enlarged to the whole size again (bilinear)
    colour   brightness times 0.7 to 1.3, then contrast (distance from the mean grey) and, where there are colours,
             saturation (distance from each pixel's own grey) likewise; all three uniform. Transparency stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .. import seeds
from .pictures import LUMA

VIEWS = 4  # of a sample where nothing else is said
_AREA, _SHAPE, _COLOUR = 0.5, 1.25, 0.3  # the least of a picture's area; the most of a side's change; and of colours'


def most_views(kinds: Sequence[str]) -> int | None:
    """How many views of a sample differ; None: any number."""
    return 2 if tuple(kinds) == ("flip",) else None


@dataclass(frozen=True)
class Augmentation:
    """How views differ from their samples.

    Attributes:
        kinds: of vocabulary.AUGMENTS.
        seed: of everything that is drawn.
    """

    kinds: tuple[str, ...]
    seed: int

    def views(self, images: np.ndarray, samples: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Views of pictures.

        Args:
            images: uint8 (N, height, width, channels), as they are.
            samples: the index of each in its data.
            numbers: of the view that is wanted of each.
        """
        found = images.copy()
        for place in np.flatnonzero(numbers):
            found[place] = self._view(images[place], int(samples[place]), int(numbers[place]))
        return np.asarray(found)

    def _view(self, image: np.ndarray, sample: int, number: int) -> np.ndarray:
        drawn = seeds.view(self.seed, sample, number).random(7)  # always as many: a kind does not change another
        if "crop" in self.kinds:
            image = _resized(image, _box(image.shape[:2], drawn[:4]))
        if "flip" in self.kinds and number % 2:
            image = image[:, ::-1]
        if "colour" in self.kinds:
            image = _coloured(image, 1 + _COLOUR * (2 * drawn[4:] - 1))
        return image


def _box(size: tuple[int, ...], drawn: np.ndarray) -> tuple[float, float, float, float]:
    """A part of a picture: left, upper, right and lower edge, in pixels."""
    area, shape = _AREA + (1 - _AREA) * drawn[0], _SHAPE ** (2 * drawn[1] - 1)
    height, width = min(1.0, float(np.sqrt(area / shape))), min(1.0, float(np.sqrt(area * shape)))
    top, left = (1 - height) * drawn[2], (1 - width) * drawn[3]
    return left * size[1], top * size[0], min(left + width, 1.0) * size[1], min(top + height, 1.0) * size[0]


def _resized(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """A part of a picture at the size of the whole."""
    height, width, channels = image.shape
    planes = [Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(channels)]
    made = [plane.resize((width, height), Image.Resampling.BILINEAR, box=box) for plane in planes]
    return np.stack([np.asarray(plane) for plane in made], axis=-1)


def _coloured(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation times these factors."""
    brightness, contrast, saturation = factors.astype(np.float32)
    colours = min(image.shape[2], 3)  # what is more is transparency
    pixels = image[..., :colours].astype(np.float32) * brightness
    grey = _grey(pixels)
    middle = np.float32(grey.mean(dtype=np.float64))
    pixels = middle + contrast * (pixels - middle)
    if colours == 3:
        grey = _grey(pixels)[..., np.newaxis]
        pixels = grey + saturation * (pixels - grey)
    found = image.copy()
    found[..., :colours] = np.rint(pixels).clip(0, 255)
    return np.asarray(found)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Of each pixel, float32; not by a product of matrices, whose last bits are a matter of the machine."""
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    red, green, blue = (pixels[..., channel] * LUMA[channel] for channel in range(3))
    return np.asarray(red + green + blue)
