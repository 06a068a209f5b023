"""Deltas and what they come from and go into: trained artifacts, models and device packages; and how far two differ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecordError, UsageError
from ..files import keep_apart, write_bytes
from ..options import typed
from ..training.export import proto_with, write_adapted
from ..training.history import PROPERTY, keep_own_files, trained_checkpoint, trained_on
from ..training.manifest import Manifest, load_manifest
from .delta import Delta, check_fits, load_delta, write_delta
from .description import FILE as DEVICE
from .description import is_device, load_device
from .parts import Device, Entry

MODEL, SELECTED = "model", "selected"  # what applying a delta writes


@typed
def save_delta(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> Delta:
    """Write what a training changed, to be sent and applied elsewhere.

    Args:
        folder: a trained artifact folder; the best checkpoint is taken, else the last.
        path: where to write the ``.safetensors`` file.

    Returns:
        The delta: ``model_sha256``, ``entry`` (the strategy that chose the layers) and ``tensors`` by name.

    Raises:
        RecordError: the folder is not an artifact folder, or damaged, or a value is not finite.
        UsageError: it was not trained, or the output would replace one of its files.
        OutputError: the file cannot be written.
        RuntimeMissingError: the runtime that wrote the checkpoint is not installed.

    Example:
        >>> from adabet_onnx import Trainer, make_artifacts, save_delta, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> rows = Trainer("artifacts").fit("new_domain.npz", epochs=1)
        >>> list(save_delta("artifacts", "personal.safetensors").tensors)
        ['head.weight', 'head.bias']
    """
    manifest = load_manifest(Path(folder))
    keep_own_files(manifest, path)
    checkpoint, trained = trained_checkpoint(manifest)
    if not trained:
        raise UsageError(f"{manifest.folder} has not been trained: there is nothing to save. Train it first.")
    values, _ = manifest.read_checkpoint(checkpoint, PROPERTY)
    shapes = _shapes(manifest)
    for name, shape in shapes.items():
        if name not in values or values[name].size != int(np.prod(shape)):
            raise RecordError(f"{checkpoint}: {name!r} is missing or differs. Make the artifacts again.")
    tensors = {name: values[name].astype(np.float32).reshape(shape) for name, shape in shapes.items()}
    entry = str(manifest.selection_entry["strategy"])
    return write_delta(path, tensors, model_sha256=manifest.model_sha256, entry=entry)


@typed
def apply_delta(
    folder: str | os.PathLike[str], delta: Delta | str | os.PathLike[str], path: str | os.PathLike[str]
) -> str:
    """Put a delta into the model that it belongs to.

    Args:
        folder: an artifact folder, trained or not; or a device package.
        delta: the file, or what `load_delta` gave.
        path: where to write: of an artifact folder the adapted ``.onnx`` model, of a device package the file that its
            personal model reads trained values from (``selected``).

    Returns:
        ``"model"`` or ``"selected"``: which of the two was written.

    Raises:
        RecordError: the folder is neither, or damaged; the delta is of another model, or its tensors are not those
            that are trained there.
        UsageError: the output would replace a file that is read.
        OutputError: the file cannot be written.

    Example:
        >>> from adabet_onnx import Trainer, apply_delta, make_artifacts, save_delta, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> rows = Trainer("artifacts").fit("new_domain.npz", epochs=1)
        >>> delta = save_delta("artifacts", "personal.safetensors")
        >>> apply_delta("artifacts", "personal.safetensors", "adapted.onnx")
        'model'
    """
    found = delta if isinstance(delta, Delta) else load_delta(delta)
    if is_device(folder):
        device = load_device(folder)
        data = selected_bytes(device, found)
        read = {file.name for file in device.files} - {device.entry(found.entry).selected}
        keep_apart(path, [found.path, *(device.folder / name for name in (DEVICE, *sorted(read)))])
        write_bytes(path, data)
        return SELECTED
    manifest = _artifacts(Path(folder))
    keep_apart(path, [found.path])
    keep_own_files(manifest, path)
    where = str(manifest.folder)
    check_fits(found, _shapes(manifest), model_sha256=manifest.model_sha256, where=where)
    _, state = manifest.read_checkpoint(trained_checkpoint(manifest)[0], PROPERTY)
    write_adapted(proto_with(manifest, found.tensors, str(found.path), trained=trained_on(state)), path)
    return MODEL


def selected_bytes(device: Device, delta: Delta) -> bytes:
    """The file that a package's personal model reads trained values from, with those of a delta.

    Raises:
        RecordError: the delta does not fit.
    """
    names = [entry.name for entry in device.entries]
    if delta.entry not in names:
        known = ", ".join(map(repr, names))
        raise RecordError(f"{delta.path} is of the entry {delta.entry!r}, but {device.folder} has {known}.")
    entry: Entry = device.entry(delta.entry)
    shapes = {tensor.name: tensor.shape for tensor in entry.personal}
    check_fits(delta, shapes, model_sha256=device.model_sha256, where=f"entry {entry.name!r} of {device.folder}")
    data = bytearray(entry.selected_bytes)
    for tensor in entry.personal:
        data[tensor.offset : tensor.end] = np.ascontiguousarray(delta.tensors[tensor.name], "<f4").tobytes()
    return bytes(data)


@dataclass(frozen=True)
class Apart:
    """How far a tensor of one delta is from that of another.

    Attributes:
        name: of the tensor.
        shapes: in the first and in the second.
        distance: Euclidean; None where the shapes differ.
        relative: of the first one's norm; None where that is 0, or the shapes differ.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    distance: float | None
    relative: float | None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "shapes": [list(shape) for shape in self.shapes],
            "distance": self.distance,
            "relative": self.relative,
        }


@dataclass(frozen=True)
class Difference:
    """How two deltas differ.

    Attributes:
        same_model: whether they are of one model.
        same_entry: whether they are of one choice of layers.
        tensors: those that both have, in the order of the first.
        only_first: names of those that the second lacks.
        only_second: names of those that the first lacks.
    """

    same_model: bool
    same_entry: bool
    tensors: tuple[Apart, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare_deltas(first: Delta, second: Delta) -> Difference:
    """How far two deltas are apart, by tensor.

    Args:
        first: what the other is compared with.
        second: the other.
    """
    one, other = first.tensors, second.tensors
    return Difference(
        first.model_sha256 == second.model_sha256,
        first.entry == second.entry,
        tuple(_apart(name, array, other[name]) for name, array in one.items() if name in other),
        tuple(name for name in one if name not in other),
        tuple(name for name in other if name not in one),
    )


def _apart(name: str, one: np.ndarray, other: np.ndarray) -> Apart:
    if one.shape != other.shape:
        return Apart(name, (one.shape, other.shape), None, None)
    exact = one.astype(np.float64)
    distance, norm = float(np.linalg.norm((exact - other).ravel())), float(np.linalg.norm(exact.ravel()))
    return Apart(name, (one.shape, other.shape), distance, distance / norm if norm else None)


def _artifacts(folder: Path) -> Manifest:
    if not (folder / "manifest.json").is_file():
        raise RecordError(
            f"{folder} is neither an artifact folder (no manifest.json) nor a device package (no device.json)."
        )
    return load_manifest(folder)


def _shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Of the parameters and statistics, in the order of a delta."""
    entries = [*manifest.parameter_entries, *manifest.statistic_entries]
    return {str(entry["name"]): tuple(int(extent) for extent in entry["shape"]) for entry in entries}
