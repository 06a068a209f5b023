"""Train a part of a tensor: the part becomes a separate initializer, from which the whole is assembled.

    whole = Gather(Concat(part, rest), order)

``part`` keeps the tensor's name; ``rest`` is a constant. The nodes are inserted before the first use of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..channels import Slice


class TrainSlices(ir.passes.InPlacePass):
    """Split initializers.

    Args:
        slices: the trained part of each initializer, by name.

    Attributes:
        wholes: names of the values that replace the initializers, by initializer.
    """

    def __init__(self, slices: Mapping[str, Slice]) -> None:
        super().__init__()
        self._slices = dict(slices)
        self.wholes: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        names = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        order = {node: index for index, node in enumerate(graph)}
        for name, part in self._slices.items():
            value = graph.initializers[name]
            tensor, uses = value.const_value, list(value.uses())
            assert tensor is not None
            if not uses:
                continue
            base = name
            while any(f"{base}/{suffix}" in names for suffix in ("rest", "order", "joined", "whole")):
                base += "'"
            array = tensor.numpy()
            remaining = ir.Value(name=f"{base}/rest", const_value=ir.tensor(part.rest(array)))
            positions = [*part.indices, *sorted(set(range(array.shape[part.axis])) - set(part.indices))]
            restored_order = ir.Value(
                name=f"{base}/order", const_value=ir.tensor(np.argsort(positions).astype(np.int64))
            )
            for constant in (remaining, restored_order):
                graph.register_initializer(constant)
            joined = ir.node("Concat", [value, remaining], {"axis": part.axis}, name=f"{base}/joined")
            whole = ir.node("Gather", [joined.outputs[0], restored_order], {"axis": part.axis}, name=f"{base}/whole")
            for node in (joined, whole):
                node.outputs[0].name, node.outputs[0].dtype = node.name, ir.DataType.FLOAT
            for node, position in uses:
                node.replace_input_with(position, whole.outputs[0])
            value.const_value = ir.tensor(part.of(array), name=name)
            value.shape = ir.Shape(part.of(array).shape)
            graph.insert_before(min((node for node, _ in uses), key=order.__getitem__), [joined, whole])
            self.wholes[name] = whole.name or ""
        return ir.passes.PassResult(model, bool(self.wholes))
