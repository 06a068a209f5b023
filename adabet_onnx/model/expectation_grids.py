"""Fixed grids 0, 1, 2, ... over which a detector takes the mean of a distribution (DFL); they are not weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .probabilities import behind_shape, tail_of

_WEIGHTED = frozenset({"Conv", "MatMul", "Gemm", "Mul"})
_LEAST, _MOST = 3, 4096  # numbers


def is_expectation_grid(node: ir.Node, position: int, array: np.ndarray) -> bool:
    """Whether a tensor is a grid by which probabilities are multiplied to take the mean of a distribution.

    A grid has at least three evenly spaced numbers along one axis, size 1 in all others, and a Conv, MatMul, Gemm or
    Mul applies it to a Softmax, possibly after changes of shape. Trained weights are not evenly spaced.

    Args:
        node: the node that uses the tensor.
        position: the input position of the tensor.
        array: its elements.
    """
    if node.op_type not in _WEIGHTED or not _LEAST <= array.size <= _MOST or max(array.shape, default=0) != array.size:
        return False
    other = node.inputs[1 - position] if position < 2 else None
    steps = np.diff(np.ravel(array).astype(np.float64))
    if other is None or not steps[0] or np.ptp(steps) > 1e-5 * abs(steps[0]):
        return False
    tail = tail_of(behind_shape(other)[0])
    return tail is not None and tail.kind == "probabilities"


def expectation_grids(graph: ir.Graph) -> tuple[tuple[str, str], ...]:
    """The nodes that take such a mean: their names, and those of the grids."""
    pairs = []
    for node in graph:
        for position in (0, 1) if node.op_type in _WEIGHTED and len(node.inputs) > 1 else ():
            value = node.inputs[position]
            source = None if value is None else behind_shape(value)[0]
            tensor = None if source is None else source.const_value
            if source is None or tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size > _MOST:
                continue
            if is_expectation_grid(node, position, tensor.numpy()):
                pairs.append((node.name or "", source.name or ""))
    return tuple(pairs)
