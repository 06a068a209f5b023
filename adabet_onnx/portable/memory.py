"""Memory of a training step, predicted from the graph that will run."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..model.dims import count, dims_or_none
from ..model.liveness import peak_bytes
from .order import execution_order

# Bytes that a run of the frozen graph may take at most: as many as a step does, between these two.
_LEAST, _MOST = 4_000_000, 32_000_000


def step_bytes(model: ir.Model, batch: int) -> int:
    """Peak bytes of what is alive at once in a run, in the order ONNX Runtime runs the nodes.

    Counted are inputs (parameters and state included), activations, gradients and outputs, with their dtypes; not
    counted are frozen weights, which are constants, and what single operators need for themselves.

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
    """How many samples the frozen graph is run on: even parts of a batch, so that it takes no more than a step does.

    Args:
        one: `step_bytes` of the frozen graph, of one sample.
        step: those of a step.
        batch: samples of a step.
        most: bytes that there are.
    """
    parts = -(-batch // max(1, min(max(step, _LEAST), _MOST, most) // max(1, one)))
    return -(-batch // parts)
