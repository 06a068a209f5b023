"""A quantised graph in fewer bytes: names, shapes and zero points can take as much room as the weights."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

_SHORT = {"QuantizeLinear": "q", "DequantizeLinear": "d"}


def tighten(model: ir.Model) -> None:
    """Change a graph in place; it computes the same, and inputs, outputs and weights keep their names.

    Equal tensors become one. What the quantiser has added gets short names. Of values inside, no shapes are noted.
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
