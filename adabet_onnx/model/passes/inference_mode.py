"""Switch nodes in training mode to inference: Dropout drops nothing, BatchNormalization uses its stored statistics.

Otherwise a model's outputs would be random, or depend on the other samples of the batch, even in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from ..uses import input_of

_STATED = 14  # from this opset on, an attribute states whether a BatchNormalization is in training mode


class InferenceMode(ir.passes.InPlacePass):
    """Set Dropout and BatchNormalization to inference, including those in subgraphs.

    A training mode that is a graph input, or computed from one, is assumed to be off, and a ratio given that way is
    then irrelevant; inputs that nothing else reads are removed.

    Attributes:
        dropouts, normalisations: names of the nodes that were in training mode, or could have been.
        dropped: names of the removed inputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropouts: list[str] = []
        self.normalisations: list[str] = []
        self.dropped: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        opset = model.opset_imports.get("") or 0
        modes: list[ir.Value] = []
        for node in model.graph.all_nodes():
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Dropout":
                mode = _training_mode(node)
                if mode is not None:
                    modes.append(mode)
                    self.dropouts.append(node.name or "")
                ratio = input_of(node, 1)
                if ratio is not None and not ratio.is_initializer():
                    node.replace_input_with(1, None)
                    modes.append(ratio)
            elif node.op_type == "BatchNormalization" and _by_batch(node, opset):
                _use_stored(node)
                self.normalisations.append(node.name or "")
        for value in _no_longer_read(modes):
            if value.is_graph_input() and value in model.graph.inputs:
                model.graph.inputs.remove(value)
                self.dropped.append(value.name or "")
        return ir.passes.PassResult(model, bool(self.dropouts or self.normalisations or modes))


def _no_longer_read(values: Sequence[ir.Value]) -> Iterator[ir.Value]:
    """The given values, and those they are computed from, that nothing reads; removes the nodes that computed them."""
    stack = list(dict.fromkeys(values))
    while stack:
        value = stack.pop()
        if value.uses() or value.is_graph_output():
            continue
        node = value.producer()
        if node is None:
            yield value
        elif node.graph is not None and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            stack += [operand for operand in dict.fromkeys(node.inputs) if operand is not None]
            node.graph.remove(node, safe=True)


def _training_mode(node: ir.Node) -> ir.Value | None:
    """Remove and return the input by which a Dropout is, or may be, in training mode; None if it has none."""
    mode = input_of(node, 2)
    if mode is None:
        return None
    tensor = ir.convenience.get_const_tensor(mode) if mode.is_initializer() or mode.producer() is not None else None
    if tensor is not None and tensor.size == 1 and not tensor.numpy().reshape(-1)[0]:
        return None
    node.replace_input_with(2, None)
    return mode


def _by_batch(node: ir.Node, opset: int) -> bool:
    """Whether a BatchNormalization uses batch statistics; before opset 14, this means more than one output."""
    if opset >= _STATED:
        return bool(node.attributes.get_int("training_mode", 0))
    return len(node.outputs) > 1


def _use_stored(node: ir.Node) -> None:
    """Switch a BatchNormalization to stored statistics, which also replace its statistics outputs."""
    node.attributes.pop("training_mode", None)
    graph = node.graph
    for value, stored in zip(node.outputs[1:], (*node.inputs[3:5], None, None), strict=False):
        if graph is not None and value in graph.outputs:
            graph.outputs.remove(value)
        if value.uses() and stored is not None:
            value.replace_all_uses_with(stored)
    if not any(value.uses() for value in node.outputs[1:]):
        node.resize_outputs(1)
