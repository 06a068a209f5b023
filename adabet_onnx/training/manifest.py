"""The manifest of an artifact folder: what is in it and how to use it.

``manifest.json``: format "adabet-onnx/manifest", version 2, with
    backend         "ort" (onnxruntime-training) or "portable" (plain ONNX)
    files           names of the backend's files (below) and of model (the graph to export into)
    sha256          of each of these files
    model_sha256    of the model the artifacts were made from
    model_logits    the logits' name in ``model``
    bound           values that inputs were bound to, by name (see model/bindings.py), or null; absent in older files
    loss_function, optimizer (name, weight_decay, momentum, clip_norm), label_smoothing, class_axis, ignore_label,
    class_weights (a number for each class, or null; absent in older files), batch_norm, recompute, frozen,
    frozen_precision, ort_format, profile     trainability/choices.py
                    (class_axis: of logits_shape, null where the loss has no classes)
    class_axis_given  whether that axis was given, or told by the model's own Softmax, and is not the usual one for want
                    of either; absent in older files, whose class_axis is null then
    num_outputs     number of classes or outputs; logits_shape: shape of the logits that the loss is computed from, the
                    batch ("N") first, whichever axis of the model's logits it is
    selection       the selection file's content
    preprocessing   data/preprocess.py, or null
    classes         class names, or null
    notes           what a user should know, a sentence each
    checked         results of the self-check, or null if it was left out
    precision       how far the frozen part in int8 moves logits (training/precision.py); null where nothing is frozen,
                    absent where it is in float32
    versions        of adabet-onnx, the runtime and onnx

and, of the backend "ort",
    files           training_model, eval_model, optimizer_model, checkpoint
    inputs          in the order training feeds them: name (of the original model), feed (name in training), dtype,
                    shape (batch dimension "N")
    labels          name, dtype and rank of the labels' input, fed after the inputs
    outputs         order of the outputs of training and eval model: loss, logits
    loss, logits    names of these outputs
    parameters      the trainable ones in the order of the flat parameter buffer: name, shape, offset (in elements)

or, of the backend "portable",
    files           frozen, step, gradients, update, evaluation (graphs), state (initial values) and weights (external
                    data of these graphs and of model: each weight of 1 kB and more once); with the frozen part in
                    int8, which model has too, float: the same model in float32
    inputs          names of the frozen graph's inputs; input_details: name (of the original model), feed (name here),
                    dtype, shape
    boundary        what the frozen graph gives, and step, gradients and evaluation go on from: name (of the frozen
                    graph's output and of the others' input), shape (the samples, "N", first), dtype, bytes (of one
                    sample), input (the frozen graph's input that it is, unchanged; null for what is computed)
    labels          name of the labels' input; label_details: dtype, shape
    learning_rate   name of the input for the learning rate, float32 of one element
    step            name of the input for the number of the step, int64 of one element, 1 for the first
    loss, logits    names of these outputs
    parameters      name, input and output (names in step and update), gradient (name in gradients and update), shape,
                    offset and bytes (in state, float32 little-endian); where a part of the tensor is trained, channels:
                    axis and indices (ascending) of that part in the tensor that ``model`` has under this name; its
                    shape is then the part's, and so are gradients, state and what checkpoints hold
    state           of the optimizer, and running statistics: the same but gradient; parameter it belongs to; moves: the
                    forward pass changes it, not the update
    opset, ir_version, oldest_onnxruntime   what is needed to read the graphs
    predicted_step_bytes, predicted_frozen_bytes  of step and frozen graph by batch size: see portable/memory.py

Version 1 had neither frozen, weights nor boundary: step, gradients and evaluation began at ``inputs``, and each graph
held its weights. Such folders are read as before.
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
from ..portable.session import Session
from ..records import read_record
from ..runtime import Threads, on
from ..selection.record import Selection, selection_from_json
from ..showing import clipped, counted, named, one_line
from . import ort
from .manifest_check import MADE_BY, check_manifest, file_names
from .manifest_content import ManifestContent

FORMAT, VERSION = "adabet-onnx/manifest", 2
FILE = "manifest.json"
TrainingSession = ort.Session | Session


@dataclass(frozen=True)
class Manifest(ManifestContent):
    """The content of a manifest, with the folder it lies in."""

    def __repr__(self) -> str:
        return one_line(self, *self.described, f"{self.trainable_count:,} parameters are trained")

    @property
    def described(self) -> tuple[str, ...]:
        """Folder, backend, loss, optimizer and layers, in short."""
        layers = [str(name) for name in self.content["selection"]["layers"]]
        what = f"{counted(len(layers), 'layer')}: {named(layers)}"
        return clipped(self.folder, 60), self.backend, self.loss_function, self.optimizer, what

    def file(self, what: str) -> Path:
        """Path of one of the files the manifest names."""
        return self.folder / str(self.content["files"][what])

    @property
    def float_file(self) -> Path | None:
        """The model with its frozen part in float32, where that of ``model`` is not."""
        return self.file("float") if "float" in self.content["files"] else None

    def model(self, *, full_precision: bool = False) -> ir.Model:
        """The graph that an export puts trained values into, in memory.

        Args:
            full_precision: with its frozen part in float32.

        Raises:
            ModelError: it cannot be read, or weights lie outside of the folder.
        """
        wanted = self.float_file if full_precision else None
        return ir.from_proto(read(wanted or self.file("model")).proto)

    @property
    def parameters(self) -> list[str]:
        """Names of the trainable parameters."""
        return [str(entry["name"]) for entry in self.content["parameters"]]

    def restored(self, name: str, whole: np.ndarray, value: np.ndarray) -> np.ndarray:
        """A tensor of ``model`` with a parameter's (or statistic's) value in it: all of it, or the trained channels.

        Args:
            name: of the tensor.
            whole: the tensor in ``model``.
            value: of the parameter.

        Raises:
            RecordError: they do not fit.
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
        """Names of the running statistics that training moves."""
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
        """What steps begin with: see the module. Nothing where they begin at the model's inputs (version 1, ort)."""
        return list(self.content.get("boundary") or [])

    @property
    def frozen(self) -> bool:
        """Whether anything is computed before that; not where the boundary is the model's inputs."""
        return any(entry["input"] is None for entry in self.boundary)

    @property
    def stored_bytes(self) -> int:
        """What is kept of one sample, from which steps go on; 0 where nothing is frozen."""
        return sum(int(entry["bytes"]) for entry in self.boundary) if self.frozen else 0

    def predicted_bytes(self, of: str, batch: int) -> int:
        """What ``predicted_step_bytes`` or ``predicted_frozen_bytes`` comes to at a batch size; 0 if nothing is said.

        Args:
            of: the entry.
            batch: samples; between and beyond what the entry has, a straight line.
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
        """A label per pixel or token that does not count, beside -100, in the data; what is fed has -100 for it."""
        value = self.content.get("ignore_label")
        return None if value is None else int(value)

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """Of the cross-entropy, one for each class; None where all count alike."""
        value = self.content.get("class_weights")
        return None if value is None else tuple(float(weight) for weight in value)

    @property
    def class_axis(self) -> int | None:
        """Axis of the classes in these logits; None where the loss has none."""
        return class_axis(self.logits_shape, self.content.get("class_axis"), self.loss_function)

    @property
    def given_axis(self) -> int | None:
        """The same where it was given, or told by the model's own Softmax: labels may fit two axes otherwise."""
        known = self.content.get("class_axis") is not None and self.content.get("class_axis_given", True)
        return self.class_axis if known else None

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one sample's labels: () for one class index."""
        return tuple(int(extent) for extent in label_shape(self.logits_shape, self.class_axis)[1:])

    @property
    def initial(self) -> Path:
        """The file training starts from."""
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
        """What is trained, and why."""
        return selection_from_json(self.content["selection"], "the manifest's selection")

    @property
    def preprocessing(self) -> Arithmetic | None:
        """How data becomes model input."""
        value = self.content.get("preprocessing")
        return None if value is None else preprocessing_from_json(value, str(self.folder / FILE))

    def session(self, checkpoint: Path, *, threads: Threads = None) -> TrainingSession:
        """Load parameters, gradients and optimizer; feeds are by the original model's input names."""
        if self.backend == "ort":
            names, number = [name for name, _ in self.feed_names], on(threads).threads
            return ort.Session(self.folder, checkpoint, inputs=names, suffix=self.suffix, threads=number)
        files = {what: self.file(what) for what in file_names(self.content)}
        return Session(files, self.content, checkpoint, feeds=self.feed_names, threads=threads)

    def read_checkpoint(self, checkpoint: Path, key: str) -> tuple[dict[str, np.ndarray], Any]:
        """All parameters (and state) in a checkpoint by name, and a property of it (None if it has none)."""
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
        RecordError: there is none, it is damaged, or a file is missing or was changed.
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
