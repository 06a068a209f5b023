"""LRN, MeanVarianceNormalization and LpNormalization: normalizations without a scale or bias."""

from __future__ import annotations

import math

import onnx_ir as ir

from .functions import one_minus, plus, square
from .registry import BackwardContext, Gradients, NodeView, rule

_MVN_EPSILON = 1e-9  # the operator's definition adds it to the standard deviation


def _check_lrn(view: NodeView) -> str | None:
    if len(view.shape()) < 3 or any(isinstance(d, str) for d in view.shape()[1:]):
        return "has no fixed channels and spatial dimensions"
    return None


@rule("LRN", check=_check_lrn)
def lrn(context: BackwardContext) -> Gradients:
    """dy / d^beta - (2 alpha beta / size) x W'(dy x / d^(beta + 1)), where d = bias + (alpha / size) W(x^2).

    W is the sum over a window of channels, and W' the one over the mirrored window.
    """
    b, shape, size = context.build, context.shape(), context.int("size", 1)
    alpha, beta, bias = context.float("alpha", 1e-4), context.float("beta", 0.75), context.float("bias", 1)
    view = (shape[0], 1, shape[1], math.prod(d for d in shape[2:] if isinstance(d, int)))
    before, after = (size - 1) // 2, size // 2

    def mean(value: ir.Value, above: int, below: int) -> ir.Value:  # over the window, with zeros outside
        pads = [above, 0, below, 0]
        return b.op("AveragePool", value, kernel_shape=[size, 1], pads=pads, count_include_pad=1, shape=view)

    x, dy = b.reshape(context.x(), view), b.reshape(context.dy(), view)
    d = plus(b, b.scale(mean(square(b, x), before, after), alpha), bias)
    direct = b.mul(dy, b.op("Pow", d, b.scalar(-beta, d)))
    through = mean(b.div(b.mul(direct, x), d), after, before)
    gradient = b.sub(direct, b.mul(b.scale(x, 2 * alpha * beta), through))
    return {0: b.reshape(gradient, shape)}


@rule("MeanVarianceNormalization")
def mean_variance_normalization(context: BackwardContext) -> Gradients:
    """(dy - mean(dy) - y mean(dy y)) / std."""
    b, x, dy = context.build, context.x(), context.dy()
    axes = context.ints("axes", [0, 2, 3]) or []
    centered = b.sub(x, b.reduce("ReduceMean", x, axes))
    std = plus(b, b.op("Sqrt", b.reduce("ReduceMean", square(b, centered), axes)), _MVN_EPSILON)
    y = b.div(centered, std)
    along = b.mul(y, b.reduce("ReduceMean", b.mul(dy, y), axes))
    return {0: b.div(b.sub(b.sub(dy, b.reduce("ReduceMean", dy, axes)), along), std)}


def _check_lp(view: NodeView) -> str | None:
    order = view.int("p", 2)
    return None if order in (1, 2) else f"has the order p = {order}; 1 and 2 have a gradient here"


@rule("LpNormalization", check=_check_lp)
def lp_normalization(context: BackwardContext) -> Gradients:
    """(dy - u sum(dy y)) / norm, where u is y if p = 2 and the sign of x if p = 1; 0 where the norm is 0."""
    b, x, dy, axis, order = context.build, context.x(), context.dy(), context.int("axis", -1), context.int("p", 2)
    norm = b.reduce("ReduceL1" if order == 1 else "ReduceL2", x, [axis])
    empty = b.cast_like(b.op("Equal", norm, b.scalar(0, norm)), norm)
    inverse = b.div(one_minus(b, empty), b.add(norm, empty))
    y = b.mul(x, inverse)  # where this is 0, a runtime may have divided 0 by 0
    unit = b.sign(x) if order == 1 else y
    return {0: b.mul(b.sub(dy, b.mul(unit, b.total(b.mul(dy, y), [axis]))), inverse)}
