"""Check that integers are within the range that an input takes."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ..model.input_ids import LookupTable
from ..model.open import Tensor


def check_range(array: np.ndarray, spec: Tensor, where: str, table: LookupTable | None = None) -> None:
    """Check that samples for an input of integers (or of bool) are integers and within its range.

    A conversion to uint8 would wrap 300 to 44 and -1 to 255. For bool, 0 and 1 are in range.

    Args:
        array: the samples.
        spec: the input.
        where: the name of the data in messages.
        table: the table whose rows they index, if they are ids. (ONNX counts negative ids from the end of a table,
            which is unlikely to be intended: they are rejected.)

    Raises:
        DataError: samples are not integers or are out of range.
    """
    if array.dtype.kind not in "iub":
        raise DataError(
            f"{where}: input {spec.name!r} takes {spec.dtype}, but the data is {array.dtype}. Give integers, for "
            f"example x.astype(numpy.{spec.dtype}) if all values are whole numbers."
        )
    if array.size == 0 or (table is None and np.can_cast(array.dtype, spec.dtype, "safe")):
        return
    low, high = int(array.min()), int(array.max())
    least, most = limits(spec.dtype)
    if low < least or high > most:
        raise DataError(
            f"{where}: input {spec.name!r} takes {spec.dtype}, from {least} to {most}, but the data ({array.dtype}) "
            f"goes from {low} to {high}. Rescale or correct it."
        )
    if table is not None and (low < 0 or high >= table.rows):
        raise DataError(
            f"{where}: input {spec.name!r} takes ids of the {table.rows} rows of {table.name!r}, from 0 to "
            f"{table.rows - 1}, but the data goes from {low} to {high}. Use the vocabulary that the model was trained "
            "with."
        )


def check_pixels(array: np.ndarray, spec: Tensor, where: str) -> None:
    """Check that integers that will be divided by 255 are from 0 to 255. Floats are not checked.

    Raises:
        DataError: they are out of range, as in images of 16 bits.
    """
    if array.dtype.kind not in "iu" or array.dtype == np.uint8 or array.size == 0:
        return
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255:
        most = int(np.iinfo(array.dtype).max)
        scale = f"{1 / most:.9g}" if most < 2**17 else "..."
        raise DataError(
            f"{where}: the data for input {spec.name!r} ({array.dtype}) goes from {low} to {high}, but would be "
            "divided by 255 as pixels from 0 to 255 are. Give its preprocessing: "
            f"`preprocessing=Preprocessing(scale={scale})` (with `mean` and `std` if the model needs them), or "
            "`preset='none'` to feed it unchanged."
        )


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest number of an integer type or bool."""
    if dtype == "bool":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)
