"""Summing rows by an index, which is what the gradient of every lookup needs.

ScatterND with a reduction would be the natural operator, but ONNX Runtime's CPU kernel (1.17 to 1.32) adds in several
threads without a lock, and loses updates where an index repeats. ScatterElements adds in one thread.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...model.dims import Dim, dims, multiple, times
from ..builder import Builder
from .slicing import zeros

REDUCTIONS_SINCE = 16  # the opset in which ScatterElements and ScatterND got a reduction
_SPARSE = 16  # a table with this many times more rows than are looked up is filled by a Gather
_NOMINAL_BATCH = 8


def can_add(build: Builder) -> bool:
    """Whether ScatterElements can add, in this opset and profile."""
    return build.opset >= REDUCTIONS_SINCE and build.allows("ScatterElements")


def scatter_elements(build: Builder, indices: ir.Value, updates: ir.Value, count: Dim) -> ir.Value:
    """Sum rows by index along the middle one of three axes.

    Args:
        build: makes the nodes; if `can_add` is false, the profile lacks the operator.
        indices: shape (P or 1, K, 1).
        updates: shape (P, K, R).
        count: number of rows of the result.

    Returns:
        A value of shape (P, count, R).
    """
    before, _, width = dims(updates)
    if indices.dtype == ir.DataType.INT64 and indices.const_value is None:
        # There is one index for each element, so this halves the memory.
        indices = build.op("Cast", indices, to=int(ir.DataType.INT32))
    everywhere = build.expand(indices, dims(updates))
    base = zeros(build, (before, count, width), updates)
    return build.op("ScatterElements", base, everywhere, updates, axis=1, reduction="add", shape=(before, count, width))


def scatter_rows(build: Builder, indices: ir.Value | np.ndarray, updates: ir.Value, count: Dim) -> ir.Value:
    """Sum rows by index along the middle one of three axes, with the same indices for all of the first axis.

    Args:
        build: makes the nodes.
        indices: K row numbers, in one axis; negative ones count from the end. Constant indices are an array without
            negative ones.
        updates: shape (P, K, R).
        count: number of rows of the result. It must be a number, unless the opset can add.

    Returns:
        A value of shape (P, count, R).
    """
    lookups = dims(updates)[1]
    if isinstance(indices, np.ndarray):
        if can_add(build) or not isinstance(count, int):
            return scatter_elements(build, build.constant(indices.astype(np.int32).reshape(1, -1, 1)), updates, count)
        assert updates.dtype is not None
        return _multiplied(build, build.constant(np.eye(count, dtype=updates.dtype.numpy())[:, indices]), updates)
    looked_up = lookups if isinstance(lookups, int) else multiple(lookups) * _NOMINAL_BATCH
    if isinstance(count, int) and count >= _SPARSE * looked_up:
        return _sparse(build, indices, updates, count)
    if can_add(build) or not isinstance(count, int):
        return scatter_elements(build, build.reshape(indices, [1, lookups, 1]), updates, count)
    wrapped = wrap(build, indices, build.ints(count))
    rows = build.constant(np.arange(count, dtype=(indices.dtype or ir.DataType.INT64).numpy()).reshape(-1, 1))
    return _multiplied(build, _matches(build, rows, wrapped, updates), updates)


def _sparse(build: Builder, indices: ir.Value, updates: ir.Value, count: int) -> ir.Value:
    """The rows of a table that is much larger than what is looked up, so that most of them are zero.

    Equal indices get one number, the updates are summed by this number, and one Gather makes the large result, whose
    other rows are a row of zeros. Scattering into zeros would write the large tensor twice: 12 ms and 92 MB instead of
    7 ms and 46 MB for 1,024 rows of 30,000 x 384.
    """
    before, lookups, width = dims(updates)
    size = build.runtime_dims([lookups])
    first, one = build.constant(np.array(0, np.int64)), build.constant(np.array(1, np.int64))
    number = build.op("Range", first, build.op("Reshape", size, build.ints(), shape=[]), one, shape=[lookups])
    column = build.reshape(indices, [lookups, 1])
    if column.dtype != ir.DataType.INT64:
        column = build.op("Cast", column, to=int(ir.DataType.INT64))
    # Where an index repeats, any of its numbers will do, since it is read back.
    numbers = build.op("ScatterND", build.op("Expand", size, build.ints(count), shape=[count]), column, number)
    row_numbers = build.op("Gather", numbers, build.reshape(column, [lookups]), axis=0, shape=[lookups])
    padded = (before, times(lookups, 2), width)  # the second half stays zero
    if can_add(build):
        sums = scatter_elements(build, build.reshape(row_numbers, [1, lookups, 1]), updates, padded[1])
    else:
        same = _matches(build, build.reshape(row_numbers, [lookups, 1]), row_numbers, updates)
        sums = _multiplied(build, same, updates)
        sums = build.op("Concat", sums, zeros(build, (before, lookups, width), updates), axis=1, shape=padded)
    return build.op("Gather", sums, numbers, axis=1, shape=(before, count, width))


def wrap(build: Builder, indices: ir.Value, extents: ir.Value) -> ir.Value:
    """Indices, with negative ones counted from the end of axes of these sizes."""
    extents = build.cast_like(extents, indices)
    zero = build.constant(np.zeros([1] * len(dims(indices)), (indices.dtype or ir.DataType.INT64).numpy()))
    return build.op("Where", build.op("Less", indices, zero), build.add(indices, extents), indices)


def _matches(build: Builder, rows: ir.Value, indices: ir.Value, like: ir.Value) -> ir.Value:
    """A matrix that is 1 where a row (of a column of row numbers) equals an index, else 0."""
    across = build.reshape(indices, [1, *dims(indices)])
    shape = (dims(rows)[0], dims(across)[1])
    return build.cast_like(build.op("Equal", rows, across, shape=shape), like)


def _multiplied(build: Builder, matrix: ir.Value, updates: ir.Value) -> ir.Value:
    before, _, width = dims(updates)
    return build.op("MatMul", matrix, updates, shape=(before, dims(matrix)[0], width))
