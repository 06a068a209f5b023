"""Tell where the frozen part ends before the trained layers, since values there are not known to belong to one sample.

Everything from there on is computed in every step, although no training changes it. If that includes heavy operators,
users should know: the model may be exported in another way, or the selection may cost no less than a larger one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from ..model.uses import ancestors, dependents, reads, subgraphs
from ..showing import counted
from .cut import HEAVY
from .sample_layout import Kind, Place, SampleLayout


def early_end(graph: ir.Graph, data: Collection[str], places: Mapping[ir.Value, Place]) -> str | None:
    """A sentence that names the node; None if the frozen part contains all heavy operators that it could.

    Args:
        graph: the step from the model's inputs on, before it is cut.
        data: names of the model's inputs.
        places: where the samples are in its values.
    """
    changing = dependents(graph, [value for value in graph.inputs if value.name not in data])
    mixed = [node for node in graph if places[node.outputs[0]] is Kind.TAIL and node.outputs[0] not in changing]
    again = [node for node in mixed if node.op_type in HEAVY or any(True for _ in subgraphs(node))]
    if not again:
        return None
    before = ancestors([value for node in again for value in node.outputs])
    candidates = [node for node in mixed if node in before]
    having = (node for node in candidates if any(isinstance(places[v], SampleLayout) for v in reads(node) if v))
    first = next(having, candidates[0])
    kinds = ", ".join(sorted({node.op_type for node in again}))
    return (
        f"the frozen part ends before node {first.name!r} ({first.op_type}): the values that it makes are not known to "
        f"be computed for each sample by itself. So every step computes {counted(len(again), 'heavy operator')} "
        f"({kinds}) again that no training changes"
    )
