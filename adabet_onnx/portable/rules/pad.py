"""Padding with a constant or with copies of elements."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from ...model.dims import dims
from ..builder import Builder
from .registry import BackwardContext, Gradients, NodeView, rule

_LOWEST = -(2**31)  # as the end of a backward slice: up to and including the first element


def _pads(view: NodeView) -> list[tuple[int, int]] | None:
    """The padding before and after each axis of the input, or None if it is not constant."""
    rank = len(view.shape(0))
    pads = view.ints_at(1, "pads")
    if pads is None or (view.has(3) and view.array(3) is None):
        return None
    axes = view.ints_at(3, "axes") or list(range(rank))
    both = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        both[axis % rank] = (before, after)
    return both


def _check(view: NodeView) -> str | None:
    both = _pads(view)
    if both is None:
        return "has pads that are not constant"
    mode = view.string("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        return f"has the mode {mode!r}, which is not supported here"
    for size, pads in zip(view.shape(0), both, strict=True):
        if isinstance(size, str):
            if any(pads):
                return "pads the batch"
        elif mode != "constant" and any(pads):
            # Beyond this, runtimes differ from each other, or crash.
            most = {"reflect": size - 1, "wrap": size}.get(mode, max(pads))
            if min(pads) < 0 or max(pads) > most:
                return f"pads an axis of {size} elements by {pads} in mode {mode!r}, which not every runtime supports"
    return None


@rule("Pad", inputs=(0,), check=_check)
def pad(context: BackwardContext) -> Gradients:
    """Padding is dropped; gradients of copied elements are added to those of the elements they were copied from."""
    both = _pads(context)
    assert both is not None
    if context.string("mode", "constant") == "constant":
        return {0: _crop(context, both)}
    gradient = context.dy()
    mode = context.string("mode", "constant")
    for axis, pads in enumerate(both):
        if any(pads):
            sources = np.pad(np.arange(int(context.shape(0)[axis])), pads, mode=mode)  # type: ignore[call-overload]
            gradient = _undo_gather(context.build, gradient, axis, sources)
    return {0: gradient}


def _crop(context: BackwardContext, both: list[tuple[int, int]]) -> ir.Value:
    b, dy, shape = context.build, context.dy(), context.shape(0)
    if not any(n for pads in both for n in pads):
        return dy
    if any(n < 0 for pads in both for n in pads):
        opposite = [-before for before, _ in both] + [-after for _, after in both]
        return b.op("Pad", dy, b.ints(*opposite), shape=shape)
    axes = [axis for axis, pads in enumerate(both) if any(pads)]
    starts = [both[axis][0] for axis in axes]
    ends = [start + int(shape[axis]) for start, axis in zip(starts, axes, strict=True)]
    return b.op("Slice", dy, b.ints(*starts), b.ints(*ends), b.ints(*axes), shape=shape)


def _undo_gather(build: Builder, gradient: ir.Value, axis: int, sources: np.ndarray) -> ir.Value:
    """The gradient before elements were gathered along an axis, each of them at least once.

    Runs of neighbours whose copies are neighbours too become one sum of slices. This needs few nodes and moves each
    element about once.

    Args:
        build: makes the nodes.
        gradient: gradient of the gathered elements.
        axis: the axis.
        sources: for each gathered element, its position before.
    """
    uses = [np.flatnonzero(sources == i) for i in range(int(sources.max()) + 1)]
    starts = [0]
    for i, (before, now) in enumerate(pairwise(uses), start=1):
        steps = now - before if len(now) == len(before) else np.zeros(1, np.int64)
        continues = (np.abs(steps) == 1).all()
        if continues and i - starts[-1] > 1:
            continues = (steps == before - uses[i - 2]).all()
        if not continues:
            starts.append(i)
    parts = []
    for first, end in pairwise([*starts, len(uses)]):
        slices = [
            _slice(build, gradient, axis, int(a), int(z)) for a, z in zip(uses[first], uses[end - 1], strict=True)
        ]
        while len(slices) > 1:
            slices.append(build.add(slices.pop(), slices.pop()))
        parts += slices
    shape = [len(uses) if i == axis else d for i, d in enumerate(dims(gradient))]
    return parts[0] if len(parts) == 1 else build.op("Concat", *parts, axis=axis, shape=shape)


def _slice(build: Builder, value: ir.Value, axis: int, first: int, last: int) -> ir.Value:
    """The elements between two positions along an axis, in reverse if the second position is before the first."""
    step = 1 if last >= first else -1
    end = last + step
    shape = [abs(last - first) + 1 if i == axis else d for i, d in enumerate(dims(value))]
    ends = build.ints(_LOWEST if end < 0 else end)
    return build.op("Slice", value, build.ints(first), ends, build.ints(axis), build.ints(step), shape=shape)
