"""Lookups and their inverses: Gather, GatherElements, GatherND, Compress, ScatterElements, ScatterND."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...model.dims import Dims, dims, dims_or_none, product
from .registry import BackwardContext, Gradients, NodeView, rule
from .scatter import REDUCTIONS_SINCE, scatter_elements, scatter_rows, wrap
from .slicing import place, unslice, zeros


def _too_old(view: NodeView) -> str | None:
    if view.opset >= REDUCTIONS_SINCE:
        return None
    return f"needs ScatterElements with a reduction, of opset {REDUCTIONS_SINCE}, and the graph has opset {view.opset}"


def _split_at(view: NodeView) -> tuple[Dims, Dims, Dims]:
    """A Gather's output shape in three parts: the axes before, from and after the indices."""
    rank, out = len(view.shape()), view.out_shape()
    axis = view.int("axis", 0) % rank
    end = axis + len(out) - (rank - 1)
    return out[:axis], out[axis:end], out[end:]


def _check_gather(view: NodeView) -> str | None:
    axis = view.int("axis", 0) % len(view.shape())
    if sum(isinstance(d, str) for d in view.out_shape()) > 1:
        return "has the batch in both its data and its indices"
    if not isinstance(view.shape()[axis], str):
        return None
    if not any(isinstance(d, str) for d in _split_at(view)[1]):
        return f"picks from the batch (axis {axis})"
    return _too_old(view)  # as many elements of the flattened batch as it has samples: torch.export's as_strided


@rule("Gather", inputs={0}, check=_check_gather)
def gather(context: BackwardContext) -> Gradients:
    """The gradients of each row, summed over its uses."""
    build, shape = context.build, context.shape()
    axis = context.int("axis", 0) % len(shape)
    count = shape[axis]
    parts = _split_at(context)
    before, lookups, after = (product(part) for part in parts)
    picked = context.array(1)
    if 0 in context.out_shape():
        return {0: zeros(build, shape, context.dy())}
    if picked is None:
        updates = build.reshape(context.dy(), (before, lookups, after))
        rows = build.reshape(context.x(1), [lookups])
        return {0: build.reshape(scatter_rows(build, rows, updates, count), shape)}
    assert isinstance(count, int)
    picked = picked.reshape(-1).astype(np.int64) % count
    if len(set(picked.tolist())) == picked.size:
        in_place = build.reshape(context.dy(), (*parts[0], picked.size, *parts[2]))
        return {0: _unpick(context, in_place, picked, axis)}
    updates = build.reshape(context.dy(), (before, lookups, after))
    return {0: build.reshape(scatter_rows(build, picked, updates, count), shape)}


def _unpick(context: BackwardContext, value: ir.Value, picked: np.ndarray, axis: int) -> ir.Value:
    """Put rows back to where they were picked from; none was picked twice."""
    build, shape = context.build, context.shape()
    count = shape[axis]
    assert isinstance(count, int)
    strides = np.unique(np.diff(picked))
    if picked.size == 1 or strides.size == 1:
        stride = int(strides[0]) if strides.size else 1
        return unslice(build, value, shape, {axis: (int(picked[0]), stride)})
    came_from = np.full(count, picked.size)
    came_from[picked] = np.arange(picked.size)
    if picked.size < count:  # append a row of zeros for those that were not picked
        value = place(build, value, (*shape[:axis], picked.size + 1, *shape[axis + 1 :]), {axis: 0})
    return build.op("Gather", value, build.constant(came_from), axis=axis, shape=shape)


def _check_compress(view: NodeView) -> str | None:
    if view.array(1) is None:
        return "picks by a condition that is computed at run time"
    if "axis" not in view.node.attributes:
        return "picks from the flattened input (it has no axis)"
    axis = view.int("axis", 0) % len(view.shape())
    return f"picks from the batch (axis {axis})" if isinstance(view.shape()[axis], str) else None


@rule("Compress", inputs={0}, check=_check_compress)
def compress(context: BackwardContext) -> Gradients:
    """The gradient, put back to where it was picked from."""
    condition, axis = context.array(1), context.int("axis", 0) % len(context.shape())
    assert condition is not None
    picked = np.flatnonzero(condition)
    if not picked.size:
        return {0: zeros(context.build, context.shape(), context.dy())}
    return {0: _unpick(context, context.dy(), picked, axis)}


@rule("GatherElements", inputs={0}, check=_too_old)
def gather_elements(context: BackwardContext) -> Gradients:
    """The gradients of each element, summed over its uses."""
    build, shape, axis = context.build, context.shape(), context.int("axis", 0)
    base = zeros(build, shape, context.dy())
    return {0: build.op("ScatterElements", base, context.x(1), context.dy(), axis=axis, reduction="add", shape=shape)}


