"""The registry of vector-Jacobian rules: for each operator, how gradients of outputs become gradients of inputs.

A rule gets a `Step` and returns the gradients of the inputs that are wanted, by position. It emits nothing that was
not asked for, and takes an input or output of the forward node (``step.x``, ``step.y``) only where it needs it:
what no rule takes is not kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...model.dims import Dims, dims
from ..builder import Builder

Gradients = dict[int, ir.Value]


class Look:
    """A forward node as a rule's check sees it, before anything is built.

    Attributes:
        node: the forward node.
        wanted: positions of the inputs whose gradient is asked for.
        opset: of the graph.
    """

    def __init__(self, node: ir.Node, wanted: Collection[int], opset: int) -> None:
        self.node, self.wanted, self.opset = node, frozenset(wanted), opset

    def wants(self, position: int) -> bool:
        """Whether the gradient of this input is asked for."""
        return position in self.wanted

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
        """The value of an input that is a constant (a frozen weight, axes, pads), else None."""
        if not self.has(position) or self.wants(position):  # what is trained has a value for now, but is no constant
            return None
        tensor = self.x(position).const_value
        return None if tensor is None else tensor.numpy()

    def ints_at(self, position: int, attribute: str) -> list[int] | None:
        """Integers given as a constant input or, in older opsets, as an attribute; None where there are none."""
        array = self.array(position)
        if array is not None:
            return [int(number) for number in array.reshape(-1)]
        return self.ints(attribute)

    def ints(self, attribute: str, default: Sequence[int] | None = None) -> list[int] | None:
        """An attribute of integers."""
        found = self.node.attributes.get(attribute)
        if found is None:
            return None if default is None else list(default)
        return [int(number) for number in found.as_ints()]

    def int(self, attribute: str, default: int) -> int:
        """An attribute that is an integer."""
        return int(self.node.attributes.get_int(attribute, default))

    def float(self, attribute: str, default: float) -> float:
        """An attribute that is a number."""
        return float(self.node.attributes.get_float(attribute, default))

    def string(self, attribute: str, default: str) -> str:
        """An attribute that is a string."""
        return str(self.node.attributes.get_string(attribute, default))


class Step(Look):
    """A forward node in the backward pass: gradients of its outputs are known, those of its inputs are wanted.

    Attributes:
        build: makes the nodes of the gradient.
    """

    def __init__(
        self, node: ir.Node, wanted: Collection[int], build: Builder, gradients: Sequence[ir.Value | None]
    ) -> None:
        super().__init__(node, wanted, build.opset)
        self.build, self._gradients = build, gradients

    def dy(self, position: int = 0) -> ir.Value:
        """Gradient of an output, in its shape. Only outputs whose gradient is not None may be asked for."""
        value = self._gradients[position]
        assert value is not None
        return value

    def has_dy(self, position: int) -> bool:
        """Whether this output has a gradient."""
        return position < len(self._gradients) and self._gradients[position] is not None


Rule = Callable[[Step], Gradients]
Check = Callable[[Look], str | None]


@dataclass(frozen=True)
class Entry:
    """A rule.

    Attributes:
        rule: the rule.
        inputs: positions it can differentiate; None for all.
        check: says why it cannot differentiate a certain node, or None if it can.
        outputs: positions of outputs whose gradient it takes; None for all.
    """

    rule: Rule
    inputs: frozenset[int] | None
    outputs: frozenset[int] | None
    check: Check | None


_RULES: dict[str, Entry] = {}


def rule(
    *op_types: str,
    inputs: Collection[int] | None = None,
    outputs: Collection[int] | None = (0,),
    check: Check | None = None,
) -> Callable[[Rule], Rule]:
    """Register a rule for operators of the standard domain."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            assert op_type not in _RULES, op_type
            _RULES[op_type] = Entry(
                function,
                None if inputs is None else frozenset(inputs),
                None if outputs is None else frozenset(outputs),
                check,
            )
        return function

    return register


def find(op_type: str) -> Entry | None:
    """The rule of an operator."""
    return _RULES.get(op_type)


def differentiable_operators() -> list[str]:
    """All operators that have a rule."""
    return sorted(_RULES)
