"""Sketches of activations inside a graph: k numbers per sample, whose distances are nearly those of the activation.

A sketch of k numbers is a random signed sum: element i of the activation, times a random sign, is added to number
i mod k (a count sketch: M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams", 2002).
Squared distances of sketches are right on average, with a relative standard deviation of about sqrt(2 / k). An
activation of at most k elements is left as it is. So each sample is forwarded by itself or in a batch of any size, and
distances of all samples follow outside.

What makes it cheap (tests/benchmarks/bench_scoring.py):

* Signs and sums over a large feature map cost more than the convolution that made it. So a map is thinned first: of
  more than 10 * k elements only those on a regular grid of positions are used, of all channels. An AveragePool of a
  1 x 1 window with strides takes them, because onnxruntime runs it in the blocked layout of its convolutions; a Slice
  would copy the whole map out of it.
* Where a BatchNormalization is the only user of a Conv's output, the Conv's sketch is made from the
  BatchNormalization's elements, each divided by its channel's slope (see `slopes`): the offset is the same for all
  samples, and distances do not see it. Channels with too small a slope are computed again, at the positions that are
  used. So onnxruntime can still merge the two.
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
from .slopes import Pair, pairs

SKETCH = 8192  # k, where nothing else is said
# A feature map is thinned to about so many times k elements, for the sketch of its Conv to fewer.
THIN, _THIN_CONV = 8, 4
_FEWEST = 0.75  # of k: numbers of a sketch
_LONG = 1 << 20  # elements: of other activations with more, every second, third, ... is used
# Their outputs are (N, C, positions).
_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "AveragePool"})


@dataclass(frozen=True)
class Sketched:
    """Of one layer.

    Attributes:
        sketch: float32 (N, K) with K at most k.
        sample: the activation (N, ...) with its channels, or of a large feature map as many positions as make about k
            elements: enough for the mean and variance of each channel.
    """

    sketch: ir.Value
    sample: ir.Value


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
        self._stored = ir.Value(name="probes/signs/stored")
        cast = Nodes("probes", self._opset)
        self._signs = cast.add("Cast", [self._stored], "signs", to=int(ir.DataType.FLOAT))
        self._cast = cast.made
        self._parts: dict[int, ir.Value] = {}

    def add(self, activations: dict[str, ir.Value]) -> dict[str, Sketched]:
        """Add a sketch of each activation.

        Args:
            activations: float32 values (N, ...) by layer name, in model order.

        Returns:
            Sketches named ``LAYER/sketch``, in the same order.
        """
        together = {
            name: pair
            for name, pair in pairs(activations).items()
            if pair.sound.all() or _explicit(activations[pair.conv].producer())
        }
        behind = {pair.conv for pair in together.values()}
        found: dict[str, Sketched] = {}
        for name in reversed(activations):
            if name in behind:
                continue
            nodes = Nodes(f"{name}/sketch", self._opset)
            thin = self._thinned(nodes, activations[name], THIN, "thin")
            sample = self._thinned(nodes, thin, 1, "sample")
            sketch = self._sketched(nodes, self._flat(nodes, thin), "sum")
            found[name] = Sketched(sketch, sample)
            if name in together:
                pair = together[name]
                thinner = self._thinned(nodes, thin, _THIN_CONV, "conv/thin")
                before = self._before_norm(nodes, thinner, pair, activations[name])
                found[pair.conv] = Sketched(self._sketched(nodes, self._flat(nodes, before), "conv/sum"), sample)
            self._graph.extend(nodes.made)
        if self._parts:
            self._store_signs()
        for name, made in found.items():
            made.sketch.name = f"{name}/sketch"
        return {name: found[name] for name in activations}

    def _thinned(self, nodes: Nodes, value: ir.Value, times: int, suffix: str) -> ir.Value:
        """Those elements that are used where there are many more than ``times`` k."""
        steps = thinning(value, times * self._size)
        if steps is None:
            return value
        if isinstance(steps, int):
            count = elements(value, 1)
            inputs: list[ir.Value | None] = [self._flat(nodes, value)]
            inputs += [self._constants([number]) for number in (0, count, 1, steps)]
            return _shaped(nodes.add("Slice", inputs, suffix), math.ceil(count / steps))
        channels, *extents = sample_shape(value)
        made = nodes.add("AveragePool", [value], suffix, kernel_shape=[1] * len(steps), strides=list(steps))
        return _shaped(made, channels, *_after(extents, steps))

    def _flat(self, nodes: Nodes, value: ir.Value) -> ir.Value:
        """(N, D), a value of its own."""
        count, suffix = elements(value, 1), f"flat{len(nodes.made)}"
        if len(sample_shape(value)) == 1:
            return _shaped(nodes.add("Identity", [value], suffix), count)
        return _shaped(nodes.add("Reshape", [value, self._constants([-1, count])], suffix), count)

    def _before_norm(self, nodes: Nodes, value: ir.Value, pair: Pair, whole: ir.Value) -> ir.Value:
        """Elements of a Conv's output, but for constants, from some of those of the BatchNormalization after it.

        They are divided by their slopes. Channels where that is not sound are computed by a Conv of their own, at the
        positions that are used, and put behind the others.
        """
        shape = sample_shape(value)
        factors = np.where(pair.sound, 1 / np.where(pair.sound, pair.slopes, 1), 0).astype(np.float32)
        factors = factors.reshape(-1, *[1] * (len(shape) - 1))
        scaled = _shaped(nodes.add("Mul", [value, self._constants(factors)], "conv/scaled"), *shape)
        lost = np.flatnonzero(~pair.sound)
        if not len(lost):
            return scaled
        norm = whole.producer()
        conv = norm.inputs[0].producer() if norm is not None and norm.inputs[0] is not None else None
        assert conv is not None
        again = self._channels_again(nodes, conv, lost, _steps_between(whole, value))
        return _shaped(nodes.add("Concat", [scaled, again], "conv/all", axis=1), shape[0] + len(lost), *shape[1:])

    def _channels_again(self, nodes: Nodes, conv: ir.Node, channels: np.ndarray, steps: list[int]) -> ir.Value:
        """Some channels of a Conv's output, without bias, at every n-th position."""
        which = self._constants([int(channel) for channel in channels])
        settings = {name: attribute.value for name, attribute in conv.attributes.items()}
        strides = settings.get("strides", [1] * len(steps))
        settings["strides"] = [int(stride) * step for stride, step in zip(strides, steps, strict=True)]
        weight = conv.inputs[1]
        if settings.get("group", 1) != 1:
            every = nodes.add("Conv", [conv.inputs[0], weight], "conv/again", **settings)
            return nodes.add("Gather", [every, which], "conv/lost", axis=1)
        rows = nodes.add("Gather", [weight, which], "conv/rows", axis=0)
        return nodes.add("Conv", [conv.inputs[0], rows], "conv/lost", **settings)

    def _sketched(self, nodes: Nodes, flat: ir.Value, suffix: str) -> ir.Value:
        """(N, K): the elements themselves, or sums of every K-th with its sign."""
        count = elements(flat, 1)
        if count <= self._size:
            return flat
        signed = nodes.add("Mul", [flat, self._first_signs(count)], f"{suffix}/signed")
        terms, size = sums_of(count, self._size)
        if terms * size > count:
            pads = self._constants([0, 0, 0, terms * size - count])
            signed = nodes.add("Pad", [signed, pads], f"{suffix}/padded")
        rows = nodes.add("Reshape", [signed, self._constants([-1, terms, size])], f"{suffix}/rows")
        if self._opset >= 13:
            return _shaped(nodes.add("ReduceSum", [rows, self._constants([1])], suffix, keepdims=0), size)
        return _shaped(nodes.add("ReduceSum", [rows], suffix, axes=[1], keepdims=0), size)

    def _first_signs(self, count: int) -> ir.Value:
        """The first signs, as many as are needed; sessions compute them once, when they are made."""
        if count not in self._parts:
            nodes = Nodes("probes", self._opset)
            if not self._parts:
                self._graph.extend(self._cast)
            ends = [self._constants([number]) for number in (0, count)]
            self._parts[count] = nodes.add("Slice", [self._signs, *ends], f"signs/{count}")
            self._graph.extend(nodes.made)
        return self._parts[count]

    def _store_signs(self) -> None:
        """One vector for all layers, as long as is needed: each uses its first elements."""
        signs = 2 * seeds.signs(self._seed).integers(0, 2, max(self._parts)) - 1
        self._stored.const_value = ir.tensor(signs.astype(np.int8))
        self._graph.register_initializer(self._stored)


