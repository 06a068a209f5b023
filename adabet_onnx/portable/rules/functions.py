"""Functions of one variable."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..builder import Builder
from .registry import Gradients, Step, rule


def square(build: Builder, value: ir.Value) -> ir.Value:
    """A value times itself."""
    return build.mul(value, value)


def one_minus(build: Builder, value: ir.Value) -> ir.Value:
    """One less a value."""
    return build.sub(build.scalar(1, like=value), value)


def plus(build: Builder, value: ir.Value, number: float) -> ir.Value:
    """A value plus a number."""
    return build.add(value, build.scalar(number, like=value))


@rule("Abs")
def absolute(step: Step) -> Gradients:
    """The sign of x; 0 at 0."""
    return {0: step.build.mul(step.dy(), step.build.sign(step.x()))}


@rule("Sqrt")
def sqrt(step: Step) -> Gradients:
    """1 / (2 y)."""
    return {0: step.build.div(step.build.scale(step.dy(), 0.5), step.y())}


@rule("Exp")
def exp(step: Step) -> Gradients:
    """y."""
    return {0: step.build.mul(step.dy(), step.y())}


@rule("Log")
def log(step: Step) -> Gradients:
    """1 / x."""
    return {0: step.build.div(step.dy(), step.x())}


@rule("Reciprocal")
def reciprocal(step: Step) -> Gradients:
    """-y ** 2."""
    b = step.build
    return {0: b.mul(step.dy(), b.op("Neg", square(b, step.y())))}


@rule("Sin")
def sin(step: Step) -> Gradients:
    """cos(x)."""
    return {0: step.build.mul(step.dy(), step.build.op("Cos", step.x()))}


@rule("Cos")
def cos(step: Step) -> Gradients:
    """-sin(x)."""
    b = step.build
    return {0: b.mul(step.dy(), b.op("Neg", b.op("Sin", step.x())))}


@rule("Tan")
def tan(step: Step) -> Gradients:
    """1 + y ** 2."""
    b = step.build
    return {0: b.mul(step.dy(), plus(b, square(b, step.y()), 1))}


@rule("Asin")
def asin(step: Step) -> Gradients:
    """1 / sqrt(1 - x ** 2)."""
    b = step.build
    return {0: b.div(step.dy(), b.op("Sqrt", one_minus(b, square(b, step.x()))))}


@rule("Acos")
def acos(step: Step) -> Gradients:
    """-1 / sqrt(1 - x ** 2)."""
    b = step.build
    return {0: b.op("Neg", b.div(step.dy(), b.op("Sqrt", one_minus(b, square(b, step.x())))))}


@rule("Atan")
def atan(step: Step) -> Gradients:
    """1 / (1 + x ** 2)."""
    b = step.build
    return {0: b.div(step.dy(), plus(b, square(b, step.x()), 1))}


@rule("Sinh")
def sinh(step: Step) -> Gradients:
    """cosh(x)."""
    return {0: step.build.mul(step.dy(), step.build.op("Cosh", step.x()))}


@rule("Cosh")
def cosh(step: Step) -> Gradients:
    """sinh(x)."""
    return {0: step.build.mul(step.dy(), step.build.op("Sinh", step.x()))}


@rule("Tanh")
def tanh(step: Step) -> Gradients:
    """1 - y ** 2."""
    b = step.build
    return {0: b.mul(step.dy(), one_minus(b, square(b, step.y())))}


@rule("Asinh")
def asinh(step: Step) -> Gradients:
    """1 / sqrt(x ** 2 + 1)."""
    b = step.build
    return {0: b.div(step.dy(), b.op("Sqrt", plus(b, square(b, step.x()), 1)))}


@rule("Acosh")
def acosh(step: Step) -> Gradients:
    """1 / sqrt(x ** 2 - 1)."""
    b = step.build
    return {0: b.div(step.dy(), b.op("Sqrt", plus(b, square(b, step.x()), -1)))}


@rule("Atanh")
def atanh(step: Step) -> Gradients:
    """1 / (1 - x ** 2)."""
    b = step.build
    return {0: b.div(step.dy(), one_minus(b, square(b, step.x())))}


@rule("Erf")
def erf(step: Step) -> Gradients:
    """2 / sqrt(pi) exp(-x ** 2)."""
    b = step.build
    bell = b.op("Exp", b.op("Neg", square(b, step.x())))
    return {0: b.mul(step.dy(), b.scale(bell, 2 / math.sqrt(math.pi)))}
