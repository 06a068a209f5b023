"""Sums, means, norms and extremes along axes, running sums, and the largest elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...model.dims import Dim, dims, multiple, product
from ..builder import Builder
from .registry import Gradients, Look, Step, rule

# Without axes, these do nothing if the node says so.
_PLAIN = frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"})
# Up to so many elements, ONNX Runtime broadcasts a factor in 0.4 to 0.6 times the time of an Expand.
_FEW = 14 * 14
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


def _axes(look: Look) -> list[int]:
    """The axes that are reduced, all of them where the node names none; an empty list if it does nothing."""
    rank = len(look.shape())
    axes = look.ints_at(1, "axes")
    if axes:
        return sorted(axis % rank for axis in axes)
    return [] if look.int("noop_with_empty_axes", 0) else list(range(rank))


def _check_axes(look: Look) -> str | None:
    if look.has(1) and look.array(1) is None:
        return "has axes that are computed while it runs"
    if look.node.op_type not in _PLAIN and look.int("noop_with_empty_axes", 0) and not look.ints_at(1, "axes"):
        return "has no axes and noop_with_empty_axes, which runtimes do not agree on"
    return None


def _kept(step: Step, value: ir.Value) -> ir.Value:
    """Something in the output's shape, with the reduced axes of extent 1 where keepdims dropped them."""
    axes = _axes(step)
    shape: list[Dim] = [1 if i in axes else d for i, d in enumerate(step.shape())]
    return step.build.reshape(value, shape)


def _spread(step: Step, gradient: ir.Value, share: float = 1.0) -> ir.Value:
    """A share of a gradient, the same all along the reduced axes, in the input's shape."""
    build, shape = step.build, step.shape()
    along: list[Dim] = [shape[axis] if axis in _axes(step) else 1 for axis in range(len(shape))]
    count = product(along)
    if isinstance(count, int) and 1 < count <= _FEW and gradient.dtype in _FLOATS:
        numbers = np.full([int(d) for d in along], share, gradient.dtype.numpy())
        return build.mul(_kept(step, gradient), build.constant(numbers, "share"))
    return build.expand(_kept(step, build.scale(gradient, share)), shape)


@rule("ReduceSum", inputs={0}, check=_check_axes)
def reduce_sum(step: Step) -> Gradients:
    """The same to all that were added."""
    return {0: _spread(step, step.dy())}


@rule("ReduceMean", inputs={0}, check=_check_axes)
def reduce_mean(step: Step) -> Gradients:
    """The same share to all."""
    build, shape, dy = step.build, step.shape(), step.dy()
    count = product(shape[axis] for axis in _axes(step))
    if isinstance(count, int):
        return {0: _spread(step, dy, 1 / count)}
    size = build.reshape(build.cast_like(build.batch_size(), dy), [1] * len(dims(dy)))
    return {0: _spread(step, build.div(dy, build.scale(size, multiple(count))))}


@rule("ReduceMax", "ReduceMin", inputs={0}, check=_check_axes)
def reduce_extreme(step: Step) -> Gradients:
    """The extreme element gets the gradient; equal ones share it evenly, as in torch's amax."""
    build, dy = step.build, _kept(step, step.dy())
    mask = build.mask("Equal", step.x(), _kept(step, step.y()))
    flags = build.cast_like(mask, dy)
    return {0: build.mul(flags, build.div(dy, build.total(flags, _axes(step))))}


@rule("ReduceProd", inputs={0}, check=_check_axes)
def reduce_prod(step: Step) -> Gradients:
    """The product of all other elements, right also where some are zero.

    With zeros replaced by ones, it is the product of all divided by the element, or 0 if another element was zero.
    """
    build, x, axes = step.build, step.x(), _axes(step)
    zeros = build.cast_like(build.op("Equal", x, build.scalar(0, like=x)), x)
    replaced = build.add(x, zeros)
    others = build.div(build.reduce("ReduceProd", replaced, axes), replaced)
    # No zero along the axes, or this element is the only one: then the number of zeros is that of this element.
    alone = build.op("Equal", build.total(zeros, axes), zeros)
    return {0: build.mul(build.masked(others, alone), _kept(step, step.dy()))}


@rule("ReduceL1", inputs={0}, check=_check_axes)
def reduce_l1(step: Step) -> Gradients:
    """The sign of x."""
    return {0: step.build.mul(step.build.sign(step.x()), _kept(step, step.dy()))}


@rule("ReduceL2", inputs={0}, check=_check_axes)
def reduce_l2(step: Step) -> Gradients:
    """X / y; 0 where the norm is 0, as in torch."""
    build, y = step.build, step.y()
    zero = build.cast_like(build.op("Equal", y, build.scalar(0, like=y)), y)
    quotient = build.div(step.dy(), build.add(y, zero))
    return {0: build.mul(step.x(), _kept(step, quotient))}


@rule("ReduceSumSquare", inputs={0}, check=_check_axes)
def reduce_sum_square(step: Step) -> Gradients:
    """2 x."""
    return {0: step.build.mul(step.x(), _kept(step, step.build.scale(step.dy(), 2)))}


@rule("ReduceLogSum", inputs={0}, check=_check_axes)
def reduce_log_sum(step: Step) -> Gradients:
    """1 over the sum, which is exp(y)."""
    build = step.build
    return {0: _spread(step, build.mul(step.dy(), build.op("Exp", build.op("Neg", step.y()))))}


@rule("ReduceLogSumExp", inputs={0}, check=_check_axes)
def reduce_log_sum_exp(step: Step) -> Gradients:
    """exp(x - y), the softmax."""
    build = step.build
    shares = build.op("Exp", build.sub(step.x(), _kept(step, step.y())))
    return {0: build.mul(shares, _kept(step, step.dy()))}


@rule("CumSum", inputs={0})
def cum_sum(step: Step) -> Gradients:
    """A running sum in the other direction."""
    reverse, exclusive = 1 - step.int("reverse", 0), step.int("exclusive", 0)
    return {0: step.build.op("CumSum", step.dy(), step.x(1), reverse=reverse, exclusive=exclusive)}


@rule("TopK", inputs={0})
def top_k(step: Step) -> Gradients:
    """The gradients of the values go to where these were taken from."""
    build, dy = step.build, step.dy()
    return {0: build.op("ScatterElements", _zeros(build, step.shape(), dy), step.y(1), dy, axis=step.int("axis", -1))}


def _zeros(build: Builder, shape: Sequence[Dim], like: ir.Value) -> ir.Value:
    return build.expand(build.scalar(0, like=like), shape)
