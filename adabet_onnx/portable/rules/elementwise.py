"""Arithmetic by element, with broadcasting."""

from __future__ import annotations

import onnx_ir as ir

from .registry import Gradients, Step, rule


def to_shape(step: Step, position: int, gradient: ir.Value) -> ir.Value:
    """A gradient in the shape of an input that may have been broadcast."""
    return step.build.sum_to(gradient, step.shape(position))


@rule("Add", "Sum")
def add(step: Step) -> Gradients:
    """D(a + b) = da + db."""
    return {position: to_shape(step, position, step.dy()) for position in step.wanted}


@rule("Mul")
def mul(step: Step) -> Gradients:
    """d(a b) = da b + a db."""
    return {
        position: to_shape(step, position, step.build.mul(step.dy(), step.x(1 - position))) for position in step.wanted
    }
