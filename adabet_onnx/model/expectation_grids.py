"""Fixed steps that the mean of a distribution is taken over, as detectors do (DFL): 0, 1, 2, ... are no weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .probabilities import behind_shape, tail_of

_WEIGHTED = frozenset({"Conv", "MatMul", "Gemm", "Mul"})
_LEAST, _MOST = 3, 4096  # numbers


def is_expectation_grid(node: ir.Node, position: int, array: np.ndarray) -> bool:
    """Whether a tensor is steps that probabilities are multiplied by, as in the mean of a distribution.

    Accepted are three evenly spaced numbers or more along one axis, of size 1 in all others, that a Conv, MatMul, Gemm
    or Mul applies to a Softmax, maybe moved about. Weights that were trained are not evenly spaced.

    Args:
        node: what uses it.
        position: at which input.
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


def grids(graph: ir.Graph) -> tuple[tuple[str, str], ...]:
    """The nodes that take such a mean: their names, and those of the steps."""
    found = []
    for node in graph:
        for position in (0, 1) if node.op_type in _WEIGHTED and len(node.inputs) > 1 else ():
            value = node.inputs[position]
            source = None if value is None else behind_shape(value)[0]
            tensor = None if source is None else source.const_value
            if source is None or tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size > _MOST:
                continue
            if is_expectation_grid(node, position, tensor.numpy()):
                found.append((node.name or "", source.name or ""))
    return tuple(found)
