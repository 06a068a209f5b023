"""From raw samples to what a model's inputs want: order of axes, size, channels, arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import DataError
from ..model.open import Model, Tensor
from .dataset import Dataset
from .preprocess import Preprocessing

_CHANNELS = (1, 3, 4)


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


def image_layout(model: Model) -> ImageLayout | None:
    """The layout of the model's only input where it looks like an image (N, C, H, W) or (N, H, W, C)."""
    return _layout(model.inputs[0]) if len(model.inputs) == 1 else None


def _layout(spec: Tensor) -> ImageLayout | None:
    if len(spec.shape) != 4 or spec.dtype != "float32":
        return None
    a, b, c = (int(extent) for extent in spec.shape[1:])
    if a in _CHANNELS:
        return ImageLayout((b, c), a, True)
    if c in _CHANNELS:
        return ImageLayout((a, b), c, False)
    return None


class Feeder:
    """Turns raw samples into feeds for a model.

    Args:
        model: the model to feed.
        preprocessing: the arithmetic, applied to float32 inputs.
    """

    def __init__(self, model: Model, preprocessing: Preprocessing) -> None:
        self._model = model
        self._layout = image_layout(model)
        self.preprocessing = preprocessing

    def feeds(self, dataset: Dataset, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the model by name, for these rows.

        Raises:
            DataError: names, shapes or types do not fit the model's inputs.
        """
        raw = dataset.rows.fetch(np.asarray(indices, np.int64))
        names = [spec.name for spec in self._model.inputs]
        if set(raw) == {""}:
            if len(names) != 1:
                raise DataError(
                    f"{self._model.name} has {len(names)} inputs ({', '.join(names)}); give a mapping of these names "
                    "to arrays."
                )
            raw = {names[0]: raw[""]}
        if set(raw) != set(names):
            raise DataError(f"the data has inputs {sorted(raw)}, but {self._model.name} has {sorted(names)}.")
        return {spec.name: self._input(raw[spec.name], spec, dataset.name) for spec in self._model.inputs}

    def _input(self, array: np.ndarray, spec: Tensor, where: str) -> np.ndarray:
        if 0 in array.shape[1:]:
            raise DataError(f"{where}: samples of shape {array.shape[1:]} for input {spec.name!r} are empty.")
        if spec.dtype != "float32":
            if array.dtype.kind not in "iub":
                raise DataError(f"{where}: input {spec.name!r} takes {spec.dtype}, but the data is {array.dtype}.")
            fed = array.astype(spec.dtype)
            axis = None
        elif self._layout is not None:
            fed, axis = self._image(array, spec, where), 1 if self._layout.channels_first else 3
        else:
            fed, axis = array, 1 if array.ndim > 2 else None
            if array.shape[1:] != spec.shape[1:] and array[:1].size == np.prod([int(d) for d in spec.shape[1:]]):
                fed = array.reshape(len(array), *(int(d) for d in spec.shape[1:]))
        if fed.shape[1:] != spec.shape[1:]:
            raise DataError(
                f"{where}: a sample for input {spec.name!r} has shape {array.shape[1:]}, but {self._model.name} "
                f"takes "
                f"{spec.shape[1:]}. Give data of that shape."
            )
        if spec.dtype != "float32":
            return fed
        fed = self.preprocessing.apply(fed, axis)
        if not np.isfinite(fed).all():
            raise DataError(
                f"{where}: the data for input {spec.name!r} has NaN or infinite values. Remove those samples."
            )
        return np.ascontiguousarray(fed)

    def _image(self, array: np.ndarray, spec: Tensor, where: str) -> np.ndarray:
        """Lay out and resize images (N, H, W), (N, H, W, C) or (N, C, H, W) as the model takes them."""
        layout = self._layout
        assert layout is not None
        if array.ndim == 3:
            array = array[..., np.newaxis]
        if array.ndim != 4:
            raise DataError(
                f"{where}: samples have shape {array.shape[1:]}, but {self._model.name} takes images {spec.shape[1:]}."
            )
        if array.shape[1:] == spec.shape[1:]:
            return array
        last = array if _channels_last(array.shape) else np.moveaxis(array, 1, 3)
        if last.shape[3] not in _CHANNELS:
            raise DataError(
                f"{where}: samples of shape {array.shape[1:]} have no axis of 1, 3 or 4 channels first or last; "
                f"{self._model.name} takes {spec.shape[1:]}."
            )
        last = _resized(_with_channels(last, layout.channels, where), layout.size)
        return np.moveaxis(last, 3, 1) if layout.channels_first else last


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[3] in _CHANNELS


def _with_channels(images: np.ndarray, channels: int, where: str) -> np.ndarray:
    found = images.shape[3]
    if found == channels:
        return images
    if found == 1 and channels == 3:
        return np.repeat(images, 3, axis=3)
    if found == 4 and channels == 3:
        return images[..., :3]
    if found in (3, 4) and channels == 1:  # luma of ITU-R BT.601, as Pillow's mode L
        grey = images[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return (np.rint(grey).astype(np.uint8) if images.dtype == np.uint8 else grey)[..., np.newaxis]
    raise DataError(f"{where}: images have {found} channels, but the model takes {channels}.")


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if images.shape[1:3] == size:
        return images
    mode = np.uint8 if images.dtype == np.uint8 else np.float32
    height, width = size
    result = np.empty((len(images), height, width, images.shape[3]), mode)
    for sample, image in enumerate(images.astype(mode, copy=False)):
        for channel in range(images.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            result[sample, ..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return result
