"""The operators that onnxruntime-training 1.19.2 differentiates, with their exceptions.

The table was found by experiment: `tests/trainability/test_ort_operators.py` builds a small model for every operator,
makes artifacts, and compares the gradient with ours. Unsupported cases mostly raise an error, which names no layer; but
some gradients are silently missing or wrong, and those are the exceptions below. The table applies to graphs rewritten
by `prepare`, which no longer contain BatchNormalization, AveragePool or auto_pad.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..model.dims import dims_or_none
from ..model.uses import subgraphs
from ..portable.rules.registry import NodeView

_Check = Callable[[NodeView, Collection[ir.Value]], str | None]
_NONE = "has no gradient in onnxruntime-training"
_SHARED = 8  # most elements of a constant that ONNX Runtime shares
REMEDY = "Use the portable backend, or select layers after it."


@dataclass(frozen=True)
class _Entry:
    """An operator that has a gradient.

    Attributes:
        inputs: input positions that have a gradient; None: all float inputs.
        check: returns why a particular node has none.
    """

    inputs: frozenset[int] | None = None
    check: _Check | None = None


def _split(look: NodeView, needed: Collection[ir.Value]) -> str | None:
    unused = [value.name for value in look.node.outputs if value not in needed]
    if not unused:
        return None
    return f"silently gets a wrong gradient in onnxruntime-training, because its output {unused[0]!r} is not used"


def _slice(look: NodeView, needed: Collection[ir.Value]) -> str | None:
    steps = look.array(4)
    if steps is not None and (steps < 0).any():
        return "slices backwards, for which onnxruntime-training has a gradient that fails at run time"
    return None


def _pad(look: NodeView, needed: Collection[ir.Value]) -> str | None:
    mode = look.string("mode", "constant")
    return None if mode == "constant" else f"pads in the mode {mode!r}, which {_NONE.removeprefix('has ')}"


def _matmul(look: NodeView, needed: Collection[ir.Value]) -> str | None:
    ranks = [len(dims) for value in look.node.inputs if value is not None and (dims := dims_or_none(value)) is not None]
    return "multiplies by a vector, which onnxruntime-training has no gradient for" if 1 in ranks else None


def _reduce(look: NodeView, needed: Collection[ir.Value]) -> str | None:
    if look.opset < 18 and not look.int("keepdims", 1):
        return "drops the axes it reduces, for which onnxruntime-training's gradient is not valid below opset 18"
    return None


def _gelu(look: NodeView, needed: Collection[ir.Value]) -> str | None:
    if look.string("approximate", "none") == "none":
        return None
    return "is the tanh approximation of Gelu, for which onnxruntime-training uses the gradient of the exact one"


def _layer_norm(look: NodeView, needed: Collection[ir.Value]) -> str | None:
    """ONNX Runtime shares equal constants of few elements, and the gradient then defines one value twice."""
    for position in (1, 2):
        own = look.array(position)
        if own is None or own.size > _SHARED:
            continue
        others = [
            value
            for node in look.node.graph or ()
            if node.op_type == "LayerNormalization"
            for i, value in enumerate(node.inputs[1:3], start=1)
            if value is not None and (node is not look.node or i != position)
        ]
        if any(np.array_equal(own, array) for value in others if (array := _array(value)) is not None):
            return "has a scale or bias of few elements that equals another one, which onnxruntime-training merges"
    return None


def _array(value: ir.Value) -> np.ndarray | None:
    return None if value.const_value is None else value.const_value.numpy()


_PLAIN = """
    Abs Add Cast Concat Conv Cos Div Dropout Erf Exp Flatten Gemm GlobalAveragePool Identity LeakyRelu Log LogSoftmax
    Max MaxPool Min Mul Neg Reciprocal Relu Sigmoid Sin Softmax Sqrt Sub Tanh Transpose"""
_OF_THE_FIRST = """
    Clip Expand Gather GatherElements GatherND Pow ReduceMean ReduceSum Reshape Squeeze Tile TopK Trilu Unsqueeze"""
_FIRST = frozenset({0})
_TABLE: dict[str, _Entry] = {
    **{op: _Entry() for op in _PLAIN.split()},
    **{op: _Entry(_FIRST) for op in _OF_THE_FIRST.split()},
    "Gelu": _Entry(check=_gelu),
    "LayerNormalization": _Entry(check=_layer_norm),
    "MatMul": _Entry(check=_matmul),
    "Pad": _Entry(_FIRST, _pad),
    "ReduceL2": _Entry(_FIRST, _reduce),
    "ReduceLogSumExp": _Entry(_FIRST, _reduce),
    "ScatterElements": _Entry(frozenset({0, 2})),
    "Slice": _Entry(_FIRST, _slice),
    "Split": _Entry(_FIRST, _split),
    "Where": _Entry(frozenset({1, 2})),
}
# Operators that prevent any training graph in onnxruntime-training, wherever they are.
_ANYWHERE = {"MeanVarianceNormalization": "is expanded by onnxruntime-training into nodes that are not valid"}
# onnxruntime-training replaces these by its own kernels, trained or not. With a bias, initial states and names for all
# outputs it also builds their gradient, which killed the process (SIGSEGV) whenever their weights were frozen.
_FORWARD_ONLY = frozenset({"LSTM", "GRU"})


def differentiable_operators() -> list[str]:
    """Return all operators that onnxruntime-training differentiates, some with exceptions."""
    return sorted(_TABLE)


def obstacle_reason(node: ir.Node, positions: tuple[int, ...], needed: Collection[ir.Value], opset: int) -> str | None:
    """Return why onnxruntime-training does not differentiate a node, to be read after its name; None if it does.

    Args:
        node: a node of a graph prepared for it.
        positions: positions of the inputs whose gradient is needed.
        needed: those of its outputs whose gradient exists.
        opset: opset of the graph.
    """
    entry = None if node.domain not in ("", "ai.onnx") else _TABLE.get(node.op_type)
    if entry is None:
        return _NONE
    if entry.inputs is not None and not set(positions) <= entry.inputs:
        position = min(set(positions) - entry.inputs)
        value = node.inputs[position]
        return f"{_NONE} for its input {position} ({value.name if value is not None else None!r})"
    return None if entry.check is None else entry.check(NodeView(node, positions, opset), needed)


def global_obstacle(node: ir.Node) -> str | None:
    """Return why a graph that contains this node cannot be trained at all; None if it can."""
    if node.domain:
        return None
    if any(True for _ in subgraphs(node)):
        return "contains a subgraph, on which onnxruntime-training crashes, trained or not"
    if node.op_type in _FORWARD_ONLY and node.attributes.get_string("direction", "forward") != "forward":
        return "runs in reverse or in both directions, and onnxruntime-training only supports the forward direction"
    return _ANYWHERE.get(node.op_type)
