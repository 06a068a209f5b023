"""The values a node reads: its inputs, and outer values that its subgraphs (of an If, Loop or Scan) capture.

A captured value is not among any node's inputs, so code that follows inputs alone would consider it unused and the
node independent of it. Everything here that computes a dependency calls `reads` instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import onnx_ir as ir

_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The subgraphs of a node, without nested ones."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured(node: ir.Node) -> tuple[ir.Value, ...]:
    """Outer values that a node's subgraphs read, or return, at any depth; each once, in order."""
    outer: dict[ir.Value, None] = {}
    for graph in subgraphs(node):
        own = {*graph.inputs, *graph.initializers.values()}
        for inner in graph:
            outer.update((value, None) for value in reads(inner) if value is not None and value not in own)
            own.update(inner.outputs)
        outer.update((value, None) for value in graph.outputs if value not in own)
    return tuple(outer)


def reads(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs of a node, in position, followed by the values that it captures."""
    # Called many times for every node of large graphs, and hardly any node has a subgraph.
    if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
        return (*node.inputs, *captured(node))
    return tuple(node.inputs)


def input_of(node: ir.Node, position: int) -> ir.Value | None:
    """The input at a position; None if there is none, or it is omitted."""
    return node.inputs[position] if position < len(node.inputs) else None


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """A node's attributes as plain values."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def users(value: ir.Value, graph: ir.Graph) -> tuple[ir.Node, ...]:
    """The nodes of ``graph`` that read a value, directly or in a subgraph."""
    nodes = {node: None for node in value.consumers() if node.graph is graph}
    if len(nodes) < len(value.consumers()):
        nodes.update((node, None) for node in graph if value in captured(node))
    return tuple(nodes)


def ancestors(values: Iterable[ir.Value]) -> set[ir.Node]:
    """The nodes that contribute to values."""
    nodes: set[ir.Node] = set()
    stack = list(values)
    while stack:
        node = stack.pop().producer()
        if node is not None and node not in nodes:
            nodes.add(node)
            stack.extend(operand for operand in reads(node) if operand is not None)
    return nodes


def dependents(graph: ir.Graph, sources: Collection[ir.Value]) -> set[ir.Value]:
    """These values, and every value of a sorted graph that is computed from one of them."""
    dependent = set(sources)
    for node in graph:
        if any(value in dependent for value in reads(node)):
            dependent.update(node.outputs)
    return dependent


def detach(node: ir.Node) -> None:
    """Disconnect a node that is about to be removed from all its inputs, including those of its subgraphs."""
    for graph in subgraphs(node):
        for inner in graph:
            detach(inner)
    for position in range(len(node.inputs)):
        node.replace_input_with(position, None)


def made_by(value: ir.Value, source: ir.Value, operators: Collection[str]) -> bool:
    """Whether a value depends on another and on constants alone, through nodes of these operators.

    It may depend on the shapes of other values.
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
            operands = [operand for operand in node.inputs if operand is not None and operand not in seen]
            seen.update(operands)
            stack += operands
    return reached
