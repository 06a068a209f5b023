"""Signals from forward passes besides Betti numbers: input shift, and layers that carry no information.

* **shift** of a BatchNormalization: its stored statistics describe the data the model was trained on. For each channel,
  with stored mean m and variance v, and mean M and variance V of the scored samples, it is the Kullback-Leibler
  divergence of two normal distributions

      KL(batch || stored) = (V / v + (M - m)^2 / v - 1 - ln(V / v)) / 2

  (S. Kullback, "Information Theory and Statistics", 1959, ch. 9); the layer's shift is the median over its channels
  that have variance. It is computed from the layer's output, whose channels are the input's times a slope plus an
  offset, which does not change the divergence. Near 0, the input looks like the training data, also for a new task on
  similar images.
* **dead**: the share of channels without variance over all samples and positions.
* **effective_rank** of any layer, from its centred Gram matrix G: tr(G)^2 / tr(G^2), the number of directions in which
  the points spread (the participation ratio): 1 if they lie on a line, at most N - 1.

These signals need no labels or gradients. Layers without stored statistics have no shift and no dead share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..model.open import Model
from .nodes import sample_shape

_NO_VARIANCE = 1e-6  # of the stored variance: anything below counts as none


@dataclass(frozen=True)
class Signals:
    """Signals of one layer; see the module. None without stored statistics (shift also if all channels are dead)."""

    shift: float | None
    dead: float | None
    effective_rank: float


@dataclass(frozen=True)
class StoredStatistics:
    """The expected mean and variance of each channel of a BatchNormalization's output."""

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True)
class ChannelSums:
    """Sums over the positions of each sample, for a layer's channels.

    Attributes:
        sums: (N, C), sums of values.
        squares: (N, C), sums of squares.
        elements: number of positions that were summed.
    """

    sums: np.ndarray
    squares: np.ndarray
    elements: int

    def of(self, rows: np.ndarray) -> ChannelSums:
        """Return the sums for some of the samples."""
        return ChannelSums(self.sums[rows], self.squares[rows], self.elements)


@dataclass(frozen=True)
class SumOutputs:
    """Names of a layer's two outputs that `ChannelSums` are read from, and the number of positions they sum."""

    outputs: tuple[str, str]
    elements: int

    def read(self, outputs: Mapping[str, np.ndarray]) -> ChannelSums:
        """Read the sums from the outputs of a run, by name."""
        sums, squares = (np.asarray(outputs[name]) for name in self.outputs)
        return ChannelSums(sums, squares, self.elements)


def stored_statistics(model: Model, graph: ir.Model) -> dict[str, StoredStatistics]:
    """Return the stored statistics of the layers that have them, by name.

    Args:
        model: the opened model.
        graph: its graph, or a copy of it.
    """
    producers = {value.name: node for node in graph.graph for value in node.outputs}
    statistics = {}
    for layer in model.layers:
        node = producers.get(layer.activation)
        stored = None if node is None else _stored(node)
        if stored is None or layer.activation_shape is None or layer.batch_axis or layer.batch_merged:
            continue
        statistics[layer.name] = stored
    return statistics


def join_sums(parts: Sequence[ChannelSums]) -> ChannelSums:
    """Join the sums of several batches."""
    sums, squares = (np.concatenate([getattr(part, key) for part in parts]) for key in ("sums", "squares"))
    return ChannelSums(sums, squares, parts[0].elements)


def add_sums(probed: ir.Model, probes: Mapping[str, str], sources: Mapping[str, ir.Value]) -> dict[str, SumOutputs]:
    """Add outputs for sums and sums of squares over positions, (N, C) each, next to the layers' probes.

    There they run with the probe, while the activation is still in memory.

    Args:
        probed: a graph with probes, to which outputs are added.
        probes: name of each layer's probe.
        sources: for each layer to sum, the value (N, C, ...) to be summed.
    """
    graph = probed.graph
    values = {value.name: value for node in graph for value in node.outputs}
    outputs = {}
    for layer, value in sources.items():
        shape = sample_shape(value)
        axes, made = list(range(2, len(shape) + 1)), []
        for op_type, suffix in (("ReduceSum", "sum"), ("ReduceSumSquare", "squares")):
            name = f"{layer}/{suffix}"
            node = _reduce(graph, op_type, value, axes, name) if axes else _point(op_type, value, name)
            node.outputs[0].name = name
            node.outputs[0].dtype = ir.DataType.FLOAT
            made.append(node)
        after = values[probes[layer]].producer()
        assert after is not None
        graph.insert_before(after, made)
        graph.outputs.extend(node.outputs[0] for node in made)
        outputs[layer] = SumOutputs((f"{layer}/sum", f"{layer}/squares"), math.prod(shape[1:]))
    return outputs


