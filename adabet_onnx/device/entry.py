"""Write one choice of layers in a package: its files, and its entry in device.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..cost.multiply_adds import multiply_adds
from ..errors import CheckError
from ..model.dims import count, dims_or_none
from ..portable.opset import lower_opset
from ..portable.shapes import annotate
from ..portable.weights import WeightsWriter
from ..training.manifest import Manifest
from ..training.samples import sample_feeds, sample_labels
from .graphs import evaluation_graph, frozen_graph, personal_graph, prediction_graph, step_graph
from .tensors import PARAMETER, packed, selected, stored_tensors

TOLERANCE = 1e-5  # maximum difference between package and artifacts, relative to the largest number
_ROUNDED = 1e-3  # the same where weights are folded differently, so that rounding differs; int8 differs more
BATCHES = (1, 8, 32)  # batch sizes for which memory is given
_SAMPLES = 4  # number of samples on which graphs are compared
Finish = Callable[[ir.Model, str], None]


class EntryWriter:
    """Writes the files of one entry.

    Args:
        manifest: manifest of the artifact folder.
        checkpoint: the checkpoint with the initial values.
        folder: folder of the package.
        weights: weights of the package.
        name: name of the entry.
        prefix: prefix of its files' names.
        finish: converts a graph to the form that the package's profile requires, in place.
    """

    def __init__(
        self,
        manifest: Manifest,
        checkpoint: Path,
        folder: Path,
        weights: WeightsWriter,
        name: str,
        prefix: str,
        finish: Finish,
    ) -> None:
        self.manifest, self.name = manifest, name
        self._folder, self._weights, self._prefix, self._finish = folder, weights, prefix, finish
        self._checkpoint = checkpoint
        self.tensors = stored_tensors(manifest)
        self.graphs: list[ir.Model] = []
        self.outputs: list[dict[str, Any]] = []

    def write(self, forward_batch: int | None = None) -> dict[str, Any]:
        """Write the files, compare them with the artifacts, and return the entry of device.json.

        Args:
            forward_batch: the only batch size that the frozen graph takes; None: any.

        Raises:
            CheckError: a graph computes something other than the artifacts.
            ModelError: a graph cannot be written.
            OSError: a file cannot be written.
        """
        manifest, tensors = self.manifest, self.tensors
        values, _ = manifest.read_checkpoint(self._checkpoint, "")
        files: dict[str, str | None] = {"state": f"{self._prefix}state.bin", "selected": f"{self._prefix}selected.bin"}
        personal_values = packed(selected(tensors), values)
        for key in ("state", "selected"):
            (self._folder / str(files[key])).write_bytes(personal_values)
        frozen, step = frozen_graph(manifest), step_graph(manifest, tensors)
        work = {"frozen": 0 if frozen is None else _work(frozen), "step": _work(step)}
        files["frozen"] = None if frozen is None else self._graph(frozen, "frozen")
        files["step"] = self._graph(step, "step")
        files["evaluation"] = self._graph(evaluation_graph(manifest, tensors), "eval")
        files["prediction"] = self._graph(prediction_graph(manifest, tensors), "predict")
        personal = personal_graph(manifest, tensors, self._folder, str(files["selected"]))
        files["model"] = self._graph(personal, "device", str(files["selected"]))
        entry = {
            "name": self.name,
            "layers": list(manifest.selection_entry["layers"]),
            "trained": sum(math.prod(tensor.shape) for tensor in tensors if tensor.kind == PARAMETER),
            **{key: files[key] for key in ("frozen", "step", "evaluation", "prediction", "state", "model")},
            "selected": files["selected"],
            "selected_bytes": len(personal_values),
            "boundary": self._boundary(),
            "names": manifest.graph_names,
            "logits_shape": list(manifest.logits_shape),
            "class_axis": manifest.class_axis_entry,
            "tensors": [tensor.to_json() for tensor in tensors],
            "memory": self._memory(forward_batch),
            "multiply_adds": work,
        }
        self._compare(entry, values)
        return entry

    def _graph(self, model: ir.Model, label: str, elsewhere: str | None = None) -> str:
        """Write a graph and return the name of its file."""
        name = f"{self._prefix}{label}.onnx"
        lower_opset(model)
        self._finish(model, name)
        self._weights.write(model, name, elsewhere=elsewhere)
        self.graphs.append(model)
        return name

    def _boundary(self) -> list[dict[str, Any]]:
        names = {new: old for old, new in self.manifest.feed_names}
        return [
            {**{key: entry[key] for key in ("name", "dtype", "shape", "bytes")}, "input": names.get(entry["input"])}
            for entry in self.manifest.boundary
        ]

    def _memory(self, forward_batch: int | None) -> list[list[int]]:
        """Memory by batch size: the larger of step and frozen pass, plus the state twice; see `portable/memory`."""
        state = self.tensors[-1].end
        memory = []
        for batch in BATCHES:
            step = self.manifest.predicted_bytes("predicted_step_bytes", batch)
            frozen = self.manifest.predicted_bytes("predicted_frozen_bytes", forward_batch or batch)
            memory.append([batch, max(step, frozen) + 2 * state])
        return memory

    def _compare(self, entry: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> None:
        """Run the graphs of the package and compare the results with those of the artifacts."""
        manifest = self.manifest
        feeds = sample_feeds(manifest, _SAMPLES)
        session = manifest.session(self._checkpoint)
        personal = self._run(entry["model"], feeds)
        logits_name = manifest.model_logits
        shape = (_SAMPLES, *(int(extent) for extent in manifest.logits_shape[1:]))
        labels = sample_labels(manifest, np.zeros(shape, np.float32))
        loss, logits = session.evaluate(feeds, labels)
        own = {tensor.input: np.zeros(tensor.shape, np.float32) for tensor in self.tensors}
        own |= {tensor.input: values[tensor.name] for tensor in selected(self.tensors)}
        predicted = self._run(entry["prediction"], {**feeds, **own})
        for name, array in personal.items():
            _same(f"{entry['model']} and {entry['prediction']}, output {name!r},", array, predicted[name], TOLERANCE)
        features = {} if entry["frozen"] is None else self._run(entry["frozen"], feeds)
        features |= {kept["name"]: feeds[kept["input"]] for kept in entry["boundary"] if kept["input"] is not None}
        tail = {**features, **own, entry["names"]["labels"]: _fed(labels)}
        evaluated = self._run(entry["evaluation"], tail)
        _same(f"the logits of {entry['evaluation']}", evaluated[entry["names"]["logits"]], logits, TOLERANCE)
        _same(f"the loss of {entry['evaluation']}", evaluated[entry["names"]["loss"]], np.asarray(loss), TOLERANCE)
        if logits_name in predicted and predicted[logits_name].size == logits.size:
            _same(f"the logits of {entry['prediction']}", predicted[logits_name], logits, _ROUNDED, shapes=False)
        step = {entry["names"]["learning_rate"]: np.float32(1e-3), entry["names"]["step"]: np.int64(1)}
        stepped = self._run(entry["step"], {**tail, **{name: np.asarray(value) for name, value in step.items()}})
        for tensor in self.tensors:
            if not np.isfinite(stepped[tensor.output]).all():
                raise CheckError(f"a step of {entry['step']} makes {tensor.name!r} NaN or infinite.")
        self.outputs = self._described(feeds, own, personal, str(entry["prediction"]), logits_name)

    def _described(
        self,
        feeds: Mapping[str, np.ndarray],
        own: Mapping[str, np.ndarray],
        arrays: Mapping[str, np.ndarray],
        file: str,
        logits: str,
    ) -> list[dict[str, Any]]:
        """Outputs with their shapes, determined by running with one sample less."""
        fewer = self._run(file, {**{name: array[:-1] for name, array in feeds.items()}, **own})
        probable = _probabilities(self.manifest, logits)
        described = []
        for name, array in arrays.items():
            extents = zip(array.shape, fewer[name].shape, strict=True)
            shape = [a if a == b else "N" if a == _SAMPLES else f"{a // _SAMPLES}*N" for a, b in extents]
            role = "logits" if name == logits else "probabilities" if name in probable else None
            described.append({"name": name, "dtype": str(array.dtype), "shape": shape, "role": role})
        return described

    def _run(self, file: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of a graph by name; unused feeds are left out."""
        session = runtime.inference_session(str(self._folder / file), file)
        inputs, names = session.get_inputs(), [value.name for value in session.get_outputs()]
        given = {value.name: feeds[value.name] for value in inputs}
        samples = {name for name in given if name in {entry["name"] for entry in self.manifest.input_details}}
        single = any(value.name in samples and value.shape[0] == 1 for value in inputs)
        parts = [slice(i, i + 1) for i in range(len(feeds[next(iter(samples))]))] if single else [slice(None)]
        runs = [
            runtime.run_session(
                session, None, {name: array[part] if name in samples else array for name, array in given.items()}, file
            )
            for part in parts
        ]
        return (
            dict(zip(names, map(np.concatenate, zip(*runs, strict=True)), strict=True))
            if single
            else dict(zip(names, map(np.asarray, runs[0]), strict=True))
        )


