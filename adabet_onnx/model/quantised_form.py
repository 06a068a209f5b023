"""A quantised file as it came, beside the float32 graph that the package works with."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from .dims import dims_or_none


@dataclass(frozen=True)
class Quantised:
    """The graph of a file with quantised numbers.

    Attributes:
        graph: with the inputs of the float32 graph (treat it as read-only).
        whole: whether it computes the same logits; not where the model has a new head.
    """

    graph: ir.Model = field(repr=False)
    whole: bool = True


def keep_quantised(before: ir.Model | None, graph: ir.Model, logits: str) -> Quantised | None:
    """What was set aside before a graph was brought back to float32, where it can be run in its place.

    Args:
        before: the graph as it was; None where nothing was quantised.
        graph: what became of it.
        logits: their name in ``graph``.
    """
    if before is None:
        return None
    made = {value.name for node in before.graph for value in node.outputs if node.op_type != "QuantizeLinear"}
    same = [_form(value) for value in before.graph.inputs] == [_form(value) for value in graph.graph.inputs]
    return Quantised(before) if same and logits in made else None


def _form(value: ir.Value) -> tuple[object, ...]:
    return value.name, value.dtype, dims_or_none(value)
