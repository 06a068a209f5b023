"""Remove nodes and initializers that the outputs do not depend on, including those read only by removed subgraphs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from ..uses import ancestors, detach, subgraphs


class RemoveUnused(ir.passes.InPlacePass):
    """Remove what no output depends on; onnx_ir's pass alone keeps values captured by a removed If, Loop or Scan."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        holding = [node for node in graph if any(True for _ in subgraphs(node))]
        if holding:
            alive = ancestors(graph.outputs)
            for node in reversed(holding):
                if node not in alive:
                    detach(node)
        modified = bool(common.RemoveUnusedNodesPass()(model).modified)
        return ir.passes.PassResult(model, modified)
