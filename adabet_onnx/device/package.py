"""Write a package for a device: graphs, weights, initial values, and device.json, which describes them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from ..data.input_fit import model_input
from ..errors import OutputError, UsageError
from ..files import replacing_folder, sha256_of_files
from ..model.dims import count, dims
from ..model.open import Model, open_model
from ..options import typed
from ..portable.opset import lower_opset, oldest_runtime
from ..portable.profiles import fit_profile
from ..portable.shapes import annotate
from ..portable.weights import FILE as WEIGHTS
from ..portable.weights import WeightsWriter
from ..scoring.probes import add_probes
from ..showing import named
from ..training.history import PROPERTY, trained_checkpoint, trained_on
from ..training.manifest import Manifest, load_manifest
from ..version import __version__
from ..vocabulary import STARTS
from .entry import EntryWriter, operators
from .graphs import fix_samples
from .ort_format import as_ort
from .packing import DeviceScoring, Packing
from .training_defaults import training_defaults

FILE, FORMAT, VERSION = "device.json", "adabet-onnx/device", 1
PROBES = "probes.onnx"


@typed
def make_device(
    folder: str | os.PathLike[str],
    device: str | os.PathLike[str],
    *,
    start: str = "trained",
    packing: Packing | None = None,
) -> dict[str, Any]:
    """Write a package for devices from an artifact folder.

    Args:
        folder: the artifact folder, of the portable backend.
        device: the folder to write; an existing package there is replaced.
        start: the initial values for training on a device: ``trained``, those of the folder's best or last checkpoint,
            if it has one; or ``initial``, those of the model.
        packing: form of the package; None: the defaults of `Packing`. Without a profile, that of the artifacts applies.

    Returns:
        The content of device.json, as described in docs/device-package.md, and additionally, under ``notes``, what a
        user should know, a sentence each.

    Raises:
        CheckError: a graph of the package computes something other than the artifacts.
        ModelError: a graph cannot be written.
        OutputError: the folder cannot be written, or contains files that do not belong to the package.
        RecordError: ``folder`` is not an artifact folder or is damaged.
        UsageError: an option is unknown, the artifacts are for another backend, or the profile lacks an operator.

    Example:
        >>> from adabet_onnx import make_artifacts, make_device, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> make_device("artifacts", "device")["entries"][0]["layers"]
        ['head']
    """
    if start not in STARTS:
        raise UsageError(f"unknown `start` {start!r}: choose one of {', '.join(STARTS)}.")
    manifest = load_manifest(Path(folder))
    check_backend(manifest)
    packing = packing or Packing()
    profile = manifest.profile
    if packing.profile == "webgpu" and profile is None:
        raise UsageError(
            f"the graphs in {folder} were written for no profile. Make the artifacts again with `profile='webgpu'`."
        )
    packing = replace(packing, profile=packing.profile or profile)
    check_replaceable(device)
    with replacing_folder(device, FILE) as part:
        writer = PackageWriter(part, manifest, packing)
        writer.add(manifest, str(manifest.selection_entry["strategy"]), start=start)
        return writer.finish()


def check_backend(manifest: Manifest) -> None:
    """Check that the artifacts are plain ONNX.

    Raises:
        UsageError: the artifacts are for onnxruntime-training, too old, or ignore a label.
    """
    if manifest.backend != "portable" or not manifest.boundary:
        raise UsageError(
            f"{manifest.folder} contains artifacts for onnxruntime-training (or of an early release). A package needs "
            "plain ONNX: make them again with `backend='portable'`."
        )
    if manifest.ignore_label is not None:
        raise UsageError(
            f"the artifacts in {manifest.folder} ignore the label {manifest.ignore_label}, which a package cannot "
            "express: on a device, the label to ignore is always -100. Make them again without `ignore_label`, and map "
            "the label on the device."
        )


def check_replaceable(folder: str | os.PathLike[str]) -> None:
    """Check that replacing a package would not delete other files, such as a delta stored in its folder.

    Args:
        folder: the folder to be written.

    Raises:
        OutputError: the folder contains a package and files that device.json does not name.
    """
    path = Path(folder)
    if not (path / FILE).is_file():
        return
    own = {FILE}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        own.update(files_of(json.loads((path / FILE).read_bytes())))
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in own)
    if others:
        raise OutputError(
            f"cannot write {path}: besides a package it contains {named(others)}, not named in {FILE}, which would be "
            "lost. Move that elsewhere, or give a new folder."
        )


class PackageWriter:
    """Writes a package, one entry at a time.

    Args:
        folder: an empty folder.
        manifest: manifest of one of the artifact folders, for what all entries share.
        packing: form of the package.
    """

    def __init__(self, folder: Path, manifest: Manifest, packing: Packing) -> None:
        self._folder, self._manifest, self._packing = folder, manifest, packing
        self._weights = WeightsWriter(folder)
        self._graphs: list[ir.Model] = []
        self._entries: list[dict[str, Any]] = []
        self._outputs: list[dict[str, Any]] = []
        self._scoring: dict[str, Any] | None = None
        self._opened: Model | None = None
        self._started: dict[str, Any] = {}

    def add(self, manifest: Manifest, name: str, *, start: str = "initial", prefix: str = "") -> dict[str, Any]:
        """Write an entry.

        Args:
            manifest: manifest of its artifact folder.
            name: name of the entry.
            start: initial or trained.
            prefix: prefix of its files' names.
        """
        checkpoint, trained = trained_checkpoint(manifest) if start == "trained" else (manifest.initial, False)
        if trained:
            self._started = trained_on(manifest.read_checkpoint(checkpoint, PROPERTY)[1])
        writer = EntryWriter(manifest, checkpoint, self._folder, self._weights, name, prefix, self._in_profile)
        entry = writer.write(self._forward_batch)
        self._graphs += writer.graphs
        self._entries.append(entry)
        self._outputs = self._outputs or writer.outputs
        return entry

    def _add_scoring(self, scoring: DeviceScoring) -> None:
        """Write the graph that computes sketches of all layers' activations."""
        model = self._model()
        probed, names = add_probes(model, "sketch", sketch=scoring.sketch, seed=scoring.seed)
        numbers = {value.name: count(dims(value)[1:], 1) for value in probed.graph.outputs}
        lower_opset(probed)
        self._in_profile(probed, PROBES)
        self._weights.write(probed, PROBES)
        self._graphs.append(probed)
        sizes = {layer.name: layer.activation_size for layer in model.layers}
        layers = []
        for name, output in names.items():
            layers.append({"name": name, "output": output, "numbers": numbers[output], "size": sizes[name]})
        self._scoring = {
            "file": PROBES,
            "samples": scoring.samples,
            "points": min(scoring.subset_size, scoring.samples),
            "subsets": scoring.subsets,
            "seed": scoring.seed,
            "layers": layers,
        }

    def finish(self) -> dict[str, Any]:
        """Write the graph for scoring and device.json, and return the content of the latter and ``notes``."""
        if self._packing.scoring is not None:
            self._add_scoring(self._packing.scoring)
        if (self._folder / WEIGHTS).stat().st_size == 0:
            (self._folder / WEIGHTS).unlink()
        opset = max(graph.opset_imports.get("") or 0 for graph in self._graphs)
        ir_version = max(graph.ir_version for graph in self._graphs)
        training = training_defaults(self._packing, self._manifest.optimizer, self._started)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "made_by": f"adabet-onnx {__version__}",
            "model": self._name(),
            "model_sha256": self._manifest.model_sha256,
            "opset": opset,
            "ir_version": ir_version,
            "oldest_onnxruntime": oldest_runtime(opset, ir_version, operators(self._graphs)),
            "profile": self._packing.profile,
            "forward_batch": self._forward_batch,
            **self._description(),
            "training": training.to_json(),
            "scoring": self._scoring,
            "entries": self._entries,
        }
        if self._packing.ort_format:
            as_ort(self._folder, content)
        files = sorted(path for path in self._folder.iterdir() if path.name != FILE)
        content["files"] = [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of_files([path])} for path in files
        ]
        content["weights"] = WEIGHTS if (self._folder / WEIGHTS).is_file() else None
        (self._folder / FILE).write_bytes(_written(content))
        return {**content, "notes": training.notes(self._entries)}

    def _description(self) -> dict[str, Any]:
        """The part of device.json that all entries share."""
        manifest = self._manifest
        classes = self._started.get("classes") or manifest.classes
        has_classes = manifest.class_axis is not None or manifest.loss_function == "cross-entropy"
        return {
            "inputs": [{key: entry[key] for key in ("name", "dtype", "shape")} for entry in manifest.input_details],
            "outputs": self._outputs,
            "labels": {
                **{key: manifest.label_entry[key] for key in ("dtype", "shape")},
                "classes": manifest.num_outputs if has_classes else None,
                "ignore": -100 if manifest.loss_function == "cross-entropy" else None,
            },
            "loss": manifest.loss_function,
            "class_names": classes,
            "preprocessing": self._preprocessing(),
        }

    def _preprocessing(self) -> dict[str, Any] | None:
        value = self._started.get("preprocessing") or self._manifest.preprocessing_entry
        if value is None:
            return None
        model = self._model()
        axes = [model_input(model, spec).channels for spec in model.inputs if spec.dtype == "float32"]
        axis = next((axis for axis in axes if axis is not None), None)
        kept = {key: value[key] for key in ("scale", "mean", "std", "data")}
        return {**kept, "bgr": bool(value.get("bgr", False)), "channel_axis": axis}

    def _model(self) -> Model:
        """The model of the artifacts, opened on first use, with its frozen part in float32."""
        if self._opened is None:
            self._opened = open_model(self._manifest.float_file or self._manifest.file("model"))
        return self._opened

    @property
    def _forward_batch(self) -> int | None:
        return 1 if self._packing.profile == "mobile" else None

    def _name(self) -> str:
        return self._manifest.model_name or self._model().graph.graph.name or "model"

    def _in_profile(self, model: ir.Model, name: str) -> None:
        """Convert a graph to the form that the profile requires, in place."""
        if self._packing.profile == "mobile" and _forwards(name):
            fix_samples(model)
        if self._packing.profile == "webgpu" and name != PROBES:  # layers are scored on the CPU
            common.IdentityEliminationPass()(model)
            annotate(model)
            fit_profile(self._packing.profile, model)


def _written(content: Mapping[str, Any]) -> bytes:
    """The content of device.json as bytes, with a line for each key and each entry: compact, but readable."""

    def compact(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    fields = {key: compact(value) for key, value in content.items()}
    fields["entries"] = "[\n" + ",\n".join(map(compact, content["entries"])) + "\n]"
    lines = ",\n".join(f"{compact(key)}:{value}" for key, value in fields.items())
    return f"{{\n{lines}\n}}\n".encode()


def _forwards(file: str) -> bool:
    """Whether a graph has no backward pass, so that its inputs are those of the model."""
    return file == PROBES or file.rpartition(".")[0].rpartition(".")[2] in ("frozen", "predict", "device")


def files_of(content: Mapping[str, Any]) -> Sequence[str]:
    """Names of the files of a package other than device.json."""
    return [str(file["name"]) for file in content["files"]]
