"""Changing one node in place while a graph is converted to another opset.

The node stays the same object and keeps its outputs, so references to them by name or object stay valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .builder import Builder


@dataclass(frozen=True)
class EditedNode:
    """A node being changed.

    Attributes:
        node: the node.
        build: makes the nodes that go before it, and constants.
    """

    node: ir.Node
    build: Builder

    def x(self, position: int = 0) -> ir.Value:
        """An input."""
        value = self.node.inputs[position]
        assert value is not None
        return value

    def without(self, *names: str) -> None:
        """Remove attributes."""
        for name in names:
            self.node.attributes.pop(name, None)

    def set(self, name: str, value: Any) -> None:
        """Set an attribute."""
        self.node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def put(self, position: int, value: ir.Value | None) -> None:
        """Set this input; inputs between the previous last one and this one are left empty."""
        if position >= len(self.node.inputs):
            self.node.resize_inputs(position + 1)
        self.node.replace_input_with(position, value)

    def cut(self, count: int) -> None:
        """Keep only this many inputs."""
        if len(self.node.inputs) > count:
            self.node.resize_inputs(count)

    def attribute_to_input(self, name: str, position: int) -> None:
        """Turn an attribute of integers, if it is set, into a constant input."""
        integers = ints(self.node, name)
        if integers is not None:
            self.put(position, self.build.ints(*integers))
            self.without(name)

    def become(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> None:
        """Change the operator; the outputs stay the same."""
        self.node.op_type = op_type
        self.node.attributes.clear()
        self.node.resize_inputs(len(inputs))
        for position, value in enumerate(inputs):
            self.node.replace_input_with(position, value)
        for name, value in attributes.items():
            self.set(name, value)


Edit = Callable[[EditedNode], None]
# Takes a node and its opset; returns an edit, the reason why there is none, or None.
EditRule = Callable[[ir.Node, int], Edit | str | None]


def has(node: ir.Node, position: int) -> bool:
    """Whether the node has this input."""
    return position < len(node.inputs) and node.inputs[position] is not None


def constant(node: ir.Node, position: int) -> np.ndarray | None:
    """The array of a constant input, else None."""
    value = node.inputs[position]
    return None if value is None or value.const_value is None else value.const_value.numpy()


def numbers(node: ir.Node, position: int) -> list[int] | None:
    """The integers of a constant input, else None."""
    array = constant(node, position)
    return None if array is None else [int(n) for n in array.reshape(-1)]


def ints(node: ir.Node, name: str) -> Sequence[int] | None:
    """An attribute that is a list of integers, or None if it is not set."""
    attribute = node.attributes.get(name)
    return None if attribute is None else [int(n) for n in attribute.as_ints()]
