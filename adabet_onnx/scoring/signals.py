"""What forward passes tell besides Betti numbers: whether the input has shifted, and which layers carry nothing.

* **shift** of a BatchNormalization: its stored statistics describe the data the model was trained on. For each channel,
  with the stored mean m and variance v and the mean M and variance V of the samples that are scored, the
  Kullback-Leibler divergence of two normal distributions

      KL(batch || stored) = (V / v + (M - m)^2 / v - 1 - ln(V / v)) / 2

  (S. Kullback, "Information Theory and Statistics", 1959, ch. 9); the layer's shift is the median over its channels,
  those without variance left out. It is taken from the layer's output, whose channels are the input's times a slope
  plus an offset: the divergence is the same. Near 0: the input looks as in training; a new task on similar images
  leaves it there.
* **dead**: the share of its channels without variance over all samples and positions.
* **effective_rank** of any layer, from its centred Gram matrix G: tr(G)^2 / tr(G^2), the number of directions in which
  the points spread (the participation ratio); 1 if they lie on a line, at most N - 1.

None of them needs a label or a gradient. Layers without stored statistics have no shift and no dead share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..model.open import Model

_NO_VARIANCE = 1e-6  # of the stored variance: less is none


@dataclass(frozen=True)
class Signals:
    """Of one layer; see the module. None without stored statistics (shift also where all channels are dead)."""

    shift: float | None
    dead: float | None
    effective_rank: float


@dataclass(frozen=True)
class _Stored:
    """What a BatchNormalization's output is expected to be: mean and variance of each channel."""

    mean: np.ndarray
    variance: np.ndarray


class Statistics:
    """Adds outputs for the statistics of BatchNormalization layers to a graph with Gram probes, and reads them.

    Args:
        model: the opened model.
        probed: its graph with probes, to which outputs are added.
        grams: name of each layer's Gram output.
    """

    def __init__(self, model: Model, probed: ir.Model, grams: dict[str, str]) -> None:
        graph = probed.graph
        self._stored: dict[str, _Stored] = {}
        self._sums: dict[str, list[np.ndarray]] = {}
        self._ranks: dict[str, list[float]] = {}
        self.outputs: list[str] = []
        self._elements: dict[str, int] = {}
        values = {value.name: value for node in graph for value in node.outputs}
        for layer in model.layers:
            value = values.get(layer.activation)
            node = None if value is None else value.producer()
            stored = None if node is None else _stored(node)
            shape = layer.activation_shape
            if value is None or stored is None or shape is None or layer.batch_axis or layer.batch_merged:
                continue
            self._stored[layer.name] = stored
            self._elements[layer.name] = math.prod(shape[1:])
            self._add(graph, layer.name, value, values[grams[layer.name]], len(shape))

    def _add(self, graph: ir.Graph, layer: str, value: ir.Value, gram: ir.Value, rank: int) -> None:
        """Sum and sum of squares over positions, (N, C) each, beside the layer's Gram probe: so they run with it."""
        axes = list(range(2, rank + 1))
        made = []
        for op_type, suffix in (("ReduceSum", "sum"), ("ReduceSumSquare", "squares")):
            name = f"{layer}/{suffix}"
            node = self._reduce(graph, op_type, value, axes, name) if axes else self._point(op_type, value, name)
            node.outputs[0].name = name
            node.outputs[0].dtype = ir.DataType.FLOAT
            made.append(node)
        after = gram.producer()
        assert after is not None
        graph.insert_before(after, made)
        graph.outputs.extend(node.outputs[0] for node in made)
        self.outputs += [f"{layer}/sum", f"{layer}/squares"]

    @staticmethod
    def _point(op_type: str, value: ir.Value, name: str) -> ir.Node:
        """(N, C) already: the values, or their squares."""
        inputs = [value] if op_type == "ReduceSum" else [value, value]
        return ir.node("Identity" if len(inputs) == 1 else "Mul", inputs, name=name)

    @staticmethod
    def _reduce(graph: ir.Graph, op_type: str, value: ir.Value, axes: list[int], name: str) -> ir.Node:
        opset = graph.opset_imports.get("") or 17
        if opset < (13 if op_type == "ReduceSum" else 18):
            return ir.node(op_type, [value], {"axes": axes, "keepdims": 0}, name=name)
        where = ir.Value(name=f"{name}/axes", const_value=ir.tensor(np.array(axes, np.int64), name=f"{name}/axes"))
        graph.register_initializer(where)
        return ir.node(op_type, [value, where], {"keepdims": 0}, name=name)

    def add(self, found: dict[str, np.ndarray], grams: dict[str, np.ndarray]) -> None:
        """Take in what a group's forward pass gave, by output name, and its Gram matrices, by layer name."""
        for layer in self._stored:
            sums, squares = (np.asarray(found[f"{layer}/{key}"], np.float64) for key in ("sum", "squares"))
            count = np.full(sums.shape[1], sums.shape[0] * self._elements[layer], np.float64)
            self._sums.setdefault(layer, []).append(np.stack([sums.sum(0), squares.sum(0), count]))
        for layer, gram in grams.items():
            self._ranks.setdefault(layer, []).append(effective_rank(gram))

    def signals(self, layer: str) -> Signals:
        """Of a layer, over all groups."""
        ranks = self._ranks.get(layer, [0.0])
        if layer not in self._stored:
            return Signals(None, None, float(np.mean(ranks)))
        total, squares, count = np.sum(self._sums[layer], axis=0)
        mean = total / count
        variance = np.maximum(squares / count - mean**2, 0)
        stored = self._stored[layer]
        shift, dead = divergence(mean, variance, stored.mean, stored.variance)
        return Signals(shift, dead, float(np.mean(ranks)))


def divergence(
    mean: np.ndarray, variance: np.ndarray, stored_mean: np.ndarray, stored_variance: np.ndarray
) -> tuple[float | None, float]:
    """(shift, dead) of a layer's channels; see the module.

    Args:
        mean: of each channel, (C,), as its variance.
        variance: of each channel over samples and positions.
        stored_mean: what the model was trained on, (C,), as the next.
        stored_variance: likewise.
    """
    # A mean far from zero takes digits from a variance computed from a sum of squares in float32.
    floor = _NO_VARIANCE * np.maximum(stored_variance, 1e-30) + 1e-6 * mean**2
    alive = (variance > floor) & (stored_variance > 0)
    dead = 1.0 - float(np.mean(alive))
    if not alive.any():
        return None, dead
    ratio = variance[alive] / stored_variance[alive]
    away = (mean[alive] - stored_mean[alive]) ** 2 / stored_variance[alive]
    return float(np.median((ratio + away - 1 - np.log(ratio)) / 2)), dead


def effective_rank(gram: np.ndarray) -> float:
    """Participation ratio tr(G)^2 / tr(G^2) of a centred Gram matrix (N, N); 0 for points that are all the same."""
    matrix = np.asarray(gram, np.float64)
    squares = float(np.sum(matrix * matrix))
    return float(np.trace(matrix)) ** 2 / squares if squares > 0 else 0.0


def _stored(node: ir.Node) -> _Stored | None:
    """Expected mean and variance of the output of a BatchNormalization that uses stored statistics."""
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
    return _Stored(bias, scale**2 * variance / (variance + epsilon))
