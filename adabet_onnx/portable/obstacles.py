"""Explaining to users which nodes cannot be differentiated, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from ..model.alternative_logits import find_alternative
from ..model.prepare import Prepared
from ..model.uses import reads, subgraphs
from .autodiff import GradientObstacle

_SHOWN = 3


def explain(obstacles: Sequence[GradientObstacle], prepared: Prepared) -> str:
    """A message that names each node, the layer it belongs to or follows, the reason, and the remedy.

    Args:
        obstacles: at least one.
        prepared: the graph that they are in.
    """
    lines = [_line(obstacle, prepared) for obstacle in obstacles[:_SHOWN]]
    if len(obstacles) > _SHOWN:
        lines.append(f"{len(obstacles) - _SHOWN} more nodes have no gradient.")
    last = obstacles[-1]
    inside = _trained_inside(last, prepared)
    if inside:
        lines.append(f"It reads {', '.join(map(repr, inside))} itself, which is to be trained.")
    free = _layers_after(last, prepared, inside)
    if free:
        shown = ", ".join(free[-3:])
        lines.append(f"Layers that can be trained come after {last.node!r}: select among them (the last are {shown}).")
    else:
        other = "other layer" if inside else "layer"
        around = way_around(last, prepared)
        instead = ": e" if around is None else f". {around} Or e"
        lines.append(f"No {other} comes after it{instead}xport the model with another operator in its place.")
    return f"{prepared.model.name} cannot be trained with this selection: {' '.join(lines)}"


def way_around(obstacle: GradientObstacle, prepared: Prepared) -> str | None:
    """What to do if no layer comes after a node: use an earlier value as the logits, if there is a suitable one."""
    node = next((node for node in prepared.model.graph.graph if node.name == obstacle.node), None)
    if node is None or _layers_after(obstacle, prepared, ()):
        return None
    earlier = find_alternative(prepared.model.graph, prepared.model.logits, node)
    if earlier is None or earlier.head is not None:
        return None
    return earlier.remedy(prepared.model.name, "is made without it")


def _line(obstacle: GradientObstacle, prepared: Prepared) -> str:
    layer = layer_of(obstacle, prepared)
    where = f", in layer {layer!r}," if layer else ""
    return f"node {obstacle.node!r} ({obstacle.op_type}){where} {obstacle.reason}."


def layer_of(obstacle: GradientObstacle, prepared: Prepared) -> str | None:
    """The layer that a node belongs to, or else the nearest one before it."""
    layers = {node: layer.name for layer in prepared.model.layers for node in layer.nodes}
    nodes = {node.name: node for node in prepared.graph.graph}
    level = [nodes[obstacle.node]] if obstacle.node in nodes else []
    seen: set[ir.Node] = set(level)
    while level:
        for node in level:
            if node.name in layers:
                return layers[node.name]
        before = [value.producer() for node in level for value in reads(node) if value is not None]
        level = [node for node in before if node is not None and node not in seen]
        seen.update(level)
    return None


def _trained_inside(obstacle: GradientObstacle, prepared: Prepared) -> tuple[str, ...]:
    """Trained tensors that a node with a subgraph reads inside it."""
    node = next((node for node in prepared.graph.graph if node.name == obstacle.node), None)
    if node is None or not any(True for _ in subgraphs(node)):
        return ()
    read = (value.name for value in reads(node) if value is not None)
    return tuple(dict.fromkeys(name for name in read if name is not None and name in prepared.trainable))


def _layers_after(obstacle: GradientObstacle, prepared: Prepared, excluded: Collection[str]) -> list[str]:
    """Layers that come after a node with all their applications, except those with one of these tensors."""
    names = [node.name for node in prepared.graph.graph]
    if obstacle.node not in names:
        return []
    after = set(names[names.index(obstacle.node) + 1 :])
    return [
        layer.name
        for layer in prepared.model.layers
        if after.issuperset(layer.nodes) and not any(parameter.name in excluded for parameter in layer.parameters)
    ]
