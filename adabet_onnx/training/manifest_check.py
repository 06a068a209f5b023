"""Validation of a manifest before it is used; manifest.py describes the entries."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..data.preprocess import preprocessing_from_json
from ..errors import RecordError, UsageError
from ..model.logits_axes import class_axis
from ..model.shapes import BATCH
from ..records import Entries
from ..selection.record import selection_from_json
from ..vocabulary import LOSSES, OPTIMIZERS

MADE_BY = "`make_artifacts`"
_DTYPES = (
    "float32",
    "float64",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)
_FILES = {
    "ort": ("training_model", "eval_model", "optimizer_model", "checkpoint", "model"),
    "portable": ("step", "gradients", "update", "evaluation", "state", "model"),
}
_SINCE_2 = ("frozen", "weights")  # of the portable backend


def file_names(content: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of a backend's files."""
    backend = str(content["backend"])
    later = _SINCE_2 if backend == "portable" and content["version"] > 1 else ()
    more = ("float",) if backend == "portable" and "float" in content["files"] else ()
    return (*_FILES[backend], *later, *more)


def check_manifest(content: dict[str, Any], path: Path) -> None:
    """Check that every entry that is used exists and has the right type.

    Args:
        content: the content of the file.
        path: the file.

    Raises:
        RecordError: an entry is missing or damaged.
    """
    record = Entries(content, str(path), MADE_BY)
    backend = record.take("backend", str)
    if backend not in _FILES:
        raise RecordError(
            f"{path}: backend {backend!r} is not known to this release (it knows {', '.join(_FILES)}). Update "
            "adabet-onnx or make the artifacts again."
        )
    files, hashes = record.inside("files"), record.inside("sha256")
    for key in file_names(content):
        files.take(key, str)
        hashes.take(key, str)
    for key in ("model_sha256", "loss", "logits", "model_logits"):
        record.take(key, str)
    _check_loss(record, content)
    _check_inputs(record, path, backend)
    if backend == "portable":
        _check_portable(record, path, content)
    _check_tensors(record, path, backend)
    selection_from_json(record.take("selection", dict), f"{path}, 'selection',")
    if record.get_optional("classes", None, list, type(None)) is not None:
        record.names("classes")
    preprocessing = record.get_optional("preprocessing", None, dict, type(None))
    if preprocessing is not None:
        preprocessing_from_json(preprocessing, str(path))
    record.get_optional("bound", None, dict, type(None))
    record.get_optional("model_name", None, str, type(None))
    record.get_optional("notes", [], list)


def _check_loss(record: Entries, content: dict[str, Any]) -> None:
    """Check loss, optimizer, and the logits that the loss is computed from."""
    loss = record.take("loss_function", str)
    if loss not in LOSSES:
        raise record.damaged(f"'loss_function' is {loss!r}, not one of {', '.join(LOSSES)}")
    optimizer = record.inside("optimizer").take("name", str)
    if optimizer not in OPTIMIZERS:
        raise record.damaged(f"the optimizer is {optimizer!r}, not one of {', '.join(OPTIMIZERS)}")
    for key in ("class_axis", "ignore_label"):
        record.get_optional(key, None, int, type(None))
    record.get_optional("class_axis_given", None, bool)
    smoothing = record.get_optional("label_smoothing", None, int, float, type(None)) or 0
    if not 0 <= smoothing < 1:
        raise record.damaged(f"'label_smoothing' must be at least 0 and below 1, found {smoothing}")
    record.take("num_outputs", int)
    logits = record.take("logits_shape", list)
    if not logits or not all(type(extent) is int for extent in logits[1:]):
        raise record.damaged("'logits_shape' must be the batch dimension followed by whole numbers")
    try:
        axis = class_axis(tuple(logits), content.get("class_axis"), loss)
    except UsageError as error:
        raise record.damaged(f"'class_axis' and 'logits_shape' do not fit together: {error}") from error
    _check_class_weights(record, None if axis is None else logits[axis])


