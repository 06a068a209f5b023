"""Rules for operators that read or write parts of a tensor: whether they treat each sample independently."""

from __future__ import annotations

from ..model.dims import TO_THE_END
from ..model.uses import input_of
from .sample_node import Parts, SampledNode, parts_of


def gather(sampled: SampledNode) -> Parts | None:
    """Rows of a table for each sample's indices, or the same rows of every sample."""
    if len(sampled.inputs) != 1:
        return None
    data = sampled.inputs.get(0)
    if data is None:
        return parts_of(sampled.inputs[1])
    return parts_of(data) if sampled.axis(0) != data.axis else None


def elements(sampled: SampledNode) -> Parts | None:
    """GatherElements and ScatterElements: the same layout in all inputs, along another axis."""
    layout = sampled.same()
    if layout is None or len(sampled.inputs) != len(sampled.node.inputs) or sampled.axis(0) == layout.axis:
        return None
    return parts_of(layout)


def gather_nd(sampled: SampledNode) -> Parts | None:
    """The same positions of every sample, or positions given by each sample."""
    shared = sampled.node.attributes.get_int("batch_dims", 0)
    if set(sampled.inputs) == {1}:
        return parts_of(sampled.inputs[1]) if sampled.inputs[1].axis < len(sampled.dims(1)) - 1 else None
    layout = sampled.same()
    return parts_of(layout) if layout is not None and len(sampled.inputs) == 2 and layout.axis < shared else None


def sliced(sampled: SampledNode) -> Parts | None:
    """Along axes other than the batch, or all of the batch in its order."""
    layout, rank = sampled.alone(), len(sampled.dims(0))
    starts = sampled.array(1)
    if layout is None or input_of(sampled.node, 1) is None:
        return None
    if input_of(sampled.node, 3) is None:
        if starts is None and len(sampled.dims(1)) != 1:
            return None
        many = sampled.dims(1)[0] if starts is None else starts.size
        axes = list(range(many)) if isinstance(many, int) else []
    else:
        array = sampled.array(3)
        if array is None:
            return None
        axes = [int(axis) % rank for axis in array.reshape(-1)]
    return parts_of(layout) if layout.axis not in axes or _takes_all(sampled, axes.index(layout.axis)) else None


def _takes_all(sampled: SampledNode, entry: int) -> bool:
    """Whether a Slice takes everything along the axis of this entry, however long it is."""
    starts, ends, steps = sampled.array(1), sampled.array(2), sampled.array(4)
    if starts is None or ends is None or (steps is None and input_of(sampled.node, 4) is not None):
        return False
    step = 1 if steps is None else steps.reshape(-1)[entry]
    return bool(starts.reshape(-1)[entry] == 0 and ends.reshape(-1)[entry] >= TO_THE_END and step == 1)


def pad(sampled: SampledNode) -> Parts | None:
    """Any axis but the batch is padded."""
    layout, rank = sampled.alone(), len(sampled.dims(0))
    pads, axes = sampled.array(1), sampled.array(3)
    if layout is None or pads is None or (axes is None and input_of(sampled.node, 3) is not None):
        return None
    listed = range(rank) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    about = dict(zip(listed, zip(pads[: len(listed)], pads[len(listed) :], strict=True), strict=True))
    return parts_of(layout) if not any(about.get(layout.axis, (0, 0))) else None


def one_hot(sampled: SampledNode) -> Parts | None:
    """A new axis, at any position."""
    return parts_of(sampled.alone())


def triangle(sampled: SampledNode) -> Parts | None:
    """The last two axes are the matrices, so the batch must be another axis."""
    layout = sampled.alone()
    return parts_of(layout) if layout is not None and layout.axis < len(sampled.dims(0)) - 2 else None


def compress(sampled: SampledNode) -> Parts | None:
    """The same positions of every sample: the condition has no samples."""
    layout = sampled.alone()
    if (
        layout is None or "axis" not in sampled.node.attributes
    ):  # without an axis, elements of the flattened input are taken
        return None
    return parts_of(layout) if sampled.axis(0) != layout.axis else None


def scatter_nd(sampled: SampledNode) -> Parts | None:
    """Into the same positions of every sample: the indices have no samples, and address only axes before the batch."""
    data, updates, indices = sampled.inputs.get(0), sampled.inputs.get(2), sampled.dims(1)
    if data is None or updates is None or len(sampled.inputs) != 2 or not indices:
        return None
    over = indices[-1]  # the number of leading axes that the indices address
    if not isinstance(over, int) or data.axis < over:
        return None
    place = len(indices) - 1 + data.axis - over
    return parts_of(data) if updates.axis == place and parts_of(updates) == parts_of(data) else None
