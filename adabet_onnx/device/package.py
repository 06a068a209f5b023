"""Writing a package for a device: graphs, weights, initial values, and device.json, which says what they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..data.layout import entrance
from ..errors import UsageError
from ..files import replacing_folder, sha256_of_files
from ..model.open import Model, open_model
from ..options import check_fields, typed
from ..portable.opset import lower_opset, oldest_runtime
from ..portable.profiles import check_profile
from ..portable.weights import FILE as WEIGHTS
from ..portable.weights import Weights
from ..records import write_json
from ..scoring.probes import add_probes
from ..showing import changed
from ..training.history import PROPERTY, trained_checkpoint, trained_on
from ..training.manifest import Manifest, load_manifest
from ..training.settings import BATCH_SIZE, LEARNING_RATES
from ..version import __version__
from .entry import EntryWriter, operators
from .ort_format import as_ort

FILE, FORMAT, VERSION = "device.json", "adabet-onnx/device", 1
PROBES = "probes.onnx"
EPOCHS = 5
STARTS = ("trained", "initial")
PROFILES = ("webgpu", "mobile")


@dataclass(frozen=True)
class DeviceScoring:
    """How a device scores layers.

    Attributes:
        samples: that it takes, at most.
        points: of one Betti number.
        subsets: how many.
        sketch: k, how many numbers stand for an activation, about; see `Scoring`.
        seed: of sketches and subsets.

    Raises:
        UsageError: a number is out of range.

    Example:
        >>> from adabet_onnx import DeviceScoring
        >>> DeviceScoring(samples=32).samples
        32
    """

    samples: int = 64
    points: int = 32
    subsets: int = 64
    sketch: int = 2048
    seed: int = 0

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least, most in (
            ("samples", 8, 128),
            ("points", 4, 128),
            ("subsets", 1, 4096),
            ("sketch", 16, 1 << 20),
            ("seed", 0, (1 << 32) - 1),
        ):
            number = getattr(self, name)
            if not least <= number <= most:
                raise UsageError(f"`{name}` must be from {least} to {most}, not {number}.")


@typed
def make_device(
    folder: str | os.PathLike[str],
    device: str | os.PathLike[str],
    *,
    start: str = "trained",
    scoring: DeviceScoring | None = None,
    profile: str | None = None,
    ort_format: bool = False,
) -> dict[str, Any]:
    """Write a package for devices from an artifact folder.

    Args:
        folder: the artifact folder, of the portable backend.
        device: the folder to write; an earlier package there is replaced.
        start: the values that training on a device begins with: ``trained``, those of the folder's best or last
            checkpoint, if it has one; or ``initial``, those of the model.
        scoring: also let the device score layers; None: not.
        profile: ``webgpu`` or ``mobile``: keep to what these have. None: all of ONNX.
        ort_format: write ``.ort`` files in place of ``.onnx``, with required_operators.config, for reduced builds of
            ONNX Runtime.

    Returns:
        The content of device.json, which docs/device-package.md describes.

    Raises:
        CheckError: a graph of the package computes something else than the artifacts.
        ModelError: a graph cannot be written.
        OutputError: the folder cannot be written.
        RecordError: ``folder`` is no artifact folder, or damaged.
        UsageError: an unknown choice, artifacts of another backend, or operators that the profile lacks.

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
    with replacing_folder(device, FILE) as part:
        writer = PackageWriter(part, manifest, profile=profile, ort_format=ort_format)
        writer.add(manifest, str(manifest.content["selection"]["strategy"]), start=start)
        if scoring is not None:
            writer.add_scoring(scoring)
        return writer.finish()


def check_backend(manifest: Manifest) -> None:
    """See that the artifacts are plain ONNX.

    Raises:
        UsageError: they are onnxruntime-training's, or too old.
    """
    if manifest.backend != "portable" or not manifest.boundary:
        raise UsageError(
            f"{manifest.folder} holds artifacts for onnxruntime-training (or of an early release). A package needs "
            "plain ONNX: make them again with `backend='portable'`."
        )


