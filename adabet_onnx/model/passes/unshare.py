"""Separate initializers that an exporter merged because their values were equal.

Equal zero biases or identical clones that are stored once tie unrelated layers: training one would train the other,
and the gradient would be the sum of both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir

from ..layers import PASSED_THROUGH


class UnshareVectors(ir.passes.InPlacePass):
    """Give each layer that uses a one-dimensional initializer its own copy.

    The first layer keeps the name; the copy for node ``n`` at input ``i`` is named ``name/n/i``. A consumer behind an
    Identity, Reshape or the like counts as a separate one, and gets its own copy of that node too. Tensors of two or
    more dimensions are only separated if named, since they may be truly tied (an embedding and its head).

    Args:
        names: initializers to separate; None for all one-dimensional ones.
        groups: group names of nodes that keep sharing an initializer at inputs of the same role (`sharing.groups_of`);
            other nodes form groups of one.
        but: initializers to leave unchanged.
    """

    def __init__(
        self,
        names: Collection[str] | None = None,
        groups: Mapping[str, str] | None = None,
        but: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._names = None if names is None else frozenset(names)
        self._groups, self._but = groups or {}, frozenset(but)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        order = {node: index for index, node in enumerate(model.graph)}
        for value in list(model.graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or value.name in self._but:
                continue
            if len(tensor.shape) != 1 if self._names is None else value.name not in self._names:
                continue
            users: dict[tuple[str, str], list[tuple[ir.Node, int]]] = {}
            for node, position in sorted(consumers(value), key=lambda use: (order.get(use[0], -1), use[1])):
                users.setdefault(
                    (self._groups.get(node.name or "", node.name or ""), _role(node, position)), []
                ).append((node, position))
            for uses in list(users.values())[1:]:
                node, position = uses[0]
                copy = ir.Value(
                    name=f"{value.name}/{node.name}/{position}",
                    const_value=ir.tensor(tensor.numpy().copy()),
                    type=value.type,
                    shape=value.shape,
                )
                model.graph.register_initializer(copy)
                for node, position in uses:
                    feed(node, position, value, copy)
                modified = True
        return ir.passes.PassResult(model, modified)


def _role(node: ir.Node, position: int) -> str:
    """The role of a vector at an input: biases of different operators are at different positions."""
    if node.op_type == "Add" or position == 2:
        return "bias"
    return "scale" if node.op_type in ("Mul", "PRelu") else str(position)


def consumers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """The uses (node, input position) of a value, looking through Identity, Reshape and the like."""
    for node, position in value.uses():
        output = node.outputs[0]
        if position == 0 and node.op_type in PASSED_THROUGH and output.uses() and not output.is_graph_output():
            yield from consumers(output)
        else:
            yield node, position


def feed(node: ir.Node, position: int, old: ir.Value, new: ir.Value) -> None:
    """Redirect an input from ``old`` to ``new``, through the same intermediate nodes; other consumers are unchanged."""
    source = node.inputs[position]
    assert source is not None
    if source is old:
        node.replace_input_with(position, new)
        return
    step = source.producer()
    assert step is not None
    if len(source.uses()) > 1:
        name = f"{source.name}/{node.name}/{position}"
        step = ir.Node(step.domain, step.op_type, step.inputs, step.attributes.values(), name=name)
        step.outputs[0].name = name
        step.outputs[0].type, step.outputs[0].shape = source.type, source.shape
        assert node.graph is not None
        node.graph.insert_before(node, step)
        node.replace_input_with(position, step.outputs[0])
    feed(step, 0, old, new)


def tied_tensors(model: ir.Model, names: Collection[str], groups: Mapping[str, str] | None = None) -> list[str]:
    """Those of the given initializers that have two or more dimensions and are used by several nodes.

    Args:
        model: the graph.
        names: names of the initializers.
        groups: group names of nodes that count as one.
    """
    tied = []
    for name in names:
        value = model.graph.initializers.get(name)
        if value is None or value.const_value is None or len(value.const_value.shape) < 2:
            continue
        if len({(groups or {}).get(node.name or "", node.name or "") for node, _ in consumers(value)}) > 1:
            tied.append(name)
    return tied
