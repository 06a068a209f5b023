"""Which nodes block the backward path from a graph's output to its trained values, for many sets of them in one walk.

`autodiff.plan` plans the backward pass for one selection. A pre-flight check asks about every layer separately, and a
node may have a gradient for one layer and none for another (of a data input, but not of a weight). So each value
carries a bit for every set that reaches it, and a node is examined once for each combination of inputs that some set
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

# Returns why a node cannot be differentiated for these input positions, given the values that need a gradient; or None.
Reason = Callable[[ir.Node, tuple[int, ...], Collection[ir.Value]], str | None]


@dataclass(frozen=True)
class BlockedNode:
    """A node on a backward path that has no gradient.

    Attributes:
        node: the node.
        reason: why, worded to follow the name of the node.
    """

    node: ir.Node
    reason: str


@dataclass(frozen=True)
class BackwardPath:
    """The backward path from the output to one set of trained values.

    Attributes:
        blocked: nodes on it without a gradient, in the graph's order.
        unreached: trained values that the output does not depend on (or only through step functions, whose slope is 0).
    """

    blocked: tuple[BlockedNode, ...]
    unreached: tuple[ir.Value, ...]


def backward_paths(
    graph: ir.Graph,
    output: ir.Value,
    sets: Sequence[Collection[ir.Value]],
    *,
    reason: Reason,
    inputs: Callable[[ir.Node], Sequence[ir.Value | None]],
    carries: Callable[[ir.Node, ir.Value], bool],
) -> list[BackwardPath]:
    """Find the backward path to each of several sets of trained values.

    Args:
        graph: a sorted graph with dtypes.
        output: the value whose gradient is given.
        sets: sets of float initializers or inputs.
        reason: see `Reason`.
        inputs: returns the values that a node's result depends on, its inputs first.
        carries: returns whether a gradient can pass through this output of a node.
    """
    active: dict[ir.Value, int] = {}
    for bit, trained in enumerate(sets):
        for value in trained:
            active[value] = active.get(value, 0) | 1 << bit
    for node in graph:
        mask = _joined(active, inputs(node))
        for value in node.outputs if mask else ():
            if carries(node, value):
                active[value] = mask
    needed = {output: active.get(output, 0)}
    blocked: list[list[BlockedNode]] = [[] for _ in sets]
    for node in reversed(list(graph)):
        mask = _joined(needed, [value for value in node.outputs if value in active])
        for bits, positions in _combinations(inputs(node), active, mask):
            obstacle = reason(node, positions, {value for value in node.outputs if needed.get(value, 0) & bits})
            if obstacle is not None:
                for bit in _bits(bits):
                    blocked[bit].append(BlockedNode(node, obstacle))
            for position in positions:
                operand = inputs(node)[position]
                assert operand is not None
                needed[operand] = needed.get(operand, 0) | bits
    return [
        BackwardPath(tuple(reversed(blocked[bit])), tuple(v for v in trained if not needed.get(v, 0) >> bit & 1))
        for bit, trained in enumerate(sets)
    ]


def _joined(masks: dict[ir.Value, int], values: Sequence[ir.Value | None]) -> int:
    joined = 0
    for value in values:
        if value is not None:
            joined |= masks.get(value, 0)
    return joined


def _combinations(
    inputs: Sequence[ir.Value | None], active: dict[ir.Value, int], mask: int
) -> list[tuple[int, tuple[int, ...]]]:
    """The sets in a mask, grouped by which inputs of a node they need."""
    groups: list[tuple[int, tuple[int, ...]]] = [(mask, ())] if mask else []
    for position, value in enumerate(inputs):
        bits = 0 if value is None else active.get(value, 0)
        split = []
        for group, positions in groups:
            if group & bits:
                split.append((group & bits, (*positions, position)))
            if group & ~bits:
                split.append((group & ~bits, positions))
        groups = split
    return [(group, positions) for group, positions in groups if positions]


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
