"""The rows a head is fitted to: its inputs for each label of the samples and of their views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime, seeds
from ..data.labels import IGNORED
from ..model.layers import Parameter
from ..portable.features import Features
from ..portable.linear_head import LinearHead, NotLinearError, inputs_of, linear_head, places
from ..progress import Progress
from .features import FeatureSource
from .manifest import Manifest, TrainingSession
from .training_data import TrainingData

MOST_ROWS = 100_000
_MOST_NUMBERS = 64_000_000  # in all rows: half a gigabyte in float64
_BATCH_NUMBERS = 1 << 24  # in the rows of a batch


@dataclass(frozen=True)
class HeadTensors:
    """The names of the head's parameters in the manifest.

    Attributes:
        weight, bias: names; ``bias`` is None if the head has none.
        shape: shape of the weight.
        biases: number of bias elements; 0 without a bias.
    """

    weight: str
    bias: str | None
    shape: tuple[int, ...]
    biases: int


@dataclass(frozen=True)
class FitRows:
    """The rows a head is fitted to.

    Attributes:
        features: (R, D) float32.
        targets: (R,) classes, or (R, K) numbers.
        samples: (R,), the index of the sample in the data.
        views: (R,), the number of its view; 0 is the sample itself.
        drawn: whether these rows were drawn from a larger number.
    """

    features: np.ndarray
    targets: np.ndarray
    samples: np.ndarray
    views: np.ndarray
    drawn: bool

    def where(self, chosen: np.ndarray) -> FitRows:
        """Select rows.

        Args:
            chosen: (R,) boolean mask.
        """
        return FitRows(
            self.features[chosen], self.targets[chosen], self.samples[chosen], self.views[chosen], drawn=self.drawn
        )


class HeadRows:
    """Computes a head's inputs batch by batch, for all views of the training samples and for the validation samples.

    Args:
        manifest: the manifest of the artifacts.
        session: holds the values of all parameters.
        data: the training data.
        source: provides the features that steps start from.
        tensors: names of the head's parameters.
        threads: number of threads for ONNX Runtime.

    Raises:
        NotLinearError: an operation between the head and the logits is not linear.
        ModelError: a graph fails to run.

    Attributes:
        head: the head in its graph.
        tensors: names of its parameters.
        outputs: number of its outputs.
        kernel: extents of its kernel, if it is a convolution.
        width: number of features per row.
        per_sample: number of rows per sample.
    """

    def __init__(
        self,
        manifest: Manifest,
        session: TrainingSession,
        data: TrainingData,
        source: FeatureSource,
        tensors: HeadTensors,
        threads: runtime.Threads,
    ) -> None:
        self._manifest, self._session, self._data, self._source = manifest, session, data, source
        self.tensors = tensors
        self.head, names = head_in_graph(manifest, tensors)
        self.outputs = self.head.outputs(tensors.shape)
        self._values = {inputs: session.parameter(name) for name, inputs in names.items()}
        self._before, self._after = (
            None if part is None else _Subgraph(part, threads) for part in (self.head.before, self.head.after)
        )
        self.kernel = kernel_of(self.head, tensors)
        first = data.training[:2]
        inputs = self._graph_inputs(first)
        rows = self.head.rows(self._input(inputs), self.kernel)
        self.width = rows.shape[self.head.axis]
        self._order = self._places(rows, inputs, len(first))
        self.per_sample = self._order.shape[1]
        held_out = np.empty(0, np.int64) if data.held_out is None else data.held_out
        self._samples, self._views = data.views.of(np.sort(np.concatenate([data.training, held_out])))

    def source_of(self, samples: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the features that steps start from, for samples by their indices in the data."""
        return self._source.of(samples)

    def _graph_inputs(self, samples: np.ndarray, views: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the inputs of the graphs for samples, including parameters."""
        features = self._source.of(samples, views)
        return {**self._values, **(features if isinstance(features, Features) else self._session.features(features))}

    def _input(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the head's input."""
        if self._before is None:
            return np.asarray(inputs[self.head.source], np.float32)
        return self._before.run(inputs)

    def _logits(self, activation: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute the logits from the head's outputs."""
        if self._after is None:
            return activation
        return self._after.run({**inputs, f"{self.head.activation}/given": activation.astype(np.float32)})

    def _places(self, rows: np.ndarray, inputs: Mapping[str, np.ndarray], samples: int) -> np.ndarray:
        """Return the positions of the head's outputs in the logits."""
        outputs, axis = self.outputs, self.head.axis % rows.ndim
        shape = [*rows.shape[:axis], outputs, *rows.shape[axis + 1 :]]
        along = [outputs if place == axis else 1 for place in range(rows.ndim)]
        numbers = np.broadcast_to(np.arange(outputs, dtype=np.float32).reshape(along), shape)
        shape[axis] = 1
        noise = np.broadcast_to(seeds.trial().standard_normal(shape, np.float32), numbers.shape)
        indices, ones, noise_logits = (self._logits(a, inputs) for a in (numbers, np.ones_like(numbers), noise))
        expected = tuple(self._manifest.logits_shape[1:])
        if indices.shape[1:] != expected or len(indices) != samples:
            raise NotLinearError(
                f"it gives logits of shape {indices.shape} for {samples} samples, not of shape {expected} for each"
            )
        order = places(indices, ones, noise_logits, outputs)
        class_axis = self._manifest.class_axis
        if class_axis is not None:
            classes = np.moveaxis(np.rint(indices[0]), class_axis - 1, -1)
            if classes.shape[-1] != outputs or (classes != np.arange(outputs)).any():
                raise NotLinearError("its outputs are not the classes")
        return order

    def all(self, seed: int, progress: Progress) -> FitRows:
        """Return the rows of all samples, or a random part of them if there are too many.

        Args:
            seed: random seed of that selection.
            progress: receives the progress over the samples.
        """
        chosen, drawn = self._chosen(seed)
        samples = np.unique(chosen // self.per_sample)
        size = max(1, min(64, _BATCH_NUMBERS // max(1, self.width * self.per_sample)))
        features = np.empty((len(chosen), self.width), np.float32)
        done = 0
        for start in range(0, len(samples), size):
            progress("fitting the head: its inputs", start, len(samples))
            batch = samples[start : start + size]
            rows = self.of(self._samples[batch], self._views[batch])
            last = np.searchsorted(chosen, (batch[-1] + 1) * self.per_sample)
            present = chosen[done:last]
            features[done:last] = rows[np.searchsorted(batch, present // self.per_sample), present % self.per_sample]
            done = int(last)
        progress("fitting the head: its inputs", len(samples), len(samples))
        samples = chosen // self.per_sample
        return FitRows(features, self._targets(chosen), self._samples[samples], self._views[samples], drawn)

    def of(self, samples: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """Return the rows (N, P, D) of samples, by their indices in the data, or of the given views of them."""
        inputs = self._graph_inputs(samples, views)
        rows = self.head.rows(self._input(inputs), self.kernel)
        axis = self.head.axis % rows.ndim
        if self._after is None:
            flat = np.moveaxis(rows, axis, 1).reshape(len(rows), self.width, -1)
            return np.ascontiguousarray(flat.transpose(0, 2, 1))
        parts = []
        for start in range(0, self.width, self.outputs):
            part = np.take(rows, range(start, min(start + self.outputs, self.width)), axis)
            missing = self.outputs - part.shape[axis]
            pads = [(0, missing if place == axis else 0) for place in range(rows.ndim)]
            logits = self._logits(np.pad(part, pads), inputs).reshape(len(samples), -1)
            parts.append(logits[:, self._order][:, : part.shape[axis]])
        return np.ascontiguousarray(np.concatenate(parts, axis=1).transpose(0, 2, 1))

    def logits(self, samples: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return the flattened logits (N, L) of samples, as computed by a fitted head."""
        outputs = self.of(samples).astype(np.float64) @ weight + bias
        flat = np.empty((len(samples), self._order.size))
        flat[:, self._order] = outputs.transpose(0, 2, 1)
        return flat

    def _chosen(self, seed: int) -> tuple[np.ndarray, bool]:
        """Return the indices of the rows to use, ascending, and whether there are more."""
        labels = self._data.labels(self._samples)
        rows = np.arange(len(labels) * self.per_sample)
        if self._manifest.class_axis is not None:
            rows = rows[labels.reshape(-1) != IGNORED]
        most = max(1, min(MOST_ROWS, _MOST_NUMBERS // max(self.width, self.outputs)))
        if len(rows) <= most:
            return rows, False
        return np.sort(seeds.rows(seed).choice(rows, most, replace=False)), True

    def _targets(self, chosen: np.ndarray) -> np.ndarray:
        labels = self._data.labels(self._samples)
        if self._manifest.class_axis is not None:
            return np.asarray(labels.reshape(-1)[chosen])
        by_output = labels.reshape(len(labels), -1)[:, self._order]
        return np.asarray(by_output.transpose(0, 2, 1).reshape(-1, self.outputs)[chosen])


class _Subgraph:
    """A runnable part of a graph."""

    def __init__(self, graph: ir.Model, threads: runtime.Threads) -> None:
        self._inputs = list(inputs_of(graph))
        number = runtime.on(threads).threads
        self._session = runtime.inference_session(graph, "part of the head", runtime.session_options(number))

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        feeds = {name: inputs[name] for name in self._inputs}
        return np.asarray(runtime.run_session(self._session, None, feeds, "part of the head")[0], np.float32)


def _graph_of(manifest: Manifest) -> tuple[ir.Model, dict[str, str], str]:
    """Return the graph from features to logits, the names of its inputs by parameter, and the logits' name.

    For the ort backend it is the model itself, which contains the parameters.
    """
    if manifest.backend == "ort":
        return manifest.model(), {}, manifest.model_logits
    entries = [*manifest.parameter_entries, *manifest.state_entries]
    moving = {str(entry["name"]): str(entry["input"]) for entry in entries if "gradient" in entry or entry.get("moves")}
    return ir.load(manifest.file("evaluation")), moving, manifest.graph_names["logits"]


def head_in_graph(manifest: Manifest, tensors: HeadTensors) -> tuple[LinearHead, dict[str, str]]:
    """Find a head in the graph of an artifact folder; also return the names of that graph's inputs by parameter.

    Args:
        manifest: the manifest of the folder.
        tensors: names of the head's parameters.

    Raises:
        NotLinearError: an operation between the head and the logits is not linear.
    """
    graph, names, logits = _graph_of(manifest)
    weight, bias = (None if name is None else names.get(name, name) for name in (tensors.weight, tensors.bias))
    assert weight is not None
    head = linear_head(graph, weight, bias, logits)
    outputs = head.outputs(tensors.shape)
    if tensors.biases not in (0, outputs):
        raise NotLinearError(f"it has {outputs} outputs, and a bias of {tensors.biases}")
    return head, names


def kernel_of(head: LinearHead, tensors: HeadTensors) -> tuple[int, ...]:
    """Return the kernel extents of a head that is a convolution; empty for any other."""
    return tensors.shape[2:] if head.node.op_type == "Conv" else ()


def head_tensors(parameters: Sequence[Parameter]) -> HeadTensors:
    """Find a head's weight and bias among its parameters.

    Args:
        parameters: the parameters of its layer.

    Raises:
        NotLinearError: it has other parameters.
    """
    weight, *biases = sorted(parameters, key=lambda parameter: -len(parameter.shape))
    if len(biases) > 1:
        raise NotLinearError("its parameters are not a weight and a bias")
    bias = biases[0] if biases else None
    if bias is None:
        return HeadTensors(weight.name, None, weight.shape, 0)
    return HeadTensors(weight.name, bias.name, weight.shape, bias.size)
