"""Replace sigmoids divided by their sum, p / sum(p), by the Softmax of their logarithms, which is the same.

One-vs-rest classifiers end this way. With log(p) as the logits, cross-entropy is that of the probabilities.
"""

from __future__ import annotations

import onnx_ir as ir

from ..probabilities import behind_shape, tail_of
from ..trial_runs import compare
from ..uses import ancestors, attributes_of
from .replacement import Replacement

_MOST_DIFFERENCE = 1e-4  # of the outputs' size
_SUMS = frozenset({"ReduceSum", "ReduceL1"})
_KEPT = frozenset({"Concat", "Slice", "Identity", "Gather", "Reshape"})  # these commute with the logarithm
_MOST_DEEP = 16


def logits_of_shares(model: ir.Model, value: ir.Value, notes: list[str]) -> str | None:
    """Rewrite a value of this form in place; return the name of the new logits.

    Args:
        model: the graph.
        value: a value that looks like probabilities.
        notes: receives a sentence about the rewrite.

    Returns:
        The name; None, with an unchanged graph, if the value has another form, the outputs change on random inputs, or
        the graph cannot be run.
    """
    trial = model.clone()
    twin = next(v for node in trial.graph for v in node.outputs if v.name == value.name)
    if _rewrite(trial.graph, twin) is None:
        return None
    difference = compare(model, trial)
    if difference is None or difference > _MOST_DIFFERENCE:
        return None
    name = value.name
    logits = _rewrite(model.graph, value)
    notes.append(
        f"{name!r} consists of sigmoids divided by their sum: it is now computed as the Softmax of their logarithms "
        f"{logits!r}, which are the logits (on random inputs, outputs differ by {difference:.2g} of their size)"
    )
    return logits


def _rewrite(graph: ir.Graph, value: ir.Value) -> str | None:
    node = behind_shape(value)[0].producer()
    if node is None or node.op_type != "Div" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    if all(before.op_type not in _SUMS for before in ancestors([node.inputs[1]])):
        return None
    work = _Logarithms(graph, node)
    logits = work.of(node.inputs[0])
    if logits is None:
        return None
    softmax = work.apply("Softmax", logits, axis=1)
    old = node.outputs[0]
    softmax.shape, softmax.type, name = old.shape, old.type, old.name
    old.replace_all_uses_with(softmax, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    old.name, softmax.name = None, name
    return logits.name


class _Logarithms(Replacement):
    """Builds the logarithms of probabilities before a node."""

    def of(self, value: ir.Value | None, depth: int = 0) -> ir.Value | None:
        """The logarithm of a value, or None if it is not computed from sigmoids or a Softmax in a known way."""
        node = None if value is None else value.producer()
        if value is None or node is None or depth > _MOST_DEEP:
            return None
        tail = tail_of(value)
        if tail is not None and tail.kind == "sigmoid" and not behind_shape(value)[1]:
            minus = self.apply("Neg", tail.logits)
            return self.apply("Neg", self.apply("Softplus", minus))
        if node.op_type == "Softmax":
            return self.apply("LogSoftmax", node.inputs[0], **attributes_of(node))
        if node.op_type == "Add":  # of a number that keeps the sum from 0
            operands = [logarithm for operand in node.inputs if (logarithm := self.of(operand, depth + 1)) is not None]
            return operands[0] if len(operands) == 1 else None
        if node.op_type not in _KEPT:
            return None
        several = len(node.inputs) if node.op_type == "Concat" else 1
        logarithms = [self.of(operand, depth + 1) for operand in node.inputs[:several]]
        if any(logarithm is None for logarithm in logarithms):
            return None
        return self.apply(node.op_type, *logarithms, *node.inputs[several:], **attributes_of(node))
