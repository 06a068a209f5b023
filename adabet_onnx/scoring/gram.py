"""Centred Gram matrices inside a graph, efficient in time and memory.

On ResNet-50 the direct form (Flatten, subtract the mean, Gemm, right after each activation) takes twice the time of
inference: it copies every activation, and probing the output of a Conv prevents onnxruntime from fusing the
BatchNormalization after it. So:

* A Loop processes D in blocks small enough for the cache, and a Gemm adds each block's product to the sum.
* Where a BatchNormalization y = slope * x + offset (per channel c) is the only user of a Conv's output x, the Conv is
  not probed at all. Centring removes the offset, so with G_c the Gram matrix of channel c of y,

      Gram(y) = sum_c G_c        Gram(x) = sum_c G_c / slope_c^2,

  and both are computed in one pass over y. That is exact up to rounding unless y has lost information from x: each
  slope must be well above the rounding of its offset, else x is probed directly.
* The Gram matrices G_c of single channels come from the same pass over channels; if a BatchNormalization follows a
  Conv, the matrices of both only differ by a factor, which changes no Betti number, so one of them is enough.
* Probes are placed after all nodes of the model, the last layer's first: onnxruntime's default order is depth-first
  from the last leaf, so it runs each probe as soon as its activation is available, which can then be freed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from ..model.channels import Channels
from .nodes import Constants, Nodes, elements
from .slopes import pairs

_BLOCK = 1 << 18  # floats of one block over the whole group: 1 MiB, which fits a second-level cache


# Adds the nodes of one block's product: (nodes, block, its weights, the sum so far) -> the new sum.
_Body = Callable[[Nodes, ir.Value, "ir.Value | None", ir.Value], ir.Value]


class GramProbes:
    """Adds the Gram matrices of activations to a graph.

    Args:
        graph: its activations must have shapes, the batch dimension first.
        group: the batch size that blocks are optimised for.
    """

    def __init__(self, graph: ir.Graph, group: int) -> None:
        self._graph, self._group = graph, group
        self._opset = graph.opset_imports.get("") or 17
        self._constants = Constants(graph)
        self._square: ir.Value | None = None
        self._zero = self._constants(np.zeros((1, 1), np.float32))

    def add(self, activations: dict[str, ir.Value]) -> dict[str, ir.Value]:
        """Add a probe for each activation.

        Args:
            activations: float32 values (N, ...) by layer name, in model order.

        Returns:
            (N, N) values named ``LAYER/gram``, in the same order.
        """
        paired = {
            name: pair
            for name, pair in pairs(activations).items()
            if pair.sound.all() and 2 * elements(activations[name], 2) >= self._group
        }  # (with very few positions per channel, a Gram matrix for each costs more than it saves)
        covered = {pair.conv for pair in paired.values()}
        grams: dict[str, ir.Value] = {}
        square = self._square_shape()
        for name in reversed(activations):
            if name in paired:
                conv, slopes = paired[name].conv, paired[name].slopes
                nodes = Nodes(f"{name}/pair", self._opset)
                rows = self._pair(nodes, activations[name], slopes)
                for index, layer in enumerate((name, conv)):
                    row = nodes.add("Gather", [rows, self._constants([index])], f"row{index}")
                    grams[layer] = nodes.add("Reshape", [row, square], f"gram{index}")
            elif name not in covered:
                nodes = Nodes(f"{name}/direct", self._opset)
                grams[name] = self._direct(nodes, activations[name])
            else:
                continue
            self._graph.extend(nodes.made)
        for name, value in grams.items():
            value.name, value.dtype, value.shape = f"{name}/gram", ir.DataType.FLOAT, ir.Shape(["N", "N"])
        return {name: grams[name] for name in activations}

    def add_channels(self, activations: dict[str, ir.Value], channels: Mapping[str, Channels]) -> dict[str, ir.Value]:
        """Add a probe of each channel of each activation.

        Args:
            activations: float32 values (N, ...) by layer name, in model order.
            channels: the channels of each of these layers.

        Returns:
            (C, N, N) values by layer, in the same order; a Conv shares the value of the BatchNormalization after it, if
            that is also given and they only differ by factors.
        """
        of_conv = {pair.conv: name for name, pair in pairs(activations).items() if pair.sound.all()}
        matrices: dict[str, ir.Value] = {}
        for name in reversed(activations):
            if name in of_conv:
                matrices[name] = matrices[of_conv[name]]
                continue
            nodes = Nodes(f"{name}/channels", self._opset)
            matrices[name] = self._by_channel(nodes, activations[name], channels[name])
            matrices[name].name, matrices[name].dtype = f"{name}/channels", ir.DataType.FLOAT
            matrices[name].shape = ir.Shape([channels[name].count, "N", "N"])
            self._graph.extend(nodes.made)
        return {name: matrices[name] for name in activations}

    def _direct(self, nodes: Nodes, value: ir.Value) -> ir.Value:
        """Compute the Gram matrix (N, N) of one activation, block by block over its features."""

        def product(nodes: Nodes, block: ir.Value, _: ir.Value | None, total: ir.Value) -> ir.Value:
            centred = self._centred(nodes, block)
            return nodes.add("Gemm", [centred, centred, total], "sum", transB=1)

        flat = nodes.add("Flatten", [value], "flat", axis=1)
        return self._summed(nodes, flat, None, elements(value, 1), max(1, _BLOCK // self._group), product)

    def _pair(self, nodes: Nodes, value: ir.Value, slopes: np.ndarray) -> ir.Value:
        """Compute the Gram matrices (2, N * N) of a BatchNormalization's output and input, in blocks of channels.

        onnxruntime fuses both Transposes into the MatMul, so they copy nothing.
        """

        def product(nodes: Nodes, block: ir.Value, weights: ir.Value | None, total: ir.Value) -> ir.Value:
            each = nodes.add("Flatten", [self._each(nodes, block)], "rows", axis=1)
            return nodes.add("Gemm", [weights, each, total], "sum")

        channels, positions = len(slopes), elements(value, 2)
        fitting = self._channels_per_block(positions)
        x = nodes.add("Reshape", [value, self._constants([0, 0, -1])], "flat")
        weights = self._constants(np.stack([np.ones(channels), slopes**-2.0]).astype(np.float32))
        return self._summed(nodes, x, weights, channels, max(1, min(channels, fitting)), product)

    def _channels_per_block(self, positions: int) -> int:
        """Return how many channels with this many positions make a block."""
        return min(_BLOCK // (self._group * positions), 2 * _BLOCK // self._group**2)

    def _each(self, nodes: Nodes, block: ir.Value) -> ir.Value:
        """Compute the Gram matrices (C, N, N) of all channels of a block (N, C, positions)."""
        centred = self._centred(nodes, block)
        left = nodes.add("Transpose", [centred], "left", perm=[1, 0, 2])
        right = nodes.add("Transpose", [centred], "right", perm=[1, 2, 0])
        return nodes.add("MatMul", [left, right], "each")

    def _by_channel(self, nodes: Nodes, value: ir.Value, channels: Channels) -> ir.Value:
        """Compute the Gram matrices (C, N, N) of an activation's channels, block by block."""
        count, elements = channels.count, channels.elements
        if channels.last:
            x = nodes.add("Reshape", [value, self._constants([0, elements, count])], "flat")
            x = nodes.add("Transpose", [x], "first", perm=[0, 2, 1])
        else:
            x = nodes.add("Reshape", [value, self._constants([0, count, elements])], "flat")
        fitting = max(1, min(count, self._channels_per_block(elements)))
        step = next(
            number for number in range(fitting, 0, -1) if count % number == 0
        )  # blocks of equal size can be stacked
        if step == count:
            return self._each(nodes, x)
        scope = Nodes(f"{nodes.prefix}/block", self._opset)
        turn, go = _scalar(f"{scope.prefix}/turn", ir.DataType.INT64), _scalar(f"{scope.prefix}/go", ir.DataType.BOOL)
        size = self._constants([step])
        start = scope.add("Mul", [turn, size], "start")
        end = scope.add("Add", [start, size], "end")
        each = self._each(scope, scope.add("Slice", [x, start, end, self._constants([1])], "x"))
        each.type, each.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([step, None, None])
        on = scope.add("Identity", [go], "on")
        on.type, on.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
        loop = ir.Graph([turn, go], [on, each], nodes=scope.made, name=f"{scope.prefix}/graph")
        turns = self._constants(np.array(count // step, np.int64))
        stacked = nodes.add("Loop", [turns, None], "loop", body=loop)
        square = self._square_shape()
        shape = nodes.add("Concat", [self._constants([count]), square], "shape", axis=0)
        return nodes.add("Reshape", [stacked, shape], "matrices")

    def _summed(
        self, nodes: Nodes, x: ir.Value, weights: ir.Value | None, extent: int, step: int, body: _Body
    ) -> ir.Value:
        """Sum the results of ``body`` over blocks of ``step`` along axis 1 of ``x`` (and of ``weights``)."""
        if step >= extent:
            return body(nodes, x, weights, self._zero)
        scope = Nodes(f"{nodes.prefix}/block", self._opset)
        turn, go = _scalar(f"{scope.prefix}/turn", ir.DataType.INT64), _scalar(f"{scope.prefix}/go", ir.DataType.BOOL)
        total = ir.Value(
            name=f"{scope.prefix}/total", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, None])
        )
        size, axis = self._constants([step]), self._constants([1])
        start = scope.add("Mul", [turn, size], "start")
        end = scope.add("Add", [start, size], "end")
        block = scope.add("Slice", [x, start, end, axis], "x")
        part = None if weights is None else scope.add("Slice", [weights, start, end, axis], "weights")
        new_total = body(scope, block, part, total)
        new_total.type, new_total.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None, None])
        on = scope.add("Identity", [go], "on")
        on.type, on.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
        loop = ir.Graph([turn, go, total], [on, new_total], nodes=scope.made, name=f"{scope.prefix}/graph")
        turns = self._constants(np.array(math.ceil(extent / step), np.int64))
        return nodes.add("Loop", [turns, None, self._zero], "loop", body=loop)

    def _centred(self, nodes: Nodes, x: ir.Value) -> ir.Value:
        """Subtract the mean over the batch."""
        if self._opset >= 18:
            mean = nodes.add("ReduceMean", [x, self._constants([0])], "mean", keepdims=1)
        else:
            mean = nodes.add("ReduceMean", [x], "mean", axes=[0], keepdims=1)
        return nodes.add("Sub", [x, mean], "centred")

    def _square_shape(self) -> ir.Value:
        """Return the shape (N, N), from the batch size of the graph's first input; it is only added once."""
        if self._square is not None:
            return self._square
        nodes = Nodes("probes", self._opset)
        shape = nodes.add("Shape", [self._graph.inputs[0]], "shape")
        count = nodes.add("Slice", [shape, self._constants([0]), self._constants([1])], "count")
        square = nodes.add("Concat", [count, count], "square", axis=0)
        self._graph.extend(nodes.made)
        self._square = square
        return square


def _scalar(name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([]))
