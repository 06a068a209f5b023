"""The logits become the only output, the batch first: a loss is computed from them, not from probabilities."""

from __future__ import annotations

import onnx_ir as ir

from ...errors import ModelError
from ..logits_axes import LogitsAxes, axes_of


class LogitsOnly(ir.passes.InPlacePass):
    """Make the value named ``logits`` the graph's one output (nodes after it become dead).

    Where the batch is not its first axis, as in time-major logits (T, N, C), the output is its transpose (N, T, C): a
    loss, and whoever puts batches together, counts samples along the first axis.

    Attributes:
        axes: of the logits before that; known once the pass was run.
    """

    axes: LogitsAxes

    def __init__(self, logits: str, name: str = "the model") -> None:
        super().__init__()
        self._logits, self._name = logits, name

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place.

        Raises:
            ModelError: there is no such value, or the batch has no axis of its own in it.
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
    taken = {name for node in graph for name in (node.name, *(output.name for output in node.outputs))}
    taken |= {*graph.initializers, *(given.name for given in graph.inputs)}
    name = f"{value.name}_batch_first"
    while name in taken:
        name += "_"
    node = ir.node("Transpose", [value], {"perm": order}, name=name)
    made = node.outputs[0]
    made.name, made.dtype = name, ir.DataType.FLOAT
    graph.append(node)
    return made
