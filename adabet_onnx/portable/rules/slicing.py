"""Taking tensors apart and joining them: Concat, Split, Slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...model.dims import Dim, Dims, dims, dims_or_none, multiple, product, times
from ...model.shapes import BATCH
from ..builder import Builder
from .registry import BackwardContext, Gradients, NodeView, rule

_FIRST = np.iinfo(np.int64).min


def zeros(build: Builder, shape: Sequence[Dim], like: ir.Value) -> ir.Value:
    """Zeros with another value's dtype. (Expand and not ConstantOfShape, which WebGPU lacks.)"""
    assert like.dtype is not None
    return build.expand(build.constant(np.zeros([1] * len(shape), like.dtype.numpy())), shape)


def place(build: Builder, value: ir.Value, shape: Dims, starts: Mapping[int, int]) -> ir.Value:
    """Zeros of this shape with the value at these starts along the given axes; it fills the other axes."""
    have = dims(value)
    before, after = [0] * len(shape), [0] * len(shape)
    for axis, start in starts.items():
        total, part = shape[axis], have[axis]
        if total != part:
            assert isinstance(total, int)
            assert isinstance(part, int)
            before[axis], after[axis] = start, total - part - start
    if not any(before) and not any(after):
        return value
    return build.op("Pad", value, build.ints(*before, *after), shape=shape)


def unslice(build: Builder, value: ir.Value, shape: Dims, cuts: Mapping[int, tuple[int, int]]) -> ir.Value:
    """Zeros of this shape with the value's elements at the positions that a slice took them from.

    Args:
        build: makes the nodes.
        value: gradient of the slice.
        shape: shape of the sliced value.
        cuts: per axis, start and step of the slice.
    """
    turned = [axis for axis, (_, step) in cuts.items() if step < 0]
    if turned:
        k = len(turned)
        starts, ends, steps = (build.ints(*[number] * k) for number in (-1, _FIRST, -1))
        value = build.op("Slice", value, starts, ends, build.ints(*turned), steps, shape=dims(value))
    offsets = {}
    larger = list(shape)  # large enough for whole steps
    for axis in sorted(cuts, reverse=True):  # the innermost first, while there is least data to move
        (start, step), count, total = cuts[axis], dims(value)[axis], shape[axis]
        if isinstance(count, str) or isinstance(total, str):
            continue  # the whole batch
        offsets[axis] = start + min(0, (count - 1) * step)
        if abs(step) > 1 and count > 1:
            skipped, lead = divmod(offsets[axis], abs(step))
            value = _spread(build, value, axis, abs(step), lead)
            offsets[axis] = skipped * abs(step)
            larger[axis] = max(total, offsets[axis] + count * abs(step))
    value = place(build, value, tuple(larger), offsets)
    crop = [axis for axis, (have, want) in enumerate(zip(larger, shape, strict=True)) if have != want]
    if not crop:
        return value
    ends = build.ints(*(d for axis in crop if isinstance(d := shape[axis], int)))
    return build.op("Slice", value, build.ints(*[0] * len(crop)), ends, build.ints(*crop), shape=shape)


