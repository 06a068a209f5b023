"""The memory of a training step, predicted from the graph that will run."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..model.dims import count, dims_or_none
from ..model.liveness import peak_bytes
from .order import execution_order

# The limit of a run of the frozen graph in bytes: the memory of a step, but within these two.
_LEAST, _MOST = 4_000_000, 32_000_000


def step_bytes(model: ir.Model, batch: int) -> int:
    """The peak memory of a run in bytes, in the order in which ONNX Runtime runs the nodes.

    Inputs (parameters and state included), activations, gradients and outputs are counted, with their dtypes; frozen
    weights, which are constants, and temporary memory of single operators are not.

    Args:
        model: a graph of `assemble.make_graphs`.
        batch: number of samples.
    """

    def size(value: ir.Value) -> int:
        shape = dims_or_none(value)
        if shape is None or value.dtype is None:
            return 0
        return math.ceil(count(shape, batch) * value.dtype.itemsize)

    return peak_bytes(model.graph, execution_order(list(model.graph)), size, inputs_stay=True)


def micro_batch(one: int, step: int, batch: int, most: int = _MOST) -> int:
    """The size of equal micro-batches for the frozen graph, which need no more memory than a training step.

    Args:
        one: `step_bytes` of the frozen graph for one sample.
        step: `step_bytes` of a step.
        batch: number of samples in a step.
        most: limit in bytes.
    """
    parts = -(-batch // max(1, min(max(step, _LEAST), _MOST, most) // max(1, one)))
    return -(-batch // parts)
