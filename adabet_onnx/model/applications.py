"""Which nodes are applications of one layer.

A Siamese network applies a layer to each of its inputs, an unrolled recurrent network at every time step, a network
with repeated blocks once per block. The exporter writes a node for each application; all of them use the same tensors.
Such nodes are one layer, and shared tensors must stay shared: with separate copies, the branches of a Siamese network
would drift apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

# Operators whose weights of two or more axes are the same tensor in two nodes only on purpose.
_WITH_MATRIX = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "RNN"})
_GEOMETRY = frozenset({"strides", "dilations", "pads", "auto_pad", "kernel_shape"})  # may differ between applications
_COMMUTE = frozenset({"Add", "Mul"})
_SMALL = 1 << 14  # most elements of a constant (an initial state, a shape) that is compared by content
_LONGEST_PATH, _MOST_PATHS = 8, 64


@dataclass(frozen=True)
class LayerNode:
    """A node with parameters, before the applications of one layer are grouped.

    Attributes:
        node: the node.
        parameters: names of its trainable initializers, including those of `follower`.
        matrix: whether one of the node's own parameters is a weight of two or more axes, see `is_matrix`.
        follower: the Add node of its bias, or None.
    """

    node: ir.Node
    parameters: tuple[str, ...]
    matrix: bool
    follower: ir.Node | None = None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The node and, if there is one, the Add node of its bias."""
        return (self.node,) if self.follower is None else (self.node, self.follower)


def is_matrix(op_type: str, position: int, shape: Sequence[int]) -> bool:
    """Whether a parameter is a weight that two nodes share only on purpose.

    Such a weight has two or more axes and multiplies, convolves or is looked up. Vectors (biases, scales, slopes,
    including those with further axes of length 1) do not count: an exporter stores equal ones once.
    """
    return len(shape) > 1 and (
        (op_type in _WITH_MATRIX and (op_type, position) != ("Gemm", 2)) or sum(extent > 1 for extent in shape) > 1
    )


