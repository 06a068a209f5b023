"""Remove nodes that do nothing at inference: Dropout would be active in a training graph, Identity hides parameters."""

from __future__ import annotations

import onnx_ir as ir

from .replacement import replace_output


class RemoveInferenceNoOps(ir.passes.InPlacePass):
    """Remove Identity and Dropout; a Dropout's mask must be unused."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        for node in list(model.graph):
            if node.op_type not in ("Identity", "Dropout"):
                continue
            source, output = node.inputs[0], node.outputs[0]
            if source is None or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                continue
            if output.is_graph_output():
                if source.is_graph_input() or source.is_initializer() or source.is_graph_output():
                    continue
                replace_output(model.graph, node, source)
            else:
                output.replace_all_uses_with(source)
                model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
