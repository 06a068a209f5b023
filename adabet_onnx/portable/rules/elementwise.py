"""Elementwise arithmetic and selection, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...model.dims import dims
from ..builder import Builder
from .registry import BackwardContext, Gradients, NodeView, rule

Bound = float | ir.Value | None


def to_shape(context: BackwardContext, position: int, gradient: ir.Value) -> ir.Value:
    """A gradient in the shape of an input that may have been broadcast."""
    return context.build.sum_to(gradient, context.shape(position))


def number(view: NodeView, position: int) -> float | None:
    """The number in an input that is a frozen constant of one element; None for other inputs."""
    array = None if view.needs_gradient(position) else view.array(position)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def operand(context: BackwardContext, position: int) -> ir.Value:
    """An input to be combined with the output's gradient; a frozen number gets the rank of that gradient."""
    constant = number(context, position)
    return context.x(position) if constant is None else context.build.scalar(constant, like=context.dy())


def between(build: Builder, value: ir.Value, low: Bound, high: Bound) -> ir.Value:
    """A mask of where low < value < high; one of the bounds may be None.

    Two numbers must be in order. A value is then above the first or below the second, so Equal gives the same result as
    And, which WebGPU lacks, in the same time.
    """
    above = None if low is None else [value, _bound(build, value, low)]
    below = None if high is None else [value, _bound(build, value, high)]
    if below is None:
        assert above is not None
        return build.mask("Greater", *above)
    if above is None:
        return build.mask("Less", *below)
    ordered = isinstance(low, float) and isinstance(high, float)
    return build.mask("Equal" if ordered else "And", build.op("Greater", *above), build.op("Less", *below))


def _bound(build: Builder, value: ir.Value, bound: float | ir.Value) -> ir.Value:
    if isinstance(bound, float):
        return build.scalar(bound, like=value)
    return build.reshape(bound, [1] * len(dims(value)))


@rule("Add", "Sum")
def add(context: BackwardContext) -> Gradients:
    """d(a + b) = da + db."""
    return {position: to_shape(context, position, context.dy()) for position in context.gradient_inputs}


@rule("Sub")
def sub(context: BackwardContext) -> Gradients:
    """d(a - b) = da - db."""
    gradients = {position: to_shape(context, position, context.dy()) for position in context.gradient_inputs}
    if 1 in gradients:
        gradients[1] = context.build.op("Neg", gradients[1])
    return gradients


@rule("Mul")
def mul(context: BackwardContext) -> Gradients:
    """d(a b) = da b + a db; of a square, 2 a da."""
    build, dy = context.build, context.dy()
    if context.x(0) is context.x(1):
        return {0: build.mul(dy, build.scale(context.x(0), 2))}
    return {
        position: to_shape(context, position, build.mul(dy, operand(context, 1 - position)))
        for position in context.gradient_inputs
    }


@rule("Div")
def div(context: BackwardContext) -> Gradients:
    """d(a / b) = da / b - y db / b."""
    build, gradients = context.build, {}
    quotient = build.div(context.dy(), operand(context, 1))
    if context.needs_gradient(0):
        gradients[0] = to_shape(context, 0, quotient)
    if context.needs_gradient(1):
        gradients[1] = build.op("Neg", to_shape(context, 1, build.mul(quotient, context.y())))
    return gradients


def _check_mod(view: NodeView) -> str | None:
    return None if view.int("fmod", 0) else "is an integer remainder (fmod 0)"


@rule("Mod", check=_check_mod)
def mod(context: BackwardContext) -> Gradients:
    """a - b trunc(a / b): da - trunc(a / b) db."""
    build, gradients = context.build, {}
    if context.needs_gradient(0):
        gradients[0] = to_shape(context, 0, context.dy())
    if context.needs_gradient(1):
        quotient = build.div(context.x(0), context.x(1))
        whole = build.mul(build.op("Floor", build.op("Abs", quotient)), build.sign(quotient))
        gradients[1] = build.op("Neg", to_shape(context, 1, build.mul(context.dy(), whole)))
    return gradients


@rule("Neg")
def neg(context: BackwardContext) -> Gradients:
    """d(-x) = -dx."""
    return {0: context.build.op("Neg", context.dy())}


@rule("Mean")
def mean(context: BackwardContext) -> Gradients:
    """Each of n operands gets one n-th of the gradient."""
    share = context.build.scale(context.dy(), 1 / len(context.node.inputs))
    return {position: to_shape(context, position, share) for position in context.gradient_inputs}


@rule("Max", "Min")
def extreme(context: BackwardContext) -> Gradients:
    """The operand that is the extreme gets the gradient; equal operands share it evenly.

    For two operands torch does the same; a chain of its maxima over three would give equal ones 1/4, 1/4 and 1/2.
    """
    build, dy, y = context.build, context.dy(), context.y()
    if len(context.node.inputs) == 1:
        return {0: dy}
    masks = [build.mask("Equal", operand(context, position), y) for position in range(len(context.node.inputs))]
    chosen = [build.cast_like(mask, dy) for mask in masks]
    count = chosen[0]
    for flags in chosen[1:]:
        count = build.add(count, flags)
    share = build.div(dy, count)
    return {
        position: to_shape(context, position, build.mul(share, chosen[position]))
        for position in context.gradient_inputs
    }


@rule("Where")
def where(context: BackwardContext) -> Gradients:
    """Each branch gets the gradient where it was selected."""
    build, dy, condition, gradients = context.build, context.dy(), context.x(0), {}
    if context.needs_gradient(1):
        chosen = build.masked(dy, condition)
        gradients[1] = to_shape(context, 1, chosen)
    if context.needs_gradient(2):
        # What the first branch did not get: one pass, whereas another mask would take three.
        rest = build.sub(dy, chosen) if context.needs_gradient(1) else build.masked(dy, build.op("Not", condition))
        gradients[2] = to_shape(context, 2, rest)
    return gradients


