"""Check that the entries of a device.json are consistent: names that are used exist, and sizes match shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import RecordError
from .description_reader import MADE_BY
from .parts import KINDS, PARAMETER, BoundaryTensor, Device, PackageEntry, PackageTensor

_FLOAT = 4  # bytes
_ROOM = 63  # maximum padding after the last tensor, in bytes


def check_consistent(device: Device, path: Path) -> None:
    """Check that a package's description is consistent.

    Args:
        device: the description.
        path: path of the file, for messages.

    Raises:
        RecordError: the description is inconsistent.
    """
    _unique((file.name for file in device.files), f"{path}, 'files',")
    _unique((item.name for item in device.inputs), f"{path}, 'inputs',")
    _unique((item.name for item in device.outputs), f"{path}, 'outputs',")
    _unique((entry.name for entry in device.entries), f"{path}, 'entries',")
    _named(device, {} if device.weights is None else {"weights": device.weights}, str(path))
    if device.scoring is not None:
        where = f"{path}, 'scoring',"
        _unique((layer.name for layer in device.scoring.layers), where)
        _named(device, {"file": device.scoring.file}, where)
    names, classes = device.class_names, device.labels.classes
    if names is not None and classes is not None and len(names) != classes:
        raise _wrong(str(path), f"'class_names' has {len(names)} names, but 'labels' has {classes} classes")
    for entry in device.entries:
        _check_entry(device, entry, f"{path}, entry {entry.name!r},")


def _check_entry(device: Device, entry: PackageEntry, where: str) -> None:
    _named(device, entry.files, where)
    sizes = {file.name: file.bytes for file in device.files}
    for key, names in (("name", [t.name for t in entry.tensors]), ("input", [t.input for t in entry.tensors])):
        _unique(names, f"{where} 'tensors' by {key},")
    _unique((t.output for t in entry.tensors), f"{where} 'tensors' by output,")
    _unique((b.name for b in entry.boundary), f"{where} 'boundary',")
    computed = [item.name for item in entry.boundary if item.input is None]
    if (entry.frozen is None) != (not computed):
        raise _wrong(where, f"'frozen' is {entry.frozen!r}, but it computes {len(computed)} of 'boundary'")
    for item in entry.boundary:
        _check_boundary(item, {given.name for given in device.inputs}, where)
    _check_tensors(entry, where)
    for key, name in (("state", entry.state), ("selected", entry.selected)):
        if sizes[name] != entry.selected_bytes:
            actual = f"the file in {key!r}, {name!r}, has {sizes[name]}"
            raise _wrong(where, f"'selected_bytes' is {entry.selected_bytes}, but {actual}")
    if entry.class_axis is not None and entry.class_axis >= len(entry.logits_shape):
        raise _wrong(where, f"'class_axis' is {entry.class_axis}, but logits have {len(entry.logits_shape)} axes")
    if any(a[0] >= b[0] for a, b in itertools.pairwise(entry.memory)):
        raise _wrong(where, "the batches of 'memory' must be in ascending order")


def _check_boundary(item: BoundaryTensor, inputs: Iterable[str], where: str) -> None:
    size = math.prod(int(extent) for extent in item.shape[1:]) * np.dtype(item.dtype).itemsize
    if item.bytes != size:
        raise _wrong(
            where, f"boundary {item.name!r}: 'bytes' is {item.bytes}, but a sample of {item.shape} takes {size}"
        )
    if item.input is not None and item.input not in inputs:
        raise _wrong(where, f"boundary {item.name!r}: 'input' is {item.input!r}, which is none of the model's inputs")


def _check_tensors(entry: PackageEntry, where: str) -> None:
    """Check the order, offsets and sizes of tensors."""
    ranks = [KINDS.index(tensor.kind) for tensor in entry.tensors]
    if ranks != sorted(ranks) or ranks[0] != 0:
        raise _wrong(where, "'tensors' must be parameters (at least one), then statistics, then optimizer")
    end = 0
    for tensor in entry.tensors:
        if tensor.bytes != tensor.elements * _FLOAT:
            expected = tensor.elements * _FLOAT
            raise _wrong(
                where, f"tensor {tensor.name!r}: 'bytes' is {tensor.bytes}, but {tensor.shape} takes {expected}"
            )
        if tensor.offset < end:
            raise _wrong(where, f"tensor {tensor.name!r}: 'offset' is {tensor.offset}, within the previous tensor")
        end = tensor.end
        _check_channels(tensor, where)
    needed = entry.personal[-1].end
    after = [tensor.offset for tensor in entry.tensors[len(entry.personal) :]]
    if not needed <= entry.selected_bytes <= min([*after, end + _ROOM]):
        raise _wrong(
            where, f"'selected_bytes' is {entry.selected_bytes}, but parameters and statistics end at {needed}"
        )
    trained = sum(tensor.elements for tensor in entry.tensors if tensor.kind == PARAMETER)
    if trained != entry.trained:
        raise _wrong(where, f"'trained' is {entry.trained}, but the parameters have {trained} numbers")


def _check_channels(tensor: PackageTensor, where: str) -> None:
    part, shape = tensor.channels, tensor.shape
    if part is None:
        return
    ascending = all(a < b for a, b in itertools.pairwise(part.indices))
    if not (part.axis < len(shape) and shape[part.axis] == len(part.indices) and ascending):
        raise _wrong(
            where,
            f"tensor {tensor.name!r}: axis {part.axis} and {len(part.indices)} ascending 'indices' do not fit {shape}",
        )


def _named(device: Device, names: dict[str, str], where: str) -> None:
    """Check that named files are files of the package."""
    known = {file.name for file in device.files}
    for key, name in names.items():
        if name not in known:
            raise _wrong(where, f"{key!r} is {name!r}, which is not among 'files'")


def _unique(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _wrong(where, f"{name!r} occurs twice")
        seen.add(name)


def _wrong(where: str, problem: str) -> RecordError:
    return RecordError(f"{where} is damaged: {problem}. Make it again with {MADE_BY}.")
