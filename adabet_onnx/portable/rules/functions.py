"""Functions of one variable; the docstring of a rule is the derivative."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..builder import Builder
from .registry import BackwardContext, Gradients, rule


def square(build: Builder, value: ir.Value) -> ir.Value:
    """A value times itself."""
    return build.mul(value, value)


def one_minus(build: Builder, value: ir.Value) -> ir.Value:
    """1 minus a value."""
    return build.sub(build.scalar(1, like=value), value)


def plus(build: Builder, value: ir.Value, number: float) -> ir.Value:
    """A value plus a number."""
    return build.add(value, build.scalar(number, like=value))


@rule("Abs")
def absolute(context: BackwardContext) -> Gradients:
    """The sign of x; 0 at 0."""
    return {0: context.build.mul(context.dy(), context.build.sign(context.x()))}


@rule("Sqrt")
def sqrt(context: BackwardContext) -> Gradients:
    """1 / (2 y)."""
    return {0: context.build.div(context.build.scale(context.dy(), 0.5), context.y())}


@rule("Exp")
def exp(context: BackwardContext) -> Gradients:
    """exp(x), which is y."""
    return {0: context.build.mul(context.dy(), context.y())}


@rule("Log")
def log(context: BackwardContext) -> Gradients:
    """1 / x."""
    return {0: context.build.div(context.dy(), context.x())}


@rule("Reciprocal")
def reciprocal(context: BackwardContext) -> Gradients:
    """-y ** 2."""
    b = context.build
    return {0: b.mul(context.dy(), b.op("Neg", square(b, context.y())))}


@rule("Sin")
def sin(context: BackwardContext) -> Gradients:
    """cos(x)."""
    return {0: context.build.mul(context.dy(), context.build.op("Cos", context.x()))}


@rule("Cos")
def cos(context: BackwardContext) -> Gradients:
    """-sin(x)."""
    b = context.build
    return {0: b.mul(context.dy(), b.op("Neg", b.op("Sin", context.x())))}


@rule("Tan")
def tan(context: BackwardContext) -> Gradients:
    """1 + y ** 2."""
    b = context.build
    return {0: b.mul(context.dy(), plus(b, square(b, context.y()), 1))}


@rule("Asin")
def asin(context: BackwardContext) -> Gradients:
    """1 / sqrt(1 - x ** 2)."""
    b = context.build
    return {0: b.div(context.dy(), b.op("Sqrt", one_minus(b, square(b, context.x()))))}


@rule("Acos")
def acos(context: BackwardContext) -> Gradients:
    """-1 / sqrt(1 - x ** 2)."""
    b = context.build
    return {0: b.op("Neg", b.div(context.dy(), b.op("Sqrt", one_minus(b, square(b, context.x())))))}


@rule("Atan")
def atan(context: BackwardContext) -> Gradients:
    """1 / (1 + x ** 2)."""
    b = context.build
    return {0: b.div(context.dy(), plus(b, square(b, context.x()), 1))}


@rule("Sinh")
def sinh(context: BackwardContext) -> Gradients:
    """cosh(x)."""
    return {0: context.build.mul(context.dy(), context.build.op("Cosh", context.x()))}


@rule("Cosh")
def cosh(context: BackwardContext) -> Gradients:
    """sinh(x)."""
    return {0: context.build.mul(context.dy(), context.build.op("Sinh", context.x()))}


@rule("Tanh")
def tanh(context: BackwardContext) -> Gradients:
    """1 - y ** 2."""
    b = context.build
    return {0: b.mul(context.dy(), one_minus(b, square(b, context.y())))}


@rule("Asinh")
def asinh(context: BackwardContext) -> Gradients:
    """1 / sqrt(x ** 2 + 1)."""
    b = context.build
    return {0: b.div(context.dy(), b.op("Sqrt", plus(b, square(b, context.x()), 1)))}


@rule("Acosh")
def acosh(context: BackwardContext) -> Gradients:
    """1 / sqrt(x ** 2 - 1)."""
    b = context.build
    return {0: b.div(context.dy(), b.op("Sqrt", plus(b, square(b, context.x()), -1)))}


@rule("Atanh")
def atanh(context: BackwardContext) -> Gradients:
    """1 / (1 - x ** 2)."""
    b = context.build
    return {0: b.div(context.dy(), one_minus(b, square(b, context.x())))}


@rule("Erf")
def erf(context: BackwardContext) -> Gradients:
    """2 / sqrt(pi) exp(-x ** 2)."""
    b = context.build
    bell = b.op("Exp", b.op("Neg", square(b, context.x())))
    return {0: b.mul(context.dy(), b.scale(bell, 2 / math.sqrt(math.pi)))}
