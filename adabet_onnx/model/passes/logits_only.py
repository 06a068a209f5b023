"""Make the logits the only output, the batch first: a loss is computed from them, not from probabilities."""

from __future__ import annotations

import onnx_ir as ir

from ...errors import ModelError
from ..logits_axes import LogitsAxes, axes_of


class LogitsOnly(ir.passes.InPlacePass):
    """Make the value named ``logits`` the graph's one output (nodes after it become dead).

    If the batch is not the first axis, as in time-major logits (T, N, C), the output is the transpose (N, T, C): losses
    and the concatenation of batches expect samples along the first axis.

    Attributes:
        axes: axes of the logits before the transposition; set when the pass runs.
    """

    axes: LogitsAxes

    def __init__(self, logits: str, name: str = "the model") -> None:
        super().__init__()
        self._logits, self._name = logits, name

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place.

        Raises:
            ModelError: there is no such value, or none of its axes is the batch alone.
        """
        graph = model.graph
        value = next((value for node in graph for value in node.outputs if value.name == self._logits), None)
        if value is None:
            raise ModelError(f"the graph has no value {self._logits!r} to be the logits. Make the artifacts again.")
        self.axes = axes_of(model, self._logits)
        shape = self.axes.batch_first(self._name)
        if self.axes.batch == 0 and len(graph.outputs) == 1 and graph.outputs[0] is value:
            return ir.passes.PassResult(model, False)
        value.dtype = ir.DataType.FLOAT
        graph.outputs.clear()
        if self.axes.batch != 0:
            value.shape = None
            value = _transposed(graph, value, self.axes.order)
            value.shape = ir.Shape(shape)
        graph.outputs.append(value)
        return ir.passes.PassResult(model, True)


def _transposed(graph: ir.Graph, value: ir.Value, order: list[int]) -> ir.Value:
    names = {name for node in graph for name in (node.name, *(output.name for output in node.outputs))}
    names |= {*graph.initializers, *(graph_input.name for graph_input in graph.inputs)}
    name = f"{value.name}_batch_first"
    while name in names:
        name += "_"
    node = ir.node("Transpose", [value], {"perm": order}, name=name)
    transposed = node.outputs[0]
    transposed.name, transposed.dtype = name, ir.DataType.FLOAT
    graph.append(node)
    return transposed
