"""Less memory for more time: activations are recomputed in the backward pass instead of being kept.

The forward part is cut into segments at values that alone connect the nodes before with the nodes after. The values at
the cuts are kept; what the backward pass needs from inside a segment is recomputed from the value at its beginning,
when the backward pass gets there. (Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.)

ONNX cannot express "later", and ONNX Runtime merges nodes with the same operator and inputs. So a segment is recomputed
from a Reshape of the kept value (`Builder.after`) whose shape contains the batch size read from a gradient: no other
node equals it, it cannot run before the gradient is available, and it copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..model.dims import count, dims_or_none
from ..model.shapes import BATCH
from ..model.uses import captured, reads
from .builder import Builder

_NOMINAL = 8  # batch size at which segments are compared


def cut_points(forward: Sequence[ir.Node]) -> list[ir.Value]:
    """Values that alone connect the nodes before them with the nodes after them, in order."""
    at = {node: i for i, node in enumerate(forward)}
    last_use: dict[ir.Value, int] = {}
    for node, i in at.items():
        for value in reads(node):
            if value is not None and value.producer() in at:
                last_use[value] = i
    alive: set[ir.Value] = set()
    points = []
    for node, i in at.items():
        alive = {value for value in alive if last_use[value] > i}
        alive.update(value for value in node.outputs if last_use.get(value, -1) > i)
        if len(alive) == 1:
            (value,) = alive
            extents = dims_or_none(value)
            if extents and extents[0] == BATCH and value.dtype is not None and value.dtype.is_floating_point():
                points.append(value)
    return list(dict.fromkeys(points))


def recompute(build: Builder, forward: Sequence[ir.Node], seed: ir.Value, segments: int) -> bool:
    """Rewrite the nodes of the backward pass so that they use recomputed values.

    Args:
        build: holds the nodes of the backward pass, in the order in which they were made.
        forward: the forward part.
        seed: the value that the backward pass starts from.
        segments: number of segments of the forward part.

    Returns:
        Whether anything is recomputed.
    """
    at = {node: i for i, node in enumerate(forward)}
    kept = _used(build.nodes, at)
    cuts = _choose(cut_points(forward), kept, at, segments)
    changed = False
    for begin, end in zip(cuts, [*cuts[1:], None], strict=True):
        if end is None:
            break  # the backward pass needs the last segment immediately, so nothing would be saved
        first, last = _made_at(begin, at), _made_at(end, at)
        inside = [v for v in kept if first < _made_at(v, at) < last]
        if inside and not any(captured(node) for node in _between(forward, at, begin, set(inside))):
            _recompute_segment(build, forward, at, begin, inside, seed)
            changed = True
    return changed


def _made_at(value: ir.Value, at: dict[ir.Node, int]) -> int:
    node = value.producer()
    return -1 if node is None else at[node]


def _used(nodes: Sequence[ir.Node], at: dict[ir.Node, int]) -> list[ir.Value]:
    """Float values of the forward part that these nodes use, in the order in which they are made."""
    used = {v for node in nodes for v in reads(node) if v is not None and v.producer() in at}
    floats = [v for v in used if v.dtype is not None and v.dtype.is_floating_point()]
    return sorted(floats, key=lambda value: _made_at(value, at))


def _choose(cuts: list[ir.Value], kept: list[ir.Value], at: dict[ir.Node, int], segments: int) -> list[ir.Value]:
    """Cuts that divide the bytes of the kept values into parts of similar size."""
    if not kept or segments < 2:
        return []
    begin = _made_at(kept[0], at)
    usable = [cut for cut in cuts if begin - 1 <= _made_at(cut, at)]
    weights = {value: count(dims_or_none(value) or (), _NOMINAL) for value in kept}
    total = sum(weights.values())
    chosen: list[ir.Value] = usable[:1]
    for part in range(1, segments):
        goal = total * part / segments
        before = [c for c in usable if _weight_until(c, weights, at) <= goal]
        if before and before[-1] not in chosen:
            chosen.append(before[-1])
    return chosen


def _weight_until(cut: ir.Value, weights: dict[ir.Value, int], at: dict[ir.Node, int]) -> int:
    end = _made_at(cut, at)
    return sum(weight for value, weight in weights.items() if _made_at(value, at) <= end)


def _recompute_segment(
    build: Builder,
    forward: Sequence[ir.Node],
    at: dict[ir.Node, int],
    begin: ir.Value,
    inside: list[ir.Value],
    seed: ir.Value,
) -> None:
    """Recompute values from the beginning of their segment, just before the first node that uses one."""
    made, build.nodes = build.nodes, []
    targets = set(inside)
    first = next(i for i, node in enumerate(made) if any(v in targets for v in node.inputs))
    build.begin("recompute")
    size = build.op("Shape", _gradient_before(made[:first], seed), start=0, end=1, shape=[1])
    copies = {begin: build.after(begin, size)}
    needed = _between(forward, at, begin, targets)
    for node in needed:
        inputs = [copies.get(value, value) if value is not None else None for value in node.inputs]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=build.unique(f"{node.name}/again"),
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = build.unique(f"{old.name}/again")
            new.type, new.shape = old.type, old.shape
            copies[old] = new
        build.nodes.append(copy)
    recomputed = build.take()
    for node in made[first:]:
        for position, value in enumerate(node.inputs):
            if value in targets:
                node.replace_input_with(position, copies[value])
    build.nodes = [*made[:first], *recomputed, *made[first:]]


def _between(
    forward: Sequence[ir.Node], at: dict[ir.Node, int], begin: ir.Value, targets: set[ir.Value]
) -> list[ir.Node]:
    """Nodes after ``begin`` that the target values depend on, in order."""
    needed: set[ir.Node] = set()
    stack = [value.producer() for value in targets]
    first = _made_at(begin, at)
    while stack:
        node = stack.pop()
        if node is None or node in needed or at.get(node, -1) <= first:
            continue
        needed.add(node)
        stack.extend(value.producer() for value in reads(node) if value is not None)
    return sorted(needed, key=at.__getitem__)


def _gradient_before(nodes: Sequence[ir.Node], seed: ir.Value) -> ir.Value:
    """The last gradient made by these nodes that has the batch first; the seed if there is none."""
    dependent: set[ir.Value] = {seed}
    last = seed
    for node in nodes:
        if any(value in dependent for value in reads(node)):
            dependent.update(node.outputs)
            extents = dims_or_none(node.outputs[0])
            if extents and extents[0] == BATCH and len(extents) > 1:
                last = node.outputs[0]
    return last
