"""What a tensor is that several nodes use: of one layer that is applied several times, of several, or merged.

An exporter stores equal values once, also those of layers that have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .layers import Layer

Sharing = Literal["shared", "tied", "merged"]


def sharings_of(layers: Sequence[Layer]) -> dict[str, Sharing]:
    """What the parameters are that several nodes use, by name; one that a single node uses is not in it.

    * ``shared``: one layer uses it, which is applied several times. It is trained as one tensor, with the sum of the
      gradients of all applications.
    * ``tied``: several layers use it, and it is a matrix, or the bias of layers that have a matrix in common (an
      embedding and the head that use one table in different operators). It is trained as one tensor too, and changes
      all of these layers.
    * ``merged``: layers use it that have no matrix in common, and it is a vector: equal values (zero biases, say) that
      an exporter stored once. Each of these layers gets a vector of its own when one of them is trained.

    Args:
        layers: of the model.
    """
    users: dict[str, list[Layer]] = {}
    matrices: set[str] = set()
    for layer in layers:
        for parameter in layer.parameters:
            using = users.setdefault(parameter.name, [])
            if not using or using[-1] is not layer:
                using.append(layer)
            if layer.holds_matrix(parameter):
                matrices.add(parameter.name)
    groups = groups_of(layers) if any(len(using) > 1 for using in users.values()) else {}
    found: dict[str, Sharing] = {}
    for name, using in users.items():
        if len(using) > 1:
            tied = name in matrices or len({groups[layer.node] for layer in using}) == 1
            found[name] = "tied" if tied else "merged"
        elif using[0].applied > 1:
            found[name] = "shared"
    return found


def groups_of(layers: Sequence[Layer]) -> dict[str, str]:
    """For every node of a layer, a name that it has in common with the nodes it keeps its vectors in common with.

    These are the nodes of the same layer and of those that are tied to it by a matrix. A node that belongs to no layer
    is not in it.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for layer in layers:
        for parameter in layer.parameters:
            for node, _ in parameter.uses:
                parent[root(node)] = root(layer.node)
            if layer.holds_matrix(parameter):
                parent[root(layer.node)] = root(f"/{parameter.name}/")
        for node in layer.nodes:
            parent[root(node)] = root(layer.node)
    return {name: root(name) for name in parent}