def _spread(build: Builder, value: ir.Value, axis: int, step: int, lead: int) -> ir.Value:
    """Replace each element along an axis by ``step`` elements: ``lead`` zeros, the element itself, and zeros."""
    shape = dims(value)
    size = shape[axis]
    wide = [*shape[:axis], times(size, step), *shape[axis + 1 :]]
    if axis == len(shape) - 1 and value.dtype == ir.DataType.FLOAT and build.allows("ConvTranspose"):
        # One long row. Pad moves single elements 10 times slower (6.6 ms against 0.5 for 0.6 million elements).
        row = build.reshape(value, [1, 1, product(shape)])
        kernel = build.constant(np.eye(1, lead + 1, lead, np.float32)[None])
        rest, long = step - 1 - lead, [1, 1, product(wide)]
        return build.reshape(
            build.op("ConvTranspose", row, kernel, strides=[step], output_padding=[rest], shape=long), wide
        )
    apart = build.reshape(value, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    apart = place(build, apart, (*shape[: axis + 1], step, *shape[axis + 1 :]), {axis + 1: lead})
    return build.reshape(apart, wide)


def _cuts(view: NodeView) -> dict[int, tuple[int, int]] | str:
    """Start and step of a Slice on each axis that it changes, or the reason why they are unknown."""
    starts, axes, steps = (view.ints_at(position, name) for position, name in ((1, "starts"), (3, "axes"), (4, "")))
    for position, numbers, name in ((1, starts, "starts"), (3, axes, "axes"), (4, steps, "steps")):
        if numbers is None and view.has(position):
            return f"takes {name} that are not constant ({view.x(position).name!r})"
    if starts is None:
        return "has no starts"
    shape, after, rank = view.shape(), view.out_shape(), len(view.shape())
    axes = [axis % rank for axis in axes] if axes is not None else list(range(len(starts)))
    steps = steps or [1] * len(starts)
    cuts = {}
    for axis, start, step in zip(axes, starts, steps, strict=True):
        total = shape[axis]
        if total == after[axis] and step == 1:
            continue
        if total == after[axis] and step == -1:
            start = 0 if isinstance(total, str) else total - 1
        elif isinstance(total, str):
            return f"takes a part of the batch (axis {axis})"
        else:
            start += total if start < 0 else 0
            start = max(0, min(start, total if step > 0 else total - 1))
        cuts[axis] = (start, step)
    return cuts


def _check_slice(view: NodeView) -> str | None:
    cuts = _cuts(view)
    return cuts if isinstance(cuts, str) else None


@rule("Slice", inputs={0}, check=_check_slice)
def slice_(context: BackwardContext) -> Gradients:
    """The gradient where the slice was taken, zeros elsewhere."""
    cuts, shape = _cuts(context), context.shape()
    assert not isinstance(cuts, str)
    if 0 in context.out_shape():
        return {0: zeros(context.build, shape, context.dy())}
    return {0: unslice(context.build, context.dy(), shape, cuts)}


@rule("Concat")
def concat(context: BackwardContext) -> Gradients:
    """Each input's part of the gradient."""
    build, axis = context.build, context.int("axis", 0) % len(context.out_shape())
    gradients = {}
    start: Dim = 0
    for position in range(len(context.node.inputs)):
        size = context.shape(position)[axis]
        end = _plus(start, size)
        if context.needs_gradient(position) and size == context.out_shape()[axis]:
            gradients[position] = context.dy()
        elif context.needs_gradient(position):
            bounds = (build.runtime_dims([bound]) for bound in (start, end))
            gradients[position] = build.op(
                "Slice", context.dy(), *bounds, build.ints(axis), shape=context.shape(position)
            )
        start = end
    return gradients


def _plus(a: Dim, b: Dim) -> Dim:
    """The sum of two dimensions, either both numbers or both multiples of the batch (one of them may be zero)."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    counts = [multiple(d) if isinstance(d, str) else 0 for d in (a, b)]
    return times(BATCH, sum(counts))


def _check_split(view: NodeView) -> str | None:
    for value in view.node.outputs:
        if dims_or_none(value) is None:
            return f"has an output of unknown shape ({value.name!r})"
    return None


@rule("Split", inputs={0}, outputs=None, check=_check_split)
def split(context: BackwardContext) -> Gradients:
    """The gradients of the parts, joined; zeros for parts without a gradient."""
    build, shape, count = context.build, context.shape(), len(context.node.outputs)
    axis = context.int("axis", 0) % len(shape)
    sizes = [context.out_shape(i)[axis] for i in range(count)]
    known = [i for i in range(count) if context.has_dy(i)]
    first = known[0] if isinstance(shape[axis], int) else 0
    parts: list[ir.Value] = []
    for i in range(first, count):
        if context.has_dy(i):
            parts.append(context.dy(i))
        elif sizes[i] != 0 and isinstance(shape[axis], str):
            parts.append(zeros(build, context.out_shape(i), context.dy(known[0])))
        elif sizes[i] != 0 and i < known[-1]:  # zeros between parts become padding of the part before
            size = _plus(dims(parts[-1])[axis], sizes[i])
            parts[-1] = place(build, parts[-1], (*shape[:axis], size, *shape[axis + 1 :]), {axis: 0})
    joined = parts[0]
    if len(parts) > 1:
        size = 0
        for part in parts:
            size = _plus(size, dims(part)[axis])
        joined = build.op("Concat", *parts, axis=axis, shape=(*shape[:axis], size, *shape[axis + 1 :]))
    return {0: place(build, joined, shape, {axis: sum(d for d in sizes[:first] if isinstance(d, int))})}
