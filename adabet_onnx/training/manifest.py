"""The manifest of an artifact folder: what is in it and how to use it.

``manifest.json``: format "adabet-onnx/manifest", version 1, with
    backend         "ort" (onnxruntime-training)
    files           names of training_model, eval_model, optimizer_model, checkpoint, model (the graph to export into)
    sha256          of each of these files
    model_sha256    of the model the artifacts were made from
    inputs          in the order training feeds them: name (of the original model), feed (name in training), dtype,
                    shape (batch dimension "N")
    labels          name, dtype and rank of the labels' input, fed after the inputs
    outputs         order of the outputs of training and eval model: loss, logits
    loss, logits    names of these outputs; model_logits is the logits' name in ``model``
    loss_function   cross-entropy, mse, bce-with-logits or l1
    optimizer       name and weight_decay
    parameters      the trainable ones in the order of the flat parameter buffer: name, shape, offset (in elements)
    frozen          "embedded" (constants in both models) or "checkpoint"
    num_outputs     size of the logits' last axis; logits_shape: their whole shape (batch dimension "N")
    selection       the selection file's content
    preprocessing   data/preprocess.py, or null
    classes         class names, or null
    checked         results of the self-check, or null if it was left out
    versions        of adabet-onnx, onnxruntime-training and onnx
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.preprocess import Preprocessing, preprocessing_from_json
from ..errors import RecordError
from ..files import sha256_of_files
from ..records import Entries, read_record
from ..selection.record import selection_from_json
from . import ort

FORMAT, VERSION = "adabet-onnx/manifest", 1
FILE = "manifest.json"
BACKEND = "ort"
_MADE_BY = "adabet-onnx artifacts"
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
_FILES = ("training_model", "eval_model", "optimizer_model", "checkpoint", "model")


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest, with the folder it lies in."""

    folder: Path
    content: dict[str, Any]

    def file(self, what: str) -> Path:
        """Path of one of the files the manifest names."""
        return self.folder / str(self.content["files"][what])

    @property
    def parameters(self) -> list[str]:
        """Names of the trainable parameters."""
        return [str(entry["name"]) for entry in self.content["parameters"]]

    @property
    def trainable_count(self) -> int:
        """Number of trainable elements."""
        return sum(math.prod(entry["shape"]) for entry in self.content["parameters"])

    @property
    def feed_names(self) -> list[tuple[str, str]]:
        """(name in the original model, name in training) of each input."""
        return [(str(entry["name"]), str(entry["feed"])) for entry in self.content["inputs"]]

    @property
    def loss_function(self) -> str:
        """The loss."""
        return str(self.content["loss_function"])

    @property
    def num_outputs(self) -> int:
        """Size of the logits' last axis."""
        return int(self.content["num_outputs"])

    @property
    def suffix(self) -> str:
        """onnx or ort: the format of the models that training loads."""
        return self.file("training_model").suffix[1:]

    @property
    def classes(self) -> list[str] | None:
        """Class names."""
        value = self.content.get("classes")
        return None if value is None else [str(name) for name in value]

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How data becomes model input."""
        value = self.content.get("preprocessing")
        return None if value is None else preprocessing_from_json(value, str(self.folder / FILE))

    def session(self, checkpoint: Path, *, threads: int | None = None) -> ort.Session:
        """Load parameters, gradients and optimizer; feeds are by the original model's input names."""
        names = [name for name, _ in self.feed_names]
        return ort.Session(self.folder, checkpoint, inputs=names, suffix=self.suffix, threads=threads)


def load_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read a folder's manifest.

    Args:
        folder: the artifact folder.
        verify: also compare the files with their SHA-256.

    Raises:
        RecordError: there is none, it is damaged, or a file is missing or was changed.
    """
    path = folder / FILE
    if not path.is_file():
        inside = folder / "artifacts"
        hint = f"Give {inside}." if (inside / FILE).is_file() else "adabet-onnx artifacts makes one."
        raise RecordError(f"{folder} is not an artifact folder (it has no {FILE}). {hint}")
    content = read_record(path, FORMAT, VERSION, _MADE_BY)
    manifest = Manifest(folder, content)
    _check(Entries(content, str(path), _MADE_BY), manifest, path)
    names = {what: manifest.file(what) for what in _FILES}
    hashes = content["sha256"]
    for what, file in names.items():
        if file.parent != folder or not file.is_file():
            raise RecordError(
                f"{path} names {file.name!r} as {what}, but it is not in the folder. Make the artifacts again."
            )
        if verify and sha256_of_files([file]) != hashes.get(what):
            raise RecordError(f"{file} was changed or cut short since it was made. Make the artifacts again.")
    return manifest


def _check(record: Entries, manifest: Manifest, path: Path) -> None:
    """See that every entry that is used is there and of the right type."""
    backend = record.take("backend", str)
    if backend != BACKEND:
        raise RecordError(
            f"{path}: backend {backend!r} is not known to this release (it knows {BACKEND!r}). Update adabet-onnx or "
            "make the artifacts again."
        )
    files, hashes = record.inside("files"), record.inside("sha256")
    for what in _FILES:
        files.take(what, str)
        hashes.take(what, str)
    for key in ("model_sha256", "loss", "logits", "model_logits", "loss_function", "frozen"):
        record.take(key, str)
    if manifest.loss_function not in ort.LOSSES:
        raise record.damaged(f"'loss_function' is {manifest.loss_function!r}, not one of {', '.join(ort.LOSSES)}")
    optimizer = record.inside("optimizer").take("name", str)
    if optimizer not in ort.OPTIMIZERS:
        raise record.damaged(f"the optimizer is {optimizer!r}, not one of {', '.join(ort.OPTIMIZERS)}")
    record.take("num_outputs", int)
    record.take("logits_shape", list)
    for key in ("inputs", "parameters"):
        if not record.take(key, list):
            raise record.damaged(f"{key!r} is empty")
    for entry in record.take_list("inputs", dict):
        given = Entries(entry, f"{path}, 'inputs',", _MADE_BY)
        _ = given.take("name", str), given.take("feed", str)
        if given.take("dtype", str) not in _DTYPES:
            raise given.damaged(f"'dtype' is {entry['dtype']!r}, not one of {', '.join(_DTYPES)}")
        if not all(type(extent) is int for extent in given.take("shape", list)[1:]):
            raise given.damaged("'shape' must be the batch dimension followed by whole numbers")
    for entry in record.take_list("parameters", dict):
        given = Entries(entry, f"{path}, 'parameters',", _MADE_BY)
        _ = given.take("name", str), given.take_list("shape", int), given.take("offset", int)
    selection_from_json(record.take("selection", dict), f"{path}, 'selection',")
    if record.take_if_there("classes", None, list, type(None)) is not None:
        record.names("classes")
    if record.take_if_there("preprocessing", None, dict, type(None)) is not None:
        _ = manifest.preprocessing
    record.take_if_there("notes", [], list)
