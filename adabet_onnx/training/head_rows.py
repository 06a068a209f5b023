"""Rows that a head is fitted to: what it is given for each label of the samples, and of each view of them."""

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
from .features import Source
from .fed import Fed
from .manifest import Manifest, TrainingSession

MOST_ROWS = 100_000
_MOST_NUMBERS = 64_000_000  # of all rows: half a gigabyte in float64
_BATCH_NUMBERS = 1 << 24  # of the rows of a batch


@dataclass(frozen=True)
class HeadTensors:
    """The head's parameters, by their names in the manifest.

    Attributes:
        weight, bias: names; ``bias`` is None where it has none.
        shape: of the weight.
        biases: numbers of the bias; 0 where there is none.
    """

    weight: str
    bias: str | None
    shape: tuple[int, ...]
    biases: int


@dataclass(frozen=True)
class Rows:
    """What a head is fitted to.

    Attributes:
        features: (R, D) float32.
        targets: (R,) classes, or (R, K) numbers.
        samples: (R,), the number of the sample in the data.
        views: (R,), which view of it; 0: it itself.
        drawn: whether there are more, of which these were drawn.
    """

    features: np.ndarray
    targets: np.ndarray
    samples: np.ndarray
    views: np.ndarray
    drawn: bool

    def where(self, chosen: np.ndarray) -> Rows:
        """Some of them.

        Args:
            chosen: (R,) truth values.
        """
        return Rows(
            self.features[chosen], self.targets[chosen], self.samples[chosen], self.views[chosen], drawn=self.drawn
        )


