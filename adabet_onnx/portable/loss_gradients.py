"""Gradients of a loss: the backward pass is written before the loss, from a placeholder for the gradient of the logits.

The rules read only the forward part, so the loss can be added afterwards; its gradient then replaces the placeholder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .autodiff import BackwardPlan, differentiate
from .builder import Builder
from .losses import build_loss


@dataclass(frozen=True)
class LossGradients:
    """A loss in a graph, and its gradients.

    Attributes:
        labels: the new input that takes the labels.
        gradients: of each value of the plan, in its shape.
    """

    labels: ir.Value
    gradients: dict[ir.Value, ir.Value]


def logits_gradient(logits: ir.Value) -> ir.Value:
    """A placeholder for the gradient of the logits."""
    return ir.Value(name="seed", type=logits.type, shape=logits.shape)


def connect(placeholder: ir.Value, computed: ir.Value, gradients: Sequence[ir.Value]) -> list[ir.Value]:
    """Put the gradient that the loss computes in the place of the placeholder.

    Args:
        placeholder: from `logits_gradient`.
        computed: the gradient of the logits.
        gradients: of the trained values; the placeholder is among them where the logits themselves are trained.

    Returns:
        The gradients, without the placeholder.
    """
    placeholder.replace_all_uses_with(computed)
    return [computed if gradient is placeholder else gradient for gradient in gradients]


def add_loss_gradients(
    graph: ir.Graph, path: BackwardPlan, loss: str, build: Builder, *, axis: int | None
) -> LossGradients:
    """Add a loss and its gradients to a graph.

    Args:
        graph: the forward part; the nodes of the loss and of the backward pass are appended.
        path: a plan without obstacles, from the logits to the values whose gradients are needed.
        loss: one of vocabulary.LOSSES.
        build: creates nodes for the graph.
        axis: of the classes in the logits, or None.

    Raises:
        ModelError: a value has no gradient.
    """
    placeholder = logits_gradient(path.output)
    gradients = differentiate(path, placeholder, build)
    backward_pass = build.take()
    build.begin("loss")
    made = build_loss(build, path.output, loss, build.unique("labels"), axis=axis, gradient=True)
    assert made.gradient is not None
    graph.extend(build.take())
    connected = connect(placeholder, made.gradient, list(gradients.values()))
    graph.extend(backward_pass)
    return LossGradients(made.labels, dict(zip(gradients, connected, strict=True)))