def _check_inputs(record: Entries, path: Path, backend: str) -> None:
    """Check the description of the inputs, and that there are inputs and parameters."""
    details = "inputs" if backend == "ort" else "input_details"
    for key in (details, "parameters"):
        if not record.take(key, list):
            raise record.damaged(f"{key!r} is empty")
    for entry in record.take_list(details, dict):
        given = Entries(entry, f"{path}, {details!r},", MADE_BY)
        _ = given.take("name", str), given.take("feed", str)
        if given.take("dtype", str) not in _DTYPES:
            raise given.damaged(f"'dtype' is {entry['dtype']!r}, not one of {', '.join(_DTYPES)}")
        if not all(type(extent) is int for extent in given.take("shape", list)[1:]):
            raise given.damaged("'shape' must be the batch dimension followed by whole numbers")


def _check_portable(record: Entries, path: Path, content: dict[str, Any]) -> None:
    """Check the entries that only the portable backend has."""
    for key in ("labels", "learning_rate", "step"):
        record.take(key, str)
    record.take_list("state", dict)
    if content["version"] > 1:
        _check_boundary(record, path)
    for key in ("predicted_step_bytes", "predicted_frozen_bytes"):
        predicted = record.get_optional(key, {}, dict)
        if not all(size.isdecimal() and type(count) is int for size, count in predicted.items()):
            raise record.damaged(f"{key!r} must have a whole number for each batch size")


def _check_tensors(record: Entries, path: Path, backend: str) -> None:
    """Check the description of parameters and, for the portable backend, state."""
    tensors = [("parameters", entry) for entry in record.take_list("parameters", dict)]
    if backend == "portable":
        tensors += [("state", entry) for entry in record.take_list("state", dict)]
    for kind, entry in tensors:
        given = Entries(entry, f"{path}, {kind!r},", MADE_BY)
        _ = given.take("name", str), given.take_list("shape", int), given.take("offset", int)
        if backend == "portable":
            keys = ("input", "output", "gradient") if kind == "parameters" else ("input", "output", "parameter")
            _ = [given.take(key, str) for key in keys]
            if given.get_optional("channels", None, dict, type(None)) is not None:
                _check_channels(given, entry["shape"])


def _check_class_weights(record: Entries, classes: Any) -> None:
    """Check that there is a weight for each class, if there are class weights."""
    if record.get_optional("class_weights", None, list, type(None)) is None:
        return
    weights = record.take("class_weights", list)
    numbers = all(type(weight) in (int, float) and 0 <= weight < math.inf for weight in weights)
    if len(weights) != classes or not numbers or not any(weights):
        raise record.damaged("'class_weights' must be a number for each class, at least 0, not all 0")


def _check_boundary(record: Entries, path: Path) -> None:
    """Check the description of the tensors at the boundary."""
    names, inputs = set(), set(record.names("inputs"))
    for entry in record.take_list("boundary", dict):
        given = Entries(entry, f"{path}, 'boundary',", MADE_BY)
        name, shape = given.take("name", str), given.take("shape", list)
        if name in names:
            raise given.damaged(f"'name' is {name!r} twice")
        names.add(name)
        dtype = given.take("dtype", str)
        if dtype not in _DTYPES:
            raise given.damaged(f"'dtype' is {dtype!r}, not one of {', '.join(_DTYPES)}")
        if not shape or shape[0] != BATCH or not all(type(extent) is int and extent >= 0 for extent in shape[1:]):
            raise given.damaged("'shape' must be 'N' followed by whole numbers")
        size = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        if given.take("bytes", int) != size:
            raise given.damaged(f"'bytes' is {entry['bytes']}, but one sample of shape {shape} takes {size}")
        source = given.take("input", str, type(None))
        if source is not None and source not in inputs:
            raise given.damaged(f"'input' is {source!r}, which is not one of the inputs")


def _check_channels(given: Entries, shape: list[int]) -> None:
    """Check that the trained channels fit the shape of the part."""
    inner = given.inside("channels")
    axis, indices = inner.take("axis", int), inner.take_list("indices", int)
    rising = all(a < b for a, b in itertools.pairwise([-1, *indices]))
    if not (0 <= axis < len(shape) and shape[axis] == len(indices) and rising):
        raise inner.damaged(f"axis {axis} and {len(indices)} ascending indices do not fit the shape {shape}")