class HeadRows:
    """Computes what a head is given, batch by batch: for what is trained on, all views of it, and for what is held out.

    Args:
        manifest: of the artifacts.
        session: with the values of all parameters.
        used: the data of the training.
        source: what steps begin with.
        tensors: of the head.
        threads: for ONNX Runtime.

    Raises:
        NotLinearError: from the head to the logits something is not linear.
        ModelError: a graph cannot be run.

    Attributes:
        head: in its graph.
        tensors: its parameters.
        outputs: how many it has.
        kernel: extents of its kernel, where it is a convolution.
        width: features of a row.
        per_sample: rows of a sample.
    """

    def __init__(
        self,
        manifest: Manifest,
        session: TrainingSession,
        used: Fed,
        source: Source,
        tensors: HeadTensors,
        threads: runtime.Threads,
    ) -> None:
        self._manifest, self._session, self._used, self._source = manifest, session, used, source
        self.tensors = tensors
        self.head, names = head_in_graph(manifest, tensors)
        self.outputs = self.head.outputs(tensors.shape)
        self._values = {given: session.parameter(name) for name, given in names.items()}
        self._before, self._after = (
            None if part is None else _Part(part, threads) for part in (self.head.before, self.head.after)
        )
        self.kernel = kernel_of(self.head, tensors)
        first = used.training[:2]
        given = self._given(first)
        rows = self.head.rows(self._input(given), self.kernel)
        self.width = rows.shape[self.head.axis]
        self._order = self._places(rows, given, len(first))
        self.per_sample = self._order.shape[1]
        held_out = np.empty(0, np.int64) if used.held_out is None else used.held_out
        self._samples, self._views = used.views.of(np.sort(np.concatenate([used.training, held_out])))

    def source_of(self, samples: np.ndarray) -> Mapping[str, np.ndarray]:
        """What steps begin with, for samples by their numbers in the data."""
        return self._source.of(samples)

    def _given(self, samples: np.ndarray, views: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What the graphs are given for samples, parameters included."""
        found = self._source.of(samples, views)
        return {**self._values, **(found if isinstance(found, Features) else self._session.features(found))}

    def _input(self, given: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the head is given."""
        if self._before is None:
            return np.asarray(given[self.head.source], np.float32)
        return self._before.run(given)

    def _logits(self, activation: np.ndarray, given: Mapping[str, np.ndarray]) -> np.ndarray:
        """What becomes of the head's outputs."""
        if self._after is None:
            return activation
        return self._after.run({**given, f"{self.head.activation}/given": activation.astype(np.float32)})

    def _places(self, rows: np.ndarray, given: Mapping[str, np.ndarray], samples: int) -> np.ndarray:
        """Where the head's outputs lie in the logits."""
        outputs, axis = self.outputs, self.head.axis % rows.ndim
        shape = [*rows.shape[:axis], outputs, *rows.shape[axis + 1 :]]
        along = [outputs if place == axis else 1 for place in range(rows.ndim)]
        numbers = np.broadcast_to(np.arange(outputs, dtype=np.float32).reshape(along), shape)
        shape[axis] = 1
        noise = np.broadcast_to(seeds.trial().standard_normal(shape, np.float32), numbers.shape)
        indices, ones, moved = (self._logits(a, given) for a in (numbers, np.ones_like(numbers), noise))
        wanted = tuple(self._manifest.logits_shape[1:])
        if indices.shape[1:] != wanted or len(indices) != samples:
            raise NotLinearError(f"it gives logits of {indices.shape} for {samples} samples, not of {wanted} for each")
        order = places(indices, ones, moved, outputs)
        at = self._manifest.class_axis
        if at is not None:
            classes = np.moveaxis(np.rint(indices[0]), at - 1, -1)
            if classes.shape[-1] != outputs or (classes != np.arange(outputs)).any():
                raise NotLinearError("its outputs are not the classes")
        return order

    def all(self, seed: int, progress: Progress) -> Rows:
        """The rows of all samples, or so many of them as are looked at.

        Args:
            seed: of which.
            progress: told of the samples.
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
            here = chosen[done:last]
            features[done:last] = rows[np.searchsorted(batch, here // self.per_sample), here % self.per_sample]
            done = int(last)
        progress("fitting the head: its inputs", len(samples), len(samples))
        samples = chosen // self.per_sample
        return Rows(features, self._targets(chosen), self._samples[samples], self._views[samples], drawn)

    def of(self, samples: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """(N, P, D) rows of samples, by their numbers in the data; where a view is named for each, of that."""
        given = self._given(samples, views)
        rows = self.head.rows(self._input(given), self.kernel)
        axis = self.head.axis % rows.ndim
        if self._after is None:
            flat = np.moveaxis(rows, axis, 1).reshape(len(rows), self.width, -1)
            return np.ascontiguousarray(flat.transpose(0, 2, 1))
        parts = []
        for start in range(0, self.width, self.outputs):
            part = np.take(rows, range(start, min(start + self.outputs, self.width)), axis)
            missing = self.outputs - part.shape[axis]
            pads = [(0, missing if place == axis else 0) for place in range(rows.ndim)]
            logits = self._logits(np.pad(part, pads), given).reshape(len(samples), -1)
            parts.append(logits[:, self._order][:, : part.shape[axis]])
        return np.ascontiguousarray(np.concatenate(parts, axis=1).transpose(0, 2, 1))

    def logits(self, samples: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """(N, L) logits of samples, flat, by a head that was fitted."""
        outputs = self.of(samples).astype(np.float64) @ weight + bias
        flat = np.empty((len(samples), self._order.size))
        flat[:, self._order] = outputs.transpose(0, 2, 1)
        return flat

    def _chosen(self, seed: int) -> tuple[np.ndarray, bool]:
        """Which rows are looked at, numbered through, ascending; and whether there are more."""
        labels = self._used.labels(self._samples)
        rows = np.arange(len(labels) * self.per_sample)
        if self._manifest.class_axis is not None:
            rows = rows[labels.reshape(-1) != IGNORED]
        most = max(1, min(MOST_ROWS, _MOST_NUMBERS // max(self.width, self.outputs)))
        if len(rows) <= most:
            return rows, False
        return np.sort(seeds.rows(seed).choice(rows, most, replace=False)), True

    def _targets(self, chosen: np.ndarray) -> np.ndarray:
        labels = self._used.labels(self._samples)
        if self._manifest.class_axis is not None:
            return np.asarray(labels.reshape(-1)[chosen])
        laid = labels.reshape(len(labels), -1)[:, self._order]
        return np.asarray(laid.transpose(0, 2, 1).reshape(-1, self.outputs)[chosen])


class _Part:
    """A part of a graph, to be run."""

    def __init__(self, graph: ir.Model, threads: runtime.Threads) -> None:
        self._inputs = list(inputs_of(graph))
        number = runtime.on(threads).threads
        self._session = runtime.inference_session(graph, "the head's part", runtime.session_options(number))

    def run(self, given: Mapping[str, Any]) -> np.ndarray:
        feeds = {name: given[name] for name in self._inputs}
        return np.asarray(runtime.run_session(self._session, None, feeds, "the head's part")[0], np.float32)


def _graph_of(manifest: Manifest) -> tuple[ir.Model, dict[str, str], str]:
    """A graph from what steps begin with to the logits, names of its inputs by parameter, and the logits' name.

    Of the ort backend it is the model itself, which has the parameters in it.
    """
    if manifest.backend == "ort":
        return manifest.model(), {}, manifest.model_logits
    entries = [*manifest.parameter_entries, *manifest.state_entries]
    moving = {str(entry["name"]): str(entry["input"]) for entry in entries if "gradient" in entry or entry.get("moves")}
    return ir.load(manifest.file("evaluation")), moving, manifest.graph_names["logits"]


def head_in_graph(manifest: Manifest, tensors: HeadTensors) -> tuple[LinearHead, dict[str, str]]:
    """A head in the graph of an artifact folder, and the names of that graph's inputs by parameter.

    Args:
        manifest: of the folder.
        tensors: of the head.

    Raises:
        NotLinearError: from the head to the logits something is not linear.
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
    """Extents of the kernel of a head that is a convolution; of another, nothing."""
    return tensors.shape[2:] if head.node.op_type == "Conv" else ()


def head_tensors(parameters: Sequence[Parameter]) -> HeadTensors:
    """Which of a head's parameters are its weight and its bias.

    Args:
        parameters: of its layer.

    Raises:
        NotLinearError: there are others.
    """
    weight, *biases = sorted(parameters, key=lambda parameter: -len(parameter.shape))
    if len(biases) > 1:
        raise NotLinearError("its parameters are not a weight and a bias")
    bias = biases[0] if biases else None
    if bias is None:
        return HeadTensors(weight.name, None, weight.shape, 0)
    return HeadTensors(weight.name, bias.name, weight.shape, bias.size)
