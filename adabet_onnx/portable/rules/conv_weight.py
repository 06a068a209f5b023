"""The gradient of a convolution's weight, by one of several strategies (see `conv_strategy`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from ...model.dims import Dim, dims, times
from ..builder import Builder
from .conv_geometry import Geometry
from .conv_matrix import weight_by_matrix
from .conv_strategy import strategy

_COLUMNS = 16  # columns of a product in `_columns`
_ROW = 28  # elements of a row that `_rows` processes at a time


def weight_gradient(
    build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry, forced: str | None = None
) -> ir.Value:
    """The gradient of the weight, in the shape of the weight.

    Args:
        build: makes the nodes.
        image: the convolved image.
        gradient: gradient of the result.
        g: the geometry of the convolution.
        forced: name of a strategy; None for the best one.
    """
    if g.taps == 1:
        g, image = _one_window(build, image, g)
    weight_gradients = _STRATEGIES[forced or strategy(g)](build, image, gradient, g)
    return build.reshape(weight_gradients, g.weight_shape)


def _windows(build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry, at_once: int = 1) -> ir.Value:
    """A product for each sample and group, summed over samples: (N g, O/g, P) times (N g, P, C/g)."""
    batch = dims(image)[0]
    image = _padded(build, image, g)
    left = build.reshape(gradient, [times(batch, g.groups), g.group_features, g.positions])
    parts = []
    for offsets in _chunks(_offsets(g.kernel), at_once):
        shape = [times(batch, g.groups), g.group_channels, g.positions]
        right = _concat(build, [build.reshape(_window(build, image, g, o), shape) for o in offsets], 1)
        products = build.op("MatMul", left, build.transpose(right, [0, 2, 1]))
        columns = len(offsets) * g.group_channels
        parts.append(build.total(build.reshape(products, [batch, g.features, columns]), [0], keepdims=False))
    return _taps_last(build, parts, g)


def _columns(build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry) -> ir.Value:
    """Windows of several kernel elements side by side in one product."""
    return _windows(build, image, gradient, g, max(1, _COLUMNS // g.group_channels))


def _merged(build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry) -> ir.Value:
    """A product for each group, with the batch inside it: (g, O/g, N P) times (g, N P, C/g)."""
    batch = dims(image)[0]
    long = times(batch, g.positions)
    left = _batch_inside(build, build.reshape(gradient, [batch, g.features, g.positions]))
    left = build.reshape(left, [g.groups, g.group_features, long])
    image = _padded(build, image, g)
    # Windows of an image with its channels last are copied in longer pieces, and need no transposition for the
    # product. For several groups that transposition took longer than it saved.
    last = g.groups == 1
    axes = list(range(2, g.rank + 2))
    image = build.transpose(image, [0, *axes, 1] if last else [1, 0, *axes])
    parts = []
    for offset in _offsets(g.kernel):
        right = _window(build, image, g, offset, first=1 if last else 2)
        if last:
            right = build.reshape(right, [1, long, g.channels])
        else:
            right = build.transpose(build.reshape(right, [g.groups, g.group_channels, long]), [0, 2, 1])
        parts.append(build.reshape(build.op("MatMul", left, right), [g.features, g.group_channels]))
    return _taps_last(build, parts, g)


def _whole(build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry) -> ir.Value:
    """The single window's elements become channels, and the kernel 1x1."""
    image = crop(build, _padded(build, image, g), [0] * g.rank, g.reach)
    ones = (1,) * g.rank
    channels = g.channels * g.taps
    if g.kernel != g.reach:  # dilated
        image = _slice(build, image, [0] * g.rank, g.kernel, range(2, g.rank + 2), g.dilations)
    image = build.reshape(image, [dims(image)[0], channels, *ones])
    flat = replace(g, channels=channels, kernel=ones, dilations=ones, begins=(0,) * g.rank, size=ones)
    return weight_gradient(build, image, gradient, flat)


def _rows(build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry) -> ir.Value:
    """Depthwise: the products of rows, (C, W', N H') times (C, N H', W), whose diagonals contain the gradient.

    Long rows are cut into tiles of at most 28 elements, whose products are added.
    """
    batch = dims(image)[0]
    count = math.ceil(g.out[-1] / _ROW)
    width = math.ceil(g.out[-1] / count)
    if width * count > g.out[-1]:  # make the tiles fill the row
        gradient = build.op("Pad", gradient, build.ints(*[0] * (2 * g.rank + 3), width * count - g.out[-1]))
        g = replace(g, out=(*g.out[:-1], width * count))
    stride, dilation = g.strides[-1], g.dilations[-1]
    long = times(batch, math.prod(g.out[:-1]))
    image = _batch_inside(build, _padded(build, image, g))
    gradient = _batch_inside(build, gradient)
    tile = replace(g, out=(*g.out[:-1], width))
    span = tile.reach[-1]
    left = []
    for i in range(count):
        piece = _slice(build, gradient, [i * width], [width], [g.rank + 1])
        left.append(build.transpose(build.reshape(piece, [g.channels, long, width]), [0, 2, 1]))
    parts = []
    for offset in _offsets(g.kernel[:-1]):
        summed = None
        for i in range(count):
            starts = [*(o * d for o, d in zip(offset, g.dilations, strict=False)), i * width * stride]
            piece = _slice(build, image, starts, [*g.out[:-1], span], list(range(2, g.rank + 2)), [*g.strides[:-1], 1])
            products = build.op("MatMul", left[i], build.reshape(piece, [g.channels, long, span]))
            summed = products if summed is None else build.add(summed, products)
        assert summed is not None
        flat = build.reshape(summed, [g.channels, width * span])
        for k in range(g.kernel[-1]):  # gradient element i is multiplied by image element i * stride + k * dilation
            diagonal = _slice(build, flat, [k * dilation], [width], [1], [span + stride])
            parts.append(build.total(diagonal, [1]))
    return _concat(build, parts, 1)


