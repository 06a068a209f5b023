"""Rules for each operator: whether it treats each sample independently, and where the samples are in its output.

A rule receives a node some of whose inputs have samples, the others being constants. It returns the sizes before and
after the sample's index in the axis that is the batch; which axis that is follows from the shape. None means that
samples mix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..model.dims import multiple
from ..model.uses import input_of
from .sample_indexing import (
    compress,
    elements,
    gather,
    gather_nd,
    one_hot,
    pad,
    scatter_nd,
    sliced,
    triangle,
)
from .sample_layout import batch_axes
from .sample_node import Parts, SampledNode, SampleRule, parts_of

_SOFTMAX_OF_ONE_AXIS = 13  # before this opset, Softmax normalized over all axes from one on


def _elementwise(sampled: SampledNode) -> Parts | None:
    """Broadcast from the right: counted from there, the batch is the same axis everywhere."""
    places = {(len(sampled.dims(i)) - x.axis, x.before, x.after) for i, x in sampled.inputs.items()}
    axes = batch_axes(sampled.out())
    if len(places) != 1 or not axes or len(axes) != 1:
        return None
    from_right, before, after = places.pop()
    return (before, after) if len(sampled.out()) - axes[0] == from_right else None


def _images(sampled: SampledNode) -> Parts | None:
    """The batch is first, and only this input has samples."""
    layout, node = sampled.alone(), sampled.node
    if layout is None or layout.axis != 0 or node.attributes.get_int("training_mode", 0) != 0:
        return None
    if node.op_type == "MaxPool" and len(node.outputs) > 1:  # its indices refer to the whole flattened batch
        return None
    return parts_of(layout)


def _sampled(sampled: SampledNode) -> Parts | None:
    layout = sampled.same()
    return parts_of(layout) if layout is not None and layout.axis == 0 and len(sampled.inputs) == 2 else None


def _along(default: int) -> SampleRule:
    """Along one axis, which is not the batch."""

    def rule(sampled: SampledNode) -> Parts | None:
        layout = sampled.alone()
        return parts_of(layout) if layout is not None and sampled.axis(default) != layout.axis else None

    return rule


def _onward(default: int) -> SampleRule:
    """Over all axes from one on, which come after the batch."""

    def rule(sampled: SampledNode) -> Parts | None:
        layout = sampled.alone()
        return parts_of(layout) if layout is not None and layout.axis < sampled.axis(default) else None

    return rule


def _softmax(sampled: SampledNode) -> Parts | None:
    return (_along(-1) if sampled.opset >= _SOFTMAX_OF_ONE_AXIS else _onward(1))(sampled)


def _cumsum(sampled: SampledNode) -> Parts | None:
    layout, axis = sampled.alone(), sampled.array(1)
    if layout is None or axis is None:
        return None
    return parts_of(layout) if int(axis.reshape(-1)[0]) % len(sampled.dims(0)) != layout.axis else None


def _reduce(sampled: SampledNode) -> Parts | None:
    layout, rank = sampled.alone(), len(sampled.dims(0))
    if layout is None:
        return None
    axes: Sequence[int] | None = sampled.node.attributes.get_ints("axes", None)
    if input_of(sampled.node, 1) is not None:
        array = sampled.array(1)
        if array is None:
            return None
        axes = [int(axis) for axis in array.reshape(-1)]
    if not axes:
        return parts_of(layout) if sampled.node.attributes.get_int("noop_with_empty_axes", 0) else None
    return parts_of(layout) if layout.axis not in {axis % rank for axis in axes} else None


def _mean_variance(sampled: SampledNode) -> Parts | None:
    layout, rank = sampled.alone(), len(sampled.dims(0))
    axes = sampled.node.attributes.get_ints("axes", (0, 2, 3)) or ()
    return parts_of(layout) if layout is not None and layout.axis not in {axis % rank for axis in axes} else None


def _reversed(sampled: SampledNode) -> Parts | None:
    """Along time, which is not the batch; the lengths belong to the same samples."""
    data, lengths, node = sampled.inputs.get(0), sampled.inputs.get(1), sampled.node
    time, batch = node.attributes.get_int("time_axis", 0), node.attributes.get_int("batch_axis", 1)
    if data is None or data.axis == time:
        return None
    alike = lengths is not None and data.axis == batch and parts_of(lengths) == parts_of(data)
    return parts_of(data) if alike or (lengths is None and data.axis != batch) else None


def _gemm(sampled: SampledNode) -> Parts | None:
    first = sampled.inputs.get(0)
    rows = 1 if sampled.node.attributes.get_int("transA", 0) else 0
    if first is None or first.axis != rows or 1 in sampled.inputs:
        return None
    added = sampled.inputs.get(2)
    if added is not None and (added.axis != len(sampled.dims(2)) - 2 or parts_of(added) != parts_of(first)):
        return None
    return parts_of(first)


def _matmul(sampled: SampledNode) -> Parts | None:
    left, right = sampled.inputs.get(0), sampled.inputs.get(_RIGHT.get(sampled.node.op_type, 1))
    ranks = len(sampled.dims(0)), len(sampled.dims(_RIGHT.get(sampled.node.op_type, 1)))
    if len(sampled.inputs) != (left is not None) + (right is not None):
        return None
    if left is not None and right is not None:
        places = {(ranks[0] - left.axis, *(parts_of(left) or ())), (ranks[1] - right.axis, *(parts_of(right) or ()))}
        return parts_of(left) if len(places) == 1 and ranks[0] - left.axis > 2 else None
    if left is not None:
        return parts_of(left) if left.axis != ranks[0] - 1 else None
    assert right is not None
    return parts_of(right) if ranks[1] == 1 or right.axis != ranks[1] - 2 else None


def _einsum(sampled: SampledNode) -> Parts | None:
    equation = sampled.node.attributes.get_string("equation", "") or ""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if not arrow or "." in equation or len(names) != len(sampled.node.inputs):
        return None
    letters = {(names[i][layout.axis], layout.before, layout.after) for i, layout in sampled.inputs.items()}
    if len(letters) != 1:
        return None
    letter, before, after = letters.pop()
    plain = all(letter not in name for i, name in enumerate(names) if i not in sampled.inputs)
    once = all(names[i].count(letter) == 1 for i in sampled.inputs)
    return (before, after) if plain and once and letter in result else None


def _transpose(sampled: SampledNode) -> Parts | None:
    return parts_of(sampled.alone())


def _concat(sampled: SampledNode) -> Parts | None:
    layouts, axis = sampled.inputs, sampled.axis(0)
    if len(layouts) != len(sampled.node.inputs) or len({layout.axis for layout in layouts.values()}) != 1:
        return None
    first = layouts[0]
    if axis != first.axis:
        return parts_of(sampled.same())
    if len({layout.after for layout in layouts.values()}) != 1:
        return None
    return sum(layout.before for layout in layouts.values()), first.after


def _split(sampled: SampledNode) -> Parts | None:
    return parts_of(sampled.alone())  # along the batch, each output has a share of the size before the index


def _same_elements(sampled: SampledNode) -> Parts | None:
    """Elements keep their order, so the number of elements before the batch's index stays the same in any shape."""
    layout, out = sampled.alone(), sampled.out()
    axes = batch_axes(out)
    if layout is None or not axes or len(axes) != 1:
        return None
    outer = math.prod(d for d in sampled.dims(0)[: layout.axis] if isinstance(d, int)) * layout.before
    axis = axes[0]
    rest = math.prod(d for d in out[:axis] if isinstance(d, int))
    extent = out[axis]
    assert isinstance(extent, str)
    if rest == 0 or outer % rest or multiple(extent) % (outer // rest):
        return None
    return outer // rest, multiple(extent) // (outer // rest)


def _expand(sampled: SampledNode) -> Parts | None:
    """A value without samples is the same for all of them."""
    return _elementwise(sampled) if sampled.inputs else _filled(sampled)


def _filled(sampled: SampledNode) -> Parts | None:
    """The same for every sample, so any layout is right."""
    axes = batch_axes(sampled.out())
    if sampled.inputs or not axes or len(axes) != 1:
        return None
    extent = sampled.out()[axes[0]]
    assert isinstance(extent, str)
    return 1, multiple(extent)


def _tile(sampled: SampledNode) -> Parts | None:
    if not sampled.inputs:
        return _filled(sampled)
    layout, out = sampled.alone(), sampled.out()
    if layout is None or len(out) != len(sampled.dims(0)):
        return None
    before, after = sampled.dims(0)[layout.axis], out[layout.axis]
    if not isinstance(before, str) or not isinstance(after, str):
        return None
    return layout.before * (multiple(after) // multiple(before)), layout.after


def _recurrent(sampled: SampledNode) -> Parts | None:
    """X with the batch first or second, and states and lengths of the same samples."""
    first = bool(sampled.node.attributes.get_int("layout", 0))
    axes = {0: 0 if first else 1, 4: 0, 5: 0 if first else 1, 6: 0 if first else 1}
    if 0 not in sampled.inputs or any(layout.axis != axes.get(i) for i, layout in sampled.inputs.items()):
        return None
    return (1, 1) if all(parts_of(layout) == (1, 1) for layout in sampled.inputs.values()) else None


_RIGHT = {"QLinearMatMul": 3}  # position of the right operand of a product, if it is not 1
FILLING = frozenset({"Expand", "Tile", "ConstantOfShape"})
_ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot"),
    *("BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Div"),
    *("Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"),
    *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min"),
    *("Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round"),
    *("Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish"),
    *("Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
)
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)
_IMAGES = (
    *("AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"),
    *("GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool"),
    *("QLinearConv", "Resize", "SpaceToDepth", "Upsample"),
)
RULES: dict[str, SampleRule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_IMAGES, _images),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("LpNormalization", "TopK"), _along(-1)),
    **dict.fromkeys(("ArgMax", "ArgMin"), _along(0)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _onward(-1)),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matmul),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _same_elements),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("GatherElements", "ScatterElements"), elements),
    **dict.fromkeys(("GridSample", "MaxUnpool"), _sampled),
    "Compress": compress,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "CumSum": _cumsum,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": gather,
    "GatherND": gather_nd,
    "Gemm": _gemm,
    "MeanVarianceNormalization": _mean_variance,
    "OneHot": one_hot,
    "Pad": pad,
    "ReverseSequence": _reversed,
    "ScatterND": scatter_nd,
    "Slice": sliced,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": triangle,
}
