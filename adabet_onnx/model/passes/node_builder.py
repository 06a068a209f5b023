"""Writing one node as several, in the graph that it stands in: names, constants and what is known of its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ..uses import input_of


class NodeBuilder:
    """Makes nodes before one, and at last puts a value in its place.

    Args:
        node: the node to be replaced.
        taken: names of values; those made here are added.
    """

    def __init__(self, node: ir.Node, taken: set[str | None]) -> None:
        assert isinstance(node.graph, ir.Graph)
        self.node, self._graph, self._taken = node, node.graph, taken
        self._base = node.name or node.outputs[0].name or node.op_type

    def refusal(self, what: str, remedy: str = "Export the model at an opset up to 21.") -> ModelError:
        """The error that names the node; ``what`` says what it does."""
        return ModelError(f"node {self._base!r} ({self.node.op_type}) {what}, which is not supported. {remedy}")

    def given(self, position: int) -> ir.Value | None:
        """An input, if the node has it."""
        return input_of(self.node, position)

    def x(self, position: int) -> ir.Value:
        """An input that every such node has."""
        value = self.given(position)
        if value is None:
            raise self.refusal(f"has no input {position}")
        return value

    def extents(self, position: int) -> list[int | None] | None:
        """Extents of an input, None for those that are not fixed; None if not even the rank is known."""
        value = self.x(position)
        if value.shape is None:
            return None
        return [extent if isinstance(extent, int) else None for extent in value.shape]

    def rank(self, position: int) -> int | None:
        """Number of axes of an input, where it is known."""
        extents = self.extents(position)
        return None if extents is None else len(extents)

    def integer(self, name: str, default: int) -> int:
        """An attribute."""
        return int(self.node.attributes.get_int(name, default))

    def real(self, name: str, default: float) -> float:
        """An attribute."""
        return float(self.node.attributes.get_float(name, default))

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node before this one; its output."""
        return self._insert(ir.node(op_type, list(inputs), attributes))[0]

    def halves(self, x: ir.Value) -> list[ir.Value]:
        """The two halves of a value along its last axis."""
        return self._insert(ir.node("Split", [x], {"axis": -1, "num_outputs": 2}, num_outputs=2))

    def ints(self, *numbers: int) -> ir.Value:
        """A constant vector."""
        return self.constant(np.array(numbers, np.int64))

    def single(self, number: float) -> ir.Value:
        """A constant float32 number."""
        return self.constant(np.array(number, np.float32))

    def number(self, number: float, like: ir.Value) -> ir.Value:
        """A constant number of the type of a value, by a Cast where that is not known."""
        if like.dtype == ir.DataType.FLOAT:
            return self.single(number)
        return self.op("CastLike", self.single(number), like)

    def constant(self, array: np.ndarray) -> ir.Value:
        """An initializer of the node's graph."""
        name = self._free(f"{self._base}/constant")
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self._graph.register_initializer(value)
        return value

    def to_float(self, x: ir.Value) -> ir.Value:
        """A value in float32, in which norms are computed."""
        return x if x.dtype == ir.DataType.FLOAT else self.op("Cast", x, to=int(ir.DataType.FLOAT))

    def as_before(self, value: ir.Value, x: ir.Value) -> ir.Value:
        """What was computed by `to_float`, in the type that ``x`` has."""
        return value if x.dtype == ir.DataType.FLOAT else self.op("CastLike", value, x)

    def become(self, value: ir.Value, position: int = 0, *, named: ir.Value | None = None) -> None:
        """Let a value, which nodes here made, take over an output and its name; with the first, the node goes.

        Args:
            value: the value.
            position: of the output.
            named: the value whose node takes over the node's name; None: ``value``.
        """
        output = self.node.outputs[position]
        name, kind, shape = output.name, output.type, output.shape
        output.name = None
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name
        value.type, value.shape = kind, shape if kind is not None else None
        if position == 0:
            self._graph.remove(self.node, safe=True)
            made = (value if named is None else named).producer()
            if made is not None and self.node.name:
                made.name = self.node.name

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
