"""The manifest of an artifact folder: its content and how to use it.

``manifest.json``: format "adabet-onnx/manifest", version 2, with
    backend         "ort" (onnxruntime-training) or "portable" (plain ONNX)
    files           names of the backend's files (below) and of model (the graph to export into)
    sha256          of each of these files
    model_sha256    SHA-256 of the model the artifacts were made from
    model_name      name of its file, without folders, or null if it was no file; absent in older files
    model_logits    the logits' name in ``model``
    bound           values that inputs were bound to, by name (see model/bindings.py), or null; absent in older files
    loss_function, optimizer (name, weight_decay, momentum, clip_norm), label_smoothing, class_axis, ignore_label,
    class_weights (a number for each class, or null; absent in older files), batch_norm, recompute, frozen,
    frozen_precision, ort_format, profile     trainability/choices.py
                    (class_axis: of logits_shape, null where the loss has no classes)
    class_axis_given  whether that axis was given or determined by the model's own Softmax, rather than assumed by
                    default; absent in older files, whose class_axis is null in the default case
    num_outputs     number of classes or outputs; logits_shape: shape of the logits that the loss is computed from, the
                    batch ("N") first, whichever axis of the model's logits it is
    selection       the selection file's content
    preprocessing   data/preprocess.py, or null
    classes         class names, or null
    notes           remarks for users, a sentence each
    checked         results of the self-check, or null if it was left out
    precision       how far the frozen part in int8 shifts the logits (training/precision.py); null if nothing is
                    frozen, absent if the frozen part is in float32
    versions        of adabet-onnx, the runtime and onnx

and, of the backend "ort",
    files           training_model, eval_model, optimizer_model, checkpoint
    inputs          in the order training feeds them: name (of the original model), feed (name in training), dtype,
                    shape (batch dimension "N")
    labels          name, dtype and rank of the labels' input, fed after the inputs
    outputs         order of the outputs of training and eval model: loss, logits
    loss, logits    names of these outputs
    parameters      trainable parameters in the order of the flat parameter buffer: name, shape, offset (in elements)

or, of the backend "portable",
    files           frozen, step, gradients, update, evaluation (graphs), state (initial values) and weights (external
                    data of these graphs and of model: each weight of at least 1 kB once); if the frozen part is in
                    int8, in which case it is in model as well, also float: the same model in float32
    inputs          names of the frozen graph's inputs; input_details: name (of the original model), feed (name here),
                    dtype, shape
    boundary        the tensors that the frozen graph passes to step, gradients and evaluation: name (of the frozen
                    graph's output and of the others' input), shape (the samples, "N", first), dtype, bytes (of one
                    sample), input (name of the frozen graph's input if it is passed on unchanged; null if computed)
    labels          name of the labels' input; label_details: dtype, shape
    learning_rate   name of the input for the learning rate, float32 of one element
    step            name of the input for the number of the step, int64 of one element, 1 for the first
    loss, logits    names of these outputs
    parameters      name, input and output (names in step and update), gradient (name in gradients and update), shape,
                    offset and bytes (in state, float32 little-endian); if only a part of the tensor is trained,
                    channels: axis and indices (ascending) of that part in the tensor of this name in ``model``; shape,
                    gradients, state and checkpoints then refer to that part
    state           optimizer state and running statistics: the same entries except gradient; parameter: the one it
                    belongs to; moves: whether the forward pass, not the update, changes it
    opset, ir_version, oldest_onnxruntime   the requirements for running the graphs
    predicted_step_bytes, predicted_frozen_bytes  of step and frozen graph by batch size: see portable/memory.py

Version 1 had no frozen, weights or boundary: step, gradients and evaluation started from ``inputs``, and each graph
held its weights. Such folders can still be read.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..data.preprocess import Arithmetic, preprocessing_from_json
from ..errors import RecordError
from ..file_names import ARTIFACTS
from ..files import sha256_of_files
from ..model.channels import Slice
from ..model.dims import Dims
from ..model.logits_axes import class_axis, label_shape
from ..model.reading import read
from ..portable import checkpoint as portable_checkpoint
from ..portable.session import PortableSession
from ..records import read_record
from ..runtime import Threads, on
from ..selection.record import Selection, selection_from_json
from ..showing import clipped, counted, named, one_line
from . import ort
from .manifest_check import MADE_BY, check_manifest, file_names
from .manifest_content import ManifestContent

FORMAT, VERSION = "adabet-onnx/manifest", 2
FILE = "manifest.json"
TrainingSession = ort.OrtSession | PortableSession


@dataclass(frozen=True)
class Manifest(ManifestContent):
    """The content of a manifest, with its folder."""

    def __repr__(self) -> str:
        return one_line(self, *self.described, f"{self.trainable_count:,} trained parameters")

    @property
    def described(self) -> tuple[str, ...]:
        """Short texts for folder, backend, loss, optimizer and layers."""
        layers = [str(name) for name in self.content["selection"]["layers"]]
        what = f"{counted(len(layers), 'layer')}: {named(layers)}"
        return clipped(self.folder, 60), self.backend, self.loss_function, self.optimizer, what

    def file(self, key: str) -> Path:
        """Return the path of one of the files named in the manifest."""
        return self.folder / str(self.content["files"][key])

    @property
    def float_file(self) -> Path | None:
        """The model with its frozen part in float32, if that of ``model`` is quantised."""
        return self.file("float") if "float" in self.content["files"] else None

    def model(self, *, full_precision: bool = False) -> ir.Model:
        """Load the graph that an export inserts trained values into.

        Args:
            full_precision: whether the frozen part is in float32.

        Raises:
            ModelError: it cannot be read, or its weights lie outside the folder.
        """
        path = self.float_file if full_precision else None
        return ir.from_proto(read(path or self.file("model")).proto)

    @property
    def parameters(self) -> list[str]:
        """Names of the trainable parameters."""
        return [str(entry["name"]) for entry in self.content["parameters"]]

    def restored(self, name: str, whole: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Return a tensor of ``model`` with the value of a parameter or statistic, whole or in the trained channels.

        Args:
            name: name of the tensor.
            whole: the tensor in ``model``.
            value: the value of the parameter.

        Raises:
            RecordError: the value does not fit the tensor.
        """
        channels = next((entry.get("channels") for entry in self.content["parameters"] if entry["name"] == name), None)
        try:
            if channels is None:
                return value.astype(np.float32).reshape(whole.shape)
            part = Slice(int(channels["axis"]), tuple(channels["indices"]))
            return part.put(whole.astype(np.float32), value)
        except (ValueError, IndexError) as error:
            raise RecordError(
                f"{self.folder}: parameter {name!r} does not fit the model ({error}). Make the artifacts again."
            ) from error

    @property
    def statistics(self) -> list[str]:
        """Names of the running statistics that training changes."""
        return [str(entry["name"]) for entry in self.content.get("state", []) if entry.get("moves")]

    @property
    def trainable_count(self) -> int:
        """Number of trainable elements."""
        return sum(math.prod(entry["shape"]) for entry in self.content["parameters"])

    @property
    def backend(self) -> str:
        """ort or portable."""
        return str(self.content["backend"])

    @property
    def input_details(self) -> list[dict[str, Any]]:
        """name (in the original model), feed (name in training), dtype and shape of each input."""
        return list(self.content["inputs" if self.backend == "ort" else "input_details"])

    @property
    def boundary(self) -> list[dict[str, Any]]:
        """The tensors that steps start from (see the module); empty for the model's inputs (version 1, ort)."""
        return list(self.content.get("boundary") or [])

    @property
    def frozen(self) -> bool:
        """Whether anything is computed before the boundary; false if the boundary is the model's inputs."""
        return any(entry["input"] is None for entry in self.boundary)

    @property
    def stored_bytes(self) -> int:
        """The bytes kept per sample at the boundary; 0 if nothing is frozen."""
        return sum(int(entry["bytes"]) for entry in self.boundary) if self.frozen else 0

    def predicted_bytes(self, of: str, batch: int) -> int:
        """Evaluate ``predicted_step_bytes`` or ``predicted_frozen_bytes`` at a batch size; 0 if the entry is missing.

        Args:
            of: name of the entry.
            batch: batch size; values between and beyond the stored ones are interpolated linearly.
        """
        known = sorted((int(size), int(count)) for size, count in (self.content.get(of) or {}).items())
        pairs = list(itertools.pairwise(known))
        if not pairs:
            return 0
        (few, low), (many, high) = next((pair for pair in pairs if batch <= pair[1][0]), pairs[-1])
        return max(0, low + (high - low) * (batch - few) // (many - few))

    @property
    def feed_names(self) -> list[tuple[str, str]]:
        """(name in the original model, name in training) of each input."""
        return [(str(entry["name"]), str(entry["feed"])) for entry in self.input_details]

    @property
    def loss_function(self) -> str:
        """The loss."""
        return str(self.content["loss_function"])

    @property
    def optimizer(self) -> str:
        """The optimizer's name."""
        return str(self.content["optimizer"]["name"])

    @property
    def logits_shape(self) -> Dims:
        """Shape of the logits that the loss is computed from, the batch first."""
        return tuple(self.content["logits_shape"])

    @property
    def ignore_label(self) -> int | None:
        """A label per pixel or token that is ignored in the data, besides -100; it is fed as -100."""
        value = self.content.get("ignore_label")
        return None if value is None else int(value)

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """The class weights of the cross-entropy; None if all classes count alike."""
        value = self.content.get("class_weights")
        return None if value is None else tuple(float(weight) for weight in value)

    @property
    def class_axis(self) -> int | None:
        """The class axis of these logits; None if the loss has no classes."""
        return class_axis(self.logits_shape, self.content.get("class_axis"), self.loss_function)

    @property
    def given_axis(self) -> int | None:
        """The class axis if given or determined by the model's own Softmax; otherwise labels may fit two axes."""
        known = self.content.get("class_axis") is not None and self.content.get("class_axis_given", True)
        return self.class_axis if known else None

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one sample's labels: () for one class index."""
        return tuple(int(extent) for extent in label_shape(self.logits_shape, self.class_axis)[1:])

    @property
    def initial(self) -> Path:
        """The file that training starts from."""
        return self.file("checkpoint" if self.backend == "ort" else "state")

    @property
    def num_outputs(self) -> int:
        """Number of classes, or size of the logits' last axis; 1 for logits of shape (N,)."""
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
    def selection(self) -> Selection:
        """The selection: what is trained, and why."""
        return selection_from_json(self.content["selection"], "the manifest's selection")

    @property
    def preprocessing(self) -> Arithmetic | None:
        """The preprocessing that turns data into model input."""
        value = self.content.get("preprocessing")
        return None if value is None else preprocessing_from_json(value, str(self.folder / FILE))

    def session(self, checkpoint: Path, *, threads: Threads = None) -> TrainingSession:
        """Open a training session from a checkpoint; its feeds use the original model's input names."""
        if self.backend == "ort":
            names, number = [name for name, _ in self.feed_names], on(threads).threads
            return ort.OrtSession(self.folder, checkpoint, inputs=names, suffix=self.suffix, threads=number)
        files = {what: self.file(what) for what in file_names(self.content)}
        return PortableSession(files, self.content, checkpoint, feeds=self.feed_names, threads=threads)

    def read_checkpoint(self, checkpoint: Path, key: str) -> tuple[dict[str, np.ndarray], Any]:
        """Return all parameters (and state) in a checkpoint by name, and one of its properties, or None."""
        if self.backend == "ort":
            return ort.read_checkpoint(checkpoint, key)
        entries = [*self.content["parameters"], *self.content["state"]]
        if checkpoint == self.initial:
            state = portable_checkpoint.read_initial(checkpoint, entries)
        else:
            state = portable_checkpoint.load(checkpoint, entries)
        return state.tensors, state.properties.get(key)


def load_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read a folder's manifest.

    Args:
        folder: the artifact folder.
        verify: also compare the files with their SHA-256.

    Raises:
        RecordError: the manifest is missing or damaged, or a file is missing or was changed.
    """
    path = folder / FILE
    if not path.is_file():
        inside = folder / ARTIFACTS
        hint = f"Give {inside}." if (inside / FILE).is_file() else "`make_artifacts` makes one."
        raise RecordError(f"{folder} is not an artifact folder (it has no {FILE}). {hint}")
    content = read_record(path, FORMAT, VERSION, MADE_BY)
    manifest = Manifest(folder, content)
    check_manifest(content, path)
    names = {what: manifest.file(what) for what in file_names(content)}
    hashes = content["sha256"]
    for what, file in names.items():
        if file.parent != folder or not file.is_file():
            raise RecordError(
                f"{path} names {file.name!r} as {what}, but it is not in the folder. Make the artifacts again."
            )
        if what == "weights" and file.is_symlink() and file.resolve().parent != folder.resolve():
            raise RecordError(
                f"{file} is a link to {file.resolve().parent}, but weights are read from the folder alone. Copy the "
                "folder with what its links point to (cp -rL), or make the artifacts again."
            )
        if verify and sha256_of_files([file]) != hashes.get(what):
            raise RecordError(f"{file} was changed or cut short since it was made. Make the artifacts again.")
    return manifest