def _probabilities(manifest: Manifest, logits: str) -> set[str]:
    """Names of outputs that are a Softmax or Sigmoid of the logits."""
    names = set()
    for value in manifest.model().graph.outputs:
        producer = value.producer()
        while producer is not None and producer.op_type in ("Identity", "Reshape", "Flatten", "Cast"):
            source = producer.inputs[0]
            producer = None if source is None else source.producer()
        if producer is not None and producer.op_type in ("Softmax", "Sigmoid") and value.name != logits:
            names.add(value.name or "")
    return names


def _fed(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.int64 if labels.dtype.kind in "iu" else np.float32)


def _same(what: str, actual: np.ndarray, expected: np.ndarray, limit: float, *, shapes: bool = True) -> None:
    """Check that two arrays are equal up to rounding.

    Raises:
        CheckError: they differ.
    """
    if shapes and actual.shape != expected.shape:
        raise CheckError(f"{what} have the shapes {actual.shape} and {expected.shape}; please report this.")
    one, other = actual.ravel().astype(np.float64), expected.ravel().astype(np.float64)
    difference = float(np.abs(one - other).max(initial=0.0)) / max(1.0, float(np.abs(other).max(initial=0.0)))
    if not difference <= limit:
        raise CheckError(
            f"{what} differ from the artifacts' by {difference:.1e} of the largest value, more than {limit:.0e}. "
            "Nothing was written; please report this with the model."
        )


def _work(model: ir.Model) -> int:
    """Multiply-adds for one sample."""
    annotated = model.clone()
    annotate(annotated, measure=False)

    def shape(value: ir.Value | None) -> tuple[int, ...] | None:
        extents = None if value is None else dims_or_none(value)
        return None if extents is None else tuple(count((extent,), 1) for extent in extents)

    return multiply_adds(annotated.graph, shape)


def operators(graphs: Sequence[ir.Model]) -> set[str]:
    """The operators of graphs."""
    return {node.op_type for model in graphs for node in model.graph}