def _exchanged(build: Builder, image: ir.Value, gradient: ir.Value, g: Geometry) -> ir.Value:
    """A Conv whose batch consists of the channels of a group, and whose channels are groups and batch."""
    batch = dims(image)[0]
    pads = [*g.begins, *(max(e, 0) for e in g.ends)]
    if g.groups > 1:
        image = build.reshape(image, [batch, g.groups, g.group_channels, *g.size])
        image = build.transpose(image, [2, 1, 0, *range(3, g.rank + 3)])
        image = build.reshape(image, [g.group_channels, times(batch, g.groups), *g.size])
    else:
        image = _batch_inside(build, image)
    rows = zip(g.kernel, g.dilations, g.ends, strict=True)
    size = [k + max(-end, 0) // d for k, d, end in rows]  # larger if elements at the end are in no window
    convolved = build.op(
        "Conv",
        image,
        _batch_inside(build, gradient),
        group=g.groups,
        kernel_shape=list(g.out),
        strides=list(g.dilations),
        dilations=list(g.strides),
        pads=pads,
        shape=[g.group_channels, g.features, *size],
    )
    return _batch_inside(build, crop(build, convolved, [0] * g.rank, g.kernel))


_STRATEGIES: dict[str, Callable[[Builder, ir.Value, ir.Value, Geometry], ir.Value]] = {
    "windows": _windows,
    "columns": _columns,
    "merged": _merged,
    "whole": _whole,
    "rows": _rows,
    "exchanged": _exchanged,
    "matrix": weight_by_matrix,
}


def _offsets(kernel: Sequence[int]) -> list[tuple[int, ...]]:
    """The positions of all kernel elements."""
    return list(itertools.product(*map(range, kernel)))


def _chunks(offsets: list[tuple[int, ...]], size: int) -> list[list[tuple[int, ...]]]:
    return [offsets[i : i + size] for i in range(0, len(offsets), size)]


def _one_window(build: Builder, image: ir.Value, g: Geometry) -> tuple[Geometry, ir.Value]:
    """The image elements that a 1x1 kernel reads, and the geometry without strides that remains."""
    image = _window(build, _padded(build, image, g), g, [0] * g.rank)
    return replace(g, strides=(1,) * g.rank, begins=(0,) * g.rank, size=g.out), image


def _padded(build: Builder, image: ir.Value, g: Geometry) -> ir.Value:
    """The image with the padding that the windows need."""
    pads = [0, 0, *g.begins, 0, 0, *(max(end, 0) for end in g.ends)]
    return build.op("Pad", image, build.ints(*pads)) if any(pads) else image


def _window(build: Builder, image: ir.Value, g: Geometry, offset: Sequence[int], first: int = 2) -> ir.Value:
    """What a kernel element reads of a padded image whose spatial axes begin at ``first``."""
    starts = [o * d for o, d in zip(offset, g.dilations, strict=True)]
    return _slice(build, image, starts, list(g.out), list(range(first, first + g.rank)), list(g.strides))


def _slice(
    build: Builder,
    value: ir.Value,
    starts: Sequence[int],
    counts: Sequence[int],
    axes: Sequence[int],
    steps: Sequence[int] | None = None,
) -> ir.Value:
    """``counts`` elements of each axis, from a start, with a step; axes that are taken whole are not sliced."""
    shape = list(dims(value))
    steps = steps or [1] * len(axes)
    rows = [
        (start, start + (count - 1) * step + 1, axis, step)
        for start, count, axis, step in zip(starts, counts, axes, steps, strict=True)
        if shape[axis] != count
    ]
    if not rows:
        return value
    for axis, count in zip(axes, counts, strict=True):
        shape[axis] = count
    first, last, along, by = zip(*rows, strict=True)
    step_input = [build.ints(*by)] if max(by) > 1 else []
    return build.op("Slice", value, build.ints(*first), build.ints(*last), build.ints(*along), *step_input, shape=shape)


def crop(build: Builder, value: ir.Value, starts: Sequence[int], size: Sequence[int]) -> ir.Value:
    """A part of the spatial axes."""
    return _slice(build, value, starts, size, range(2, len(size) + 2))


def _batch_inside(build: Builder, value: ir.Value) -> ir.Value:
    """The value with its first two axes swapped."""
    return build.transpose(value, [1, 0, *range(2, len(dims(value)))])


def _concat(build: Builder, parts: Sequence[ir.Value], axis: int) -> ir.Value:
    if len(parts) == 1:
        return parts[0]
    shape: list[Dim] = list(dims(parts[0]))
    shape[axis] = sum(int(dims(part)[axis]) for part in parts)
    return build.op("Concat", *parts, axis=axis, shape=shape)


def _taps_last(build: Builder, parts: Sequence[ir.Value], g: Geometry) -> ir.Value:
    """Parts of shape (O, taps C/g) as (O, C/g, taps)."""
    joined = build.reshape(_concat(build, parts, 1), [g.features, g.taps, g.group_channels])
    if g.taps == 1 or g.group_channels == 1:
        return joined
    return build.transpose(joined, [0, 2, 1])
