"""How nodes of opsets 18 to 21 are written in opset 17: inputs as attributes, new operators by older ones."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..model.dims import dims, dims_or_none, product
from .opset_edits import Edit, EditedNode, EditRule, constant, has, ints, numbers

_SCALE_BY_CHANNEL = 21  # from this opset on, GroupNormalization's scale is per channel, before per group
_GRID_MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}


def _reduction(node: ir.Node, opset: int) -> Edit | str | None:
    """Axes become an attribute; without axes all are reduced, or none if the attribute says so."""
    axes: list[int] | None = []
    if has(node, 1):
        axes = numbers(node, 1)
        if axes is None:
            return "takes axes that are not constant"
    nothing = not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1

    def edit(edited: EditedNode) -> None:
        if nothing:
            edited.become("Identity", edited.x())
            return
        edited.without("noop_with_empty_axes")
        edited.cut(1)
        if axes:
            edited.set("axes", axes)

    if nothing and node.op_type not in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"):
        return "is elementwise, since it has no axes"
    return edit


def _split(node: ir.Node, opset: int) -> Edit | str | None:
    """Without num_outputs; with the sizes of the parts if they differ."""
    if "num_outputs" not in node.attributes:
        return None
    count, x = len(node.outputs), node.inputs[0]
    shape = dims_or_none(x) if x is not None else None
    if shape is None:
        return "splits a value of unknown shape"
    axis = node.attributes.get_int("axis", 0) % len(shape)
    total = shape[axis]
    if isinstance(total, str):
        first, *others = [dims_or_none(value) for value in node.outputs]
        if first is None or any(other != first for other in others):
            return "splits the batch"
        return lambda edited: edited.without("num_outputs")
    size = -(-total // count)
    sizes = [max(0, min(size, total - i * size)) for i in range(count)]

    def edit(edited: EditedNode) -> None:
        edited.without("num_outputs")
        if len(set(sizes)) > 1:
            edited.put(1, edited.build.ints(*sizes))

    return edit


def _pad(node: ir.Node, opset: int) -> Edit | str | None:
    """Pads for all axes."""
    if node.attributes.get_string("mode", "constant") == "wrap":
        return "has the mode 'wrap'"
    if not has(node, 3):
        return None
    x, pads, axes = node.inputs[0], numbers(node, 1), numbers(node, 3)
    if pads is None or axes is None or x is None or x.shape is None:
        return "takes axes or pads that are not constant, or a value of unknown rank"
    rank, count = len(x.shape), len(axes)
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis % rank], full[rank + axis % rank] = pads[i], pads[count + i]

    def edit(edited: EditedNode) -> None:
        edited.cut(3)
        edited.put(1, edited.build.ints(*full))

    return edit


def _resize(node: ir.Node, opset: int) -> Edit | str | None:
    """Without antialiasing and aspect ratio policy; scales or sizes for all axes."""
    if node.attributes.get_int("antialias", 0):
        return "has the attribute 'antialias'"
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "has the attribute 'keep_aspect_ratio_policy'"
    coordinates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if coordinates == "half_pixel_symmetric":
        return f"has the coordinates {coordinates!r}"
    axes, x = ints(node, "axes"), node.inputs[0]
    if axes is None:
        return lambda edited: edited.without("antialias", "keep_aspect_ratio_policy")
    shape = dims_or_none(x) if x is not None else None
    if shape is None or coordinates == "tf_crop_and_resize":
        return "has the attribute 'axes'"
    places = [axis % len(shape) for axis in axes]
    position = 2 if has(node, 2) else 3
    given = constant(node, position)
    kept = [d for i, d in enumerate(shape) if i not in places]
    if given is None or (position == 3 and not all(isinstance(d, int) for d in kept)):
        return "has the attribute 'axes', and scales or sizes that are not constant"
    full = np.array([1 if position == 2 or isinstance(d, str) else d for d in shape], given.dtype)
    full[places] = given

    def edit(edited: EditedNode) -> None:
        edited.without("antialias", "keep_aspect_ratio_policy", "axes")
        edited.put(position, edited.build.constant(full))

    return edit


def _pool(node: ir.Node, opset: int) -> Edit | str | None:
    """Without dilations."""
    if any(d != 1 for d in ints(node, "dilations") or []):
        return "is dilated"
    if node.attributes.get_int("ceil_mode", 0):
        if node.op_type == "LpPool":
            return "has the attribute 'ceil_mode'"
        if node.attributes.get_int("count_include_pad", 0):
            return "counts the padding in the windows that 'ceil_mode' adds, which differs before opset 19"
    return lambda edited: edited.without("dilations", *(["ceil_mode"] if node.op_type == "LpPool" else []))


def _cast(node: ir.Node, opset: int) -> Edit | None:
    """Without saturate, which only affects 8-bit floats."""
    return (lambda edited: edited.without("saturate")) if "saturate" in node.attributes else None


def _scatter(node: ir.Node, opset: int) -> str | None:
    reduction = node.attributes.get_string("reduction", "none")
    return f"has the reduction {reduction!r}" if reduction in ("max", "min") else None


def _grid_sample(node: ir.Node, opset: int) -> Edit | str | None:
    """With the older names of the modes; three spatial axes are not supported."""
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 4:
        return "samples a value that is not (or not known to be) of two spatial axes"
    mode = node.attributes.get_string("mode", "linear")
    return lambda edited: edited.set("mode", _GRID_MODES.get(mode or "", mode))


def _needs_shape(node: ir.Node) -> str | None:
    x = node.inputs[0]
    unknown = x is None or x.dtype is None or dims_or_none(x) is None
    return "has an input of unknown shape" if unknown else None


def _gelu(node: ir.Node, opset: int) -> Edit | str | None:
    """x times its cumulative normal distribution, or the formula with tanh; (1 + tanh u) / 2 is sigmoid(2 u)."""
    reason = _needs_shape(node)
    if reason is not None:
        return reason
    by_tanh = node.attributes.get_string("approximate", "none") == "tanh"

    def edit(edited: EditedNode) -> None:
        build, x = edited.build, edited.x()
        assert x.dtype is not None
        if by_tanh:
            c = 2 * math.sqrt(2 / math.pi)
            slope = build.add(build.scale(build.mul(x, x), 0.044715 * c), build.scalar(c, like=x))
            edited.become("Mul", x, build.op("Sigmoid", build.mul(x, slope)))
            return
        # The form that exporters write, with numbers of rank 0, which ONNX Runtime fuses into one node again.
        root, one, half = (build.constant(np.array(n, x.dtype.numpy())) for n in (math.sqrt(2), 1, 0.5))
        part = build.op("Erf", build.div(x, root))
        edited.become("Mul", build.mul(x, build.add(part, one)), half)

    return edit


def _mish(node: ir.Node, opset: int) -> Edit | str | None:
    """x tanh(softplus(x))."""
    reason = _needs_shape(node)
    return reason or (
        lambda edited: edited.become(
            "Mul", edited.x(), edited.build.op("Tanh", edited.build.op("Softplus", edited.x()))
        )
    )


def _group_normalization(node: ir.Node, opset: int) -> Edit | str | None:
    """Groups become the channels of an InstanceNormalization."""
    reason = _needs_shape(node)
    if reason is not None:
        return reason
    x = node.inputs[0]
    assert x is not None
    batch, channels, *rest = dims(x)
    groups = node.attributes.get_int("num_groups", 0)
    if not groups or not isinstance(channels, int) or any(isinstance(d, str) for d in rest):
        return "normalises groups of unknown size"
    epsilon = node.attributes.get_float("epsilon", 1e-5)

    def edit(edited: EditedNode) -> None:
        build, x = edited.build, edited.x()
        assert x.dtype is not None
        grouped = build.reshape(x, [batch, groups, product([channels // groups, *rest])])
        target = build.ints(*(d if isinstance(d, int) else -1 for d in dims(x)))
        if opset < _SCALE_BY_CHANNEL:
            normal = build.op("InstanceNormalization", grouped, edited.x(1), edited.x(2), epsilon=epsilon)
            edited.become("Reshape", normal, target)
            return
        one, zero = (build.constant(np.full(groups, number, x.dtype.numpy())) for number in (1, 0))
        normal = build.op("InstanceNormalization", grouped, one, zero, epsilon=epsilon)
        normal = build.op("Reshape", normal, target, shape=dims(x))
        across = [1, channels, *[1] * len(rest)]
        scale, bias = (build.op("Reshape", edited.x(i), build.ints(*across), shape=across) for i in (1, 2))
        edited.become("Add", build.mul(normal, scale), bias)

    return edit


_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    "ReduceSumSquare",
)
DOWNWARD: dict[str, EditRule] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "AveragePool": _pool,
    "Cast": _cast,
    "CastLike": _cast,
    "Gelu": _gelu,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_normalization,
    "LpPool": _pool,
    "Mish": _mish,
    "Pad": _pad,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Split": _split,
}
