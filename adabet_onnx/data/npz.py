"""Data from .npz files: ``x``, ``y``; or ``x_train``, ``y_train``, ``x_test``, ``y_test``; ``classes`` optional.

If a model has several inputs, the arrays are named after the inputs instead of ``x``: ``input_ids`` and
``attention_mask``, or ``input_ids_train`` and so on. For a model with one input both are allowed.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from ..errors import DataError
from ..sizes import size_text
from . import stored as stored_arrays
from .dataset import Array, ArrayRows, Dataset, Splits
from .npy import MAGIC_PREFIX, read_header
from .stored import Stamp

PARTS = ("", "_train", "_test")
_KNOWN = frozenset(f"{name}{part}" for name in ("x", "y") for part in PARTS) | {"classes"}
_CHECKED, _BLOCK = 4 << 30, 1 << 20  # in bytes: largest member whose checksum is verified; block size for reading
_LOCAL = struct.Struct("<4s22xHH")  # local header of a zip file: signature, lengths of name and extra field


def read_npz(path: Path, names: Sequence[str] = ()) -> Splits:
    """Read training and test data.

    Uncompressed inputs of more than 64 MiB stay in the file, and their rows are read when they are needed
    (`StoredArray`). Their zip checksums are still verified for inputs of up to 4 GiB, which reads them once.

    Args:
        path: the file.
        names: names of the model's inputs.

    Raises:
        DataError: the file is not an .npz, is damaged or larger than memory, or its arrays are missing, of the wrong
            type or of different lengths.
    """
    known = known_arrays(names)
    try:
        with path.open("rb") as stream:  # opened here because numpy does not close a damaged file
            if stream.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
                raise DataError(f"{path} is a single .npy array; save it as an .npz with x= and y=, or name it .npy.")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                keys = sorted(archive.files)
                stored = _stored_inputs(stream, [key for key in keys if key in known], path, names)
                arrays = stored | {key: archive[key] for key in keys if key in known and key not in stored}
    except DataError:
        raise
    except Exception as error:  # zipfile and numpy do not validate their files and raise errors of many types
        raise DataError(
            f"{path} cannot be read as an .npz file ({str(error)[:200]}): it is damaged, cut short, or contains "
            "pickled objects. Save plain arrays with numpy.savez."
        ) from error
    splits = splits_of(arrays, names, path)
    if splits is not None:
        return splits
    missing = [name for name in names if name not in arrays and f"{name}_train" not in arrays]
    if names and len(missing) < len(names):
        raise DataError(
            f"{path} has no array for the model's input {missing[0]!r}; it holds {', '.join(keys)}. Add an array with "
            "that name."
        )
    inputs = f", nor the model's inputs {', '.join(names)}" if names else ""
    raise DataError(
        f"{path} has neither x nor x_train{inputs}; it holds {', '.join(keys) or 'nothing'}. Rename its arrays."
    )


def known_arrays(names: Sequence[str]) -> frozenset[str]:
    """The known names of data arrays for a model with inputs of these names."""
    return _KNOWN | {f"{name}{part}" for name in (*names, labels_name(names)) for part in PARTS}


def splits_of(arrays: Mapping[str, Array], names: Sequence[str], path: Path) -> Splits | None:
    """Build training and test data from arrays; None if no input is among them.

    Args:
        arrays: arrays by name.
        names: names of the model's inputs.
        path: the path they were read from.

    Raises:
        DataError: arrays are of the wrong type or of different lengths.
    """
    classes = as_classes(arrays.get("classes"), str(path))
    target = labels_name(names)
    inputs = by_part(arrays, names)
    labels = {part: arrays.get(f"{target}{part}") for part in PARTS}
    parts = {
        part: _dataset(given, labels[part], target, part, classes, path)
        for part, given in inputs.items()
        if given is not None
    }
    return as_splits(parts) if parts else None


def labels_name(names: Sequence[str]) -> str:
    """The name of the labels: ``y``, or ``labels`` if the model has an input called ``y``."""
    return "labels" if "y" in names else "y"


def by_part(arrays: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Inputs of each existing part of the data (``""``, ``_train``, ``_test``), by name.

    The only input may be called ``x``; otherwise arrays are named after the model's inputs, and all must exist.
    """
    parts = {}
    for part in PARTS:
        if f"x{part}" in arrays and not (len(names) > 1 and "x" in names):
            parts[part] = {"": arrays[f"x{part}"]}
        elif names and all(f"{name}{part}" in arrays for name in names):
            parts[part] = {name: arrays[f"{name}{part}"] for name in names}
    return parts


def as_splits(parts: Mapping[str, Dataset]) -> Splits:
    """Combine parts into training data (``_train``, or else the part without a suffix) and test data (``_test``).

    Raises:
        DataError: samples of the two parts have different shapes or kinds.
    """
    train = parts.get("_train", parts.get(""))
    if train is None:
        return Splits(parts["_test"], None)
    test = parts.get("_test")
    if test is not None:
        check_alike(train, test)
    return Splits(train, test)


