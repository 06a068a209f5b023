"""Sketches of activations inside a graph: k numbers per sample, whose distances are nearly those of the activation.

A sketch of k numbers is a random signed sum: element i of the activation, times a random sign, is added to number
i mod k (a count sketch: M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams", 2002).
Squared distances of sketches are right on average, with a relative standard deviation of about sqrt(2 / k). An
activation of at most k elements is left as it is. So each sample is forwarded by itself or in a batch of any size, and
distances of all samples follow outside.

What makes it cheap (tests/benchmarks/bench_scoring.py):

* Signs and sums over a large feature map cost more than the convolution that made it. So a map is thinned first: of
  more than `THIN` * k elements only those on a regular grid of positions are used, of all channels. An AveragePool of a
  1 x 1 window with strides takes them, because onnxruntime runs it in the blocked layout of its convolutions; a Slice
  would copy the whole map out of it.
* Where a BatchNormalization is the only user of a Conv's output, the Conv's sketch is made from the
  BatchNormalization's elements, each divided by its channel's slope (see `slopes`): the offset is the same for all
  samples, and distances do not see it. So onnxruntime can still merge the two.
* All layers share one vector of signs.
* Probes stand behind all nodes of the model, the last layer's first (see `gram`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .. import seeds
from .nodes import Constants, Nodes, elements, sample_shape
from .slopes import pairs

SKETCH = 8192  # k, where nothing else is said
THIN = 16  # a feature map is thinned to about so many times k elements
_LONG = 1 << 20  # elements: of other activations with more, every second, third, ... is used
_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization"})


@dataclass(frozen=True)
class Sketched:
    """Of one layer.

    Attributes:
        sketch: float32 (N, K) with K at most k.
        thinned: the activation, or what is left of it after thinning, batch first.
    """

    sketch: ir.Value
    thinned: ir.Value


class SketchProbes:
    """Adds sketches of activations to a graph.

    Args:
        graph: its activations must have shapes, the batch dimension first.
        size: k, the most numbers of one sketch.
        seed: of the signs.
    """

    def __init__(self, graph: ir.Graph, size: int, seed: int) -> None:
        self._graph, self._size, self._seed = graph, size, seed
        self._opset = graph.opset_imports.get("") or 17
        self._constants = Constants(graph)
        self._signs: ir.Value | None = None
        self._parts: dict[int, ir.Value] = {}

    def add(self, activations: dict[str, ir.Value]) -> dict[str, Sketched]:
        """Add a sketch of each activation.

        Args:
            activations: float32 values (N, ...) by layer name, in model order.

        Returns:
            Sketches named ``LAYER/sketch``, in the same order.
        """
        together = pairs(activations)
        behind = {conv for conv, _ in together.values()}
        self._make_signs(activations)
        found: dict[str, Sketched] = {}
        for name in reversed(activations):
            if name in behind:
                continue
            nodes = Nodes(f"{name}/sketch", self._opset)
            thin = self._thinned(nodes, activations[name])
            signed = self._signed(nodes, self._flat(nodes, thin))
            found[name] = Sketched(self._summed(nodes, signed, "sum"), thin)
            if name in together:
                conv, slopes = together[name]
                scaled = self._scaled(nodes, signed, slopes)
                found[conv] = Sketched(self._summed(nodes, scaled, "conv"), thin)
            self._graph.extend(nodes.made)
        for name, made in found.items():
            made.sketch.name = f"{name}/sketch"
        return {name: found[name] for name in activations}

    def _thinned(self, nodes: Nodes, value: ir.Value) -> ir.Value:
        """The elements that are used."""
        steps = thinning(value, self._size)
        if steps is None:
            return value
        if isinstance(steps, int):
            count = elements(value, 1)
            inputs: list[ir.Value | None] = [self._flat(nodes, value)]
            inputs += [self._constants([number]) for number in (0, count, 1, steps)]
            return _shaped(nodes.add("Slice", inputs, "thin"), math.ceil(count / steps))
        channels, *extents = sample_shape(value)
        made = nodes.add("AveragePool", [value], "thin", kernel_shape=[1] * len(steps), strides=list(steps))
        return _shaped(made, channels, *_after(extents, steps))

    def _flat(self, nodes: Nodes, value: ir.Value) -> ir.Value:
        """(N, D), a value of its own."""
        count = elements(value, 1)
        if len(sample_shape(value)) == 1:
            return _shaped(nodes.add("Identity", [value], f"flat{len(nodes.made)}"), count)
        target = self._constants([-1, count])
        return _shaped(nodes.add("Reshape", [value, target], f"flat{len(nodes.made)}"), count)

    def _signed(self, nodes: Nodes, flat: ir.Value) -> ir.Value:
        """The elements with their signs, where there are more than k."""
        count = elements(flat, 1)
        if count <= self._size:
            return flat
        return _shaped(nodes.add("Mul", [flat, self._first_signs(count)], "signed"), count)

    def _scaled(self, nodes: Nodes, signed: ir.Value, slopes: np.ndarray) -> ir.Value:
        """A BatchNormalization's elements divided by the slopes of their channels: its Conv's, but for constants."""
        channels, count = len(slopes), elements(signed, 1)
        by_channel = nodes.add("Reshape", [signed, self._constants([-1, channels, count // channels])], "channels")
        factors = self._constants((1 / slopes).astype(np.float32).reshape(1, channels, 1))
        scaled = nodes.add("Mul", [by_channel, factors], "scaled")
        return _shaped(nodes.add("Reshape", [scaled, self._constants([-1, count])], "scaled/flat"), count)

    def _summed(self, nodes: Nodes, signed: ir.Value, suffix: str) -> ir.Value:
        """(N, K): sums of every K-th element."""
        count = elements(signed, 1)
        if count <= self._size:
            return signed
        terms, size = sums_of(count, self._size)
        if terms * size > count:
            pads = self._constants([0, 0, 0, terms * size - count])
            signed = nodes.add("Pad", [signed, pads], f"{suffix}/padded")
        rows = nodes.add("Reshape", [signed, self._constants([-1, terms, size])], f"{suffix}/rows")
        if self._opset >= 13:
            return _shaped(nodes.add("ReduceSum", [rows, self._constants([1])], suffix, keepdims=0), size)
        return _shaped(nodes.add("ReduceSum", [rows], suffix, axes=[1], keepdims=0), size)

    def _make_signs(self, activations: dict[str, ir.Value]) -> None:
        """One vector for all layers: each uses its first elements."""
        counts = [used(value, self._size) for value in activations.values()]
        longest = max((count for count in counts if count > self._size), default=0)
        if not longest:
            return
        signs = (2 * seeds.signs(self._seed).integers(0, 2, longest) - 1).astype(np.int8)
        nodes = Nodes("probes", self._opset)
        self._signs = nodes.add("Cast", [self._constants(signs)], "signs", to=int(ir.DataType.FLOAT))
        self._parts[longest] = self._signs
        self._graph.extend(nodes.made)

    def _first_signs(self, count: int) -> ir.Value:
        """The first signs, as many as are needed; sessions compute them once, when they are made."""
        if count not in self._parts:
            nodes = Nodes("probes", self._opset)
            ends = [self._constants([number]) for number in (0, count)]
            self._parts[count] = nodes.add("Slice", [self._signs, *ends], f"signs/{count}")
            self._graph.extend(nodes.made)
        return self._parts[count]


def thinning(value: ir.Value, size: int) -> tuple[int, ...] | int | None:
    """Which elements of an activation are used: strides of its positions, or every n-th element; None for all.

    Args:
        value: (N, ...), its shape written down.
        size: k.
    """
    shape, node = sample_shape(value), value.producer()
    most = THIN * size * 5 // 4
    if node is not None and node.op_type in _CHANNELS_FIRST and 2 <= len(shape) <= 4:
        channels, *extents = shape
        steps = [1] * len(extents)
        while channels * math.prod(_after(extents, steps)) > most and max(_after(extents, steps), default=1) > 1:
            left = _after(extents, steps)
            steps[left.index(max(left))] += 1
        return tuple(steps) if max(steps) > 1 else None
    step = math.ceil(math.prod(shape) / max(_LONG, most))
    return step if step > 1 else None


def used(value: ir.Value, size: int) -> int:
    """How many elements of an activation are used.

    Args:
        value: (N, ...), its shape written down.
        size: k.
    """
    steps, shape = thinning(value, size), sample_shape(value)
    if steps is None:
        return math.prod(shape)
    if isinstance(steps, int):
        return math.ceil(math.prod(shape) / steps)
    return shape[0] * math.prod(_after(shape[1:], steps))


def sums_of(count: int, size: int) -> tuple[int, int]:
    """(terms, K): how many elements are added to each number, and how many numbers there are, at most ``size``.

    Of few terms the last is missing in some sums, so that there are as many numbers as possible; of many there are
    somewhat fewer numbers where that saves filling up with zeros, which copies the elements.

    Args:
        count: elements, more than ``size``.
        size: k.
    """
    least = math.ceil(count / size)
    for terms in range(least, least + least // 8 + 1):
        if count % terms == 0 and (least >= 8 or count == terms * size):
            return terms, count // terms
    return least, size


def _shaped(value: ir.Value, *shape: int) -> ir.Value:
    """The value with the type that it has."""
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(["N", *shape])
    return value


def _after(extents: tuple[int, ...] | list[int], steps: tuple[int, ...] | list[int]) -> list[int]:
    return [math.ceil(extent / step) for extent, step in zip(extents, steps, strict=True)]