class Applications:
    """Groups the nodes of a graph that are applications of one layer.

    Two nodes are applications of one layer if they have the same operator, the same attributes (a convolution's
    geometry may differ) and the same tensors at all constant inputs, and

    * they have a weight of two or more axes (and the bias added after both is the same tensor); or
    * they have only vectors (normalisations, PRelu, learned scales) and their inputs are corresponding outputs of
      applications of one layer, reached through matching nodes without parameters; or
    * they have only vectors, and their outputs reach, through such nodes, corresponding inputs of different
      applications of one layer.

    Args:
        graph: in topological order.
        layer_nodes: its nodes with parameters, in the same order.
        depends: the values that depend on a graph input.
    """

    def __init__(self, graph: ir.Graph, layer_nodes: Sequence[LayerNode], depends: Collection[ir.Value]) -> None:
        self._graph, self._depends, self._rows = graph, depends, list(layer_nodes)
        self._parameters = {name for row in layer_nodes for name in row.parameters}
        self._constants: dict[ir.Value, Hashable] = {}
        self._interned: dict[Hashable, int] = {}
        self._parent = list(range(len(layer_nodes)))
        self._row_of = {node: i for i, row in enumerate(layer_nodes) for node in row.nodes}

    def find(self) -> list[list[int]]:
        """Indices of the nodes of each layer, ordered by the first of them."""
        seeds: dict[Hashable, list[int]] = {}
        for i, row in enumerate(self._rows):
            if row.matrix:
                seeds.setdefault(self._signature(row.nodes), []).append(i)
        for indices in seeds.values():
            for i in indices[1:]:
                self._unite(indices[0], i)
        shared = self._shared()
        while shared and self._forward(shared) | self._backward(shared):
            shared = self._shared()
        groups: dict[int, list[int]] = {}
        for i in range(len(self._rows)):
            groups.setdefault(self._root(i), []).append(i)
        return list(groups.values())

    def lone_followers(self) -> set[int]:
        """Indices of nodes whose follower must not be merged: no bias follows other nodes with the same matrix.

        Merged into only some of the applications, the bias would split one layer into two.
        """
        alike: dict[Hashable, list[int]] = {}
        for i, row in enumerate(self._rows):
            if row.matrix:
                alike.setdefault(self._signature((row.node,)), []).append(i)
        mixed = [rows for rows in alike.values() if any(self._rows[i].follower is None for i in rows)]
        return {i for rows in mixed for i in rows if self._rows[i].follower is not None}

    def _shared(self) -> frozenset[int]:
        """The first node of each layer that has several."""
        counts = Counter(map(self._root, range(len(self._rows))))
        return frozenset(root for root, count in counts.items() if count > 1)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            i = self._parent[i]
        return i

    def _unite(self, one: int, other: int) -> bool:
        one, other = sorted((self._root(one), self._root(other)))
        self._parent[other] = one
        return one != other

    def _signature(self, nodes: Sequence[ir.Node]) -> Hashable:
        """A key that is equal for nodes of the same kind: everything but their data inputs."""
        return tuple(
            (node.op_type, _attributes(node), _ordered(node, [self._constant(value) for value in node.inputs]))
            for node in nodes
        )

    def _constant(self, value: ir.Value | None) -> Hashable:
        """A key for a constant, by the initializers and nodes that it is computed from; ``data`` for other values."""
        if value is None:
            return "none"
        if value in self._depends:
            return "data"
        node = value.producer()
        if node is not None and node.op_type == "Identity":  # torch gives a tensor a second name this way
            return self._constant(node.inputs[0])
        if value not in self._constants:
            self._constants[value] = self._intern(self._origin(value))
        return self._constants[value]

    def _origin(self, value: ir.Value) -> Hashable:
        node = value.producer()
        if node is not None:
            inputs = tuple(self._constant(operand) for operand in node.inputs)
            return (node.op_type, _attributes(node), inputs, value.index())
        tensor = value.const_value
        if tensor is None or value.name in self._parameters or tensor.size > _SMALL:
            return ("initializer", value.name)
        return ("content", int(tensor.dtype), tuple(tensor.shape.numpy()), tensor.numpy().tobytes())

    def _intern(self, key: Hashable) -> int:
        return self._interned.setdefault(key, len(self._interned))

    def _forward(self, shared: Collection[int]) -> bool:
        """Unite nodes with vectors whose data comes from corresponding outputs; return whether there were any.

        Every value computed from an application of a shared layer gets a label; corresponding values get the same.
        Other inputs may differ (at each time step, that step's input).
        """
        labels: dict[ir.Value, Hashable] = {}
        first: dict[Hashable, int] = {}
        turns: Counter[Hashable] = Counter()
        changed = False
        for node in self._graph:
            i = self._row_of.get(node)
            derived = any(value in labels for value in node.inputs)
            if node.op_type == "Identity" and node.inputs[0] in labels:
                labels[node.outputs[0]] = labels[node.inputs[0]]
                continue
            if i is not None and self._root(i) in shared:
                key: Hashable = ("layer", self._root(i), node is self._rows[i].node)
            elif derived and not _has_graph(node):
                key = (node.op_type, _attributes(node), _ordered(node, [self._label(v, labels) for v in node.inputs]))
                data = tuple(value for value in node.inputs if value in self._depends)
                key = (key, turns[key, data])  # first, second, ... of several nodes that read the same value
                turns[key[0], data] += 1
            else:
                continue
            if i is not None and derived and not self._rows[i].matrix and node is self._rows[i].node:
                inputs = _ordered(node, [self._label(value, labels) for value in node.inputs])
                data = tuple(value for value in node.inputs if value in self._depends)
                alike = (self._signature(self._rows[i].nodes), inputs)
                turn = turns[alike, data]
                turns[alike, data] += 1
                changed |= self._unite(first.setdefault((alike, turn), i), i)
            for value in node.outputs:
                labels[value] = self._intern((key, value.index()))
        return changed

    def _label(self, value: ir.Value | None, labels: Mapping[ir.Value, Hashable]) -> Hashable:
        if value is not None and value in self._depends:
            return labels.get(value, "outside")
        return self._constant(value)

    def _backward(self, shared: Collection[int]) -> bool:
        """Unite nodes with vectors whose results are corresponding inputs of different applications."""
        first: dict[Hashable, tuple[int, ir.Node]] = {}
        changed = False
        for i, row in enumerate(self._rows):
            if row.matrix:
                continue
            signature = self._signature(row.nodes)
            for path, root, target in self._paths(row.nodes[-1].outputs[0], shared):
                other, reached = first.setdefault((signature, path, root), (i, target))
                if reached is not target:
                    changed |= self._unite(other, i)
        return changed

    def _paths(self, value: ir.Value, shared: Collection[int]) -> Iterator[tuple[Hashable, int, ir.Node]]:
        """Paths from a value through nodes without parameters to applications: the path, the layer, the node."""
        stack: list[tuple[ir.Value, tuple[Hashable, ...]]] = [(value, ())]
        visited = 0
        while stack and visited < _MOST_PATHS:
            value, path = stack.pop()
            for node, position in value.uses():
                visited += 1
                i = self._row_of.get(node)
                if node.op_type == "Identity":
                    stack.append((node.outputs[0], path))
                    continue
                step = (*path, (node.op_type, _attributes(node), 0 if node.op_type in _COMMUTE else position))
                if i is None and len(path) < _LONGEST_PATH and not _has_graph(node):
                    stack += [(output, (*step, output.index())) for output in node.outputs]
                elif i is not None and self._root(i) in shared:
                    yield step, self._root(i), node


def _has_graph(node: ir.Node) -> bool:
    kinds = {attribute.type for attribute in node.attributes.values()}
    return bool(kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _ordered(node: ir.Node, inputs: Sequence[Hashable]) -> Hashable:
    return tuple(sorted(inputs, key=str)) if node.op_type in _COMMUTE else tuple(inputs)


def _attributes(node: ir.Node) -> Hashable:
    skipped = _GEOMETRY if node.op_type in ("Conv", "ConvTranspose") else frozenset()
    return tuple(
        sorted(
            (name, ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True))
            for name, attribute in node.attributes.items()
            if name not in skipped
        )
    )
