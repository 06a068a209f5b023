"""The original graph of a quantised file, kept beside the float32 graph that the package works with."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from .dims import dims_or_none


@dataclass(frozen=True)
class Quantised:
    """The graph of a file with quantised numbers.

    Attributes:
        graph: the quantised graph, with the inputs of the float32 graph (read-only).
        whole: whether it computes the same logits, which is false if the model has a new head.
    """

    graph: ir.Model = field(repr=False)
    whole: bool = True


def keep_quantised(before: ir.Model | None, graph: ir.Model, logits: str) -> Quantised | None:
    """The quantised graph from before the conversion to float32, if it can run in place of the converted graph.

    Args:
        before: the quantised graph; None if nothing was quantised.
        graph: the converted graph.
        logits: name of the logits in ``graph``.
    """
    if before is None:
        return None
    computed = {value.name for node in before.graph for value in node.outputs if node.op_type != "QuantizeLinear"}
    same = [_form(value) for value in before.graph.inputs] == [_form(value) for value in graph.graph.inputs]
    return Quantised(before) if same and logits in computed else None


def _form(value: ir.Value) -> tuple[object, ...]:
    return value.name, value.dtype, dims_or_none(value)
