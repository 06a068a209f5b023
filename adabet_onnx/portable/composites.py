"""Recognising functions that exporters write as several nodes, so that one rule can differentiate them as one.

The functions are x (1 + erf(x / sqrt 2)) / 2, its form with tanh, and x sigmoid(x). Node by node, their gradients would
keep two or three activations where x alone suffices. The forward part is not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

_TOLERANCE = 1e-4
_CUBIC = 0.044715


@dataclass(frozen=True)
class Composite:
    """A function of one value.

    Attributes:
        op_type: the operator that computes the same function.
        attributes: attributes of that operator.
        x: the argument.
        root: the last of the nodes that compute it.
    """

    op_type: str
    attributes: dict[str, str]
    x: ir.Value
    root: ir.Node

    def node(self) -> ir.Node:
        """The operator as a node that belongs to no graph; call `release` when it is no longer needed."""
        return ir.node(self.op_type, [self.x], self.attributes, name=self.root.name)

    @staticmethod
    def release(node: ir.Node) -> None:
        """Detach the argument, which otherwise counts the node among its users."""
        node.replace_input_with(0, None)


def find_composite(root: ir.Node) -> Composite | None:
    """The composite that ends in this node, or None."""
    if root.op_type != "Mul" or root.domain:
        return None
    factors = _factors(root)
    number = math.prod(value for factor in factors if (value := _number(factor)) is not None)
    others = [factor for factor in factors if _number(factor) is None]
    if len(others) != 2:
        return None
    for x, gate in (others, others[::-1]):
        for op_type, attributes, expected, match in _FORMS:
            if abs(number - expected) < _TOLERANCE and match(gate, x):
                return Composite(op_type, dict(attributes), x, root)
    return None


def _factors(node: ir.Node) -> list[ir.Value]:
    """The factors of a product; factors that are products used only here are split up too."""
    factors: list[ir.Value] = []
    for value in node.inputs:
        assert value is not None
        producer = _sole_producer(value, "Mul")
        if producer is not None and len(factors) < 4:
            factors += _factors(producer)
        else:
            factors.append(value)
    return factors


def _sole_producer(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node of this operator that makes a value, if the value is used only once."""
    node = value.producer()
    if node is None or node.op_type != op_type or node.domain or value.is_graph_output():
        return None
    return node if len(value.uses()) == 1 else None


def _number(value: ir.Value | None) -> float | None:
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.size != 1:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _with_number(node: ir.Node, expected: float) -> ir.Value | None:
    """The other operand of a node with this number as one operand."""
    for position in (0, 1):
        number = _number(node.inputs[position])
        if number is not None and abs(number - expected) < _TOLERANCE:
            return node.inputs[1 - position]
    return None


def _one_plus(gate: ir.Value, op_type: str) -> ir.Value | None:
    """The u of 1 + f(u)."""
    total = _sole_producer(gate, "Add")
    inner = None if total is None else _with_number(total, 1)
    node = None if inner is None else _sole_producer(inner, op_type)
    return None if node is None else node.inputs[0]


def _is_erf(gate: ir.Value, x: ir.Value) -> bool:
    """1 + erf(x / sqrt 2)."""
    argument = _one_plus(gate, "Erf")
    if argument is None:
        return False
    divided = _sole_producer(argument, "Div")
    if divided is not None:
        number = _number(divided.inputs[1])
        return divided.inputs[0] is x and number is not None and abs(number - math.sqrt(2)) < _TOLERANCE
    scaled = _sole_producer(argument, "Mul")
    return scaled is not None and _with_number(scaled, math.sqrt(0.5)) is x


def _is_tanh(gate: ir.Value, x: ir.Value) -> bool:
    """1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    argument = _one_plus(gate, "Tanh")
    scaled = None if argument is None else _sole_producer(argument, "Mul")
    inner = None if scaled is None else _with_number(scaled, math.sqrt(2 / math.pi))
    total = None if inner is None else _sole_producer(inner, "Add")
    if total is None or x not in total.inputs:
        return False
    rest = total.inputs[1] if total.inputs[0] is x else total.inputs[0]
    term = None if rest is None else _sole_producer(rest, "Mul")
    cube = None if term is None else _with_number(term, _CUBIC)
    power = None if cube is None else _sole_producer(cube, "Pow")
    return power is not None and power.inputs[0] is x and _number(power.inputs[1]) == 3


def _is_sigmoid(gate: ir.Value, x: ir.Value) -> bool:
    node = _sole_producer(gate, "Sigmoid")
    return node is not None and node.inputs[0] is x


_FORMS: tuple[tuple[str, dict[str, str], float, Callable[[ir.Value, ir.Value], bool]], ...] = (
    ("Gelu", {"approximate": "none"}, 0.5, _is_erf),
    ("Gelu", {"approximate": "tanh"}, 0.5, _is_tanh),
    ("Swish", {}, 1.0, _is_sigmoid),
)
