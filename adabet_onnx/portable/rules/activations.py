"""Activation functions. If the output determines the gradient, it is kept rather than the input."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..builder import Builder
from .elementwise import between, to_shape
from .functions import one_minus, plus, square
from .registry import BackwardContext, Gradients, NodeView, rule

_SELU_ALPHA, _SELU_GAMMA = 1.6732632423543772, 1.0507009873554805


@rule("Relu")
def relu(context: BackwardContext) -> Gradients:
    """1 if the output is positive, else 0."""
    return {0: context.build.masked(context.dy(), _positive(context.build, context.y()))}


@rule("LeakyRelu")
def leaky_relu(context: BackwardContext) -> Gradients:
    """1 if the input is positive, else alpha."""
    build, alpha = context.build, context.float("alpha", 0.01)
    # The output has the sign of the input, or is 0, unless alpha is negative.
    mask = _positive(build, context.y() if alpha >= 0 else context.x())
    flags = build.cast_like(mask, context.dy())
    if 0 <= alpha <= 1:
        return {0: build.mul(context.dy(), build.at_least(flags, alpha))}  # one pass less
    return {0: build.mul(context.dy(), plus(build, build.scale(flags, 1 - alpha), alpha))}


@rule("PRelu")
def prelu(context: BackwardContext) -> Gradients:
    """1 if the input is positive, else the slope; for the slope: the input if it is negative, else 0."""
    build, dy, gradients = context.build, context.dy(), {}
    if context.needs_gradient(0):
        flags, slope = build.cast_like(_positive(build, context.x()), dy), context.x(1)
        gradients[0] = build.mul(dy, build.add(build.mul(flags, one_minus(build, slope)), slope))
    if context.needs_gradient(1):
        gradients[1] = to_shape(context, 1, build.mul(dy, build.at_most(context.x(), 0)))
    return gradients


@rule("ThresholdedRelu")
def thresholded_relu(context: BackwardContext) -> Gradients:
    """1 if the input is above alpha, else 0."""
    build, alpha = context.build, context.float("alpha", 1.0)
    # Below a negative alpha the output is 0, which is greater than alpha.
    value = context.y() if alpha >= 0 else context.x()
    return {0: build.masked(context.dy(), between(build, value, alpha, None))}


@rule("Shrink")
def shrink(context: BackwardContext) -> Gradients:
    """1 if the output is not zero, else 0."""
    build, y = context.build, context.y()
    return {0: build.masked(context.dy(), build.mask("Not", build.op("Equal", y, build.scalar(0, like=y))))}


def _check_elu(view: NodeView) -> str | None:
    default = _SELU_ALPHA if view.node.op_type == "Selu" else 1.0
    for name, number in (("alpha", view.float("alpha", default)), ("gamma", view.float("gamma", _SELU_GAMMA))):
        if number < 0:
            return f"has a negative {name} ({number:g}), so that its output does not determine the sign of its input"
    return None


@rule("Elu", check=_check_elu)
def elu(context: BackwardContext) -> Gradients:
    """1 if the output is positive, else y + alpha."""
    return {0: _exponential(context, 1, context.float("alpha", 1.0), 1)}


@rule("Selu", check=_check_elu)
def selu(context: BackwardContext) -> Gradients:
    """gamma if the output is positive, else y + gamma alpha."""
    gamma = context.float("gamma", _SELU_GAMMA)
    return {0: _exponential(context, 1, gamma * context.float("alpha", _SELU_ALPHA), gamma)}


@rule("Celu")
def celu(context: BackwardContext) -> Gradients:
    """1 if the output is positive, else y / alpha + 1."""
    return {0: _exponential(context, 1 / context.float("alpha", 1.0), 1, 1)}


def _exponential(context: BackwardContext, factor: float, offset: float, slope: float) -> ir.Value:
    """The gradient for a derivative that is ``slope`` if the output is positive, else factor y + offset."""
    build, y = context.build, context.y()
    derivative = plus(build, build.scale(build.at_most(y, 0), factor), offset)
    if slope != offset:
        jump = build.scale(build.cast_like(_positive(build, y), y), slope - offset)
        derivative = build.add(derivative, jump)
    return build.mul(context.dy(), derivative)


@rule("Softplus")
def softplus(context: BackwardContext) -> Gradients:
    """sigmoid(x). Computed from the output it would be 1 - exp(-y), which loses all digits if y is small."""
    return {0: context.build.mul(context.dy(), context.build.op("Sigmoid", context.x()))}


@rule("Softsign")
def softsign(context: BackwardContext) -> Gradients:
    """(1 - abs(y)) ** 2."""
    b = context.build
    return {0: b.mul(context.dy(), square(b, one_minus(b, b.op("Abs", context.y()))))}


@rule("Sigmoid")
def sigmoid(context: BackwardContext) -> Gradients:
    """y (1 - y)."""
    b, y = context.build, context.y()
    return {0: b.mul(context.dy(), b.mul(y, one_minus(b, y)))}


@rule("HardSigmoid")
def hard_sigmoid(context: BackwardContext) -> Gradients:
    """alpha if the output is between 0 and 1, else 0."""
    build = context.build
    return {
        0: build.masked(build.scale(context.dy(), context.float("alpha", 0.2)), between(build, context.y(), 0.0, 1.0))
    }


@rule("HardSwish")
def hard_swish(context: BackwardContext) -> Gradients:
    """0 up to -3, 1 from 3 on, (2 x + 3) / 6 between.

    With x clipped, that is (clipped + clipped [abs(clipped) < 3]) / 6 + 1 / 2, which needs only one mask.
    """
    build, x = context.build, context.x()
    assert x.dtype is not None
    low, high = (build.constant(np.array(bound, x.dtype.numpy())) for bound in (-3, 3))
    clipped = build.op("Clip", x, low, high)
    inside = build.masked(clipped, build.op("Less", build.op("Abs", clipped), build.scalar(3, like=x)))
    return {0: build.mul(context.dy(), plus(build, build.scale(build.add(clipped, inside), 1 / 6), 0.5))}


@rule("Gelu")
def gelu(context: BackwardContext) -> Gradients:
    """The cumulative normal distribution plus x times its density, or the derivative of the tanh approximation."""
    build, x = context.build, context.x()
    if context.string("approximate", "none") == "tanh":
        return {0: build.mul(context.dy(), _gelu_tanh(build, x))}
    # The density needs the most memory at once. It is written last, and so is computed first (see `order`).
    cumulative = plus(build, build.scale(build.op("Erf", build.scale(x, math.sqrt(0.5))), 0.5), 0.5)
    bell = build.op("Exp", build.mul(build.scale(x, -0.5), x))
    density = build.scale(build.mul(x, bell), 1 / math.sqrt(2 * math.pi))
    return {0: build.mul(context.dy(), build.add(cumulative, density))}


def _gelu_tanh(build: Builder, x: ir.Value) -> ir.Value:
    """The derivative of x (1 + t) / 2 with t = tanh(u), u = c (x + 0.044715 x ** 3), c = sqrt(2 / pi)."""
    c, cubic = math.sqrt(2 / math.pi), 0.044715
    squared = square(build, x)
    inner = build.mul(x, plus(build, build.scale(squared, c * cubic), c))
    t = build.op("Tanh", inner)
    slope = build.mul(x, plus(build, build.scale(squared, 3 * c * cubic), c))  # x du/dx
    outer = build.add(t, build.mul(one_minus(build, square(build, t)), slope))
    return plus(build, build.scale(outer, 0.5), 0.5)


@rule("Swish")
def swish(context: BackwardContext) -> Gradients:
    """s (1 + alpha x (1 - s)) with s = sigmoid(alpha x)."""
    build = context.build
    scaled = build.scale(context.x(), context.float("alpha", 1.0))
    s = build.op("Sigmoid", scaled)
    return {0: build.mul(context.dy(), build.mul(s, plus(build, build.mul(scaled, one_minus(build, s)), 1)))}


@rule("Mish")
def mish(context: BackwardContext) -> Gradients:
    """t + x s (1 - t ** 2) with s = sigmoid(x), t = tanh(softplus(x)).

    With q = 1 - s, t is s (1 + q) / (1 + q ** 2), which contains no exponential that could overflow.
    """
    build, x = context.build, context.x()
    s = build.op("Sigmoid", x)
    q = build.op("Sigmoid", build.op("Neg", x))  # 1 - s in full precision
    t = build.div(build.mul(s, plus(build, q, 1)), plus(build, square(build, q), 1))
    rest = build.mul(build.mul(x, s), one_minus(build, square(build, t)))
    return {0: build.mul(context.dy(), build.add(t, rest))}


def _positive(build: Builder, value: ir.Value) -> ir.Value:
    return between(build, value, 0.0, None)
