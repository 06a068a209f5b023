"""The order in which ONNX Runtime runs a graph's nodes, and how a graph is written so that this order saves memory.

ONNX Runtime does not run nodes in the order of the file. It searches depth first, backwards from the nodes whose
outputs no other node uses (the last one in the file first), visits the producers of a node's inputs from the last in
the file to the first, and runs each node when its inputs are available.

So a training step saves memory if the nodes that end a parameter's update are in the file in the order of the layers:
then the last layer's gradient is computed and used first, and what the backward pass needs of the layers before it is
not computed ahead of time.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..model.dims import dims_or_none
from ..model.shapes import BATCH
from ..model.uses import reads
from .builder import Builder


def execution_order(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes in the order in which ONNX Runtime runs them, unless its optimizers change the graph."""
    index = {node: i for i, node in enumerate(nodes)}
    read = {value for node in nodes for value in reads(node)}
    leaves = [node for node in nodes if not any(value in read for value in node.outputs)]
    order: list[ir.Node] = []
    visited: set[ir.Node] = set()
    stack = [(node, False) for node in leaves]
    while stack:
        node, finished = stack.pop()
        if finished:
            order.append(node)
            continue
        if node in visited:
            continue
        visited.add(node)
        stack.append((node, True))
        producers = {value.producer() for value in reads(node) if value is not None}
        before = [p for p in producers if p is not None and p in index and p not in visited]
        stack.extend((p, False) for p in sorted(before, key=index.__getitem__))
    return order


def mask_chain(build: Builder, forward: dict[ir.Node, int], seed: ir.Value) -> ir.Value:
    """The batch size, which is known only after all masks are computed that allow an activation to be freed.

    A mask that only the backward pass uses would be computed in the backward pass, and its activation would be kept
    until then. A loss that gets the batch size from the shapes of the masks cannot run before they exist. The shapes
    come before the maxima over them in the file, so that they are visited, and the masks computed, from the first layer
    to the last.

    Args:
        build: holds the masks and all nodes of the backward pass.
        forward: position of each node of the forward part.
        seed: the value that the backward pass starts from.

    Returns:
        The batch size, int64 of shape (1,).
    """
    batch = build.batch_size()
    if not build.allows("Max"):
        return batch
    late = set(split_by_use(build.nodes, seed)[1])
    masks = [mask for mask in build.masks if mask.producer() not in late]  # the others belong to recomputed activations
    made = {mask: _made_from(mask, forward) for mask in masks}
    making = {node for nodes, _ in made.values() for node in nodes}
    useful = [mask for mask in masks if _frees(mask, *made[mask], making, forward)]
    useful.sort(key=lambda mask: max(forward[node] for value in made[mask][1] if (node := value.producer())))
    build.begin("masks")
    sizes = []
    for mask in useful:
        axis = _batch_axis(mask)
        assert axis is not None
        sizes.append(build.op("Shape", mask, start=axis, end=axis + 1, shape=[1]))
    for size in sizes:
        batch = build.op("Max", batch, size)
    return batch


def _frees(
    mask: ir.Value, nodes: set[ir.Node], sources: set[ir.Value], making: set[ir.Node], forward: dict[ir.Node, int]
) -> bool:
    """Whether a mask is used, and an activation that it is computed from is kept only for masks."""
    if _batch_axis(mask) is None or all(user in making for user, _ in mask.uses()):
        return False
    return any(all(user in forward or user in making for user, _ in value.uses()) for value in sources)


def _batch_axis(mask: ir.Value) -> int | None:
    """The dimension of a mask that is the batch."""
    extents = dims_or_none(mask) or ()
    return extents.index(BATCH) if BATCH in extents else None


def _made_from(mask: ir.Value, forward: dict[ir.Node, int]) -> tuple[set[ir.Node], set[ir.Value]]:
    """The nodes after the forward part that compute a mask, and the activations they start from."""
    nodes: set[ir.Node] = set()
    sources: set[ir.Value] = set()
    stack = [mask]
    while stack:
        value = stack.pop()
        node = value.producer()
        if node is None:
            continue
        if node in forward:
            sources.add(value)
        elif node not in nodes:
            nodes.add(node)
            stack.extend(v for v in reads(node) if v is not None)
    return nodes, sources


def split_by_use(nodes: Sequence[ir.Node], start: ir.Value) -> tuple[list[ir.Node], list[ir.Node]]:
    """The nodes that do not depend on a value, and those that do, each in the given order."""
    dependent: set[ir.Value] = {start}
    early: list[ir.Node] = []
    late: list[ir.Node] = []
    for node in nodes:
        if any(value in dependent for value in reads(node)):
            dependent.update(node.outputs)
            late.append(node)
        else:
            early.append(node)
    return early, late
