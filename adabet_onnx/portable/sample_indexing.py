"""Which operators that take or put parts of a tensor do so for each sample by itself (see sample_rules.py)."""

from __future__ import annotations

from ..model.uses import input_of
from .sample_node import Parts, SampledNode, parts_of


def gather(given: SampledNode) -> Parts | None:
    """Rows of a table for each sample's indices, or the same rows of every sample."""
    if len(given.inputs) != 1:
        return None
    data = given.inputs.get(0)
    if data is None:
        return parts_of(given.inputs[1])
    return parts_of(data) if given.axis(0) != data.axis else None


def elements(given: SampledNode) -> Parts | None:
    """GatherElements and ScatterElements: the same place in all inputs, along another axis."""
    layout = given.same()
    if layout is None or len(given.inputs) != len(given.node.inputs) or given.axis(0) == layout.axis:
        return None
    return parts_of(layout)


def gather_nd(given: SampledNode) -> Parts | None:
    """The same places of every sample, or places that each sample says for itself."""
    shared = given.node.attributes.get_int("batch_dims", 0)
    if set(given.inputs) == {1}:
        return parts_of(given.inputs[1]) if given.inputs[1].axis < len(given.dims(1)) - 1 else None
    layout = given.same()
    return parts_of(layout) if layout is not None and len(given.inputs) == 2 and layout.axis < shared else None


def sliced(given: SampledNode) -> Parts | None:
    """Along other axes than the batch."""
    layout, rank = given.alone(), len(given.dims(0))
    starts = given.array(1)
    if layout is None or input_of(given.node, 1) is None:
        return None
    if input_of(given.node, 3) is None:
        if starts is None and len(given.dims(1)) != 1:
            return None
        many = given.dims(1)[0] if starts is None else starts.size
        axes = list(range(many)) if isinstance(many, int) else []
    else:
        array = given.array(3)
        if array is None:
            return None
        axes = [int(axis) % rank for axis in array.reshape(-1)]
    return parts_of(layout) if layout.axis not in axes else None


def pad(given: SampledNode) -> Parts | None:
    """Not the batch."""
    layout, rank = given.alone(), len(given.dims(0))
    pads, axes = given.array(1), given.array(3)
    if layout is None or pads is None or (axes is None and input_of(given.node, 3) is not None):
        return None
    listed = range(rank) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    about = dict(zip(listed, zip(pads[: len(listed)], pads[len(listed) :], strict=True), strict=True))
    return parts_of(layout) if not any(about.get(layout.axis, (0, 0))) else None


def one_hot(given: SampledNode) -> Parts | None:
    """An axis more, wherever it is."""
    return parts_of(given.alone())


def triangle(given: SampledNode) -> Parts | None:
    """Of matrices, of which the batch is no axis."""
    layout = given.alone()
    return parts_of(layout) if layout is not None and layout.axis < len(given.dims(0)) - 2 else None


def compress(given: SampledNode) -> Parts | None:
    """The same places of every sample: what is told to stay has no samples."""
    layout = given.alone()
    if layout is None or "axis" not in given.node.attributes:  # without one, of all elements in a row
        return None
    return parts_of(layout) if given.axis(0) != layout.axis else None


def scatter_nd(given: SampledNode) -> Parts | None:
    """Into the same places of every sample: the indices have no samples, and go over axes before theirs."""
    data, updates, indices = given.inputs.get(0), given.inputs.get(2), given.dims(1)
    if data is None or updates is None or len(given.inputs) != 2 or not indices:
        return None
    over = indices[-1]  # so many of the first axes
    if not isinstance(over, int) or data.axis < over:
        return None
    place = len(indices) - 1 + data.axis - over
    return parts_of(data) if updates.axis == place and parts_of(updates) == parts_of(data) else None