def check_alike(train: Dataset, test: Dataset) -> None:
    """Check that test samples have the same layout and preprocessing as training samples.

    Raises:
        DataError: names or shapes differ, or one part has integers (images of 0 to 255) and the other has floats.
    """
    first, second = train.rows.forms, test.rows.forms
    if set(first) != set(second):
        raise DataError(f"{train.name}: the training part has {_called(first)}, the test part {_called(second)}.")
    for name, form in first.items():
        other = second[name]
        if form.shape != other.shape:
            raise DataError(
                f"{train.name}: samples of {name or 'x'}_train and {name or 'x'}_test have different shapes, "
                f"{form.shape} and {other.shape}. Give both the same shape."
            )
        if (form.dtype.kind in "iu") != (other.dtype.kind in "iu"):
            raise DataError(
                f"{train.name}: {name or 'x'} is {form.dtype} in the training part and {other.dtype} in the test part, "
                "and integers (images of 0 to 255) are preprocessed differently from floats. Give both the same type."
            )


def _called(forms: Mapping[str, Any]) -> str:
    return ", ".join(name or "x" for name in forms)


def _stored_inputs(stream: IO[bytes], keys: list[str], path: Path, names: Sequence[str]) -> dict[str, Array]:
    """The inputs that stay in the file.

    Before memory is allocated, check the length of all arrays against their headers and that the rest fits in memory.
    """
    inputs = {f"{name}{part}" for name in ("x", *names) for part in PARTS}
    total = 0
    result: dict[str, Array] = {}
    stamp = Stamp.of(stream.fileno())
    with zipfile.ZipFile(stream) as archive:
        for key in keys:
            name = f"{key}.npy" if f"{key}.npy" in archive.namelist() else key
            info = archive.getinfo(name)
            with archive.open(name) as member:
                header = read_header(member, info.file_size, f"{path}: {key}")
                if key in inputs and info.compress_type == zipfile.ZIP_STORED and header.size > stored_arrays.IN_MEMORY:
                    offset = _begin(stream, info, path) + header.offset
                    result[key] = header.stored(path, offset, stamp)
                    if info.file_size <= _CHECKED:
                        while member.read(_BLOCK):  # verifies the checksum at the end
                            pass
                    continue
            total += header.size
    free = psutil.virtual_memory().available
    if total > free:
        raise DataError(
            f"{path} unpacks to {size_text(total)}, more than the {size_text(free)} of free memory. Save it with "
            "numpy.savez, which does not compress: then samples are read from the file when they are needed. Or give a "
            "part of it."
        )
    return result


def _begin(stream: IO[bytes], info: zipfile.ZipInfo, path: Path) -> int:
    """The position where the content of a member begins, from the member's local header."""
    place = stream.tell()
    stream.seek(info.header_offset)
    local = stream.read(_LOCAL.size)
    stream.seek(place)
    signature, name, extra = _LOCAL.unpack(local)
    begin = int(info.header_offset + _LOCAL.size + name + extra)
    if signature != b"PK\x03\x04" or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise DataError(f"{path} is damaged or encrypted: {info.filename}. Save plain arrays with numpy.savez.")
    return begin


def _dataset(
    inputs: dict[str, Array], y: Any, target: str, part: str, classes: list[str] | None, path: Path
) -> Dataset:
    counts = {}
    for name, data in inputs.items():
        called = f"{name or 'x'}{part}"
        if data.ndim < 1 + (name == ""):
            raise DataError(
                f"{path}: {called} must have a sample axis and at least one other axis; it has shape {data.shape}."
            )
        if data.dtype.kind not in "uifb":
            raise DataError(f"{path}: {called} must hold numbers (uint8 images or floats), not {data.dtype}.")
        if len(data) == 0:
            raise DataError(f"{path}: {called} has no samples.")
        counts[called] = len(data)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{called} {count}" for called, count in counts.items())
        raise DataError(f"{path}: the inputs have different numbers of samples: {listed}.")
    labels = None if y is None else as_labels(y, next(iter(counts.values())), f"{path}: {target}{part}")
    return Dataset(ArrayRows(inputs), labels, classes, str(path))


def as_labels(labels: Any, count: int, what: str) -> np.ndarray:
    """Convert labels to int64 class indices (from any integer type, (N,) or (N, 1)) or float32 targets.

    Raises:
        DataError: the number of labels differs from ``count``, or they are not numbers.
    """
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"{what} must be one array with a label per sample: {error}") from error
    if array.ndim == 0 or len(array) != count:
        number = f"{len(array)} labels" if array.ndim else "a single label"
        raise DataError(f"{what} has {number} for {count} samples; give one label per sample.")
    if array.dtype.kind in "iu":
        if array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise DataError(f"{what} go up to {array.max()}, which is not a class index. Fix the labels.")
        return array.reshape(count).astype(np.int64) if array.size == count else array.astype(np.int64)
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinite values are rejected when labels are fitted to a loss
            return array.astype(np.float32)
    advice = (
        " For class names: classes, y = numpy.unique(y, return_inverse=True), and give both."
        if array.dtype.kind in "US"
        else ""
    )
    raise DataError(f"{what} must be integers (class indices from 0) or float targets, not {array.dtype}.{advice}")


def as_classes(names: Any, where: str) -> list[str] | None:
    """Class names as a list of strings; None stays None.

    Raises:
        DataError: ``names`` is not a list of names.
    """
    if names is None:
        return None
    array = np.asarray(names)
    if array.ndim != 1:
        raise DataError(f"{where}: classes must be a list of names, one per class; it has shape {array.shape}.")
    return [str(name) for name in array]