def thinning(value: ir.Value, most: int) -> tuple[int, ...] | int | None:
    """Which elements of an activation are used: strides of its positions, or every n-th element; None for all.

    Args:
        value: (N, ...), its shape written down.
        most: about so many elements are used.
    """
    shape, node = sample_shape(value), value.producer()
    if math.prod(shape) <= most * 5 // 4:
        return None
    if node is not None and node.op_type in _CHANNELS_FIRST and 2 <= len(shape) <= 4:
        channels, *extents = shape
        steps = [1] * len(extents)
        while channels * math.prod(_after(extents, steps)) > most * 5 // 4 and max(_after(extents, steps)) > 1:
            left = _after(extents, steps)
            steps[left.index(max(left))] += 1
        return tuple(steps) if max(steps) > 1 else None
    step = math.ceil(math.prod(shape) / max(_LONG, most))
    return step if step > 1 else None


def sums_of(count: int, size: int) -> tuple[int, int]:
    """(terms, K): how many elements are added to each number, and how many numbers there are, at most ``size``.

    Somewhat fewer numbers than could be are taken where that saves filling up with zeros, which copies the elements.

    Args:
        count: elements, more than ``size``.
        size: k.
    """
    least = math.ceil(count / size)
    fewest = math.ceil(_FEWEST * size)
    for terms in range(least, count // fewest + 1):
        if count % terms == 0:
            return terms, count // terms
    return least, size


def _explicit(conv: ir.Node | None) -> bool:
    """Whether a Conv pads as its strides do not decide."""
    return conv is not None and conv.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _steps_between(whole: ir.Value, thinned: ir.Value) -> list[int]:
    """Of a thinned feature map, by how much positions have come apart along each axis."""
    steps, value = [1] * (len(sample_shape(whole)) - 1), thinned
    while value is not whole:
        node = value.producer()
        assert node is not None
        assert node.inputs[0] is not None
        steps = [step * stride for step, stride in zip(steps, node.attributes.get_ints("strides"), strict=True)]
        value = node.inputs[0]
    return steps


def _shaped(value: ir.Value, *shape: int) -> ir.Value:
    """The value with the type that it has."""
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(["N", *shape])
    return value


def _after(extents: tuple[int, ...] | list[int], steps: tuple[int, ...] | list[int]) -> list[int]:
    return [math.ceil(extent / step) for extent, step in zip(extents, steps, strict=True)]
