"""The registry of gradient rules (vector-Jacobian products), one for each operator.

A rule receives a `BackwardContext`, which holds the gradients of a node's outputs, and returns the gradients of the
inputs that need one, by position. It adds no other nodes, and reads an input or output of the forward node
(``context.x``, ``context.y``) only if it needs the value: what no rule reads is not kept for the backward pass.
`docs/adding-a-rule.md` explains how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...model.dims import Dims, dims
from ..builder import Builder

Gradients = dict[int, ir.Value]


class NodeView:
    """A forward node as the check of a rule sees it, before any node is written.

    Attributes:
        node: the forward node.
        gradient_inputs: positions of the inputs that need a gradient.
        opset: opset of the graph.
    """

    def __init__(self, node: ir.Node, gradient_inputs: Collection[int], opset: int) -> None:
        self.node, self.gradient_inputs, self.opset = node, frozenset(gradient_inputs), opset

    def needs_gradient(self, position: int) -> bool:
        """Whether this input needs a gradient."""
        return position in self.gradient_inputs

    def has(self, position: int) -> bool:
        """Whether the node has this input."""
        return position < len(self.node.inputs) and self.node.inputs[position] is not None

    def x(self, position: int = 0) -> ir.Value:
        """An input of the forward node."""
        value = self.node.inputs[position]
        assert value is not None
        return value

    def y(self, position: int = 0) -> ir.Value:
        """An output of the forward node."""
        return self.node.outputs[position]

    def shape(self, position: int = 0) -> Dims:
        """Shape of an input."""
        return dims(self.x(position))

    def out_shape(self, position: int = 0) -> Dims:
        """Shape of an output."""
        return dims(self.y(position))

    def array(self, position: int) -> np.ndarray | None:
        """The array of a constant input (a frozen weight, axes, pads); None for other inputs."""
        if not self.has(position) or self.needs_gradient(position):  # a trained input has a value, but no constant one
            return None
        tensor = self.x(position).const_value
        return None if tensor is None else tensor.numpy()

    def ints_at(self, position: int, attribute: str) -> list[int] | None:
        """Integers from a constant input or, in older opsets, from an attribute; None if there are neither."""
        array = self.array(position)
        if array is not None:
            return [int(number) for number in array.reshape(-1)]
        return self.ints(attribute)

    def ints(self, attribute: str, default: Sequence[int] | None = None) -> list[int] | None:
        """An attribute that is a list of integers."""
        value = self.node.attributes.get(attribute)
        if value is None:
            return None if default is None else list(default)
        return [int(number) for number in value.as_ints()]

    def int(self, attribute: str, default: int) -> int:
        """An attribute that is an integer."""
        return int(self.node.attributes.get_int(attribute, default))

    def float(self, attribute: str, default: float) -> float:
        """An attribute that is a number."""
        return float(self.node.attributes.get_float(attribute, default))

    def string(self, attribute: str, default: str) -> str:
        """An attribute that is a string."""
        return str(self.node.attributes.get_string(attribute, default))


class BackwardContext(NodeView):
    """A forward node in the backward pass: its output gradients are known, its input gradients are to be written.

    Attributes:
        build: makes the nodes of the gradient.
    """

    def __init__(
        self, node: ir.Node, gradient_inputs: Collection[int], build: Builder, gradients: Sequence[ir.Value | None]
    ) -> None:
        super().__init__(node, gradient_inputs, build.opset)
        self.build, self._gradients = build, gradients

    def dy(self, position: int = 0) -> ir.Value:
        """Gradient of an output, in the shape of that output; the output must have one (see `has_dy`)."""
        value = self._gradients[position]
        assert value is not None
        return value

    def has_dy(self, position: int) -> bool:
        """Whether this output has a gradient."""
        return position < len(self._gradients) and self._gradients[position] is not None


RuleFunction = Callable[[BackwardContext], Gradients]
Check = Callable[[NodeView], str | None]


@dataclass(frozen=True)
class GradientRule:
    """A registered rule.

    Attributes:
        rule: writes the gradients.
        inputs: positions of the inputs that it can differentiate; None for all.
        outputs: positions of the outputs whose gradient it uses; None for all.
        check: returns why it cannot differentiate a particular node, or None if it can.
    """

    rule: RuleFunction
    inputs: frozenset[int] | None
    outputs: frozenset[int] | None
    check: Check | None


_RULES: dict[str, GradientRule] = {}


def rule(
    *op_types: str,
    inputs: Collection[int] | None = None,
    outputs: Collection[int] | None = (0,),
    check: Check | None = None,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule for operators of the standard domain; the arguments are described at `GradientRule`."""

    def register(function: RuleFunction) -> RuleFunction:
        for op_type in op_types:
            assert op_type not in _RULES, op_type
            _RULES[op_type] = GradientRule(
                function,
                None if inputs is None else frozenset(inputs),
                None if outputs is None else frozenset(outputs),
                check,
            )
        return function

    return register


def find_rule(op_type: str) -> GradientRule | None:
    """The rule of an operator, or None."""
    return _RULES.get(op_type)


def differentiable_operators() -> list[str]:
    """All operators that have a rule."""
    return sorted(_RULES)
