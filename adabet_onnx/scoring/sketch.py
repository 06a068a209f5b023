"""Sketches of activations inside a graph: k numbers per sample, whose distances approximate those of the activation.

A sketch of k numbers is a random signed sum: element i of the activation, times a random sign, is added to number i mod
k (a count sketch: M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams", 2002). Squared
distances of sketches are unbiased, with a relative standard deviation of about sqrt(2 / k). An activation with at most
k elements is used unchanged. So samples can be forwarded alone or in batches of any size, and distances of all samples
are computed outside the graph.

Optimisations (see tests/benchmarks/bench_scoring.py):

* Signs and sums over a large feature map cost more than the convolution that computed it. So a map is thinned first: if
  it has more than 10 * k elements, only a regular grid of positions is used, in all channels. A strided AveragePool
  with a 1 x 1 window extracts them, because onnxruntime runs it in the blocked layout of its convolutions; a Slice
  would convert and copy the whole map.
* A large map that is thinned a lot and cheap to compute is recomputed at the positions that are used, so that
  onnxruntime can still fuse its Conv with the activation function after it.
* If a BatchNormalization is the only user of a Conv's output, the Conv's sketch is computed from the
  BatchNormalization's elements, each divided by its channel's slope (see `slopes`); the offset is the same for all
  samples and does not affect distances. Channels with too small a slope are recomputed at the positions that are used.
  So onnxruntime can still fuse the two.
* Sums are products with a row of ones, which take a fifth of the time of ReduceSum over that axis.
* All layers share one vector of signs.
* Probes are placed after all nodes of the model, the last layer's first (see `gram`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import seeds
from .nodes import Constants, Nodes, elements, sample_shape
from .slopes import Pair, pairs

SKETCH = 8192  # the default k
_CHEAP = 16  # most products per element of a map that is recomputed when thinned
# A feature map is thinned to about this multiple of k elements; for its Conv's sketch and for sums, to fewer.
THIN, _THIN_CONV, _SAMPLE = 8, 4, 2
_FEWEST, MOST = 0.66, 1.25  # of k: the range of a sketch's size
_LEAST_LOST = 1 / 8  # of k: least size for channels that are recomputed
_LONG = 1 << 20  # elements: from larger activations of other kinds, every second, third, ... is used
# Their outputs are (N, C, positions).
_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "AveragePool"})


@dataclass(frozen=True)
class Sketched:
    """The sketch of one layer.

    Attributes:
        sketch: float32 (N, K) with K about k, or the size of the activation if that is not larger.
        sample: the activation (N, ...) with its channels or, for a large feature map, enough of its positions for the
            mean and variance of each channel: about k elements.
    """

    sketch: ir.Value
    sample: ir.Value


class SketchProbes:
    """Adds sketches of activations to a graph.

    Args:
        graph: its activations must have shapes, the batch dimension first.
        size: k, the approximate size of a sketch.
        seed: random seed of the signs.
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
        self._steps: dict[ir.Value, list[int]] = {}  # of thinned maps, in positions of the full map
        self._convs: dict[ir.Value, ir.Value] = {}  # for recomputed BatchNormalizations, the Conv's output

    def add(self, activations: dict[str, ir.Value]) -> dict[str, Sketched]:
        """Add a sketch of each activation.

        Args:
            activations: float32 values (N, ...) by layer name, in model order.

        Returns:
            Sketches named ``LAYER/sketch``, in the same order.
        """
        paired = {
            name: pair
            for name, pair in pairs(activations).items()
            if pair.sound.all() or _explicit(activations[pair.conv].producer())
        }
        covered = {pair.conv for pair in paired.values()}
        sketches: dict[str, Sketched] = {}
        for name in reversed(activations):
            if name in covered:
                continue
            nodes = Nodes(f"{name}/sketch", self._opset)
            thin = self._thinned(nodes, activations[name], THIN, "thin", recompute=True)
            sample = self._thinned(nodes, thin, _SAMPLE, "sample")
            sketch = self._sketched(nodes, self._flat(nodes, thin), "sum")
            sketches[name] = Sketched(sketch, sample)
            if name in paired:
                pair = paired[name]
                sketches[pair.conv] = Sketched(self._of_conv(nodes, thin, pair, activations[name]), sample)
            self._graph.extend(nodes.made)
        if self._parts:
            self._store_signs()
        for name, made in sketches.items():
            made.sketch.name = f"{name}/sketch"
        return {name: sketches[name] for name in activations}

    def _thinned(self, nodes: Nodes, value: ir.Value, times: int, suffix: str, *, recompute: bool = False) -> ir.Value:
        """Select the elements to use if there are many more than ``times`` k; cheap ones are recomputed."""
        steps = thinning(value, times * self._size)
        if steps is None:
            return value
        if isinstance(steps, int):
            count = elements(value, 1)
            inputs: list[ir.Value | None] = [self._flat(nodes, value)]
            inputs += [self._constants([number]) for number in (0, count, 1, steps)]
            return _shaped(nodes.add("Slice", inputs, suffix), math.ceil(count / steps))
        channels, *extents = sample_shape(value)
        conv, norm = _conv_and_norm(value) if recompute else (None, None)
        if conv is not None and _products(conv) <= _CHEAP * math.prod(steps):
            made = nodes.add("Conv", list(conv.inputs), f"{suffix}/again", **_with_strides(conv, steps))
            if norm is not None:
                self._convs[value] = _shaped(made, channels, *_thinned_extents(extents, steps))
                settings = {key: attribute.value for key, attribute in norm.attributes.items()}
                made = nodes.add("BatchNormalization", [made, *norm.inputs[1:]], suffix, **settings)
        else:
            made = nodes.add("AveragePool", [value], suffix, kernel_shape=[1] * len(steps), strides=list(steps))
        self._steps[made] = [a * b for a, b in zip(self._steps.get(value, [1] * len(steps)), steps, strict=True)]
        return _shaped(made, channels, *_thinned_extents(extents, steps))

    def _flat(self, nodes: Nodes, value: ir.Value) -> ir.Value:
        """Flatten to (N, D), always as a new value."""
        count, suffix = elements(value, 1), f"flat{len(nodes.made)}"
        if len(sample_shape(value)) == 1:
            return _shaped(nodes.add("Identity", [value], suffix), count)
        return _shaped(nodes.add("Reshape", [value, self._constants([-1, count])], suffix), count)

    def _of_conv(self, nodes: Nodes, thin: ir.Value, pair: Pair, norm: ir.Value) -> ir.Value:
        """Compute the sketch (N, K) of a Conv's output from some elements of the BatchNormalization after it.

        They are divided by their slopes. Channels for which that is inaccurate are recomputed by a separate Conv at the
        positions that are used, and get separate numbers in the sketch: squared distances add up.
        """
        if norm in self._convs:
            value = self._thinned(nodes, self._convs[norm], _THIN_CONV, "conv/thin")
            return self._sketched(nodes, self._flat(nodes, value), "conv/sum")
        value = self._thinned(nodes, thin, _THIN_CONV, "conv/thin")
        shape = sample_shape(value)
        factors = np.where(pair.sound, 1 / np.where(pair.sound, pair.slopes, 1), 0).astype(np.float32)
        factors = factors.reshape(-1, *[1] * (len(shape) - 1))
        scaled = _shaped(nodes.add("Mul", [value, self._constants(factors)], "conv/scaled"), *shape)
        sketch = self._sketched(nodes, self._flat(nodes, scaled), "conv/sum")
        lost = np.flatnonzero(~pair.sound)
        if not len(lost):
            return sketch
        conv, _ = _conv_and_norm(norm)
        assert conv is not None
        again = self._channels_again(nodes, conv, lost, self._steps.get(value, [1] * (len(shape) - 1)))
        flat = self._flat(nodes, _shaped(again, len(lost), *shape[1:]))
        share = math.ceil(self._size * max(_LEAST_LOST, len(lost) / shape[0]))
        others = self._sketched(nodes, flat, "conv/lost/sum", share)
        both = elements(sketch, 1) + elements(others, 1)
        return _shaped(nodes.add("Concat", [sketch, others], "conv/both", axis=1), both)

    def _channels_again(self, nodes: Nodes, conv: ir.Node, channels: np.ndarray, steps: list[int]) -> ir.Value:
        """Recompute some channels of a Conv's output, without bias, at every n-th position."""
        which, settings = self._constants([int(channel) for channel in channels]), _with_strides(conv, steps)
        x, weight = conv.inputs[:2]
        if settings.get("group", 1) != 1:
            return nodes.add(
                "Gather", [nodes.add("Conv", [x, weight], "conv/every", **settings), which], "conv/lost", axis=1
            )
        rows = nodes.add("Gather", [weight, which], "conv/rows", axis=0)
        return nodes.add("Conv", [x, rows], "conv/lost", **settings)

    def _sketched(self, nodes: Nodes, flat: ir.Value, suffix: str, size: int | None = None) -> ir.Value:
        """Compute the sketch (N, K): the elements themselves, or signed sums of every K-th; K is about ``size``."""
        count = elements(flat, 1)
        terms, size = sums_of(count, size or self._size)
        if terms == 1:
            return flat
        signed = nodes.add("Mul", [flat, self._first_signs(count)], f"{suffix}/signed")
        if terms * size > count:
            pads = self._constants([0, 0, 0, terms * size - count])
            signed = nodes.add("Pad", [signed, pads], f"{suffix}/padded")
        rows = nodes.add("Reshape", [signed, self._constants([-1, terms, size])], f"{suffix}/rows")
        total = nodes.add("MatMul", [self._constants(np.ones((1, terms), np.float32)), rows], f"{suffix}/total")
        return _shaped(nodes.add("Reshape", [total, self._constants([-1, size])], suffix), size)

    def _first_signs(self, count: int) -> ir.Value:
        """Return the first ``count`` signs; sessions compute them once, at creation."""
        if count not in self._parts:
            nodes = Nodes("probes", self._opset)
            if not self._parts:
                self._graph.extend(self._cast)
            ends = [self._constants([number]) for number in (0, count)]
            self._parts[count] = nodes.add("Slice", [self._signs, *ends], f"signs/{count}")
            self._graph.extend(nodes.made)
        return self._parts[count]

    def _store_signs(self) -> None:
        """Store one vector of signs for all layers; each uses its first elements."""
        signs = 2 * seeds.signs(self._seed).integers(0, 2, max(self._parts)) - 1
        self._stored.const_value = ir.tensor(signs.astype(np.int8))
        self._graph.register_initializer(self._stored)


