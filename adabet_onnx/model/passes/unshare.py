"""Initializers that an exporter merged because their values were equal become separate again.

Equal zero biases or identical clones stored once tie layers that have nothing to do with each other: training
one would train the other, and its gradient would be the sum of both.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir


class UnshareVectors(ir.passes.InPlacePass):
    """Give every further consumer of a one-dimensional initializer a copy of its own.

    The first consumer keeps the name; the copy for node ``n`` at input ``i`` is called ``name/n/i``. Tensors of two
    or more dimensions may be truly tied (an embedding and its head), so they are left alone.

    Args:
        names: initializers to look at; None for all.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        super().__init__()
        self._names = None if names is None else frozenset(names)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        order = {node: index for index, node in enumerate(model.graph)}
        for value in list(model.graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 1:
                continue
            if self._names is not None and value.name not in self._names:
                continue
            uses = sorted(value.uses(), key=lambda use: (order.get(use.node, -1), use.idx))
            for use in uses[1:]:
                copy = ir.Value(
                    name=f"{value.name}/{use.node.name}/{use.idx}",
                    const_value=ir.tensor(tensor.numpy().copy()),
                    type=value.type,
                    shape=value.shape,
                )
                model.graph.register_initializer(copy)
                use.node.replace_input_with(use.idx, copy)
                modified = True
        return ir.passes.PassResult(model, modified)


def tied_tensors(model: ir.Model, names: Collection[str]) -> list[str]:
    """Of these initializers, the ones of two or more dimensions that several nodes use."""
    tied = []
    for name in names:
        value = model.graph.initializers.get(name)
        if value is None or value.const_value is None or len(value.const_value.shape) < 2:
            continue
        if len({use.node for use in value.uses()}) > 1:
            tied.append(name)
    return tied
