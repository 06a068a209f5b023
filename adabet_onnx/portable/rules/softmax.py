"""Softmax and LogSoftmax, from their outputs."""

from __future__ import annotations

from .registry import Gradients, Look, Step, rule

_ONE_AXIS = 13  # before, all axes from the given one on are taken together


def _axes(look: Look) -> list[int]:
    rank = len(look.shape())
    if look.opset >= _ONE_AXIS:
        return [look.int("axis", -1) % rank]
    return list(range(look.int("axis", 1) % rank, rank))


@rule("Softmax")
def softmax(step: Step) -> Gradients:
    """y (dy - sum(y dy))."""
    b, y, dy = step.build, step.y(), step.dy()
    return {0: b.mul(y, b.sub(dy, b.total(b.mul(y, dy), _axes(step))))}


@rule("LogSoftmax")
def log_softmax(step: Step) -> Gradients:
    """dy - exp(y) sum(dy)."""
    b, dy = step.build, step.dy()
    return {0: b.sub(dy, b.mul(b.op("Exp", step.y()), b.total(dy, _axes(step))))}