def thinning(value: ir.Value, most: int) -> tuple[int, ...] | int | None:
    """Choose the elements of an activation to use: strides of its positions, or every n-th element; None for all.

    Args:
        value: (N, ...), with a shape annotation.
        most: approximate number of elements to use.
    """
    shape, node = sample_shape(value), value.producer()
    if math.prod(shape) <= most * 5 // 4:
        return None
    if node is not None and node.op_type in _CHANNELS_FIRST and 2 <= len(shape) <= 4:
        channels, *extents = shape
        steps = [1] * len(extents)
        while (
            channels * math.prod(_thinned_extents(extents, steps)) > most * 5 // 4
            and max(_thinned_extents(extents, steps)) > 1
        ):
            left = _thinned_extents(extents, steps)
            steps[left.index(max(left))] += 1
        return tuple(steps) if max(steps) > 1 else None
    step = math.ceil(math.prod(shape) / max(_LONG, most))
    return step if step > 1 else None


def sums_of(count: int, size: int) -> tuple[int, int]:
    """Return (terms, K): the number of elements summed into each number, and the number of numbers.

    K may differ somewhat from k if that avoids zero padding, which copies the elements.

    Args:
        count: number of elements.
        size: k.
    """
    if count <= size:
        return 1, count
    fitting = range(math.ceil(count / (MOST * size)), int(count / (_FEWEST * size)) + 1)
    whole = [terms for terms in fitting if count % terms == 0]
    if not whole:
        return math.ceil(count / size), size
    terms = min(whole, key=lambda terms: abs(math.log(count / terms / size)))
    return terms, count // terms


