"""A delta: a small file with what training changed in a model, to be stored or sent.

A safetensors file with the trained parameters and updated running statistics of one choice of layers, described in
docs/device-package.md. It identifies its model by the SHA-256 of the file that was adapted.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RecordError
from ..options import typed
from ..showing import clipped, counted, file_name, one_line
from .tensors_file import data_bytes, read_tensors, write_tensors

FORMAT, VERSION = "adabet-onnx/delta", "1"
_HASH = re.compile(r"[0-9a-f]{64}\Z")
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Delta:
    """What changed in training.

    Attributes:
        path: path of its file.
        model_sha256: SHA-256 of the model that was adapted.
        entry: the choice of layers.
        tensors: parameters and statistics by name, float32.
        sha256: SHA-256 of the numbers.
    """

    path: Path
    model_sha256: str
    entry: str
    tensors: Mapping[str, np.ndarray]
    sha256: str

    def __repr__(self) -> str:
        numbers = sum(array.size for array in self.tensors.values())
        size = f"{numbers:,} numbers in {counted(len(self.tensors), 'tensor')}"
        return one_line(self, file_name(str(self.path)), clipped(self.entry), f"model {self.model_sha256[:12]}", size)


@dataclass(frozen=True)
class InspectedDelta:
    """A delta with the SHA-256 that its file states."""

    delta: Delta
    stated_sha256: str

    @property
    def whole(self) -> bool:
        """Whether the stated SHA-256 is that of the numbers."""
        return self.delta.sha256 == self.stated_sha256


@typed
def load_delta(path: str | os.PathLike[str]) -> Delta:
    """Read a delta and check it: header, SHA-256, and that all numbers are finite.

    Whether it fits a model is checked when it is applied.

    Args:
        path: a file written by `save_delta` or by a device.

    Returns:
        The delta, with ``model_sha256``, ``entry`` and ``tensors`` by name.

    Raises:
        RecordError: the file is not a delta, is truncated or altered, or has numbers that are not finite.

    Example:
        >>> from adabet_onnx import Trainer, load_delta, make_artifacts, save_delta, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> rows = Trainer("artifacts").fit("new_domain.npz", epochs=1)
        >>> delta = save_delta("artifacts", "personal.safetensors")
        >>> load_delta("personal.safetensors").model_sha256 == manifest.model_sha256
        True
    """
    inspected = inspect_delta(path)
    delta = inspected.delta
    if not inspected.whole:
        raise RecordError(
            f"{delta.path} was altered: the SHA-256 of its numbers is {delta.sha256}, expected "
            f"{inspected.stated_sha256}. Copy it again."
        )
    check_finite(delta.tensors, delta.path)
    return delta


def inspect_delta(path: str | os.PathLike[str]) -> InspectedDelta:
    """Read a delta without checking its SHA-256 and numbers.

    Raises:
        RecordError: the file is not a delta or is truncated.
    """
    path = Path(path)
    content = read_tensors(path)
    about = content.metadata
    if about.get("format") != FORMAT:
        raise RecordError(f"{path}: expected a file of format {FORMAT!r}, found {about.get('format')!r}.")
    if about.get("version") != VERSION:
        version = about.get("version")
        raise RecordError(f"{path}: version {version!r} of {FORMAT!r}, expected {VERSION!r}. Update adabet-onnx.")
    for key in ("model_sha256", "sha256"):
        if _HASH.match(about.get(key, "")) is None:
            raise RecordError(
                f"{path}: {key!r} must be 64 hexadecimal digits, found {clipped(about.get(key))!r}. Save it again."
            )
    if not about.get("entry"):
        raise RecordError(f"{path}: it does not name its choice of layers ('entry'). Save it again.")
    delta = Delta(path, about["model_sha256"], about["entry"], content.tensors, content.sha256)
    return InspectedDelta(delta, about["sha256"])


def write_delta(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], *, model_sha256: str, entry: str
) -> Delta:
    """Write a delta atomically.

    Args:
        path: path of the file.
        tensors: parameters and statistics by name, in the order of the model's description.
        model_sha256: SHA-256 of the model that was adapted.
        entry: the choice of layers.

    Raises:
        RecordError: a number is not finite.
        OutputError: the file cannot be written.
    """
    check_finite(tensors, Path(path))
    data = data_bytes(tensors)
    digest = hashlib.sha256(data).hexdigest()
    about = {"format": FORMAT, "version": VERSION, "model_sha256": model_sha256, "entry": entry, "sha256": digest}
    write_tensors(path, tensors, about, data)
    return Delta(Path(path), model_sha256, entry, dict(tensors), digest)


def all_finite(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether no number is NaN or infinite."""
    return all(np.isfinite(array).all() for array in tensors.values())


def check_finite(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Check that all numbers are finite.

    Raises:
        RecordError: a number is not finite.
    """
    for name, array in tensors.items():
        wrong = np.flatnonzero(~np.isfinite(array.reshape(-1)))
        if len(wrong):
            raise RecordError(
                f"{path}: tensor {name!r} has {counted(len(wrong), 'number')} that are not finite, the first at "
                f"{wrong[0]}. Train again with a lower rate."
            )


def check_model(delta: Delta, model_sha256: str, *, where: str) -> None:
    """Check that a delta belongs to a model.

    Args:
        delta: the delta to apply.
        model_sha256: SHA-256 of the model.
        where: the name of the folder or package, for messages.

    Raises:
        RecordError: it belongs to another.
    """
    if delta.model_sha256 != model_sha256:
        raise RecordError(
            f"{delta.path} belongs to another model, with the SHA-256 {delta.model_sha256}: that of {where} is "
            f"{model_sha256}. Apply it to artifacts or a package of its own model."
        )


def check_fits(delta: Delta, shapes: Shapes, *, model_sha256: str, where: str) -> None:
    """Check that a delta belongs to a model and has exactly the tensors that are trained there.

    Args:
        delta: the delta to apply.
        shapes: shapes of the parameters and statistics, by name.
        model_sha256: SHA-256 of the model.
        where: the name of the folder or package, for messages.

    Raises:
        RecordError: the delta belongs to another model, or tensors differ.
    """
    check_model(delta, model_sha256, where=where)
    for name, array in delta.tensors.items():
        if name not in shapes:
            raise RecordError(f"{delta.path} has a tensor {clipped(name)!r}, which is not trained in {where}.")
        if array.shape != tuple(shapes[name]):
            expected = list(shapes[name])
            raise RecordError(
                f"{delta.path}: tensor {clipped(name)!r} has the shape {list(array.shape)}, expected {expected} as in "
                f"{where}."
            )
    missing = [name for name in shapes if name not in delta.tensors]
    if missing:
        raise RecordError(
            f"{delta.path} lacks {counted(len(missing), 'tensor')} trained in {where}, such as {clipped(missing[0])!r}."
        )
