"""Sums, means, norms and extremes along axes, cumulative sums, and the largest elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...model.dims import Dim, dims, multiple, product
from ..builder import Builder
from .registry import BackwardContext, Gradients, NodeView, rule

# Without axes, these do nothing if the node has noop_with_empty_axes.
_PLAIN = frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"})
# Up to this many elements, ONNX Runtime broadcasts a factor in 0.4 to 0.6 times the time of an Expand.
_FEW = 14 * 14
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


def _axes(view: NodeView) -> list[int]:
    """The reduced axes, which are all of them if the node names none; an empty list if the node does nothing."""
    rank = len(view.shape())
    axes = view.ints_at(1, "axes")
    if axes:
        return sorted(axis % rank for axis in axes)
    return [] if view.int("noop_with_empty_axes", 0) else list(range(rank))


def _check_axes(view: NodeView) -> str | None:
    if view.has(1) and view.array(1) is None:
        return "has axes that are computed at run time"
    if view.node.op_type not in _PLAIN and view.int("noop_with_empty_axes", 0) and not view.ints_at(1, "axes"):
        return "has no axes and noop_with_empty_axes, on which runtimes disagree"
    return None


def _kept(context: BackwardContext, value: ir.Value) -> ir.Value:
    """A value of the output's shape, with size 1 on the reduced axes that keepdims dropped."""
    axes = _axes(context)
    shape: list[Dim] = [1 if i in axes else d for i, d in enumerate(context.shape())]
    return context.build.reshape(value, shape)


def _spread(context: BackwardContext, gradient: ir.Value, share: float = 1.0) -> ir.Value:
    """A fraction of a gradient, repeated along the reduced axes, in the input's shape."""
    build, shape = context.build, context.shape()
    along: list[Dim] = [shape[axis] if axis in _axes(context) else 1 for axis in range(len(shape))]
    count = product(along)
    if isinstance(count, int) and 1 < count <= _FEW and gradient.dtype in _FLOATS:
        numbers = np.full([int(d) for d in along], share, gradient.dtype.numpy())
        return build.mul(_kept(context, gradient), build.constant(numbers, "share"))
    return build.expand(_kept(context, build.scale(gradient, share)), shape)


@rule("ReduceSum", inputs={0}, check=_check_axes)
def reduce_sum(context: BackwardContext) -> Gradients:
    """The same gradient for all summands."""
    return {0: _spread(context, context.dy())}


@rule("ReduceMean", inputs={0}, check=_check_axes)
def reduce_mean(context: BackwardContext) -> Gradients:
    """The same fraction of the gradient for all elements."""
    build, shape, dy = context.build, context.shape(), context.dy()
    count = product(shape[axis] for axis in _axes(context))
    if isinstance(count, int):
        return {0: _spread(context, dy, 1 / count)}
    size = build.reshape(build.cast_like(build.batch_size(), dy), [1] * len(dims(dy)))
    return {0: _spread(context, build.div(dy, build.scale(size, multiple(count))))}


@rule("ReduceMax", "ReduceMin", inputs={0}, check=_check_axes)
def reduce_extreme(context: BackwardContext) -> Gradients:
    """The extreme element gets the gradient; equal ones share it evenly, as in torch's amax."""
    build, dy = context.build, _kept(context, context.dy())
    mask = build.mask("Equal", context.x(), _kept(context, context.y()))
    flags = build.cast_like(mask, dy)
    return {0: build.mul(flags, build.div(dy, build.total(flags, _axes(context))))}


@rule("ReduceProd", inputs={0}, check=_check_axes)
def reduce_prod(context: BackwardContext) -> Gradients:
    """The product of all other elements, correct even if some are zero.

    With zeros replaced by ones, it is the product of all divided by the element, or 0 if another element was zero.
    """
    build, x, axes = context.build, context.x(), _axes(context)
    zeros = build.cast_like(build.op("Equal", x, build.scalar(0, like=x)), x)
    replaced = build.add(x, zeros)
    others = build.div(build.reduce("ReduceProd", replaced, axes), replaced)
    # The gradient is kept where the number of zeros along the axes equals that of the element itself.
    alone = build.op("Equal", build.total(zeros, axes), zeros)
    return {0: build.mul(build.masked(others, alone), _kept(context, context.dy()))}


@rule("ReduceL1", inputs={0}, check=_check_axes)
def reduce_l1(context: BackwardContext) -> Gradients:
    """The sign of x."""
    return {0: context.build.mul(context.build.sign(context.x()), _kept(context, context.dy()))}


@rule("ReduceL2", inputs={0}, check=_check_axes)
def reduce_l2(context: BackwardContext) -> Gradients:
    """x / y; 0 where the norm is 0, as in torch."""
    build, y = context.build, context.y()
    zero = build.cast_like(build.op("Equal", y, build.scalar(0, like=y)), y)
    quotient = build.div(context.dy(), build.add(y, zero))
    return {0: build.mul(context.x(), _kept(context, quotient))}


@rule("ReduceSumSquare", inputs={0}, check=_check_axes)
def reduce_sum_square(context: BackwardContext) -> Gradients:
    """2 x."""
    return {0: context.build.mul(context.x(), _kept(context, context.build.scale(context.dy(), 2)))}


@rule("ReduceLogSum", inputs={0}, check=_check_axes)
def reduce_log_sum(context: BackwardContext) -> Gradients:
    """1 over the sum, which is exp(y)."""
    build = context.build
    return {0: _spread(context, build.mul(context.dy(), build.op("Exp", build.op("Neg", context.y()))))}


@rule("ReduceLogSumExp", inputs={0}, check=_check_axes)
def reduce_log_sum_exp(context: BackwardContext) -> Gradients:
    """exp(x - y), the softmax."""
    build = context.build
    shares = build.op("Exp", build.sub(context.x(), _kept(context, context.y())))
    return {0: build.mul(shares, _kept(context, context.dy()))}


@rule("CumSum", inputs={0})
def cum_sum(context: BackwardContext) -> Gradients:
    """A cumulative sum in the opposite direction."""
    reverse, exclusive = 1 - context.int("reverse", 0), context.int("exclusive", 0)
    return {0: context.build.op("CumSum", context.dy(), context.x(1), reverse=reverse, exclusive=exclusive)}


@rule("TopK", inputs={0})
def top_k(context: BackwardContext) -> Gradients:
    """The gradients of the values go to the positions that these were taken from."""
    build, dy = context.build, context.dy()
    return {
        0: build.op(
            "ScatterElements", _zeros(build, context.shape(), dy), context.y(1), dy, axis=context.int("axis", -1)
        )
    }


def _zeros(build: Builder, shape: Sequence[Dim], like: ir.Value) -> ir.Value:
    return build.expand(build.scalar(0, like=like), shape)