def _point(op_type: str, value: ir.Value, name: str) -> ir.Node:
    """Return values that already have the shape (N, C), or their squares."""
    inputs = [value] if op_type == "ReduceSum" else [value, value]
    return ir.node("Identity" if len(inputs) == 1 else "Mul", inputs, name=name)


def _reduce(graph: ir.Graph, op_type: str, value: ir.Value, axes: list[int], name: str) -> ir.Node:
    opset = graph.opset_imports.get("") or 17
    if opset < (13 if op_type == "ReduceSum" else 18):
        return ir.node(op_type, [value], {"axes": axes, "keepdims": 0}, name=name)
    where = ir.Value(name=f"{name}/axes", const_value=ir.tensor(np.array(axes, np.int64), name=f"{name}/axes"))
    graph.register_initializer(where)
    return ir.node(op_type, [value, where], {"keepdims": 0}, name=name)


def signals(grams: Sequence[np.ndarray], sums: Sequence[ChannelSums], stored: StoredStatistics | None) -> Signals:
    """Compute the signals of a layer, over all groups.

    Args:
        grams: the centred Gram matrix (N, N) of each group.
        sums: the sums of each group; not used without stored statistics.
        stored: the layer's stored statistics, or None.
    """
    rank = float(np.mean([effective_rank(gram) for gram in grams]))
    if stored is None:
        return Signals(None, None, rank)
    total, squares = (
        np.sum([np.asarray(getattr(part, key), np.float64).sum(0) for part in sums], axis=0)
        for key in ("sums", "squares")
    )
    count = sum(len(part.sums) * part.elements for part in sums)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    shift, dead = divergence(mean, variance, stored.mean, stored.variance)
    return Signals(shift, dead, rank)


def divergence(
    mean: np.ndarray, variance: np.ndarray, stored_mean: np.ndarray, stored_variance: np.ndarray
) -> tuple[float | None, float]:
    """Compute (shift, dead) of a layer's channels; see the module.

    Args:
        mean: mean of each channel over samples and positions, (C,).
        variance: variance of each channel over samples and positions, (C,).
        stored_mean: the mean in training, (C,).
        stored_variance: the variance in training, (C,).
    """
    # A mean far from zero costs precision in a variance computed from a float32 sum of squares.
    floor = _NO_VARIANCE * np.maximum(stored_variance, 1e-30) + 1e-6 * mean**2
    alive = (variance > floor) & (stored_variance > 0)
    dead = 1.0 - float(np.mean(alive))
    if not alive.any():
        return None, dead
    ratio = variance[alive] / stored_variance[alive]
    distance = (mean[alive] - stored_mean[alive]) ** 2 / stored_variance[alive]
    return float(np.median((ratio + distance - 1 - np.log(ratio)) / 2)), dead


def effective_rank(gram: np.ndarray) -> float:
    """Participation ratio tr(G)^2 / tr(G^2) of a centred Gram matrix (N, N); 0 if all points are equal."""
    matrix = np.asarray(gram, np.float64)
    squares = float(np.sum(matrix * matrix))
    return float(np.trace(matrix)) ** 2 / squares if squares > 0 else 0.0


def _stored(node: ir.Node) -> StoredStatistics | None:
    """Return the expected output statistics of a BatchNormalization that uses stored statistics, else None."""
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        return None
    if node.attributes.get_int("training_mode", 0):
        return None
    tensors: Sequence[Any] = [
        None if given is None else ir.convenience.get_const_tensor(given) for given in node.inputs[1:5]
    ]
    arrays = [tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None]
    if len(arrays) < 4:
        return None
    scale, bias, _, variance = arrays
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return StoredStatistics(bias, scale**2 * variance / (variance + epsilon))
