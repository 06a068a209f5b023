"""Save deltas from trained artifacts, apply them to models and device packages, and compare them."""

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
from .delta import Delta, check_fits, check_model, load_delta, write_delta
from .description import FILE as DEVICE
from .description import is_device, load_device
from .parts import Device, PackageEntry

MODEL, SELECTED = "model", "selected"  # kinds of files that applying a delta writes


@typed
def save_delta(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> Delta:
    """Write what a training changed, to be sent and applied elsewhere.

    Args:
        folder: a trained artifact folder; the best checkpoint is used, else the last.
        path: path of the ``.safetensors`` file to write.

    Returns:
        The delta: ``model_sha256``, ``entry`` (the strategy that chose the layers) and ``tensors`` by name.

    Raises:
        RecordError: the folder is not an artifact folder or is damaged, or a value is not finite.
        UsageError: the artifacts were not trained, or the output would replace one of their files.
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
    """Apply a delta to the model that it belongs to.

    Args:
        folder: an artifact folder, trained or not; or a device package.
        delta: the file, or the result of `load_delta`.
        path: path of the output: for an artifact folder the adapted ``.onnx`` model, for a device package the file from
            which its personal model reads trained values (``selected``).

    Returns:
        ``"model"`` or ``"selected"``: which of the two was written.

    Raises:
        RecordError: the folder is neither or is damaged; the delta belongs to another model, or its tensors differ from
            those that are trained there.
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
    loaded = delta if isinstance(delta, Delta) else load_delta(delta)
    if is_device(folder):
        device = load_device(folder)
        data = selected_bytes(device, loaded)
        read = {file.name for file in device.files} - {device.entry(loaded.entry).selected}
        keep_apart(path, [loaded.path, *(device.folder / name for name in (DEVICE, *sorted(read)))])
        write_bytes(path, data)
        return SELECTED
    manifest = _artifacts(Path(folder))
    keep_apart(path, [loaded.path])
    keep_own_files(manifest, path)
    where = str(manifest.folder)
    check_fits(loaded, _shapes(manifest), model_sha256=manifest.model_sha256, where=where)
    _, state = manifest.read_checkpoint(trained_checkpoint(manifest)[0], PROPERTY)
    write_adapted(proto_with(manifest, loaded.tensors, str(loaded.path), trained=trained_on(state)), path)
    return MODEL


def selected_bytes(device: Device, delta: Delta) -> bytes:
    """The content of the file from which a package's personal model reads trained values, with those of a delta.

    Raises:
        RecordError: the delta does not fit.
    """
    names = [entry.name for entry in device.entries]
    if delta.entry not in names:
        check_model(delta, device.model_sha256, where=str(device.folder))
        known = ", ".join(map(repr, names))
        raise RecordError(
            f"{delta.path} is for the entry {delta.entry!r}, but {device.folder} has {known}. Apply it to the "
            "artifacts or package that it was trained with, or train an entry of this package."
        )
    entry: PackageEntry = device.entry(delta.entry)
    shapes = {tensor.name: tensor.shape for tensor in entry.personal}
    check_fits(delta, shapes, model_sha256=device.model_sha256, where=f"entry {entry.name!r} of {device.folder}")
    data = bytearray(entry.selected_bytes)
    for tensor in entry.personal:
        data[tensor.offset : tensor.end] = np.ascontiguousarray(delta.tensors[tensor.name], "<f4").tobytes()
    return bytes(data)


@dataclass(frozen=True)
class TensorDistance:
    """The distance between the same tensor of two deltas.

    Attributes:
        name: name of the tensor.
        shapes: its shapes in the first and second delta.
        distance: Euclidean distance; None if the shapes differ.
        relative: distance relative to the norm of the first; None if that is 0, or the shapes differ.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    distance: float | None
    relative: float | None

    def to_json(self) -> dict[str, Any]:
        """The distance as JSON values."""
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
        same_model: whether they belong to the same model.
        same_entry: whether they belong to the same choice of layers.
        tensors: distances of the tensors that both have, in the order of the first.
        only_first: names of tensors only in the first.
        only_second: names of tensors only in the second.
    """

    same_model: bool
    same_entry: bool
    tensors: tuple[TensorDistance, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare_deltas(first: Delta, second: Delta) -> Difference:
    """Compare two deltas, tensor by tensor.

    Args:
        first: the reference.
        second: the other delta.
    """
    one, other = first.tensors, second.tensors
    return Difference(
        first.model_sha256 == second.model_sha256,
        first.entry == second.entry,
        tuple(_apart(name, array, other[name]) for name, array in one.items() if name in other),
        tuple(name for name in one if name not in other),
        tuple(name for name in other if name not in one),
    )


def _apart(name: str, one: np.ndarray, other: np.ndarray) -> TensorDistance:
    if one.shape != other.shape:
        return TensorDistance(name, (one.shape, other.shape), None, None)
    exact = one.astype(np.float64)
    distance, norm = float(np.linalg.norm((exact - other).ravel())), float(np.linalg.norm(exact.ravel()))
    return TensorDistance(name, (one.shape, other.shape), distance, distance / norm if norm else None)


def _artifacts(folder: Path) -> Manifest:
    if not (folder / "manifest.json").is_file():
        raise RecordError(
            f"{folder} is neither an artifact folder (no manifest.json) nor a device package (no device.json). Give a "
            "folder that `make_artifacts`, `make_device` or `make_menu` wrote."
        )
    return load_manifest(folder)


def _shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and statistics, in the order of a delta."""
    entries = [*manifest.parameter_entries, *manifest.statistic_entries]
    return {str(entry["name"]): tuple(int(extent) for extent in entry["shape"]) for entry in entries}