class PackageWriter:
    """Writes a package, an entry at a time.

    Args:
        folder: an empty one.
        manifest: of one of the artifact folders: what all entries share.
        profile: see `make_device`.
        ort_format: see `make_device`.

    Raises:
        UsageError: an unknown profile.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, *, profile: str | None = None, ort_format: bool = False
    ) -> None:
        if profile is not None and profile not in PROFILES:
            raise UsageError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}.")
        self._folder, self._manifest, self._profile, self._ort_format = folder, manifest, profile, ort_format
        self._weights = Weights(folder)
        self._graphs: list[ir.Model] = []
        self._entries: list[dict[str, Any]] = []
        self._outputs: list[dict[str, Any]] = []
        self._scoring: dict[str, Any] | None = None
        self._opened: Model | None = None
        self._started: dict[str, Any] = {}

    def add(self, manifest: Manifest, name: str, *, start: str = "initial", prefix: str = "") -> dict[str, Any]:
        """Write an entry.

        Args:
            manifest: of its artifact folder.
            name: of the entry.
            start: initial or trained.
            prefix: of its files' names.
        """
        checkpoint, trained = trained_checkpoint(manifest) if start == "trained" else (manifest.initial, False)
        if trained:
            self._started = trained_on(manifest.read_checkpoint(checkpoint, PROPERTY)[1])
        writer = EntryWriter(manifest, checkpoint, self._folder, self._weights, name, prefix, self._in_profile)
        entry = writer.write()
        self._graphs += writer.graphs
        self._entries.append(entry)
        self._outputs = self._outputs or writer.outputs
        return entry

    def add_scoring(self, scoring: DeviceScoring) -> None:
        """Write the graph that gives sketches of all layers' activations."""
        model = self._model()
        probed, names = add_probes(model, "sketch", sketch=scoring.sketch, seed=scoring.seed)
        numbers = {value.name: value.shape for value in probed.graph.outputs}
        lower_opset(probed)
        self._in_profile(probed, PROBES)
        self._weights.write(probed, PROBES)
        self._graphs.append(probed)
        sizes = {layer.name: layer.activation_size for layer in model.layers}
        layers = []
        for name, output in names.items():
            shape = numbers[output]
            assert shape is not None
            layers.append({"name": name, "output": output, "numbers": int(shape[1]), "size": sizes[name]})
        self._scoring = {
            "file": PROBES,
            "samples": scoring.samples,
            "points": min(scoring.points, scoring.samples),
            "subsets": scoring.subsets,
            "seed": scoring.seed,
            "layers": layers,
        }

    def finish(self) -> dict[str, Any]:
        """Write device.json; its content."""
        if (self._folder / WEIGHTS).stat().st_size == 0:
            (self._folder / WEIGHTS).unlink()
        opset = max(graph.opset_imports.get("") or 0 for graph in self._graphs)
        ir_version = max(graph.ir_version for graph in self._graphs)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "made_by": f"adabet-onnx {__version__}",
            "model": self._name(),
            "model_sha256": self._manifest.content["model_sha256"],
            "opset": opset,
            "ir_version": ir_version,
            "oldest_onnxruntime": oldest_runtime(opset, ir_version, operators(self._graphs)),
            "profile": self._profile,
            **self._description(),
            "scoring": self._scoring,
            "entries": self._entries,
        }
        if self._ort_format:
            as_ort(self._folder, content)
        files = sorted(path for path in self._folder.iterdir() if path.name != FILE)
        content["files"] = [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of_files([path])} for path in files
        ]
        content["weights"] = WEIGHTS if (self._folder / WEIGHTS).is_file() else None
        write_json(self._folder / FILE, content)
        return content

    def _description(self) -> dict[str, Any]:
        """What all entries share."""
        manifest = self._manifest
        content = manifest.content
        classes = self._started.get("classes") or content["classes"]
        settings = self._started.get("settings") or {}
        has_classes = manifest.class_axis is not None or manifest.loss_function == "cross-entropy"
        return {
            "inputs": [{key: entry[key] for key in ("name", "dtype", "shape")} for entry in manifest.input_details],
            "outputs": self._outputs,
            "labels": {
                **{key: content["label_details"][key] for key in ("dtype", "shape")},
                "classes": manifest.num_outputs if has_classes else None,
                "ignore": -100 if manifest.loss_function == "cross-entropy" else None,
            },
            "loss": manifest.loss_function,
            "class_names": classes,
            "preprocessing": self._preprocessing(),
            "training": {
                "learning_rate": settings.get("learning_rate") or LEARNING_RATES[manifest.optimizer],
                "batch_size": settings.get("batch_size") or BATCH_SIZE,
                "epochs": EPOCHS,
                "seed": 0,
            },
        }

    def _preprocessing(self) -> dict[str, Any] | None:
        value = self._started.get("preprocessing") or self._manifest.content["preprocessing"]
        if value is None:
            return None
        model = self._model()
        axes = [entrance(model, spec).channels for spec in model.inputs if spec.dtype == "float32"]
        axis = next((axis for axis in axes if axis is not None), None)
        kept = {key: value[key] for key in ("scale", "mean", "std", "data")}
        return {**kept, "bgr": bool(value.get("bgr", False)), "channel_axis": axis}

    def _model(self) -> Model:
        """The model of the artifacts, opened again; its frozen part in float32."""
        if self._opened is None:
            self._opened = open_model(self._manifest.float_file or self._manifest.file("model"))
        return self._opened

    def _name(self) -> str:
        return self._model().graph.graph.name or "model"

    def _in_profile(self, model: ir.Model, name: str) -> None:
        """Bring a graph into the form of the profile, in place."""
        if self._profile == "webgpu":
            check_profile(self._profile, ((node.op_type, node.name or "") for node in model.graph))


def files_of(content: Mapping[str, Any]) -> Sequence[str]:
    """Names of the files of a package beside device.json."""
    return [str(file["name"]) for file in content["files"]]
