"""Pooling: the largest, the average or a norm of each window."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...model.dims import dims, product
from .maxima import to_maxima
from .registry import Gradients, Look, Step, rule
from .windows import check_windows, spread, windows

_SCATTERS_SUMS = 16  # ScatterElements can add from this opset on


def _check_max(look: Look) -> str | None:
    if look.int("storage_order", 0):
        return "has storage_order 1, and only indices by rows are known here"
    return check_windows(look)


@rule("MaxPool", inputs=(0,), check=_check_max)
def max_pool(step: Step) -> Gradients:
    """To the first largest element of each window.

    The forward node tells the places, which take fewer bytes to keep than its input and output; but they take ONNX
    Runtime long: with windows of 3 x 3 two apart at [8, 64, 112, 112], 36 ms on top of 5, and scattering 11 more.
    Comparing in the backward pass takes 63 ms there. With windows one apart there are as many places as elements, and
    comparing takes about half as long, so that is done.
    """
    found = windows(step)
    if max(found.kernel) == 1:
        return {0: spread(step.build, step.dy(), found)}
    adds = not found.disjoint
    scatters = step.build.allows("ScatterElements") and (not adds or step.opset >= _SCATTERS_SUMS)
    if scatters and (not adds or max(found.strides) > 1):
        return {0: _scatter(step, adds=adds)}
    return {0: to_maxima(step.build, step.x(), step.y(), step.dy(), found)}


def _scatter(step: Step, *, adds: bool) -> ir.Value:
    """By the places that the forward node tells, which count through the whole tensor."""
    b, shape = step.build, step.shape(0)
    # Half as many bytes to keep; 2^31 elements do not fit into the memory this is meant for.
    places = b.op("Cast", _indices(step), to=int(ir.DataType.INT32))
    b.masks.append(places)
    flat = (product(dims(step.dy())),)
    dy, dtype = b.reshape(step.dy(), flat), step.dy().dtype
    assert dtype is not None
    zeros = b.expand(b.constant(np.zeros(1, dtype.numpy())), [product(shape)])
    summed = b.op("ScatterElements", zeros, b.reshape(places, flat), dy, axis=0, reduction="add" if adds else None)
    return b.reshape(summed, shape)


def _indices(step: Step) -> ir.Value:
    """The second output of a MaxPool, which it is given if it has none."""
    node = step.node
    if len(node.outputs) < 2:
        node.resize_outputs(2)
    indices = node.outputs[1]
    if not indices.name:
        indices.name = step.build.unique(f"{node.outputs[0].name}/places")
    indices.dtype, indices.shape = ir.DataType.INT64, ir.Shape(step.out_shape())
    return indices


def _check_average(look: Look) -> str | None:
    reason = check_windows(look)
    if reason is None and look.int("count_include_pad", 0):
        found = windows(look)
        if any(n > pad for n, pad in zip(found.overruns, found.after, strict=True)):
            # ONNX Runtime 1.19 divides by the whole window, 1.32 by what of it is input or padding.
            return (
                "counts the padding, and has, because of ceil_mode, a window past it, which runtimes count differently"
            )
    return reason


@rule("AveragePool", inputs=(0,), check=_check_average)
def average_pool(step: Step) -> Gradients:
    """The gradients of the windows over the number of their elements, summed."""
    found = windows(step)
    counted = found.elements(padding=bool(step.int("count_include_pad", 0)))
    return {0: spread(step.build, step.dy(), found, 1 / counted)}


@rule("LpPool", inputs=(0,), check=check_windows)
def lp_pool(step: Step) -> Gradients:
    """D(sum |x|^p)^(1/p) = sign(x) |x|^(p-1) y^(1-p), summed over the windows."""
    found = windows(step)
    return {0: _norm(step, lambda gradient: spread(step.build, gradient, found))}


def _norm(step: Step, summed: Callable[[ir.Value], ir.Value]) -> ir.Value:
    b, dy, power = step.build, step.dy(), step.int("p", 2)
    if power == 1:
        return b.mul(b.sign(step.x()), summed(dy))
    y, x = step.y(), step.x()
    # Where the norm is zero, so are all its elements, and then the gradient is to be zero rather than 0 / 0.
    y = b.add(y, b.cast_like(b.op("Equal", y, b.scalar(0, y)), y))
    if power == 2:
        return b.mul(x, summed(b.div(dy, y)))
    steep = b.mul(b.sign(x), b.op("Pow", b.op("Abs", x), b.scalar(power - 1, x)))
    return b.mul(steep, summed(b.mul(dy, b.op("Pow", y, b.scalar(1 - power, y)))))


def _check_global(look: Look) -> str | None:
    if any(isinstance(d, str) for d in look.shape(0)[2:]):
        return "pools an axis whose length is unknown"
    return None if len(look.shape(0)) > 2 else "pools an input without spatial axes"


@rule("GlobalAveragePool", inputs=(0,), check=_check_global)
def global_average_pool(step: Step) -> Gradients:
    """The gradient over the number of elements, at each of them (by broadcasting, in one pass)."""
    b, dy, spatial = step.build, step.dy(), [int(d) for d in step.shape(0)[2:]]
    assert dy.dtype is not None
    part = 1 / math.prod(spatial)
    return {0: b.spread(dy, b.constant(np.full((1, 1, *spatial), part, dy.dtype.numpy())), part)}


@rule("GlobalMaxPool", inputs=(0,), check=_check_global)
def global_max_pool(step: Step) -> Gradients:
    """To the first largest element of each channel."""
    b, shape, dy = step.build, step.shape(0), step.dy()
    count = math.prod(int(d) for d in shape[2:])
    place = b.op("ArgMax", b.reshape(step.x(), (*shape[:2], count)), axis=2, keepdims=1)
    b.masks.append(place)
    there = b.op("Equal", place, b.constant(np.arange(count, dtype=np.int64)[None, None]))
    return {0: b.reshape(b.masked(b.reshape(dy, (*shape[:2], 1)), there), shape)}


@rule("GlobalLpPool", inputs=(0,), check=_check_global)
def global_lp_pool(step: Step) -> Gradients:
    """As LpPool, with one window."""
    return {0: _norm(step, lambda gradient: gradient)}
