"""What a node reads: its inputs, and the values outside that the graphs inside it (of an If, Loop or Scan) capture.

A value that is captured stands among no node's inputs, so whatever follows inputs alone takes it for unused and its
node for independent of it. Everything here that computes a dependency asks `reads` instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import onnx_ir as ir

_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that a node holds, not those inside of these."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured(node: ir.Node) -> tuple[ir.Value, ...]:
    """Values from outside that a node's subgraphs read, or give out, at any depth; each once, in order."""
    found: dict[ir.Value, None] = {}
    for graph in subgraphs(node):
        own = {*graph.inputs, *graph.initializers.values()}
        for inner in graph:
            found.update((value, None) for value in reads(inner) if value is not None and value not in own)
            own.update(inner.outputs)
        found.update((value, None) for value in graph.outputs if value not in own)
    return tuple(found)


def reads(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs of a node, in their places, and behind them the values that it captures."""
    # Asked of every node of large graphs many times over, and hardly any holds a graph.
    if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
        return (*node.inputs, *captured(node))
    return tuple(node.inputs)


def input_of(node: ir.Node, position: int) -> ir.Value | None:
    """The input at a position; None where there is none, or it is left out."""
    return node.inputs[position] if position < len(node.inputs) else None


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """A node's attributes as plain values."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def users(value: ir.Value, graph: ir.Graph) -> tuple[ir.Node, ...]:
    """The nodes of ``graph`` that read a value, themselves or by a subgraph."""
    found = {node: None for node in value.consumers() if node.graph is graph}
    if len(found) < len(value.consumers()):
        found.update((node, None) for node in graph if value in captured(node))
    return tuple(found)


def ancestors(values: Iterable[ir.Value]) -> set[ir.Node]:
    """The nodes that values are computed by."""
    found: set[ir.Node] = set()
    stack = list(values)
    while stack:
        node = stack.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            stack.extend(operand for operand in reads(node) if operand is not None)
    return found


def dependents(graph: ir.Graph, sources: Collection[ir.Value]) -> set[ir.Value]:
    """These values, and every value of a sorted graph that is computed from one of them."""
    found = set(sources)
    for node in graph:
        if any(value in found for value in reads(node)):
            found.update(node.outputs)
    return found


def detach(node: ir.Node) -> None:
    """Let a node that is about to go read nothing any more, its subgraphs included."""
    for graph in subgraphs(node):
        for inner in graph:
            detach(inner)
    for position in range(len(node.inputs)):
        node.replace_input_with(position, None)


def made_by(value: ir.Value, source: ir.Value, operators: Collection[str]) -> bool:
    """Whether a value depends on another, and otherwise on constants alone, by nodes of these operators.

    Of other values it may depend on the shape only.
    """
    stack, seen, reached = [value], {value}, False
    while stack:
        current = stack.pop()
        node = current.producer()
        if current is source:
            reached = True
        elif node is None:
            if not current.is_initializer():
                return False
        elif node.op_type not in operators or node.domain not in ("", "ai.onnx"):
            return False
        elif node.op_type != "Shape":
            given = [operand for operand in node.inputs if operand is not None and operand not in seen]
            seen.update(given)
            stack += given
    return reached
