"""Which numbers an input of integers takes."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ..model.input_ids import LookupTable
from ..model.open import Tensor


def check_range(array: np.ndarray, spec: Tensor, where: str, table: LookupTable | None = None) -> None:
    """See that numbers are what an input of integers (or of bool) takes: integers, none of them out of range.

    A conversion would wrap 300 to 44 in uint8, and -1 to 255. Of bool, 0 and 1 are in range.

    Args:
        array: the samples.
        spec: the input.
        where: what messages call the data.
        table: what they are rows of, if they are ids. (ONNX counts negative ones from the end of a table, which those
            who made the model hardly knew: they are refused.)

    Raises:
        DataError: they are not.
    """
    if array.dtype.kind not in "iub":
        raise DataError(
            f"{where}: input {spec.name!r} takes {spec.dtype}, but the data is {array.dtype}. Give integers, such as "
            f"x.astype(numpy.{spec.dtype}) if all of its numbers are whole."
        )
    if array.size == 0 or (table is None and np.can_cast(array.dtype, spec.dtype, "safe")):
        return
    low, high = int(array.min()), int(array.max())
    least, most = limits(spec.dtype)
    if low < least or high > most:
        raise DataError(
            f"{where}: input {spec.name!r} takes {spec.dtype}, from {least} to {most}, but the data ({array.dtype}) "
            f"goes from {low} to {high}. Rescale or repair it."
        )
    if table is not None and (low < 0 or high >= table.rows):
        raise DataError(
            f"{where}: input {spec.name!r} takes ids of the {table.rows} rows of {table.name!r}, from 0 to "
            f"{table.rows - 1}, but the data goes from {low} to {high}. Use the vocabulary that the model was trained "
            "with."
        )


def check_pixels(array: np.ndarray, spec: Tensor, where: str) -> None:
    """See that integers that are divided by 255 are from 0 to 255. Floats are not looked at.

    Raises:
        DataError: they are not, as in images of 16 bits.
    """
    if array.dtype.kind not in "iu" or array.dtype == np.uint8 or array.size == 0:
        return
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255:
        most = int(np.iinfo(array.dtype).max)
        scale = f"{1 / most:.9g}" if most < 2**17 else "..."
        raise DataError(
            f"{where}: the data for input {spec.name!r} ({array.dtype}) goes from {low} to {high}, but would be "
            f"divided by 255 as pixels from 0 to 255 are. Say how it is prepared: "
            f"`preprocessing=Preprocessing(scale={scale})` (with `mean` and `std` where the model needs them), or "
            "`preset='none'` to feed it as it is."
        )


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest number of an integer type or bool."""
    if dtype == "bool":
        return 0, 1
    found = np.iinfo(dtype)
    return int(found.min), int(found.max)
