"""Make the order of Transpose explicit: without ``perm``, onnxruntime-training fails with "unordered_map::at"."""

from __future__ import annotations

import onnx_ir as ir


class ExplicitOrders(ir.passes.InPlacePass):
    """Give every Transpose without ``perm`` the default reversed order, if the rank is known.

    Args:
        shapes: static shapes of values.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        for node in model.graph:
            if node.op_type != "Transpose" or "perm" in node.attributes:
                continue
            value = node.inputs[0]
            assert value is not None
            known = None if value.const_value is None else value.const_value.shape
            shape = self._shapes.get(value.name or "") if known is None else known
            if shape is not None:
                node.attributes["perm"] = ir.AttrInt64s("perm", list(reversed(range(len(shape)))))
                modified = True
        return ir.passes.PassResult(model, modified)
