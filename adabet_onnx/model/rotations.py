"""Recognise tables of cosines and sines of rotary embeddings, x cos + y sin, which are not weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_SUMS = frozenset({"Add", "Sub"})
_RESHAPING = frozenset({"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_CLOSE = 1e-2  # largest relative error of squares of cosines and sines stored in half precision


def is_rotation(node: ir.Node, position: int, array: np.ndarray) -> bool:
    """Whether a tensor that a node multiplies by holds cosines or sines of angles.

    It does if its product is added to another product with a constant factor of the same size, the table varies, and
    the squares of the two factors sum to the same number everywhere. Trained weights do not satisfy this.

    Args:
        node: the node that uses the tensor.
        position: the input position of the tensor.
        array: its elements.
    """
    if node.op_type != "Mul" or position > 1 or array.size < 2 or not np.ptp(array):
        return False
    for adding, input_position in node.outputs[0].uses():
        other = adding.inputs[1 - input_position] if adding.op_type in _SUMS and len(adding.inputs) == 2 else None
        product = None if other is None else other.producer()
        if product is None or product.op_type != "Mul" or product is node:
            continue
        for table in map(_constant, product.inputs):
            if table is not None and table.size == array.size and _on_a_circle(array, table):
                return True
    return False


def rotations(graph: ir.Graph) -> tuple[tuple[str, str], ...]:
    """The nodes that multiply by such a table: their names, and those of the tables."""
    pairs = []
    for node in graph:
        for position, value in enumerate(node.inputs) if node.op_type == "Mul" else ():
            array, source = _constant(value), _source(value)
            if array is not None and source is not None and is_rotation(node, position, array):
                pairs.append((node.name or "", source.name or ""))
    return tuple(pairs)


def _on_a_circle(first: np.ndarray, second: np.ndarray) -> bool:
    squares = np.square(first.astype(np.float64).ravel()) + np.square(second.astype(np.float64).ravel())
    return bool(squares[0] > 0 and np.abs(squares / squares[0] - 1).max() < _CLOSE)


def _source(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a value is derived from by changes of shape."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in _RESHAPING and node.inputs else None
    return value


def _constant(value: ir.Value | None) -> np.ndarray | None:
    source = _source(value)
    tensor = None if source is None else source.const_value
    return tensor.numpy() if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None
