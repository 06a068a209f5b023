"""Open data in any accepted form (a path, arrays, or a re-iterable of batches) as `Splits`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..model.open import Model
from .data import Data
from .dataset import ArrayRows, Dataset, Splits
from .images import SUFFIXES, ImageRows, read_image_folder
from .npy import SUFFIX, arrays_in, labels_next_to, open_npy
from .npz import PARTS, as_classes, as_labels, as_splits, by_part, known_arrays, labels_name, read_npz, splits_of
from .pictures import ImageLayout, image_layout
from .reading import AS_IT_IS


def open_data(source: Any, model: Model, *, limit: int | None = None) -> Splits:
    """Open data.

    Args:
        source: a `Data` or any source it takes; data that is already open is returned unchanged.
        model: the model the data is for (its input decides size and channels of images).
        limit: stop reading a re-iterable after this many samples (its batches are kept in memory).

    Raises:
        DataError: the data cannot be read or is inconsistent.
        UsageError: a path does not exist, the source is not data, or a layout was given for image files.
    """
    given = source if isinstance(source, Data) else Data(source)
    opened, reading = _open(given.source, model, limit), given.reading
    if reading == AS_IT_IS:
        return opened
    for part in (opened.train, opened.test):
        if part is not None and reading.layouts and any(form.files for form in part.rows.forms.values()):
            raise UsageError(
                f"{part.name} has image files, whose rows, columns and channels are known: leave out `layout`."
            )
    return opened.read_as(reading)


def _open(source: Any, model: Model, limit: int | None) -> Splits:
    if isinstance(source, Splits):
        return source
    if isinstance(source, Dataset):
        return Splits(source, None)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(Path(source), model)
    if isinstance(source, np.ndarray):
        return Splits(_from_arrays(source, None), None)
    if isinstance(source, tuple) and len(source) == 2 and all(isinstance(one, str | os.PathLike) for one in source):
        return _open_files(*map(Path, source))
    if isinstance(source, tuple) and len(source) == 2:
        return Splits(_from_arrays(*source), None)
    if isinstance(source, Mapping):
        return _from_mapping(source, [spec.name for spec in model.inputs])
    if isinstance(source, Iterable):
        return Splits(_from_batches(source, limit), None)
    raise UsageError(
        "expected a path, arrays or batches as data (help(adabet_onnx.Data) lists the forms), not "
        f"{type(source).__name__}."
    )


def _open_path(path: Path, model: Model) -> Splits:
    names = [spec.name for spec in model.inputs]
    if path.is_dir():
        splits = _open_folder(path, names)
        if splits is not None:
            return splits
        layout = _for_files(path, model, "is a folder of images, but")
        return read_image_folder(path, layout.size, layout.channels)
    if not path.exists():
        raise UsageError(f"{path} does not exist. Give an .npz file or a folder of images.")
    if not path.is_file():  # reading it might block forever
        raise DataError(
            f"{path} is a pipe or device, which can be read only once and in order. Save its content in a file."
        )
    if path.suffix.lower() == SUFFIX:
        return _open_files(path, labels_next_to(path))
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path} is neither an .npz file nor a folder of images.")
    return read_npz(path, names)


def _open_folder(path: Path, names: Sequence[str]) -> Splits | None:
    """Data from a folder with ``.npy`` files; None if the inputs are not among them."""
    files = arrays_in(path, known_arrays(names))
    inputs = {name for given in by_part(files, names).values() for name in map(str, given.values())}
    if not inputs:
        return None
    arrays = {name: open_npy(file, rows=str(file) in inputs) for name, file in files.items()}
    return splits_of(arrays, names, path)


def _open_files(x: Path, y: Path | None) -> Splits:
    """Data from one or two ``.npy`` files.

    Raises:
        UsageError: a file does not exist or does not end in .npy.
        DataError: a file cannot be read, or the two do not match.
    """
    for path in (x, *([] if y is None else [y])):
        if not path.is_file() or path.suffix.lower() != SUFFIX:
            raise UsageError(f"{path} is not an .npy file. Give the files of inputs and labels: ('x.npy', 'y.npy').")
    arrays = {"x": open_npy(x)} | ({} if y is None else {"y": open_npy(y, rows=False)})
    splits = splits_of(arrays, (), x)
    assert splits is not None
    return splits


def _for_files(path: Path, model: Model, why: str) -> ImageLayout:
    """The layout in which a model takes image files.

    Raises:
        DataError: the model does not take images, or how pixels become its numbers is unknown.
    """
    layout = image_layout(model)
    if layout is None:
        raise DataError(f"{path} {why} {model.name} does not take images; give an .npz.")
    if model.inputs[0].dtype == "int8":
        raise DataError(
            f"{path} {why} {model.name} takes int8, from -128 to 127, and pixels go from 0 to 255; the model file does "
            "not specify how to shift or scale them. Give an .npz of int8 arrays, made as for its training."
        )
    return layout


def open_inputs(inputs: Any, model: Model) -> tuple[Dataset, list[str]]:
    """Open unlabelled inputs for prediction, with a name for each.

    Args:
        inputs: path of an image, of a folder with images anywhere below it, or of an ``.npz`` (x_test, else x, else
            x_train) or another file of arrays; or arrays; or a `Data` of any of these.
        model: the model the inputs are for.

    Raises:
        DataError: the inputs cannot be read, or there are none.
        UsageError: a layout was given for image files.
    """
    given = inputs if isinstance(inputs, Data) else Data(inputs)
    if isinstance(given.source, (str, os.PathLike)) and not _holds_arrays(Path(given.source), model):
        path = Path(given.source)
        layout = _for_files(path, model, "cannot be used:")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        images = tuple(file for file in files if file.suffix.lower() in SUFFIXES and file.is_file())
        if not images:
            raise DataError(f"{path} is not an image, .npz file or folder of images ({', '.join(sorted(SUFFIXES))}).")
        opened = Dataset(ImageRows(images, layout.size, layout.channels), name=str(path))
        return open_data(replace(given, source=opened), model).train, [str(file) for file in images]
    dataset = open_data(given, model).for_evaluation
    return dataset, [str(index) for index in range(len(dataset))]


def _holds_arrays(path: Path, model: Model) -> bool:
    """Whether a path holds arrays rather than images."""
    names = [spec.name for spec in model.inputs]
    return path.suffix.lower() in (".npz", SUFFIX) or bool(by_part(arrays_in(path, known_arrays(names)), names))


def _from_arrays(x: Any, y: Any, classes: list[str] | None = None) -> Dataset:
    named = x if isinstance(x, Mapping) else {"": x}
    try:
        arrays = {str(name): np.asarray(array) for name, array in named.items()}
    except ValueError as error:
        raise DataError(f"the data must be arrays of numbers: {error}") from error
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if counts == {0} and all(array.ndim for array in arrays.values()):
        raise DataError("the data has no samples: the first axis has the length 0.")
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"the arrays must have the same number of samples on their first axis, found {sorted(counts)}.")
    if any(array.dtype.kind not in "uifb" for array in arrays.values()):
        raise DataError("the data must be arrays of numbers.")
    labels = None if y is None else as_labels(y, counts.pop(), "y")
    return Dataset(ArrayRows(arrays), labels, classes)


def _from_mapping(source: Mapping[str, Any], inputs: Sequence[str]) -> Splits:
    classes = as_classes(source.get("classes"), "the data")
    named = by_part(source, inputs)
    labels = {part: source.get(f"{labels_name(inputs)}{part}") for part in named}
    parts = {part: _from_arrays(given, labels[part], classes) for part, given in named.items()}
    if parts:
        return as_splits(parts)
    if any(
        f"{labels_name(inputs)}{part}" in source for part in PARTS
    ):  # otherwise they would be interpreted as an input
        raise DataError(
            f"the data has neither x nor x_train, nor the model's inputs {', '.join(inputs)}; it holds "
            f"{', '.join(map(str, source))}. Rename the input arrays."
        )
    return Splits(_from_arrays(source, None), None)


def _from_batches(source: Iterable[Any], limit: int | None) -> Dataset:
    inputs: dict[str, list[np.ndarray]] = {}
    labels: list[np.ndarray] = []
    count = batches = 0
    for batch in source:
        x, y = batch if isinstance(batch, tuple) and len(batch) == 2 else (batch, None)
        part = _from_arrays(x, y)
        assert isinstance(part.rows, ArrayRows)
        if inputs and set(inputs) != set(part.rows.arrays):
            raise DataError(
                f"batch {batches} has inputs {sorted(part.rows.arrays)}, the first one had {sorted(inputs)}."
            )
        for name, array in part.rows.arrays.items():
            if name in inputs and (array.dtype.kind in "iu") != (inputs[name][0].dtype.kind in "iu"):
                raise DataError(
                    f"batch {batches} is {array.dtype}, the first one was {inputs[name][0].dtype}, and integers "
                    "(images of 0 to 255) are preprocessed differently from floats. Give all batches the same type."
                )
            inputs.setdefault(name, []).append(np.asarray(array))
        if part.labels is not None:
            if labels and part.labels.dtype != labels[0].dtype:
                raise DataError(
                    f"batch {batches} has labels of {part.labels.dtype}, the first one of {labels[0].dtype}. Give all "
                    "as class indices, or all as float targets."
                )
            labels.append(part.labels)
        count, batches = count + len(part), batches + 1
        if limit is not None and count >= limit:
            break
    if not count:
        raise DataError(
            "the data yielded no batches. Was it an exhausted iterator? Give a list or an object with __iter__."
        )
    if labels and len(labels) != batches:
        raise DataError("some batches have labels and some have none.")
    try:
        arrays = {name: np.concatenate(parts) for name, parts in inputs.items()}
        return Dataset(ArrayRows(arrays), np.concatenate(labels) if labels else None)
    except ValueError as error:
        raise DataError(
            f"the batches do not fit together: {error}. (A list is interpreted as batches. Give inputs with labels as "
            "a pair: (x, y).)"
        ) from error
