"""Build the nodes that replace one node: free names, constants, and the shapes of its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ..uses import input_of


class NodeBuilder:
    """Inserts nodes before a node, and finally replaces its output.

    Args:
        node: the node to be replaced.
        taken: names in use; new names are added.
    """

    def __init__(self, node: ir.Node, taken: set[str | None]) -> None:
        assert isinstance(node.graph, ir.Graph)
        self.node, self._graph, self._taken = node, node.graph, taken
        self._base = node.name or node.outputs[0].name or node.op_type

    def error(self, what: str, remedy: str = "Export the model at an opset up to 21.") -> ModelError:
        """The error for an unsupported node; ``what`` is the unsupported behaviour, a verb phrase."""
        return ModelError(f"node {self._base!r} ({self.node.op_type}) {what}, which is not supported. {remedy}")

    def optional_input(self, position: int) -> ir.Value | None:
        """An optional input, or None."""
        return input_of(self.node, position)

    def required_input(self, position: int) -> ir.Value:
        """A required input."""
        value = self.optional_input(position)
        if value is None:
            raise self.error(f"has no input {position}")
        return value

    def extents(self, position: int) -> list[int | None] | None:
        """Extents of an input, with None for those that are not fixed; None if the rank is unknown."""
        value = self.required_input(position)
        if value.shape is None:
            return None
        return [extent if isinstance(extent, int) else None for extent in value.shape]

    def rank(self, position: int) -> int | None:
        """Number of axes of an input; None if unknown."""
        extents = self.extents(position)
        return None if extents is None else len(extents)

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.node.attributes.get_int(name, default))

    def float_attribute(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.node.attributes.get_float(name, default))

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Insert a node before the replaced one; return its output."""
        return self._insert(ir.node(op_type, list(inputs), attributes))[0]

    def halves(self, x: ir.Value) -> list[ir.Value]:
        """The two halves of a value along its last axis."""
        return self._insert(ir.node("Split", [x], {"axis": -1, "num_outputs": 2}, num_outputs=2))

    def int_constants(self, *numbers: int) -> ir.Value:
        """A constant vector."""
        return self.constant(np.array(numbers, np.int64))

    def float_constant(self, number: float) -> ir.Value:
        """A constant float32 number."""
        return self.constant(np.array(number, np.float32))

    def constant_like(self, number: float, like: ir.Value) -> ir.Value:
        """A constant number of the type of a value, cast at run time if that type is unknown."""
        if like.dtype == ir.DataType.FLOAT:
            return self.float_constant(number)
        return self.add("CastLike", self.float_constant(number), like)

    def constant(self, array: np.ndarray) -> ir.Value:
        """An initializer of the node's graph."""
        name = self._free(f"{self._base}/constant")
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self._graph.register_initializer(value)
        return value

    def to_float(self, x: ir.Value) -> ir.Value:
        """A value cast to float32, the type in which norms are computed."""
        return x if x.dtype == ir.DataType.FLOAT else self.add("Cast", x, to=int(ir.DataType.FLOAT))

    def as_before(self, value: ir.Value, x: ir.Value) -> ir.Value:
        """A result of float32 computations, cast back to the type of ``x``."""
        return value if x.dtype == ir.DataType.FLOAT else self.add("CastLike", value, x)

    def replace_output(self, value: ir.Value, position: int = 0, *, named: ir.Value | None = None) -> None:
        """Replace an output by a new value, which takes over its name; replacing the first output removes the node.

        Args:
            value: the new value.
            position: position of the output.
            named: the value whose node takes over the node's name; None: ``value``.
        """
        output = self.node.outputs[position]
        name, value_type, shape = output.name, output.type, output.shape
        output.name = None
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name
        value.type, value.shape = value_type, shape if value_type is not None else None
        if position == 0:
            self._graph.remove(self.node, safe=True)
            producer = (value if named is None else named).producer()
            if producer is not None and self.node.name:
                producer.name = self.node.name

    def _insert(self, node: ir.Node) -> list[ir.Value]:
        node.name = self._free(f"{self._base}/{node.op_type.lower()}")
        for index, value in enumerate(node.outputs):
            value.name = self._free(f"{node.name}:{index}")
        self._graph.insert_before(self.node, node)
        return list(node.outputs)

    def _free(self, name: str) -> str:
        free, count = name, 1
        while free in self._taken:
            count += 1
            free = f"{name}_{count}"
        self._taken.add(free)
        return free
