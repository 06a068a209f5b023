"""Softmax and LogSoftmax, from their outputs."""

from __future__ import annotations

from .registry import BackwardContext, Gradients, NodeView, rule

_ONE_AXIS = 13  # before this opset, all axes from the given one on are normalized together


def _axes(view: NodeView) -> list[int]:
    rank = len(view.shape())
    if view.opset >= _ONE_AXIS:
        return [view.int("axis", -1) % rank]
    return list(range(view.int("axis", 1) % rank, rank))


@rule("Softmax")
def softmax(context: BackwardContext) -> Gradients:
    """y (dy - sum(y dy))."""
    b, y, dy = context.build, context.y(), context.dy()
    return {0: b.mul(y, b.sub(dy, b.total(b.mul(y, dy), _axes(context))))}


@rule("LogSoftmax")
def log_softmax(context: BackwardContext) -> Gradients:
    """dy - exp(y) sum(dy)."""
    b, dy = context.build, context.dy()
    return {0: b.sub(dy, b.mul(b.op("Exp", context.y()), b.total(dy, _axes(context))))}
