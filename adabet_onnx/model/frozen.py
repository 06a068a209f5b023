"""Weights that no selection trains, because they belong to no layer."""

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
# Inputs that are constants of a formula: stored statistics, bounds, scales, fill values.
_NOT_LEARNED = {
    "BatchNormalization": frozenset({3, 4}),
    "Clip": frozenset({1, 2}),
    "Pad": frozenset({2}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
}
_STATES = {"LSTM": frozenset({5, 6}), "GRU": frozenset({5}), "RNN": frozenset({5})}  # not weights if they are zero
_MASKING = frozenset({"Add", "Mul", "Where"})
_NORMALISING = frozenset({"Add", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class Frozen:
    """Weights of one node that nothing trains.

    Attributes:
        node: name of the node.
        op_type: operator of the node.
        count: number of elements of the weights.
        tensors: names of the weights.
    """

    node: str
    op_type: str
    count: int
    tensors: tuple[str, ...]

    def __repr__(self) -> str:
        return one_line(self, repr(clipped(self.node)), self.op_type, f"{self.count:,} elements", named(self.tensors))


def frozen_weights(model: ir.Model, layers: Collection[Layer], logits: str) -> tuple[Frozen, ...]:
    """List the weights that the logits depend on and that belong to no layer, by the first node that reads them.

    Included are float tensors of more than one element, read directly, through constant computations or in a subgraph.
    Excluded are the parameters of layers, running statistics, bounds, scales and paddings, zero states, masks, cosines
    and sines of positions, results of formulas, and constants that preprocess the graph's input.

    Args:
        model: an opened graph.
        layers: its layers.
        logits: name of the value a loss is computed from.
    """
    graph = model.graph
    changing = varying(graph)
    alive = ancestors(value for node in graph for value in node.outputs if value.name == logits)
    seen = {parameter.name for layer in layers for parameter in layer.parameters}
    seen |= {name for name, origin in origins(model).items() if not origin.learned}
    preprocessed = input_values(graph, changing)
    frozen = []
    for node in graph:
        if node not in alive or not any(value in changing for value in node.outputs):
            continue
        if node.op_type in _NORMALISING and node.outputs[0] in preprocessed:
            continue
        read = dict(_read(node, changing))
        new = {name: size for name, size in read.items() if name not in seen}
        seen.update(new)
        if new:
            frozen.append(Frozen(node.name or "", node.op_type, sum(new.values()), tuple(new)))
    return tuple(frozen)


def _read(node: ir.Node, changing: Collection[ir.Value]) -> Iterator[tuple[str, int]]:
    """Names and sizes of the float tensors that a node computes with, including its subgraphs."""
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
    """Whether a tensor is a mask, or the constant that masked elements are set to."""
    return is_mask(array) or (node.op_type == "Where" and bool((array == array.reshape(-1)[0]).all()))


def _roots(value: ir.Value) -> list[ir.Value]:
    """The initializers that a constant value is computed from, or the value itself if it is one."""
    if value.is_initializer():
        return [value]
    read = dict.fromkeys(operand for node in ancestors([value]) for operand in reads(node))
    return sorted((v for v in read if v is not None and v.is_initializer()), key=lambda root: root.name or "")
