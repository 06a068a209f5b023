"""Activation functions; where the output tells as much as the input, the output is what is kept."""

from __future__ import annotations

from .registry import Gradients, Step, rule


@rule("Relu")
def relu(step: Step) -> Gradients:
    """1 where the output is positive, else 0."""
    b, y = step.build, step.y()
    return {0: b.masked(step.dy(), b.mask("Greater", y, b.scalar(0, y)))}
