"""Pooling windows: their positions, and the transpose of a sum over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from ...model.dims import dims, times
from ..builder import Builder
from .registry import NodeView

_REGION_REQUIRED = 12  # up to this opset, Resize requires its input roi


@dataclass(frozen=True)
class Windows:
    """The windows of a pooling node; every attribute has one number for each spatial axis.

    Attributes:
        sizes: number of elements of the input.
        counts: number of windows, which is the size of the output.
        kernel: number of elements of a window.
        strides: distance from one window to the next, in elements.
        dilations: distance from one element of a window to the next.
        before: padding before the input.
        after: padding after the input, as given in the node.
    """

    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def spans(self) -> list[int]:
        """Number of elements from the first element of a window to its last."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def overruns(self) -> list[int]:
        """How far the last window reaches past the input; negative if it ends before the end of the input."""
        rows = zip(self.counts, self.strides, self.spans, self.before, self.sizes, strict=True)
        return [(count - 1) * stride + span - before - size for count, stride, span, before, size in rows]

    @property
    def disjoint(self) -> bool:
        """Whether no element is in two windows."""
        rows = zip(self.counts, self.strides, self.spans, strict=True)
        return all(count == 1 or stride >= span for count, stride, span in rows)

    def elements(self, *, padding: bool) -> np.ndarray:
        """The number of elements of each window, in the output's shape, with or without padding elements."""
        along = []
        for axis, size in enumerate(self.sizes):
            starts = np.arange(self.counts[axis])[:, None] * self.strides[axis] - self.before[axis]
            places = starts + np.arange(self.kernel[axis]) * self.dilations[axis]
            first, end = (-self.before[axis], size + self.after[axis]) if padding else (0, size)
            along.append(((places >= first) & (places < end)).sum(1))
        return np.asarray(reduce(np.multiply.outer, along))


def windows(view: NodeView) -> Windows:
    """The windows of a pooling node whose shapes are known."""
    shape, out = view.shape(0), view.out_shape(0)
    sizes, counts = [int(d) for d in shape[2:]], [int(d) for d in out[2:]]
    rank = len(sizes)
    ones = [1] * rank
    kernel, strides, dilations = (view.ints(name) or ones for name in ("kernel_shape", "strides", "dilations"))
    pads = view.ints("pads") or [0] * 2 * rank
    auto = view.string("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        totals = [max((c - 1) * s + k - n, 0) for c, s, k, n in zip(counts, strides, kernel, sizes, strict=True)]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = less + more if auto == "SAME_UPPER" else more + less
    elif auto == "VALID":
        pads = [0] * 2 * rank
    made = (sizes, counts, kernel, strides, dilations, pads[:rank], pads[rank:])
    return Windows(*(tuple(numbers) for numbers in made))


def check_windows(view: NodeView) -> str | None:
    """Why the windows of a pooling node are not reliable, or None if they are."""
    shape, out = view.shape(0), view.out_shape(0)
    rank = len(view.ints("kernel_shape", []) or [])
    if not 1 <= rank == len(shape) - 2:
        return f"pools {rank} axes of an input with {len(shape)}"
    if any(isinstance(d, str) for d in (*shape[1:], *out[1:])):
        return "pools an axis whose length is unknown"
    pool = windows(view)
    if view.string("auto_pad", "NOTSET").startswith("SAME"):
        # ONNX Runtime handles these two differently from version to version.
        if any(d != 1 for d in pool.dilations):
            return "has both auto_pad and dilations"
        if any(s > k for s, k in zip(pool.strides, pool.kernel, strict=True)):
            return "has auto_pad and strides larger than its kernel"
    expected = []
    for axis, size in enumerate(pool.sizes):
        slack = size + pool.before[axis] + pool.after[axis] - pool.spans[axis]
        stride = pool.strides[axis]
        ceil = bool(view.int("ceil_mode", 0)) and view.string("auto_pad", "NOTSET") == "NOTSET"
        count = (-(-slack // stride) if ceil else slack // stride) + 1
        if ceil and (count - 1) * stride >= size + pool.before[axis]:
            # ONNX Runtime 1.19 keeps it, as ONNX shape inference does; 1.32 does not.
            return "has, because of ceil_mode, a window that begins in the padding, which not every runtime keeps"
        expected.append(count)
    if tuple(expected) != pool.counts:
        return f"has an output of shape {pool.counts}, where its windows give {tuple(expected)}"
    if not pool.elements(padding=False).all():
        return "has a window with nothing but padding in it"
    return None


def spread(build: Builder, gradient: ir.Value, pool: Windows, weights: np.ndarray | float = 1.0) -> ir.Value:
    """The transpose of a weighted sum over windows: for each input, the sum of the gradients of its windows.

    Args:
        build: makes the nodes.
        gradient: gradient of the output.
        pool: the windows.
        weights: factors of the windows' gradients: one number, or one for each window in the output's shape.
    """
    shape = dims(gradient)
    weights = np.asarray(weights, np.float64)
    weight = float(weights.flat[0])
    uniform = bool((weights == weight).all())
    volume = math.prod(pool.kernel)
    ones = (1,) * len(pool.sizes)
    adjacent = pool.dilations == ones

    def weighted(factor: float) -> ir.Value:
        if uniform:
            return build.scale(gradient, weight * factor)
        return build.mul(gradient, _constant(build, (weights * factor)[None, None], gradient))

    if adjacent and pool.strides == pool.kernel and not any((*pool.before, *pool.overruns)):
        return repeat(build, weighted(1), pool.kernel)
    start = [k - 1 - pad for k, pad in zip(pool.kernel, pool.before, strict=True)]
    end = [k - 1 - pad for k, pad in zip(pool.kernel, pool.overruns, strict=True)]
    if adjacent and pool.strides == ones and min(*start, *end) >= 0:
        # The transpose of sums over neighbours is again a sum over neighbours, which AveragePool computes fastest.
        pads = [*start, *end]
        average = {"kernel_shape": list(pool.kernel), "pads": pads, "count_include_pad": int(any(pads))}
        return build.op("AveragePool", weighted(volume), **average, shape=[*shape[:2], *pool.sizes])
    channels = int(shape[1])
    kernel = np.full((channels, 1, *pool.kernel), weight if uniform else 1.0)
    return build.op(
        "ConvTranspose",
        gradient if uniform else weighted(1),
        _constant(build, kernel, gradient),
        group=channels,
        strides=list(pool.strides),
        dilations=list(pool.dilations),
        pads=[*pool.before, *(max(n, 0) for n in pool.overruns)],
        output_padding=[max(-n, 0) for n in pool.overruns],
        shape=[*shape[:2], *pool.sizes],
    )


def repeat(build: Builder, value: ir.Value, factors: Sequence[int]) -> ir.Value:
    """Repeat each element of the spatial axes by these factors, copies side by side.

    This is a Resize, since an Expand between the axes takes ONNX Runtime 25 times as long.
    """
    if max(factors) == 1:
        return value
    shape = dims(value)
    region = None if build.opset > _REGION_REQUIRED else build.constant(np.zeros(0, np.float32))
    return build.op(
        "Resize",
        value,
        region,
        build.constant(np.array([1, 1, *factors], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        shape=[*shape[:2], *(times(d, factor) for d, factor in zip(shape[2:], factors, strict=True))],
    )


def _constant(build: Builder, array: np.ndarray, like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return build.constant(array.astype(like.dtype.numpy()))
