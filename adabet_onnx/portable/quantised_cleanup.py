"""Making a quantised graph smaller, and finding nodes whose range is too wide to be quantised.

Names, shapes and zero points can take as much space as the weights.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from .cut import HEAVY

_ENDS = HEAVY | {"Softmax", "LogSoftmax"}
_SHORT = {"QuantizeLinear": "q", "DequantizeLinear": "d"}


def clean_up(model: ir.Model) -> None:
    """Make a graph smaller, in place; it computes the same, and inputs, outputs and weights keep their names.

    Equal tensors are merged. Nodes that the quantiser has added get short names. Shapes of inner values are removed.
    """
    common.DeduplicateInitializersPass(size_limit=1 << 20)(model)
    graph, count = model.graph, 0
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    taken |= {value.name for node in graph for value in node.outputs}
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type, value.shape = None, None
        if node.op_type in _SHORT:
            name = f"{_SHORT[node.op_type]}{count}"
            while name in taken:
                count += 1
                name = f"{_SHORT[node.op_type]}{count}"
            count += 1
            node.name = name
            if not node.outputs[0].is_graph_output():
                node.outputs[0].name = name


def wide_range_nodes(model: ir.Model) -> list[str]:
    """Names of the nodes between matrix products and a Softmax, including the Softmax.

    Masks are added there, as numbers below -10,000; with such a range, 256 steps cannot resolve the scores.
    """
    nodes: dict[ir.Node, None] = {}
    left = [node for node in model.graph if node.op_type in ("Softmax", "LogSoftmax")]
    while left:
        node = left.pop()
        if node in nodes:
            continue
        nodes[node] = None
        before = [value.producer() for value in node.inputs if value is not None]
        left += [other for other in before if other is not None and other.op_type not in _ENDS]
    return [node.name for node in nodes if node.name]
