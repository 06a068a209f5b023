"""Depthwise convolutions of small images with a trained weight, computed by matrices as their gradients are.

ONNX Runtime is fast at a depthwise convolution while its weight is a constant. A trained weight is an input: at 4x4 and
a batch of 32 its convolution then takes ten times as long, and four times as long as with `rules.conv_matrix`.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..model.uses import dependents
from .builder import Builder
from .rules.conv_geometry import check, geometry
from .rules.conv_matrix import result_by_matrix
from .rules.conv_strategy import by_matrix
from .rules.registry import NodeView

_OPERATORS = ("MatMul", "Reshape", "Transpose", "Add")


def convolve_by_matrix(model: ir.Model, parameters: Collection[str], allowed: Collection[str] | None) -> None:
    """Rewrite the convolutions of a graph that become faster this way, in place.

    Args:
        model: a graph of a training, with shapes.
        parameters: names of its inputs that are trained.
        allowed: operators that may be used; None for all.
    """
    graph, opset = model.graph, model.opset_imports[""] or 0
    build = Builder(graph, opset=opset, allowed=allowed)
    changing = dependents(graph, [value for value in graph.inputs if value.name in parameters])
    if not all(build.allows(operator) for operator in _OPERATORS):
        return
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "Conv" and not node.domain else None
        if weight is None or weight not in changing:
            continue
        view = NodeView(node, (0, 1), opset)
        if node.outputs[0].is_graph_output() or check(view) is not None or not by_matrix(geometry(view)):
            continue
        _replace(graph, node, build, view)
    for value in build.initializers:
        graph.register_initializer(value)


def _replace(graph: ir.Graph, node: ir.Node, build: Builder, view: NodeView) -> None:
    g = geometry(view)
    build.begin(node.name or "Conv")
    made = result_by_matrix(build, view.x(0), view.x(1), g)
    if view.has(2):
        made = build.add(made, build.reshape(view.x(2), [1, g.channels, *[1] * g.rank]))
    graph.insert_before(node, build.take())
    node.outputs[0].replace_all_uses_with(made)
    graph.remove(node, safe=True)