def _check_gather_nd(view: NodeView) -> str | None:
    indices = dims_or_none(view.x(1))
    if indices is None or isinstance(indices[-1], str):
        return f"has indices of unknown shape ({view.x(1).name!r})"
    lead = view.int("batch_dims", 0)
    groups = (view.shape()[:lead], view.shape()[lead : lead + indices[-1]], view.shape()[lead + indices[-1] :])
    if any(sum(isinstance(d, str) for d in group) > 1 for group in (*groups, indices)):
        return "has the batch in two dimensions"
    if lead or any(isinstance(d, str) for d in groups[1]):
        return _too_old(view)
    return None


@rule("GatherND", inputs={0}, check=_check_gather_nd)
def gather_nd(context: BackwardContext) -> Gradients:
    """The gradients of each slice, summed over its uses, with the indices of several axes combined into one."""
    build, shape, lead = context.build, context.shape(), context.int("batch_dims", 0)
    indices = context.x(1)
    depth = dims(indices)[-1]
    assert isinstance(depth, int)
    picked, rest = shape[lead : lead + depth], shape[lead + depth :]
    before, count, after = product(shape[:lead]), product(picked), product(rest)
    across = (*[1] * (len(dims(indices)) - 1), depth)
    strides = build.runtime_dims([product(picked[axis + 1 :]) for axis in range(depth)])
    wrapped = wrap(build, indices, build.reshape(build.runtime_dims(picked), across))
    rows = build.total(build.mul(wrapped, build.reshape(strides, across)), [-1], keepdims=False)
    lookups = product(dims(indices)[lead:-1])
    updates = build.reshape(context.dy(), (before, lookups, after))
    if lead:
        scattered = scatter_elements(build, build.reshape(rows, (before, lookups, 1)), updates, count)
    else:
        scattered = scatter_rows(build, build.reshape(rows, [lookups]), updates, count)
    return {0: build.reshape(scattered, shape)}


def _check_scatter(view: NodeView) -> str | None:
    reduction = view.string("reduction", "none")
    if reduction not in ("none", "add"):
        return f"has the reduction {reduction!r}"
    indices = view.array(1)
    if reduction == "none" and indices is not None and _repeats(view, indices):
        return "writes an element twice (its indices repeat)"
    return None


def _repeats(view: NodeView, indices: np.ndarray) -> bool:
    shape = view.shape()
    if view.node.op_type == "ScatterND":
        extents = [d if isinstance(d, int) else 1 << 40 for d in shape[: indices.shape[-1]]]
        rows = np.where(indices < 0, indices + extents, indices).reshape(-1, indices.shape[-1])
        return len(np.unique(rows, axis=0)) < len(rows)
    axis = view.int("axis", 0) % len(shape)
    extent = shape[axis]
    lines = np.sort(indices % extent if isinstance(extent, int) else indices, axis=axis)
    return bool((np.diff(lines, axis=axis) == 0).any())


@rule("ScatterElements", inputs={0, 2}, check=_check_scatter)
def scatter_elements_(context: BackwardContext) -> Gradients:
    """For the data: zero where it was replaced. For the updates: the gradient of where they were written to."""
    build, dy, axis, gradients = context.build, context.dy(), context.int("axis", 0), {}
    if context.needs_gradient(0):
        gradients[0] = dy
        if context.string("reduction", "none") == "none":
            nothing = zeros(build, context.shape(2), dy)
            gradients[0] = build.op("ScatterElements", dy, context.x(1), nothing, axis=axis, shape=context.shape())
    if context.needs_gradient(2):
        gradients[2] = build.op("GatherElements", dy, context.x(1), axis=axis, shape=context.shape(2))
    return gradients


@rule("ScatterND", inputs={0, 2}, check=_check_scatter)
def scatter_nd(context: BackwardContext) -> Gradients:
    """For the data: zero where it was replaced. For the updates: the gradient of where they were written to."""
    build, dy, gradients = context.build, context.dy(), {}
    if context.needs_gradient(0):
        gradients[0] = dy
        if context.string("reduction", "none") == "none":
            gradients[0] = build.op(
                "ScatterND", dy, context.x(1), zeros(build, context.shape(2), dy), shape=context.shape()
            )
    if context.needs_gradient(2):
        gradients[2] = build.op("GatherND", dy, context.x(1), shape=context.shape(2))
    return gradients