@rule("Clip", inputs={0})
def clip(context: BackwardContext) -> Gradients:
    """1 where the input was not clipped, bounds included (as in torch.clip and onnxruntime-training), else 0.

    Only the input distinguishes a value at a bound from one beyond it. But values exactly at a bound occur only if a
    channel has died at that bound. If the layer before rules that out, the output suffices, and the input need not be
    kept.
    """
    build, dy = context.build, context.dy()
    low, high = _clip_bound(context, 1), _clip_bound(context, 2)
    if low is None and high is None:
        return {0: dy}
    if isinstance(low, float) and isinstance(high, float) and low >= high:
        return {0: build.scale(dy, 0)}
    known = [bound for bound in (low, high) if isinstance(bound, float)]
    if len(known) == (low is not None) + (high is not None) and _stays_off(context.x(), known):
        return {0: build.masked(dy, between(build, context.y(), low, high))}
    return {0: build.masked(dy, build.mask("Equal", context.x(), context.y()))}


def _stays_off(value: ir.Value, bounds: list[float]) -> bool:
    """Whether a layer makes a value that would equal none of these numbers if all inputs of the layer were zero."""
    node = value.producer()
    if node is None:
        return False
    at = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "BatchNormalization": 2}.get(node.op_type)
    if at is None or at >= len(node.inputs):
        return False
    vectors = [None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs[1:]]
    offset = vectors[at - 1]
    if offset is None:
        return False
    if node.op_type == "BatchNormalization":
        scale, _, mean, variance = vectors[:4]
        if scale is None or mean is None or variance is None:
            return False
        offset = offset - mean * scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return not np.isin(offset, np.array(bounds, offset.dtype)).any()


def _clip_bound(context: BackwardContext, position: int) -> Bound:
    """A bound of Clip; None if it has no effect."""
    if context.has(position) and context.array(position) is None:
        return context.x(position)
    bound = number(context, position)
    return None if bound is None or abs(bound) >= np.finfo(np.float32).max else bound


@rule("Pow")
def power(context: BackwardContext) -> Gradients:
    """d(x ** p) = p x ** (p - 1) dx + y log(x) dp.

    As in torch, the first term is 0 where p is 0, and the second is 0 where x is 0 and p is not negative.
    """
    build, dy, gradients = context.build, context.dy(), {}
    if context.needs_gradient(0):
        gradients[0] = to_shape(context, 0, _power_of_base(context))
    if context.needs_gradient(1):
        x, y, exponent = context.x(0), context.y(), context.x(1)
        zero = build.cast_like(build.op("Equal", x, build.scalar(0, like=x)), x)
        logarithm = build.op("Log", build.add(x, zero))
        gradient = to_shape(context, 1, build.mul(build.mul(dy, y), logarithm))
        gradients[1] = build.cast_like(gradient, exponent)
    return gradients


def _power_of_base(context: BackwardContext) -> ir.Value:
    build, dy, x = context.build, context.dy(), context.x(0)
    exponent = number(context, 1)
    if exponent is None:
        exponents = None if context.needs_gradient(1) else context.array(1)
        if exponents is None:
            factor = build.cast_like(context.x(1), x)
            is_zero = build.op("Equal", factor, build.scalar(0, like=factor))
            less = build.sub(factor, build.cast_like(build.op("Not", is_zero), x))
        else:
            dtype = x.dtype.numpy() if x.dtype is not None else None
            factor = build.constant(exponents.astype(dtype))
            less = build.constant(np.where(exponents == 0, 0, exponents - 1).astype(dtype))
        return build.mul(dy, build.mul(factor, build.op("Pow", x, less)))
    if exponent in (0, 1):
        return build.scale(dy, exponent)
    if exponent == 0.5:
        return build.div(build.scale(dy, 0.5), context.y())
    return build.mul(dy, build.scale(_raised(build, x, exponent - 1), exponent))


def _raised(build: Builder, x: ir.Value, exponent: float) -> ir.Value:
    if exponent == 1:
        return x
    if exponent == 2:
        return build.mul(x, x)
    return build.op("Pow", x, build.scalar(exponent, like=x))


@rule("Cast", "CastLike")
def cast(context: BackwardContext) -> Gradients:
    """Cast the gradient back to the dtype of the input. The second input of CastLike only supplies its dtype."""
    return {0: context.build.cast_like(context.dy(), context.x(0))} if context.needs_gradient(0) else {}


@rule("Identity")
def identity(context: BackwardContext) -> Gradients:
    """The gradient unchanged."""
    return {0: context.dy()}


def _check_dropout(view: NodeView) -> str | None:
    if not view.has(2):
        return None
    mode = view.array(2)
    if mode is None:
        return "may be in training mode: its mode is computed at run time"
    return "is in training mode" if mode.any() else None


@rule("Dropout", inputs={0}, check=_check_dropout)
def dropout(context: BackwardContext) -> Gradients:
    """The gradient unchanged: in inference mode nothing is dropped."""
    return {0: context.dy()}


@rule("Trilu", inputs={0})
def trilu(context: BackwardContext) -> Gradients:
    """The same triangle of the gradient."""
    diagonal: Sequence[ir.Value] = [context.x(1)] if context.has(1) else []
    return {0: context.build.op("Trilu", context.dy(), *diagonal, upper=context.int("upper", 1))}
