"""Taking tensors apart and putting them together: Concat, Split, Slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...model.dims import Dim, Dims, dims, dims_or_none, multiple, product, times
from ...model.shapes import BATCH
from ..builder import Builder
from .registry import Gradients, Look, Step, rule

_FIRST = np.iinfo(np.int64).min


def zeros(build: Builder, shape: Sequence[Dim], like: ir.Value) -> ir.Value:
    """Zeros of another value's dtype. (Expand and not ConstantOfShape, which WebGPU lacks.)"""
    assert like.dtype is not None
    return build.expand(build.constant(np.zeros([1] * len(shape), like.dtype.numpy())), shape)


def place(build: Builder, value: ir.Value, shape: Dims, starts: Mapping[int, int]) -> ir.Value:
    """Zeros of this shape with the value at these starts along the given axes; it fills the others."""
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
    """Zeros of this shape with the value's elements where a slice took them.

    Args:
        build: makes the nodes.
        value: the gradient of the slice.
        shape: of what was sliced.
        cuts: per axis, where the slice begins and its step.
    """
    turned = [axis for axis, (_, step) in cuts.items() if step < 0]
    if turned:
        k = len(turned)
        starts, ends, steps = (build.ints(*[number] * k) for number in (-1, _FIRST, -1))
        value = build.op("Slice", value, starts, ends, build.ints(*turned), steps, shape=dims(value))
    offsets = {}
    larger = list(shape)  # with room for whole steps
    for axis in sorted(cuts, reverse=True):  # the innermost first, while there is least to move
        (start, step), count, total = cuts[axis], dims(value)[axis], shape[axis]
        if isinstance(count, str) or isinstance(total, str):
            continue  # all of the batch
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
    """Each element along an axis becomes ``step`` elements: itself after ``lead`` zeros, and zeros after it."""
    shape = dims(value)
    size = shape[axis]
    wide = [*shape[:axis], times(size, step), *shape[axis + 1 :]]
    if axis == len(shape) - 1 and value.dtype == ir.DataType.FLOAT and build.allows("ConvTranspose"):
        # One long row. Pad moves single elements 10 times slower than this (6.6 ms against 0.5, 0.6 million).
        row = build.reshape(value, [1, 1, product(shape)])
        kernel = build.constant(np.eye(1, lead + 1, lead, np.float32)[None])
        rest, long = step - 1 - lead, [1, 1, product(wide)]
        return build.reshape(
            build.op("ConvTranspose", row, kernel, strides=[step], output_padding=[rest], shape=long), wide
        )
    apart = build.reshape(value, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    apart = place(build, apart, (*shape[: axis + 1], step, *shape[axis + 1 :]), {axis + 1: lead})
    return build.reshape(apart, wide)


def _cuts(look: Look) -> dict[int, tuple[int, int]] | str:
    """Where a Slice begins and its step, per axis that it does not leave as it is; or why that is not known."""
    starts, axes, steps = (look.ints_at(position, name) for position, name in ((1, "starts"), (3, "axes"), (4, "")))
    for position, found, what in ((1, starts, "starts"), (3, axes, "axes"), (4, steps, "steps")):
        if found is None and look.has(position):
            return f"takes {what} that are not constant ({look.x(position).name!r})"
    if starts is None:
        return "has no starts"
    shape, after, rank = look.shape(), look.out_shape(), len(look.shape())
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


def _check_slice(look: Look) -> str | None:
    cuts = _cuts(look)
    return cuts if isinstance(cuts, str) else None


@rule("Slice", inputs={0}, check=_check_slice)
def slice_(step: Step) -> Gradients:
    """The gradient where the slice was taken, zeros elsewhere."""
    cuts, shape = _cuts(step), step.shape()
    assert not isinstance(cuts, str)
    if 0 in step.out_shape():
        return {0: zeros(step.build, shape, step.dy())}
    return {0: unslice(step.build, step.dy(), shape, cuts)}


@rule("Concat")
def concat(step: Step) -> Gradients:
    """Each input's part of the gradient."""
    build, axis = step.build, step.int("axis", 0) % len(step.out_shape())
    found = {}
    start: Dim = 0
    for position in range(len(step.node.inputs)):
        size = step.shape(position)[axis]
        end = _plus(start, size)
        if step.wants(position) and size == step.out_shape()[axis]:
            found[position] = step.dy()
        elif step.wants(position):
            bounds = (build.runtime_dims([bound]) for bound in (start, end))
            found[position] = build.op("Slice", step.dy(), *bounds, build.ints(axis), shape=step.shape(position))
        start = end
    return found


def _plus(a: Dim, b: Dim) -> Dim:
    """The sum of two dimensions, both numbers or both multiples of the batch (or one of them zero)."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    counts = [multiple(d) if isinstance(d, str) else 0 for d in (a, b)]
    return times(BATCH, sum(counts))


def _check_split(look: Look) -> str | None:
    for value in look.node.outputs:
        if dims_or_none(value) is None:
            return f"has an output of unknown shape ({value.name!r})"
    return None


@rule("Split", inputs={0}, outputs=None, check=_check_split)
def split(step: Step) -> Gradients:
    """The parts' gradients, joined; zeros for parts that have none."""
    build, shape, count = step.build, step.shape(), len(step.node.outputs)
    axis = step.int("axis", 0) % len(shape)
    sizes = [step.out_shape(i)[axis] for i in range(count)]
    known = [i for i in range(count) if step.has_dy(i)]
    first = known[0] if isinstance(shape[axis], int) else 0
    parts: list[ir.Value] = []
    for i in range(first, count):
        if step.has_dy(i):
            parts.append(step.dy(i))
        elif sizes[i] != 0 and isinstance(shape[axis], str):
            parts.append(zeros(build, step.out_shape(i), step.dy(known[0])))
        elif sizes[i] != 0 and i < known[-1]:  # zeros between parts come as padding of the part before
            size = _plus(dims(parts[-1])[axis], sizes[i])
            parts[-1] = place(build, parts[-1], (*shape[:axis], size, *shape[axis + 1 :]), {axis: 0})
    joined = parts[0]
    if len(parts) > 1:
        size = 0
        for part in parts:
            size = _plus(size, dims(part)[axis])
        joined = build.op("Concat", *parts, axis=axis, shape=(*shape[:axis], size, *shape[axis + 1 :]))
    return {0: place(build, joined, shape, {axis: sum(d for d in sizes[:first] if isinstance(d, int))})}
