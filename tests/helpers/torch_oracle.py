"""Independent oracle for the tests: runs an ONNX graph in PyTorch, so that torch autograd gives gradients.

Every floating-point tensor of the graph (weights, constants, feeds, results of Cast) is held in one
compute dtype; integer and bool tensors keep theirs. BatchNormalization uses its stored statistics and
Dropout is the identity. Only the default ONNX domain is known, from opset 7 on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

Attributes = dict[str, Any]  # with "_zero" (in the compute dtype), "_outputs" (their number), "epsilon"
Inputs = list[Any]  # of Tensor, None where an optional input is left out
Op = Callable[
    [Inputs, Attributes, int], Any
]  # (inputs, attributes, opset); gives one Tensor, or a tuple with one for each output
Feeds = Mapping[str, np.ndarray]
Values = dict[str, Any]  # name -> Tensor


def _elementwise(function: Callable[..., Tensor]) -> Op:
    return lambda x, a, v: function(*x)


def _softmax(function: Callable[..., Tensor]) -> Op:
    def apply(x: Inputs, a: Attributes, opset: int) -> Any:
        if opset >= 13:
            return function(x[0], a.get("axis", -1))
        return function(_flatten(x[0], a.get("axis", 1)), 1).reshape(x[0].shape)

    return apply


def _reduction(function: Callable[..., Tensor]) -> Op:
    def apply(x: Inputs, a: Attributes, opset: int) -> Any:
        axes = _ints(x, 1, a, "axes")
        if not axes and a.get("noop_with_empty_axes", 0):
            return x[0]
        return function(x[0], axes or list(range(x[0].dim())), bool(a.get("keepdims", 1)))

    return apply


def _input(x: Inputs, index: int, default: Any = None) -> Any:
    return x[index] if index < len(x) and x[index] is not None else default


def _ints(x: Inputs, index: int, a: Attributes, name: str) -> Any:
    """The integers that an op takes as input `index` or, in older opsets, as attribute `name`; or None."""
    given = _input(x, index)
    return a.get(name) if given is None else given.reshape(-1).tolist()


def _flatten(x: Tensor, axis: int) -> Tensor:
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _channels(v: Tensor, like: Tensor) -> Tensor:
    return v.reshape(-1, *[1] * (like.dim() - 2))


OPS: dict[str, Op] = {
    "Cast": lambda x, a, v: x[0].to(a["to"]),
    "Concat": lambda x, a, v: torch.cat(x, a["axis"]),
    "ConstantOfShape": lambda x, a, v: a["value" if "value" in a else "_zero"].view(()).expand(x[0].tolist()),
    "Div": _elementwise(lambda x, y: x / y if x.is_floating_point() else x.div(y, rounding_mode="trunc")),
    "Dropout": lambda x, a, v: (x[0], torch.ones_like(x[0], dtype=torch.bool)),
    "Equal": _elementwise(torch.eq),
    "Expand": lambda x, a, v: x[0].expand(np.broadcast_shapes(x[0].shape, tuple(x[1].tolist()))),
    "Flatten": lambda x, a, v: _flatten(x[0], a.get("axis", 1)),
    "Gelu": lambda x, a, v: F.gelu(x[0], approximate=a.get("approximate", "none")),
    "GlobalAveragePool": _elementwise(lambda x: x.mean(list(range(2, x.dim())), keepdim=True)),
    "GlobalLpPool": lambda x, a, v: _lp_pool(x, {**a, "kernel_shape": x[0].shape[2:]}, v),
    "GlobalMaxPool": lambda x, a, v: OPS["MaxPool"](x, {"kernel_shape": x[0].shape[2:]}, v),
    "HardSigmoid": lambda x, a, v: torch.clip(a.get("alpha", 0.2) * x[0] + a.get("beta", 0.5), 0, 1),
    "HardSwish": _elementwise(F.hardswish),
    "Identity": _elementwise(lambda x: x),
    "InstanceNormalization": lambda x, a, v: F.group_norm(x[0], len(x[1]), x[1], x[2], a["epsilon"]),
    "LayerNormalization": lambda x, a, v: F.layer_norm(
        x[0], x[0].shape[a.get("axis", -1) :], x[1], _input(x, 2), a["epsilon"]
    ),
    "LeakyRelu": lambda x, a, v: F.leaky_relu(x[0], a.get("alpha", 0.01)),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Mod": _elementwise(torch.fmod),  # with fmod = 1
    "Max": _elementwise(lambda *x: reduce(torch.maximum, x)),
    "MaxPool": lambda x, a, v: _windows(x[0], a, -math.inf, -math.inf).max(-1).values,  # no Indices
    "Min": _elementwise(lambda *x: reduce(torch.minimum, x)),
    "Pow": _elementwise(lambda x, y: torch.pow(x, y).to(x.dtype)),
    "PRelu": _elementwise(lambda x, slope: torch.where(x > 0, x, slope * x)),
    "Range": _elementwise(lambda a, b, step: torch.arange(a.item(), b.item(), step.item(), dtype=a.dtype)),
    "ReduceL2": _reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype)),
    "Shape": lambda x, a, v: torch.tensor(list(x[0].shape)[a.get("start", 0) : a.get("end")]).long(),
    "Softmax": _softmax(torch.softmax),
    "Squeeze": lambda x, a, v: x[0].squeeze(tuple(_ints(x, 1, a, "axes") or range(x[0].dim()))),
    "Sum": _elementwise(lambda *x: reduce(torch.add, x)),
    "Tanh": _elementwise(torch.tanh),
    "Transpose": lambda x, a, v: x[0].permute(a.get("perm", list(range(x[0].dim()))[::-1])),
    "Where": _elementwise(torch.where),
}


def _clip(x: Inputs, a: Attributes, opset: int) -> Any:
    low, high = _input(x, 1, a.get("min")), _input(x, 2, a.get("max"))
    y = x[0] if low is None else torch.clip(x[0], min=low)
    return y if high is None else torch.clip(y, max=high)


def _gemm(x: Inputs, a: Attributes, opset: int) -> Any:
    left, right = x[0].T if a.get("transA", 0) else x[0], x[1].T if a.get("transB", 0) else x[1]
    return a.get("alpha", 1.0) * (left @ right) + a.get("beta", 1.0) * _input(x, 2, 0.0)


def _pad(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad (or crop, where negative) the last `len(pads)` axes by (before, after) elements."""
    flat = [n for pair in reversed(pads) for n in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _share(total: int, upper: bool) -> tuple[int, int]:
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def _geometry(x: Tensor, kernel: Sequence[int], a: Attributes) -> tuple[Any, Any, Any, Any]:
    """Strides, dilations, dilated kernel sizes and paddings of a convolution or pool over x (N, C, ...)."""
    n, auto = len(kernel), a.get("auto_pad", "NOTSET")
    strides, dilations = a.get("strides", [1] * n), a.get("dilations", [1] * n)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    flat = a.get("pads", [0] * 2 * n) if auto == "NOTSET" else [0] * 2 * n
    pads = list(zip(flat[:n], flat[n:], strict=True))
    if auto.startswith("SAME"):
        totals = [(-(-i // s) - 1) * s + w - i for i, s, w in zip(x.shape[2:], strides, spans, strict=True)]
        pads = [_share(max(total, 0), auto == "SAME_UPPER") for total in totals]
    return strides, dilations, spans, pads


def _conv(x: Inputs, a: Attributes, opset: int) -> Any:
    strides, dilations, _, pads = _geometry(x[0], x[1].shape[2:], a)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[x[0].dim() - 3]
    data = _pad(x[0], pads).contiguous()  # torch 2 crashes in the gradient of a depthwise one over turned float64 data
    return convolve(data, x[1], _input(x, 2), strides, 0, dilations, a.get("group", 1))


def _conv_transpose(x: Inputs, a: Attributes, opset: int) -> Any:
    auto, shape = a.get("auto_pad", "NOTSET"), a.get("output_shape")
    explicit = a if auto == "NOTSET" else {**a, "auto_pad": "VALID"}
    strides, dilations, _, pads = _geometry(x[0], x[1].shape[2:], explicit)
    transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x[0].dim() - 3]
    y = transpose(x[0], x[1], None, strides, 0, 0, a.get("group", 1), dilations)
    extra = a.get("output_padding", [0] * len(strides))
    if shape is None and auto.startswith("SAME"):
        shape = [i * s for i, s in zip(x[0].shape[2:], strides, strict=True)]
    if shape is not None:
        totals = [i + e - o for i, e, o in zip(y.shape[2:], extra, shape[-len(extra) :], strict=True)]
        pads = [_share(total, auto == "SAME_UPPER") for total in totals]
    y = _pad(y, [(-before, e - after) for (before, after), e in zip(pads, extra, strict=True)])
    return y if _input(x, 2) is None else y + _channels(x[2], y)


def _windows(x: Tensor, a: Attributes, value: float, ceil_value: float) -> Tensor:
    """Pooling windows (N, C, out..., elements), padded with `value`, and `ceil_value` past the padding."""
    strides, dilations, spans, pads = _geometry(x, a["kernel_shape"], a)
    ceil = bool(a.get("ceil_mode", 0))
    counts, extra = [], []
    for size, stride, span, (before, after) in zip(x.shape[2:], strides, spans, pads, strict=True):
        room = size + before + after - span
        count = (-(-room // stride) if ceil else room // stride) + 1
        count -= ceil and (count - 1) * stride >= size + before  # no window starts in the padding after
        counts.append(count)
        extra.append((0, max((count - 1) * stride - room, 0)))
    x = _pad(_pad(x, pads, value), extra, ceil_value)
    for i, count in enumerate(counts):
        x = x.unfold(i + 2, spans[i], strides[i])[..., :: dilations[i]].narrow(i + 2, 0, count)
    return x.flatten(-len(spans))


def _average_pool(x: Inputs, a: Attributes, opset: int) -> Any:
    counted = _windows(torch.ones_like(x[0][:1, :1]), a, float(a.get("count_include_pad", 0)), 0.0)
    return _windows(x[0], a, 0.0, 0.0).sum(-1) / counted.sum(-1)


def _batch_normalization(x: Inputs, a: Attributes, opset: int) -> Any:
    if a.get("training_mode", 0):
        scale, bias, across = x[1], x[2], [i for i in range(x[0].dim()) if i != 1]
        y = F.batch_norm(x[0], None, None, scale, bias, training=True, eps=a["epsilon"])
        kept = a.get("momentum", 0.9)
        found = x[0].mean(across), x[0].var(across, unbiased=False)
        return y, *(old * kept + new * (1 - kept) for old, new in zip(x[3:5], found, strict=True))
    scale, bias, mean, var = (_channels(v, x[0]) for v in x[1:5])
    return (x[0] - mean) / torch.sqrt(var + a["epsilon"]) * scale + bias, x[3], x[4]


def _group_normalization(x: Inputs, a: Attributes, opset: int) -> Any:
    groups, channels = a["num_groups"], x[0].shape[1]
    scale, bias = (v if opset >= 21 else v.repeat_interleave(channels // groups) for v in x[1:3])
    return F.group_norm(x[0], groups, scale, bias, a["epsilon"])


def _mean_variance_normalization(x: Inputs, a: Attributes, opset: int) -> Any:
    axes = a.get("axes", [0, 2, 3])
    return (x[0] - x[0].mean(axes, True)) / (x[0].std(axes, False, keepdim=True) + 1e-9)


def _lrn(x: Inputs, a: Attributes, opset: int) -> Any:
    size = a["size"]
    across = [((size - 1) // 2, size // 2), *[(0, 0)] * (x[0].dim() - 2)]
    squares = _pad(x[0] ** 2, across).unfold(1, size, 1).sum(-1)
    return x[0] / (a.get("bias", 1.0) + a.get("alpha", 1e-4) / size * squares) ** a.get("beta", 0.75)


def _split(x: Inputs, a: Attributes, opset: int) -> Any:
    axis, parts = a.get("axis", 0), a["_outputs"]
    size = -(-x[0].shape[axis] // parts)
    sizes = _ints(x, 1, a, "split") or [size] * (parts - 1) + [x[0].shape[axis] - size * (parts - 1)]
    return torch.split(x[0], sizes, axis)


def _slice(x: Inputs, a: Attributes, opset: int) -> Any:
    starts, ends = _ints(x, 1, a, "starts"), _ints(x, 2, a, "ends")
    axes = _ints(x, 3, a, "axes") or range(len(starts))
    steps = _ints(x, 4, a, "steps") or [1] * len(starts)
    y = x[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        y = y.index_select(axis, torch.tensor(range(y.shape[axis])[slice(start, end, step)], dtype=torch.long))
    return y


def _op_pad(x: Inputs, a: Attributes, opset: int) -> Any:
    pads, value = _ints(x, 1, a, "pads"), float(_input(x, 2, a.get("value", 0.0)))
    axes = _ints(x, 3, a, "axes") or range(x[0].dim())
    both = [(0, 0)] * x[0].dim()
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        both[axis] = (before, after)
    mode = a.get("mode", "constant")
    if mode != "constant":  # torch pads the spatial axes only
        if any(both[0] + both[1]):
            raise NotImplementedError(f"Pad with mode {mode} of axis 0 or 1")
        names = {"edge": "replicate", "reflect": "reflect", "wrap": "circular"}
        return F.pad(x[0], [n for pair in both[:1:-1] for n in pair], names[mode])
    return _pad(x[0], both, value)


def _lp_pool(x: Inputs, a: Attributes, opset: int) -> Any:
    p = a.get("p", 2)
    return _windows(x[0].abs() ** p, a, 0.0, 0.0).sum(-1) ** (1 / p)


def _resize(x: Inputs, a: Attributes, opset: int) -> Any:
    mode, way = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    scales, sizes = _ints(x, 2, a, "scales"), _ints(x, 3, a, "sizes")
    if [axis % x[0].dim() for axis in a.get("axes", [])] == list(range(2, x[0].dim())):
        scales, sizes = scales and [1, 1, *scales], sizes and [*x[0].shape[:2], *sizes]
    elif "axes" in a or (scales or [1, 1])[:2] != [1, 1] or (sizes or list(x[0].shape))[:2] != list(x[0].shape[:2]):
        raise NotImplementedError("Resize of other axes than the spatial ones")
    antialias = bool(a.get("antialias", 0))
    if bool(a.get("exclude_outside", 0)) != antialias or a.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError("Resize with exclude_outside and antialias unlike torch's, or keeping the ratio")
    how: dict[str, Any] = {"size": sizes[2:]} if sizes else {"scale_factor": scales[2:]}
    how["mode"] = {"cubic": "bicubic", "linear": ("linear", "bilinear", "trilinear")[x[0].dim() - 3]}.get(mode, mode)
    if mode == "nearest":
        near = (way, a.get("nearest_mode", "round_prefer_floor"))
        how["mode"] = {("asymmetric", "floor"): "nearest", ("half_pixel", "round_prefer_ceil"): "nearest-exact"}[near]
    elif way in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        how |= {"align_corners": way == "align_corners", "antialias": antialias}
    else:
        raise NotImplementedError(f"Resize with {way}")
    return F.interpolate(x[0], **how)


def _reshape(x: Inputs, a: Attributes, opset: int) -> Any:
    shape = [n if n or a.get("allowzero", 0) else x[0].shape[i] for i, n in enumerate(x[1].tolist())]
    return x[0].reshape(shape)


def _unsqueeze(x: Inputs, a: Attributes, opset: int) -> Any:
    axes = _ints(x, 1, a, "axes")
    rank = x[0].dim() + len(axes)
    return reduce(torch.unsqueeze, sorted(axis % rank for axis in axes), x[0])


def _gather(x: Inputs, a: Attributes, opset: int) -> Any:
    axis = a.get("axis", 0) % x[0].dim()
    index = torch.where(x[1] < 0, x[1] + x[0].shape[axis], x[1])
    shape = (*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :])
    return x[0].index_select(axis, index.reshape(-1)).reshape(shape)


def _positive(index: Tensor, extents: Any) -> Tensor:
    """Indices of which negative ones count from the end."""
    return torch.where(index < 0, index + extents, index)


def _gather_elements(x: Inputs, a: Attributes, opset: int) -> Any:
    axis = a.get("axis", 0)
    return x[0].gather(axis, _positive(x[1], x[0].shape[axis]))


def _scatter_elements(x: Inputs, a: Attributes, opset: int) -> Any:
    axis = a.get("axis", 0)
    index = _positive(x[1], x[0].shape[axis])
    if a.get("reduction", "none") == "add":
        return x[0].scatter_add(axis, index, x[2])
    return x[0].scatter(axis, index, x[2])


def _tuples(x: Inputs, lead: int) -> tuple[Tensor, ...]:
    """The index of each axis after the first `lead`, for advanced indexing; those get indices of their own."""
    depth = x[1].shape[-1]
    extents = torch.tensor(x[0].shape[lead : lead + depth])
    rows = [
        torch.arange(n).reshape([-1 if i == j else 1 for j in range(x[1].dim() - 1)])
        for i, n in enumerate(x[0].shape[:lead])
    ]
    return (*rows, *_positive(x[1], extents).unbind(-1))


def _scatter_nd(x: Inputs, a: Attributes, opset: int) -> Any:
    return x[0].index_put(_tuples(x, 0), x[2], accumulate=a.get("reduction", "none") == "add")


def _depth_to_space(x: Inputs, a: Attributes, opset: int) -> Any:
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x[0], a["blocksize"])
    n, depth, *size = x[0].shape
    last = x[0].reshape(n, a["blocksize"] ** 2, -1, *size).transpose(1, 2).reshape(n, depth, *size)
    return F.pixel_shuffle(last, a["blocksize"])


def _space_to_depth(x: Inputs, a: Attributes, opset: int) -> Any:
    n, channels = x[0].shape[:2]
    y = F.pixel_unshuffle(x[0], a["blocksize"])
    return y.reshape(n, channels, -1, *y.shape[2:]).transpose(1, 2).reshape(y.shape)


def _constant(x: Inputs, a: Attributes, opset: int) -> Any:
    (name,) = (name for name in a if name.startswith("value"))
    return a[name] if name == "value" else _tensor(np.array(a[name]), a["_zero"].dtype)


for name in ("Abs", "Add", "Erf", "Exp", "Log", "MatMul", "Mul", "Neg", "Relu", "Sigmoid", "Sqrt", "Sub"):
    OPS[name] = _elementwise(getattr(torch, name.lower()))
OPS.update(Conv=_conv, ConvTranspose=_conv_transpose, Gemm=_gemm, Clip=_clip, AveragePool=_average_pool)
OPS.update(BatchNormalization=_batch_normalization, LRN=_lrn, Split=_split, Slice=_slice, Pad=_op_pad)
OPS.update(Reshape=_reshape, Unsqueeze=_unsqueeze, Gather=_gather, Constant=_constant)
OPS.update(
    DepthToSpace=_depth_to_space,
    GatherElements=_gather_elements,
    GatherND=lambda x, a, v: x[0][_tuples(x, a.get("batch_dims", 0))],
    ScatterElements=_scatter_elements,
    ScatterND=_scatter_nd,
    SpaceToDepth=_space_to_depth,
    Tile=lambda x, a, v: x[0].tile(tuple(x[1].tolist())),
)
OPS.update(LpPool=_lp_pool, Resize=_resize)


def _cum_sum(x: Inputs, a: Attributes, opset: int) -> Any:
    axis, backwards = int(x[1]), bool(a.get("reverse", 0))
    values = x[0].flip(axis) if backwards else x[0]
    sums = values.cumsum(axis) - (values if a.get("exclusive", 0) else 0)
    return sums.flip(axis) if backwards else sums


def _top_k(x: Inputs, a: Attributes, opset: int) -> Any:
    found = torch.topk(x[0], int(x[1]), a.get("axis", -1), bool(a.get("largest", 1)), bool(a.get("sorted", 1)))
    return found.values, found.indices


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


OPS.update(
    ArgMax=lambda x, a, v: x[0].argmax(a.get("axis", 0), bool(a.get("keepdims", 1))),
    CastLike=lambda x, a, v: x[0].to(x[1].dtype),
    Celu=lambda x, a, v: F.celu(x[0], a.get("alpha", 1.0)),
    CumSum=_cum_sum,
    Elu=lambda x, a, v: F.elu(x[0], a.get("alpha", 1.0)),
    Mean=_elementwise(lambda *x: reduce(torch.add, x) / len(x)),
    Mish=_elementwise(F.mish),
    ReduceL1=_reduction(lambda x, axes, keep: torch.linalg.vector_norm(x, 1, axes, keep)),
    ReduceLogSum=_reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    ReduceLogSumExp=_reduction(torch.logsumexp),
    ReduceMax=_reduction(torch.amax),
    ReduceMin=_reduction(torch.amin),
    ReduceProd=_reduction(_product),
    ReduceSumSquare=_reduction(lambda x, axes, keep: (x * x).sum(axes, keep)),
    Selu=lambda x, a, v: a.get("gamma", 1.0507009873554805) * F.elu(x[0], a.get("alpha", 1.6732632423543772)),
    Shrink=lambda x, a, v: torch.where(
        x[0].abs() > a.get("lambd", 0.5), x[0] - a.get("bias", 0.0) * x[0].sign(), torch.zeros_like(x[0])
    ),
    Softplus=_elementwise(F.softplus),
    Softsign=_elementwise(F.softsign),
    Swish=lambda x, a, v: x[0] * torch.sigmoid(a.get("alpha", 1.0) * x[0]),
    ThresholdedRelu=lambda x, a, v: torch.where(x[0] > a.get("alpha", 1.0), x[0], torch.zeros_like(x[0])),
    TopK=_top_k,
    Trilu=lambda x, a, v: (torch.triu if a.get("upper", 1) else torch.tril)(x[0], int(_input(x, 1, 0))),
)
_SAME_NAME = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Floor", "Reciprocal", "Round")
for name in (*_SAME_NAME, "Sign", "Sin", "Sinh", "Tan"):
    OPS[name] = _elementwise(getattr(torch, name.lower()))
_LOGIC = {"Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le"}
_LOGIC |= {"And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "Not": "logical_not"}
for name, torch_name in _LOGIC.items():
    OPS[name] = _elementwise(getattr(torch, torch_name))


OPS.update(
    Einsum=lambda x, a, v: torch.einsum(a["equation"], *x),
    GroupNormalization=_group_normalization,
    LpNormalization=lambda x, a, v: F.normalize(x[0], a.get("p", 2), a.get("axis", -1)),
    MeanVarianceNormalization=_mean_variance_normalization,
)


def _tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A copy of `array`: in `dtype` if it holds floats (bfloat16 included), else in its own integer type."""
    if array.dtype.kind in "biu":
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(np.array(array, dtype=np.float64)).to(dtype)


def _attributes(node: NodeProto, dtype: torch.dtype) -> Attributes:
    found: Attributes = {"_zero": torch.zeros(1, dtype=dtype), "_outputs": len(node.output), "epsilon": 1e-5}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, TensorProto):
            value = _tensor(numpy_helper.to_array(value), dtype)
        elif attribute.name == "to":
            value = _tensor(np.empty(0, helper.tensor_dtype_to_np_dtype(value)), dtype).dtype
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def _weights(model: ModelProto, dtype: torch.dtype) -> Values:
    return {w.name: _tensor(numpy_helper.to_array(w), dtype) for w in model.graph.initializer}


def _execute(model: ModelProto, weights: Values, feeds: Feeds, dtype: torch.dtype) -> Values:
    """Every named value of the graph; a feed replaces an initializer of the same name."""
    return execute(model, {**weights, **{name: _tensor(v, dtype) for name, v in feeds.items()}}, dtype)


_TORCH_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # where torch's gates stand in ONNX's order


def _recurrent(op_type: str, x: Inputs, a: Attributes, opset: int) -> Any:
    """By torch's own kernels, except the GRU that it lacks (linear_before_reset = 0)."""
    data, w, r = x[0], x[1], x[2]
    directions, units = w.shape[0], r.shape[2]
    bias = _input(x, 3, w.new_zeros(directions, 2 * w.shape[1]))
    assert _input(x, 4) is None, "sequence_lens"
    state = _input(x, 5, data.new_zeros(directions, data.shape[1], units))
    cell = _input(x, 6, data.new_zeros(directions, data.shape[1], units))
    backward = a.get("direction") in ("reverse", b"reverse")
    data = data.flip(0) if backward else data
    if op_type == "GRU" and not a.get("linear_before_reset", 0):
        parts = [_gru(data if d == 0 else data.flip(0), w[d], r[d], bias[d], state[d]) for d in range(directions)]
        y = torch.stack([part if d == 0 else part.flip(0) for d, part in enumerate(parts)], 1)
        y, last = (y.flip(0) if backward else y), torch.stack([part[-1] for part in parts])
        return y, last
    relu = [name for name in a.get("activations", []) if name in ("Relu", b"Relu")]
    more = {"nonlinearity": "relu"} if relu else {}
    module = getattr(torch.nn, op_type)(data.shape[2], units, bidirectional=directions == 2, **more).to(data.dtype)
    given = {}
    for d, end in zip(range(directions), ("", "_reverse"), strict=False):
        for name, value in (
            ("weight_ih", w[d]),
            ("weight_hh", r[d]),
            ("bias_ih", bias[d].chunk(2)[0]),
            ("bias_hh", bias[d].chunk(2)[1]),
        ):
            gates = value.chunk(len(_TORCH_GATES[op_type]))
            given[f"{name}_l0{end}"] = torch.cat([gates[i] for i in _TORCH_GATES[op_type]])
    y, last = torch.func.functional_call(module, given, (data, (state, cell) if op_type == "LSTM" else state))
    y = y.reshape(*y.shape[:2], directions, units).transpose(1, 2)
    y = y.flip(0) if backward else y
    return (y, *last) if op_type == "LSTM" else (y, last)


def _gru(data: Tensor, w: Tensor, r: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    (wz, wr, wn), (rz, rr, rn), (bz, br, bn, cz, cr, cn) = w.chunk(3), r.chunk(3), bias.chunk(6)
    states = []
    for step in data:
        update = torch.sigmoid(step @ wz.T + state @ rz.T + bz + cz)
        reset = torch.sigmoid(step @ wr.T + state @ rr.T + br + cr)
        new = torch.tanh(step @ wn.T + (reset * state) @ rn.T + bn + cn)
        state = (1 - update) * new + update * state
        states.append(state)
    return torch.stack(states)


for name in _TORCH_GATES:
    OPS[name] = partial(_recurrent, name)


def execute(model: ModelProto, given: Values, dtype: torch.dtype = torch.float64) -> Values:
    """Every named value of the graph, from the tensors of its inputs and initializers."""
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < 7:
        raise NotImplementedError(f"opset {opset}")
    values: Values = {"": None, **given}
    for node in model.graph.node:
        _execute_node(node, values, opset, dtype)
    return values


def _execute_node(node: NodeProto, values: Values, opset: int, dtype: torch.dtype) -> None:
    """Compute a node's outputs and add them to the values."""
    if node.op_type == "If":
        branch = _attributes(node, dtype)["then_branch" if bool(values[node.input[0]]) else "else_branch"]
        inner = {w.name: _tensor(numpy_helper.to_array(w), dtype) for w in branch.initializer} | values
        for step in branch.node:
            _execute_node(step, inner, opset, dtype)
        values.update((name, inner[y.name]) for name, y in zip(node.output, branch.output, strict=True))
        return
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPS:
        raise NotImplementedError(f"{node.domain}.{node.op_type}".lstrip("."))
    results = OPS[node.op_type]([values[name] for name in node.input], _attributes(node, dtype), opset)
    results = results if isinstance(results, tuple) else (results,)
    values.update((name, y) for name, y in zip(node.output, results, strict=False) if name)


def constants(model: ModelProto, dtype: torch.dtype = torch.float64) -> dict[str, np.ndarray]:
    """Every value that follows from initializers alone."""
    values: Values = {"": None, **_weights(model, dtype)}
    for node in model.graph.node:
        if node.op_type != "If" and all(name in values for name in node.input):
            _execute_node(node, values, next(o.version for o in model.opset_import if not o.domain), dtype)
    return {name: value.numpy() for name, value in values.items() if value is not None}


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": lambda y, t: F.cross_entropy(y, t.long()),
    "mse": lambda y, t: F.mse_loss(y, t.to(y.dtype)),
    "bce-with-logits": lambda y, t: F.binary_cross_entropy_with_logits(y, t.to(y.dtype)),
    "l1": lambda y, t: F.l1_loss(y, t.to(y.dtype)),
}


def _problem(
    model: ModelProto, names: Sequence[str], loss: str, logits: str | None, dtype: torch.dtype, class_axis: int = 1
) -> tuple[list[Tensor], Callable[[Feeds, np.ndarray], Tensor]]:
    """The trainable weights as autograd leaves, and the loss as a function of (feeds, labels)."""
    weights = _weights(model, dtype)

    def evaluate(feeds: Feeds, labels: np.ndarray) -> Tensor:
        y = _execute(model, weights, feeds, dtype)[logits or model.graph.output[0].name]
        target = _tensor(np.asarray(labels), dtype)
        if loss != "cross-entropy" and y.shape != target.shape:  # would broadcast
            raise ValueError(f"labels of shape {tuple(target.shape)} for an output of {tuple(y.shape)}")
        return LOSSES[loss](y.movedim(class_axis, 1) if loss == "cross-entropy" else y, target)

    return [weights[name].requires_grad_() for name in names], evaluate


def run(model: ModelProto, feeds: Feeds, *, dtype: torch.dtype = torch.float32) -> dict[str, np.ndarray]:
    """All graph outputs by name, floats in `dtype`, for `feeds` (graph input name -> array of its shape)."""
    with torch.no_grad():
        values = _execute(model, _weights(model, dtype), feeds, dtype)
    return {output.name: values[output.name].numpy() for output in model.graph.output}


def gradients(
    model: ModelProto,
    feeds: Feeds,
    labels: np.ndarray,
    parameters: Sequence[str],
    *,
    loss: str = "cross-entropy",
    logits: str | None = None,
    dtype: torch.dtype = torch.float64,
    class_axis: int = 1,
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss, and its gradient for each named initializer, in the initializer's shape and in `dtype`.

    `logits` names the value that the loss takes (any value of the graph; the first output if None).
    Labels: integers (N,) or (N, d...) for logits (N, C) or (N, C, d...) with 'cross-entropy', which is
    the mean over them (classes may be another axis, `class_axis`); else ('mse', 'bce-with-logits', 'l1':
    means over all elements) the logits' shape.
    """
    leaves, evaluate = _problem(model, parameters, loss, logits, dtype, class_axis)
    value = evaluate(feeds, labels)
    found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return value.item(), {name: g.numpy() for name, g in zip(parameters, found, strict=True)}


def train(
    model: ModelProto,
    batches: Iterable[tuple[Feeds, np.ndarray]],
    parameters: Sequence[str],
    *,
    optimizer: str = "sgd",
    lr: float,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    loss: str = "cross-entropy",
    logits: str | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The loss before each step of torch.optim ('sgd' or 'adamw', one step a batch), and the final values.

    Each batch is (feeds, labels) as `gradients` takes them; each value has its initializer's shape, in
    `dtype`. `eps` is AdamW's; its betas are 0.9 and 0.999. The model itself is not changed.
    """
    leaves, evaluate = _problem(model, parameters, loss, logits, dtype)
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": partial(torch.optim.AdamW, eps=eps)}
    stepper, losses = kinds[optimizer](leaves, lr=lr, weight_decay=weight_decay), []
    for feeds, labels in batches:
        value = evaluate(feeds, labels)
        losses.append(value.item())
        stepper.zero_grad()
        torch.autograd.backward(value)
        stepper.step()
    return losses, {name: p.detach().numpy() for name, p in zip(parameters, leaves, strict=True)}
