"""Weights that stay as they are whatever is selected, because they belong to no layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..showing import clipped, named, one_line
from .constant_values import varying
from .input_values import input_values
from .layers import Layer, is_mask
from .origins import origins
from .rotations import is_rotation
from .uses import ancestors, reads, subgraphs

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
# Inputs that are constants of a formula: stored statistics, bounds, scales, what is filled in.
_NOT_LEARNED = {
    "BatchNormalization": frozenset({3, 4}),
    "Clip": frozenset({1, 2}),
    "Pad": frozenset({2}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
}
_STATES = {"LSTM": frozenset({5, 6}), "GRU": frozenset({5}), "RNN": frozenset({5})}  # no weights where they are zero
_MASKING = frozenset({"Add", "Mul", "Where"})
_NORMALISING = frozenset({"Add", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class Frozen:
    """Weights of one node that nothing trains.

    Attributes:
        node: its name.
        op_type: its operator.
        count: of their elements.
        tensors: their names.
    """

    node: str
    op_type: str
    count: int
    tensors: tuple[str, ...]

    def __repr__(self) -> str:
        return one_line(self, repr(clipped(self.node)), self.op_type, f"{self.count:,} elements", named(self.tensors))


def frozen_weights(model: ir.Model, layers: Collection[Layer], logits: str) -> tuple[Frozen, ...]:
    """Weights that the logits depend on and that belong to no layer, by the first node that reads them.

    Accepted are float tensors of more than one element, read as they are, computed with, or read in a graph inside a
    node. Rejected are the parameters of layers, running statistics, bounds, scales and paddings, states that are zero,
    masks, cosines and sines of positions, what a formula gives, and what normalises the graph's input before
    anything is learned.

    Args:
        model: an opened graph.
        layers: its layers.
        logits: name of the value a loss is computed from.
    """
    graph = model.graph
    changing = varying(graph)
    alive = ancestors(value for node in graph for value in node.outputs if value.name == logits)
    seen = {parameter.name for layer in layers for parameter in layer.parameters}
    seen |= {name for name, made in origins(model).items() if not made.learned}
    raw = input_values(graph, changing)
    found = []
    for node in graph:
        if node not in alive or not any(value in changing for value in node.outputs):
            continue
        if node.op_type in _NORMALISING and node.outputs[0] in raw:
            continue
        read = dict(_read(node, changing))
        new = {name: size for name, size in read.items() if name not in seen}
        seen.update(new)
        if new:
            found.append(Frozen(node.name or "", node.op_type, sum(new.values()), tuple(new)))
    return tuple(found)


def _read(node: ir.Node, changing: Collection[ir.Value]) -> Iterator[tuple[str, int]]:
    """Name and size of the float tensors that a node computes with, subgraphs included."""
    for position, value in enumerate(reads(node)):
        if value is None or value in changing or position in _NOT_LEARNED.get(node.op_type, ()):
            continue
        for root in _roots(value):
            tensor = root.const_value
            if tensor is None or tensor.dtype not in _FLOATS or tensor.size <= 1:
                continue
            if position in _STATES.get(node.op_type, ()) and not np.any(tensor.numpy()):
                continue
            if node.op_type in _MASKING and _fills(node, tensor.numpy()):
                continue
            if node.op_type == "Mul" and is_rotation(node, position, tensor.numpy()):
                continue
            yield root.name or "", tensor.size
    for graph in subgraphs(node):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in _FLOATS and value.const_value.size > 1:
                yield f"{graph.name}/{value.name}", value.const_value.size
        for inner in graph:
            yield from ((name, size) for name, size in _read(inner, changing) if any(True for _ in subgraphs(inner)))


def _fills(node: ir.Node, array: np.ndarray) -> bool:
    """Whether a tensor hides tokens, or is what hidden ones become."""
    return is_mask(array) or (node.op_type == "Where" and bool((array == array.reshape(-1)[0]).all()))


def _roots(value: ir.Value) -> list[ir.Value]:
    """The initializers that a constant value is or is computed from."""
    if value.is_initializer():
        return [value]
    read = dict.fromkeys(operand for node in ancestors([value]) for operand in reads(node))
    return sorted((v for v in read if v is not None and v.is_initializer()), key=lambda root: root.name or "")
