"""Arithmetic and choice by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...model.dims import dims
from ..builder import Builder
from .registry import Gradients, Look, Step, rule

Bound = float | ir.Value | None


def to_shape(step: Step, position: int, gradient: ir.Value) -> ir.Value:
    """A gradient in the shape of an input that may have been broadcast."""
    return step.build.sum_to(gradient, step.shape(position))


def number(look: Look, position: int) -> float | None:
    """An input that is one frozen number, else None."""
    array = None if look.wants(position) else look.array(position)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def operand(step: Step, position: int) -> ir.Value:
    """An input to be combined with the output's gradient; a frozen number gets the rank of it."""
    found = number(step, position)
    return step.x(position) if found is None else step.build.scalar(found, like=step.dy())


def between(build: Builder, value: ir.Value, low: Bound, high: Bound) -> ir.Value:
    """A mask of where low < value < high; one of the bounds may be None.

    Two numbers must be in order: a value is then above the one or below the other, so that Equal does what And does,
    which WebGPU lacks, in the same time.
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
def add(step: Step) -> Gradients:
    """D(a + b) = da + db."""
    return {position: to_shape(step, position, step.dy()) for position in step.wanted}


@rule("Sub")
def sub(step: Step) -> Gradients:
    """D(a - b) = da - db."""
    found = {position: to_shape(step, position, step.dy()) for position in step.wanted}
    if 1 in found:
        found[1] = step.build.op("Neg", found[1])
    return found


@rule("Mul")
def mul(step: Step) -> Gradients:
    """d(a b) = da b + a db; of a square, 2 a da."""
    build, dy = step.build, step.dy()
    if step.x(0) is step.x(1):
        return {0: build.mul(dy, build.scale(step.x(0), 2))}
    return {position: to_shape(step, position, build.mul(dy, operand(step, 1 - position))) for position in step.wanted}


@rule("Div")
def div(step: Step) -> Gradients:
    """d(a / b) = da / b - y db / b."""
    build, found = step.build, {}
    quotient = build.div(step.dy(), operand(step, 1))
    if step.wants(0):
        found[0] = to_shape(step, 0, quotient)
    if step.wants(1):
        found[1] = build.op("Neg", to_shape(step, 1, build.mul(quotient, step.y())))
    return found


def _check_mod(look: Look) -> str | None:
    return None if look.int("fmod", 0) else "is a remainder of whole numbers (fmod 0)"


@rule("Mod", check=_check_mod)
def mod(step: Step) -> Gradients:
    """a - b trunc(a / b): da - trunc(a / b) db."""
    build, found = step.build, {}
    if step.wants(0):
        found[0] = to_shape(step, 0, step.dy())
    if step.wants(1):
        quotient = build.div(step.x(0), step.x(1))
        whole = build.mul(build.op("Floor", build.op("Abs", quotient)), build.sign(quotient))
        found[1] = build.op("Neg", to_shape(step, 1, build.mul(step.dy(), whole)))
    return found


@rule("Neg")
def neg(step: Step) -> Gradients:
    """d(-x) = -dx."""
    return {0: step.build.op("Neg", step.dy())}


@rule("Mean")
def mean(step: Step) -> Gradients:
    """Each of n operands gets one n-th."""
    share = step.build.scale(step.dy(), 1 / len(step.node.inputs))
    return {position: to_shape(step, position, share) for position in step.wanted}


@rule("Max", "Min")
def extreme(step: Step) -> Gradients:
    """The operand that is the extreme gets the gradient; those that are equal share it evenly.

    For two operands torch does the same; a chain of its maxima over three would give equal ones 1/4, 1/4 and 1/2.
    """
    build, dy, y = step.build, step.dy(), step.y()
    if len(step.node.inputs) == 1:
        return {0: dy}
    masks = [build.mask("Equal", operand(step, position), y) for position in range(len(step.node.inputs))]
    chosen = [build.cast_like(mask, dy) for mask in masks]
    count = chosen[0]
    for flags in chosen[1:]:
        count = build.add(count, flags)
    share = build.div(dy, count)
    return {position: to_shape(step, position, build.mul(share, chosen[position])) for position in step.wanted}


@rule("Where")
def where(step: Step) -> Gradients:
    """Each branch gets the gradient where it was chosen."""
    build, dy, condition, found = step.build, step.dy(), step.x(0), {}
    if step.wants(1):
        chosen = build.masked(dy, condition)
        found[1] = to_shape(step, 1, chosen)
    if step.wants(2):
        # What the first branch did not get: one pass, where another mask would take three.
        rest = build.sub(dy, chosen) if step.wants(1) else build.masked(dy, build.op("Not", condition))
        found[2] = to_shape(step, 2, rest)
    return found


@rule("Clip", inputs={0})
def clip(step: Step) -> Gradients:
    """1 where the input was left as it is, bounds included (as torch.clip and onnxruntime-training have it), else 0.

    Only the input tells a value at a bound from one beyond it. But values at a bound are seen only where a channel has
    died there; where the layer before says that none has, the output is enough, and the input need not be kept.
    """
    build, dy = step.build, step.dy()
    low, high = _clip_bound(step, 1), _clip_bound(step, 2)
    if low is None and high is None:
        return {0: dy}
    if isinstance(low, float) and isinstance(high, float) and low >= high:
        return {0: build.scale(dy, 0)}
    known = [bound for bound in (low, high) if isinstance(bound, float)]
    if len(known) == (low is not None) + (high is not None) and _stays_off(step.x(), known):
        return {0: build.masked(dy, between(build, step.y(), low, high))}
    return {0: build.masked(dy, build.mask("Equal", step.x(), step.y()))}


def _stays_off(value: ir.Value, bounds: list[float]) -> bool:
    """Whether a layer makes a value, and would not make it one of these numbers if all its inputs were zero."""
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


def _clip_bound(step: Step, position: int) -> Bound:
    """A bound of Clip; None where it bounds nothing."""
    if step.has(position) and step.array(position) is None:
        return step.x(position)
    bound = number(step, position)
    return None if bound is None or abs(bound) >= np.finfo(np.float32).max else bound


@rule("Pow")
def power(step: Step) -> Gradients:
    """d(x ** p) = p x ** (p - 1) dx + y log(x) dp.

    As in torch, the first is 0 where p is 0, and the second is 0 where x is 0 and p is not negative.
    """
    build, dy, found = step.build, step.dy(), {}
    if step.wants(0):
        found[0] = to_shape(step, 0, _power_of_base(step))
    if step.wants(1):
        x, y, exponent = step.x(0), step.y(), step.x(1)
        zero = build.cast_like(build.op("Equal", x, build.scalar(0, like=x)), x)
        logarithm = build.op("Log", build.add(x, zero))
        gradient = to_shape(step, 1, build.mul(build.mul(dy, y), logarithm))
        found[1] = build.cast_like(gradient, exponent)
    return found


def _power_of_base(step: Step) -> ir.Value:
    build, dy, x = step.build, step.dy(), step.x(0)
    exponent = number(step, 1)
    if exponent is None:
        exponents = None if step.wants(1) else step.array(1)
        if exponents is None:
            factor = build.cast_like(step.x(1), x)
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
        return build.div(build.scale(dy, 0.5), step.y())
    return build.mul(dy, build.scale(_raised(build, x, exponent - 1), exponent))


def _raised(build: Builder, x: ir.Value, exponent: float) -> ir.Value:
    if exponent == 1:
        return x
    if exponent == 2:
        return build.mul(x, x)
    return build.op("Pow", x, build.scalar(exponent, like=x))


@rule("Cast", "CastLike")
def cast(step: Step) -> Gradients:
    """From one float type to another: back. The second input of CastLike only lends its type."""
    return {0: step.build.cast_like(step.dy(), step.x(0))} if step.wants(0) else {}


@rule("Identity")
def identity(step: Step) -> Gradients:
    """The gradient itself."""
    return {0: step.dy()}


def _check_dropout(look: Look) -> str | None:
    if not look.has(2):
        return None
    mode = look.array(2)
    if mode is None:
        return "may be in training mode: its mode is computed while it runs"
    return "is in training mode" if mode.any() else None


@rule("Dropout", inputs={0}, check=_check_dropout)
def dropout(step: Step) -> Gradients:
    """The gradient itself: in inference mode nothing is dropped."""
    return {0: step.dy()}


@rule("Trilu", inputs={0})
def trilu(step: Step) -> Gradients:
    """The same triangle of the gradient."""
    diagonal: Sequence[ir.Value] = [step.x(1)] if step.has(1) else []
    return {0: step.build.op("Trilu", step.dy(), *diagonal, upper=step.int("upper", 1))}
