"""Why several nodes use one tensor: one layer is applied several times, layers are tied, or equal values were merged.

An exporter stores equal values once, even for unrelated layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .layers import Layer

Sharing = Literal["shared", "tied", "merged"]


def sharings_of(layers: Sequence[Layer]) -> dict[str, Sharing]:
    """Classify the parameters that several nodes use, by name; parameters of a single node are omitted.

    * ``shared``: used by one layer that is applied several times. It is trained as one tensor, with the sum of the
      gradients of all applications.
    * ``tied``: used by several layers, and a matrix, or the bias of layers that share a matrix (an embedding and the
      head that use one table in different operators). It is trained as one tensor too, and changes all these layers.
    * ``merged``: a vector used by layers that share no matrix: equal values (zero biases, for example) that an exporter
      stored once. Each of these layers gets its own vector when one of them is trained.

    Args:
        layers: the layers of the model.
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
    sharings: dict[str, Sharing] = {}
    for name, using in users.items():
        if len(using) > 1:
            tied = name in matrices or len({groups[layer.node] for layer in using}) == 1
            sharings[name] = "tied" if tied else "merged"
        elif using[0].applied > 1:
            sharings[name] = "shared"
    return sharings


def groups_of(layers: Sequence[Layer]) -> dict[str, str]:
    """Map every node of a layer to the name of its group; the nodes of a group keep sharing vectors.

    A group holds the nodes of a layer and of those tied to it by a matrix. Nodes that belong to no layer are omitted.
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