def _conv_and_norm(value: ir.Value) -> tuple[ir.Node | None, ir.Node | None]:
    """Return the Conv that computes a value, with the BatchNormalization after it, if there is one.

    Returns None for a Conv whose padding depends on its strides.
    """
    node, norm = value.producer(), None
    if node is not None and node.op_type == "BatchNormalization" and node.inputs[0] is not None:
        node, norm = node.inputs[0].producer(), node
    return (node, norm) if _explicit(node) else (None, None)


def _explicit(conv: ir.Node | None) -> bool:
    """Whether the node is a Conv whose padding does not depend on its strides."""
    if conv is None or conv.op_type != "Conv":
        return False
    return conv.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _products(conv: ir.Node) -> float:
    """Return the number of products per element of a Conv's output."""
    weight = conv.inputs[1]
    if weight is None or weight.shape is None or not weight.shape.is_static():
        return math.inf
    return math.prod(weight.shape.numpy()[1:])


def _with_strides(conv: ir.Node, steps: Sequence[int]) -> dict[str, Any]:
    """Return the attributes of a Conv that computes every n-th position along each axis."""
    settings = {name: attribute.value for name, attribute in conv.attributes.items()}
    strides = settings.get("strides", [1] * len(steps))
    return settings | {"strides": [int(stride) * step for stride, step in zip(strides, steps, strict=True)]}


def _shaped(value: ir.Value, *shape: int) -> ir.Value:
    """Annotate a value with its type and shape."""
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(["N", *shape])
    return value


def _thinned_extents(extents: tuple[int, ...] | list[int], steps: tuple[int, ...] | list[int]) -> list[int]:
    return [math.ceil(extent / step) for extent, step in zip(extents, steps, strict=True)]
