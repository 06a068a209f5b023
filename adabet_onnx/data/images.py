"""Data from a folder of images, one folder per class. Images are read when they are needed.

Either ``FOLDER/train/CLASS/*.jpg`` with ``FOLDER/test/CLASS/*.jpg``, or ``FOLDER/CLASS/*.jpg``, where a seeded fifth
becomes test data. Class names in sorted order are the labels 0, 1, ... A folder that holds images and no folders is
data without labels. Images are rotated according to their EXIF orientation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .. import seeds
from ..errors import DataError
from .dataset import Dataset, Form, Splits

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
TEST_FRACTION = 0.2
_ORIENTATION = 0x0112  # the EXIF tag for the orientation of the stored image
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageRows:
    """Images on disk, opened when fetched; all are resized to ``size`` (height, width) and have ``channels``."""

    paths: tuple[Path, ...]
    size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (N, height, width, channels).

        Raises:
            DataError: a file cannot be read as an image; the message names it.
        """
        return {"": np.stack([self._read(self.paths[index]) for index in indices])}

    @property
    def forms(self) -> dict[str, Form]:
        """Form of the samples that `fetch` returns."""
        return {"": Form((*self.size, self.channels), np.dtype(np.uint8), files=True)}

    def _read(self, path: Path) -> np.ndarray:
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[self.channels]
        try:
            with Image.open(path) as image:
                converted = _converted(upright(image), mode)
                resized = converted.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        except DataError as error:
            raise DataError(f"{path} cannot be used: {error}") from error
        except Exception as error:  # Pillow's readers do not validate their files and raise errors of many types
            raise DataError(f"{path} cannot be read as an image ({str(error)[:200]}). Remove or replace it.") from error
        return np.asarray(resized, np.uint8).reshape(*self.size, self.channels)


def upright(image: Image.Image) -> Image.Image:
    """Rotate or flip an image (the first frame of an animation) according to its EXIF orientation, if it has one.

    The eight orientations are those of the EXIF tag 0x0112. If the entry is damaged or has another value, the image is
    left unchanged, as viewers do.
    """
    image.load()  # formats that apply the orientation themselves (TIFF) do so here and remove the entry
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an entry is damaged
            orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow does not validate these entries and raises errors of many types
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to an 8-bit mode; transparency is dropped, 16 bits per pixel are scaled.

    Raises:
        DataError: the file holds numbers whose range is unknown.
    """
    if image.mode.startswith("I"):  # Pillow's own conversion clips everything above 255
        numbers = np.asarray(image)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise _unknown_range(f"integers from {numbers.min()} to {numbers.max()}")
        image = Image.fromarray((numbers // 257).astype(np.uint8))
    elif image.mode == "F":
        raise _unknown_range("32-bit floats")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about converting directly
    return image.convert(mode)


def _unknown_range(numbers: str) -> DataError:
    return DataError(
        f"its pixels are {numbers}, and which number is white is not known. Save it with 8 or 16 bits per channel, or "
        "give an .npz of arrays."
    )


def read_image_folder(folder: Path, size: tuple[int, int], channels: int) -> Splits:
    """List the images of a folder.

    Args:
        folder: the folder; see the module docstring.
        size: height and width that the model takes.
        channels: 1, 3 or 4.

    Raises:
        DataError: there are no class folders or no images, or test has a class that train does not have.
    """
    if (folder / "train").is_dir():
        names, train = _list(folder / "train")
        test: list[tuple[Path, int]] | None = None
        if (folder / "test").is_dir():
            test_names, test = _list(folder / "test")
            unknown = sorted(set(test_names) - set(names))
            if unknown:
                raise DataError(f"{folder / 'test'} has class {unknown[0]!r}, which {folder / 'train'} does not have.")
            test = [(path, names.index(test_names[label])) for path, label in test]
    elif not _class_names(folder) and _images(folder):
        rows = ImageRows(tuple(_images(folder)), size, channels)  # enough for scoring and predicting
        return Splits(Dataset(rows, None, None, str(folder)), None)
    else:
        names, items = _list(folder)
        order = seeds.kept_pictures().permutation(len(items))
        count = round(TEST_FRACTION * len(items))
        test = [items[index] for index in np.sort(order[:count])] or None
        train = [items[index] for index in np.sort(order[count:])]

    def dataset(items: list[tuple[Path, int]]) -> Dataset:
        rows = ImageRows(tuple(path for path, _ in items), size, channels)
        return Dataset(rows, np.array([label for _, label in items], np.int64), names, str(folder))

    return Splits(dataset(train), dataset(test) if test else None)


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """All images anywhere below a folder, sorted by path."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _list(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    try:
        names = _class_names(folder)
        items = [(path, label) for label, name in enumerate(names) for path in _images(folder / name)]
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}.") from error
    if not items:
        raise DataError(
            f"{folder} has no images. Expected one folder per class with images in it ({', '.join(sorted(SUFFIXES))}), "
            "or train/ and test/ with such folders."
        )
    return names, items
