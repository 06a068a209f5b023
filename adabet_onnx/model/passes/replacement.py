"""Replace one node by several: helpers shared by the passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


class Replacement:
    """Builds nodes before ``node`` and, when finished, replaces its output by the last value.

    Args:
        graph: the graph that holds ``node``.
        node: the node to be replaced; new names begin with its name.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph, self._node, self._count = graph, node, 0

    def constant(self, suffix: str, array: np.ndarray) -> ir.Value:
        """An initializer: int64 if the array is, else float32."""
        dtype = np.int64 if array.dtype == np.int64 else np.float32
        value = ir.Value(name=f"{self._node.name}/{suffix}", const_value=ir.tensor(array.astype(dtype)))
        self._graph.register_initializer(value)
        return value

    def apply(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node with one float32 output."""
        self._count += 1
        name = f"{self._node.name}/{op_type.lower()}_{self._count}"
        new = ir.node(op_type, list(inputs), attributes, name=name)
        new.outputs[0].name = f"{name}:0"
        new.outputs[0].dtype = ir.DataType.FLOAT
        self._graph.insert_before(self._node, new)
        return new.outputs[0]

    def finish(self, value: ir.Value) -> None:
        """Replace the node's first output by ``value``, which takes over its name, and remove the node."""
        replace_output(self._graph, self._node, value)


def replace_output(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Replace the first output of ``node`` by ``value``, which takes over its name, and remove the node."""
    output = node.outputs[0]
    name = output.name
    value.shape = value.shape if value.shape is not None else output.shape
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    output.name = None
    value.name = name
