"""Nodes and constants that probes add to a graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir


class Nodes:
    """Creates nodes, in order, with names below a common prefix."""

    def __init__(self, prefix: str, opset: int) -> None:
        self.prefix, self.opset = prefix, opset
        self.made: list[ir.Node] = []

    def add(self, op_type: str, inputs: list[ir.Value | None], suffix: str, **attributes: Any) -> ir.Value:
        """Create a node with one output of the same name."""
        node = ir.node(op_type, inputs, attributes, name=f"{self.prefix}/{suffix}")
        node.outputs[0].name = node.name
        self.made.append(node)
        return node.outputs[0]


class Constants:
    """Creates initializers of a graph, one for equal values."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def __call__(self, value: list[int] | np.ndarray) -> ir.Value:
        """Return the initializer of an array, or of integers (int64)."""
        array = np.asarray(value, np.int64) if isinstance(value, list) else value
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            name = f"probes/constant{len(self._made)}"
            self._made[key] = ir.Value(name=name, const_value=ir.tensor(array))
            self._graph.register_initializer(self._made[key])
        return self._made[key]


def elements(value: ir.Value, axis: int) -> int:
    """Return the number of elements of one sample from an axis on; the batch is the first axis."""
    return math.prod(sample_shape(value)[axis - 1 :])


def sample_shape(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of one sample; the batch is the first axis."""
    assert value.shape is not None
    return tuple(int(str(extent)) for extent in list(value.shape)[1:])
