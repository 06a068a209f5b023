"""Pooling: the largest, the average or a norm of each window."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...model.dims import dims, product
from .maxima import to_maxima
from .registry import BackwardContext, Gradients, NodeView, rule
from .windows import check_windows, spread, windows

_SCATTERS_SUMS = 16  # from this opset on, ScatterElements can add


def _check_max(view: NodeView) -> str | None:
    if view.int("storage_order", 0):
        return "has storage_order 1, and only indices in row order are supported here"
    return check_windows(view)


@rule("MaxPool", inputs=(0,), check=_check_max)
def max_pool(context: BackwardContext) -> Gradients:
    """The gradient of each window goes to its first largest element.

    The forward node can output the positions, which need fewer bytes than its input and output; but ONNX Runtime is
    slow to compute them: with windows of 3 x 3 and stride 2 at [8, 64, 112, 112], 36 ms in addition to 5, and
    scattering takes 11 more. Comparing in the backward pass takes 63 ms in this case. With stride 1 there are as many
    positions as elements, and comparing takes about half as long, so that is done then.
    """
    pool = windows(context)
    if max(pool.kernel) == 1:
        return {0: spread(context.build, context.dy(), pool)}
    adds = not pool.disjoint
    scatters = context.build.allows("ScatterElements") and (not adds or context.opset >= _SCATTERS_SUMS)
    if scatters and (not adds or max(pool.strides) > 1):
        return {0: _scatter(context, adds=adds)}
    return {0: to_maxima(context.build, context.x(), context.y(), context.dy(), pool)}


def _scatter(context: BackwardContext, *, adds: bool) -> ir.Value:
    """Scatter by the positions that the forward node outputs, which index the whole flattened tensor."""
    b, shape = context.build, context.shape(0)
    # Half as many bytes to keep; tensors of 2^31 elements are beyond the memory of any device this is meant for.
    places = b.declare_mask(b.op("Cast", _indices(context), to=int(ir.DataType.INT32)))
    flat = (product(dims(context.dy())),)
    dy, dtype = b.reshape(context.dy(), flat), context.dy().dtype
    assert dtype is not None
    zeros = b.expand(b.constant(np.zeros(1, dtype.numpy())), [product(shape)])
    summed = b.op("ScatterElements", zeros, b.reshape(places, flat), dy, axis=0, reduction="add" if adds else None)
    return b.reshape(summed, shape)


def _indices(context: BackwardContext) -> ir.Value:
    """The second output of a MaxPool, which is added if the node has none."""
    node = context.node
    if len(node.outputs) < 2:
        node.resize_outputs(2)
    indices = node.outputs[1]
    if not indices.name:
        indices.name = context.build.unique(f"{node.outputs[0].name}/places")
    indices.dtype, indices.shape = ir.DataType.INT64, ir.Shape(context.out_shape())
    return indices


def _check_average(view: NodeView) -> str | None:
    reason = check_windows(view)
    if reason is None and view.int("count_include_pad", 0):
        pool = windows(view)
        if any(n > pad for n, pad in zip(pool.overruns, pool.after, strict=True)):
            # ONNX Runtime 1.19 divides by the whole window, 1.32 by the part of it that is input or padding.
            return (
                "counts the padding, and has, because of ceil_mode, a window past it, which runtimes count differently"
            )
    return reason


@rule("AveragePool", inputs=(0,), check=_check_average)
def average_pool(context: BackwardContext) -> Gradients:
    """The gradients of the windows divided by the number of their elements, summed."""
    pool = windows(context)
    counted = pool.elements(padding=bool(context.int("count_include_pad", 0)))
    return {0: spread(context.build, context.dy(), pool, 1 / counted)}


@rule("LpPool", inputs=(0,), check=check_windows)
def lp_pool(context: BackwardContext) -> Gradients:
    """d(sum |x|^p)^(1/p) = sign(x) |x|^(p-1) y^(1-p), summed over the windows."""
    pool = windows(context)
    return {0: _norm(context, lambda gradient: spread(context.build, gradient, pool))}


def _norm(context: BackwardContext, summed: Callable[[ir.Value], ir.Value]) -> ir.Value:
    b, dy, power = context.build, context.dy(), context.int("p", 2)
    if power == 1:
        return b.mul(b.sign(context.x()), summed(dy))
    y, x = context.y(), context.x()
    # Where the norm is zero, all elements are zero, and the gradient must be zero rather than 0 / 0.
    y = b.add(y, b.cast_like(b.op("Equal", y, b.scalar(0, y)), y))
    if power == 2:
        return b.mul(x, summed(b.div(dy, y)))
    steep = b.mul(b.sign(x), b.op("Pow", b.op("Abs", x), b.scalar(power - 1, x)))
    return b.mul(steep, summed(b.mul(dy, b.op("Pow", y, b.scalar(1 - power, y)))))


def _check_global(view: NodeView) -> str | None:
    if any(isinstance(d, str) for d in view.shape(0)[2:]):
        return "pools an axis whose length is unknown"
    return None if len(view.shape(0)) > 2 else "pools an input without spatial axes"


@rule("GlobalAveragePool", inputs=(0,), check=_check_global)
def global_average_pool(context: BackwardContext) -> Gradients:
    """The gradient divided by the number of elements, at each of them (by broadcasting, in one pass)."""
    b, dy, spatial = context.build, context.dy(), [int(d) for d in context.shape(0)[2:]]
    assert dy.dtype is not None
    part = 1 / math.prod(spatial)
    return {0: b.spread(dy, b.constant(np.full((1, 1, *spatial), part, dy.dtype.numpy())), part)}


@rule("GlobalMaxPool", inputs=(0,), check=_check_global)
def global_max_pool(context: BackwardContext) -> Gradients:
    """The gradient of each channel goes to its first largest element."""
    b, shape, dy = context.build, context.shape(0), context.dy()
    count = math.prod(int(d) for d in shape[2:])
    place = b.declare_mask(b.op("ArgMax", b.reshape(context.x(), (*shape[:2], count)), axis=2, keepdims=1))
    at_place = b.op("Equal", place, b.constant(np.arange(count, dtype=np.int64)[None, None]))
    return {0: b.reshape(b.masked(b.reshape(dy, (*shape[:2], 1)), at_place), shape)}


@rule("GlobalLpPool", inputs=(0,), check=_check_global)
def global_lp_pool(context: BackwardContext) -> Gradients:
    """The same as LpPool with one window."""
    return {0: _norm(context, lambda gradient: gradient)}
