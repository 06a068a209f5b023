"""The gradient of MaxPool by comparisons, one axis after the other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...model.dims import dims, times
from ..builder import Builder
from .windows import Windows


def to_maxima(build: Builder, x: ir.Value, y: ir.Value, gradient: ir.Value, windows: Windows) -> ir.Value:
    """The gradient of the input of a MaxPool: each window's gradient goes to its first largest element.

    Windows are boxes, so maxima are computed along the last axis first, then along the one before, and so on. The
    backward pass takes the axes in the opposite order: along the first axis, the first position that holds the maximum
    gets the gradient; within it, the first position along the second axis, and so on. This finds the first position of
    the whole window, with 3 + 3 comparisons for 3 x 3 positions.

    Args:
        build: makes the nodes.
        x: the input.
        y: the output.
        gradient: gradient of the output.
        windows: the windows.
    """
    rank = len(windows.sizes)
    stages = [axis for axis in reversed(range(rank)) if not _whole(windows, axis)]
    padded: dict[int, ir.Value] = {}
    maxima: dict[int, ir.Value] = {}
    value = x
    for axis in stages:
        padded[axis] = _reachable(build, value, windows, axis)
        value = y if axis == stages[-1] else _largest(build, padded[axis], windows, axis)
        maxima[axis] = value
    for axis in reversed(stages):
        gradient = _along(build, padded[axis], maxima[axis], gradient, windows, axis)
    return gradient


def _whole(windows: Windows, axis: int) -> bool:
    """Whether the windows have no effect along an axis."""
    return (
        windows.kernel[axis] == windows.strides[axis] == 1 and not windows.before[axis] and not windows.overruns[axis]
    )


def _reachable(build: Builder, value: ir.Value, windows: Windows, axis: int) -> ir.Value:
    """The value with the padding of an axis that windows reach."""
    before, after = windows.before[axis], max(windows.overruns[axis], 0)
    if not before and not after:
        return value
    assert value.dtype is not None
    lowest = np.array(np.finfo(value.dtype.numpy()).min, value.dtype.numpy())
    return _pad(build, value, axis + 2, before, after, build.constant(lowest))


def _largest(build: Builder, value: ir.Value, windows: Windows, axis: int) -> ir.Value:
    """The maxima along an axis."""

    def along(number: int) -> list[int]:
        return [number if i == axis else 1 for i in range(len(windows.sizes))]

    shape = [windows.counts[axis] if i == axis + 2 else d for i, d in enumerate(dims(value))]
    return build.op(
        "MaxPool",
        value,
        kernel_shape=along(windows.kernel[axis]),
        strides=along(windows.strides[axis]),
        dilations=along(windows.dilations[axis]),
        shape=shape,
    )


def _along(build: Builder, x: ir.Value, y: ir.Value, gradient: ir.Value, windows: Windows, axis: int) -> ir.Value:
    """The gradient of the maxima along one axis.

    A position that holds the maximum takes the whole gradient, and zero is left for the following ones, so only the
    first position gets it. Positions of all windows whose offsets have the same remainder when divided by the stride
    are a stride apart: each remainder has its own sum, and the sums are interleaved.
    """
    stride, count, size = windows.strides[axis], windows.counts[axis], windows.sizes[axis]
    offsets = [j * windows.dilations[axis] for j in range(windows.kernel[axis])]
    length = count + offsets[-1] // stride
    sums: dict[int, ir.Value] = {}
    left = gradient
    for offset in offsets:
        candidates = _slice(build, x, axis + 2, offset, count, stride)
        part = build.masked(left, build.op("Equal", candidates, y))
        if offset != offsets[-1]:
            left = build.sub(left, part)
        skipped, remainder = divmod(offset, stride)
        part = _pad(build, part, axis + 2, skipped, length - count - skipped)
        sums[remainder] = build.add(sums[remainder], part) if remainder in sums else part
    whole = _interleave(build, sums, axis + 2, stride)
    start, end = windows.before[axis], windows.before[axis] + size
    whole = _pad(build, whole, axis + 2, 0, max(end - length * stride, 0))
    return _slice(build, whole, axis + 2, start, size, 1)


def _interleave(build: Builder, parts: dict[int, ir.Value], axis: int, count: int) -> ir.Value:
    """One element of each part in turn along an axis; zeros for missing parts."""
    if count == 1:
        return parts[0]
    shape = dims(parts[0])
    dtype = parts[0].dtype
    assert dtype is not None
    apart = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    some = [build.reshape(parts[i], apart) if i in parts else None for i in range(count)]
    if None in some:
        zero = build.constant(np.zeros([1] * len(apart), dtype.numpy()))
        zeros = build.expand(zero, apart)
        some = [zeros if part is None else part for part in some]
    beside = (*shape[: axis + 1], count, *shape[axis + 1 :])
    joined = build.op("Concat", *some, axis=axis + 1, shape=beside)
    return build.reshape(joined, (*shape[:axis], times(shape[axis], count), *shape[axis + 1 :]))


def _pad(
    build: Builder, value: ir.Value, axis: int, before: int, after: int, number: ir.Value | None = None
) -> ir.Value:
    if not before and not after:
        return value
    shape = list(dims(value))
    pads = [0] * 2 * len(shape)
    pads[axis], pads[axis + len(shape)] = before, after
    shape[axis] = int(shape[axis]) + before + after
    return build.op("Pad", value, build.ints(*pads), number, shape=shape)


def _slice(build: Builder, value: ir.Value, axis: int, start: int, count: int, step: int) -> ir.Value:
    shape = list(dims(value))
    if not start and count == shape[axis]:
        return value
    shape[axis] = count
    end = start + (count - 1) * step + 1
    return build.op("Slice", value, build.ints(start), build.ints(end), build.ints(axis), build.ints(step), shape=shape)
