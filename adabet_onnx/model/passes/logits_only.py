"""The logits become the only output: a loss is computed from them, not from probabilities."""

from __future__ import annotations

import onnx_ir as ir

from ...errors import ModelError


class LogitsOnly(ir.passes.InPlacePass):
    """Make the value named ``logits`` the graph's one output (nodes after it become dead)."""

    def __init__(self, logits: str) -> None:
        super().__init__()
        self._logits = logits

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        if len(graph.outputs) == 1 and graph.outputs[0].name == self._logits:
            return ir.passes.PassResult(model, False)
        value = next((value for node in graph for value in node.outputs if value.name == self._logits), None)
        if value is None:
            raise ModelError(f"the graph has no value {self._logits!r} to be the logits. Make the artifacts again.")
        value.dtype = ir.DataType.FLOAT
        graph.outputs.clear()
        graph.outputs.append(value)
        return ir.passes.PassResult(model, True)
