"""The same elements in another shape or order, or repeated: Reshape and its kind, Transpose, Expand, Tile."""

from __future__ import annotations

import onnx_ir as ir

from ...model.dims import Dim, dims, multiple, times
from ...model.shapes import BATCH
from .registry import Gradients, Step, rule


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", inputs={0})
def reshape(step: Step) -> Gradients:
    """The gradient in the input's shape."""
    return {0: step.build.reshape(step.dy(), step.shape())}


@rule("Transpose")
def transpose(step: Step) -> Gradients:
    """The inverse permutation."""
    rank = len(step.shape())
    perm = step.ints("perm", range(rank)[::-1]) or []
    return {0: step.build.transpose(step.dy(), [perm.index(axis) for axis in range(rank)])}


@rule("Expand", inputs={0})
def expand(step: Step) -> Gradients:
    """Sum over what was repeated."""
    return {0: step.build.sum_to(step.dy(), step.shape())}


@rule("Tile", inputs={0})
def tile(step: Step) -> Gradients:
    """Sum over the copies, which get axes of their own; how many there are is seen in the shapes."""
    split: list[Dim] = []
    copies: list[int] = []
    for before, after in zip(step.shape(), step.out_shape(), strict=True):
        if before != after:
            copies.append(len(split))
            split.append(_ratio(after, before))
        split.append(before)
    apart = step.build.reshape(step.dy(), split)
    return {0: step.build.reshape(step.build.total(apart, copies, keepdims=False), step.shape())}


def _ratio(after: Dim, before: Dim) -> Dim:
    """How many times one dimension is the other."""
    large, small = (multiple(d) if isinstance(d, str) else d for d in (after, before))
    return times(BATCH, large // small) if isinstance(after, str) and isinstance(before, int) else large // small


@rule("DepthToSpace")
def depth_to_space(step: Step) -> Gradients:
    """SpaceToDepth, and where the block came after the channels, both change places."""
    build, block = step.build, step.int("blocksize", 1)
    n, depth, height, width = step.shape()
    assert isinstance(depth, int)
    channels = depth // block**2
    columns_last = step.string("mode", "DCR") == "CRD"
    dx = _to_depth(step, step.dy(), block)
    if columns_last:
        apart = build.reshape(dx, [n, block**2, channels, height, width])
        dx = build.reshape(build.transpose(apart, [0, 2, 1, 3, 4]), step.shape())
    return {0: dx}


@rule("SpaceToDepth")
def space_to_depth(step: Step) -> Gradients:
    """DepthToSpace, in its default mode."""
    build, block = step.build, step.int("blocksize", 1)
    if build.allows("DepthToSpace"):
        return {0: build.op("DepthToSpace", step.dy(), blocksize=block, shape=step.shape())}
    n, depth, height, width = step.out_shape()
    assert isinstance(depth, int)
    apart = build.reshape(step.dy(), [n, block, block, depth // block**2, height, width])
    return {0: build.reshape(build.transpose(apart, [0, 3, 4, 1, 5, 2]), step.shape())}


def _to_depth(step: Step, value: ir.Value, block: int) -> ir.Value:
    """SpaceToDepth: as an operator (2 to 5 times as fast as moving six axes), or where there is none, by axes."""
    build = step.build
    n, channels, height, width = dims(value)
    assert isinstance(channels, int)
    assert isinstance(height, int)
    assert isinstance(width, int)
    shape = [n, channels * block**2, height // block, width // block]
    if build.allows("SpaceToDepth"):
        return build.op("SpaceToDepth", value, blocksize=block, shape=shape)
    apart = build.reshape(value, [n, channels, height // block, block, width // block, block])
    return build.reshape(build.transpose(apart, [0, 3, 5, 1, 2, 4]), shape)


@rule("ReverseSequence", inputs={0})
def reverse_sequence(step: Step) -> Gradients:
    """The same again: it undoes itself."""
    axes = {name: step.int(name, default) for name, default in (("batch_axis", 1), ("time_axis", 0))}
    return {0: step.build.op("ReverseSequence", step.dy(), step.x(1), shape=step.shape(), **axes)}
