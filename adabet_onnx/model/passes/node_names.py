"""Give nodes unique names by which layers, selections and messages can refer to them."""

from __future__ import annotations

import onnx_ir as ir


class NameNodes(ir.passes.InPlacePass):
    """Name unnamed nodes after their operator and position; make duplicate names unique."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        used: set[str] = set()
        modified = False
        for index, node in enumerate(model.graph):
            base = node.name or f"{node.op_type}_{index}"
            name, number = base, 1
            while name in used:
                name, number = f"{base}_{number}", number + 1
            modified |= node.name != name
            node.name = name
            used.add(name)
        return ir.passes.PassResult(model, modified)
