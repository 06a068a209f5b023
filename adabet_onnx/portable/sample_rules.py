"""For each operator, whether it computes each sample by itself, and where the samples lie in what it gives.

A rule is asked about a node of which some inputs have samples and the others are constants. It gives what goes before
and after the sample's index in the axis that is the batch; which axis that is, the shape tells. None: samples mix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..model.dims import Dims, dims_or_none, multiple
from ..model.uses import input_of
from .batch_sizes import Sizes
from .layout import Kind, Layout, Place, batch_axes

Parts = tuple[int, int]  # before and after
Rule = Callable[["Given"], Parts | None]
_SOFTMAX_OF_ONE_AXIS = 13  # before this opset it went over all axes from one on


@dataclass(frozen=True)
class Given:
    """A node whose samples are looked for.

    Attributes:
        node: the node.
        inputs: layouts of the inputs that have samples, by position.
        opset: of the graph.
    """

    node: ir.Node
    inputs: dict[int, Layout]
    opset: int

    @classmethod
    def of(cls, node: ir.Node, found: Mapping[ir.Value, Place], sizes: Sizes) -> Given | None:
        """None where an input changes with the batch size in a place that is no shape."""
        inputs = {}
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            place, is_shape = found[value], position in SHAPES.get(node.op_type, ())
            if isinstance(place, Layout):
                inputs[position] = place
            elif place is Kind.SIZE and not is_shape and not sizes.fixed(value):
                return None
        return cls(node, inputs, sizes.opset)

    def dims(self, position: int) -> Dims:
        """Shape of an input."""
        value = input_of(self.node, position)
        return (dims_or_none(value) if value is not None else None) or ()

    def out(self) -> Dims:
        """Shape of the first output."""
        return dims_or_none(self.node.outputs[0]) or ()

    def array(self, position: int) -> np.ndarray | None:
        """A constant input."""
        value = input_of(self.node, position)
        tensor = None if value is None else value.const_value
        return None if tensor is None else np.asarray(tensor.numpy())

    def axis(self, default: int, position: int = 0) -> int:
        """The node's axis, counted from the first of an input's."""
        rank = len(self.dims(position))
        return self.node.attributes.get_int("axis", default) % max(rank, 1)

    def alone(self, position: int = 0) -> Layout | None:
        """The layout of this input, where no other has samples."""
        return self.inputs.get(position) if len(self.inputs) == 1 else None

    def same(self) -> Layout | None:
        """The layout of all inputs with samples, where they have one."""
        layouts = set(self.inputs.values())
        return layouts.pop() if len(layouts) == 1 else None


def _parts(layout: Layout | None) -> Parts | None:
    return None if layout is None else (layout.before, layout.after)


def _elementwise(given: Given) -> Parts | None:
    """Broadcast from the right: the axis of the batch is the same, counted from there."""
    places = {(len(given.dims(i)) - x.axis, x.before, x.after) for i, x in given.inputs.items()}
    axes = batch_axes(given.out())
    if len(places) != 1 or not axes or len(axes) != 1:
        return None
    from_right, before, after = places.pop()
    return (before, after) if len(given.out()) - axes[0] == from_right else None


def _images(given: Given) -> Parts | None:
    """The batch first, and nothing else with samples."""
    layout, node = given.alone(), given.node
    if layout is None or layout.axis != 0 or node.attributes.get_int("training_mode", 0) != 0:
        return None
    if node.op_type == "MaxPool" and len(node.outputs) > 1:  # its indices count through the whole batch
        return None
    return _parts(layout)


def _sampled(given: Given) -> Parts | None:
    layout = given.same()
    return _parts(layout) if layout is not None and layout.axis == 0 and len(given.inputs) == 2 else None


def _along(default: int) -> Rule:
    """Along one axis, which is not the batch."""

    def rule(given: Given) -> Parts | None:
        layout = given.alone()
        return _parts(layout) if layout is not None and given.axis(default) != layout.axis else None

    return rule


def _onward(default: int) -> Rule:
    """Over all axes from one on, which come after the batch."""

    def rule(given: Given) -> Parts | None:
        layout = given.alone()
        return _parts(layout) if layout is not None and layout.axis < given.axis(default) else None

    return rule


def _softmax(given: Given) -> Parts | None:
    return (_along(-1) if given.opset >= _SOFTMAX_OF_ONE_AXIS else _onward(1))(given)


def _cumsum(given: Given) -> Parts | None:
    layout, axis = given.alone(), given.array(1)
    if layout is None or axis is None:
        return None
    return _parts(layout) if int(axis.reshape(-1)[0]) % len(given.dims(0)) != layout.axis else None


def _reduce(given: Given) -> Parts | None:
    layout, rank = given.alone(), len(given.dims(0))
    if layout is None:
        return None
    axes: Sequence[int] | None = given.node.attributes.get_ints("axes", None)
    if input_of(given.node, 1) is not None:
        array = given.array(1)
        if array is None:
            return None
        axes = [int(axis) for axis in array.reshape(-1)]
    if not axes:
        return _parts(layout) if given.node.attributes.get_int("noop_with_empty_axes", 0) else None
    return _parts(layout) if layout.axis not in {axis % rank for axis in axes} else None


def _mean_variance(given: Given) -> Parts | None:
    layout, rank = given.alone(), len(given.dims(0))
    axes = given.node.attributes.get_ints("axes", (0, 2, 3)) or ()
    return _parts(layout) if layout is not None and layout.axis not in {axis % rank for axis in axes} else None


def _reversed(given: Given) -> Parts | None:
    """Along time, which is not the batch; lengths are those of the same samples."""
    data, lengths, node = given.inputs.get(0), given.inputs.get(1), given.node
    time, batch = node.attributes.get_int("time_axis", 0), node.attributes.get_int("batch_axis", 1)
    if data is None or data.axis == time:
        return None
    alike = lengths is not None and data.axis == batch and _parts(lengths) == _parts(data)
    return _parts(data) if alike or (lengths is None and data.axis != batch) else None


def _gemm(given: Given) -> Parts | None:
    first = given.inputs.get(0)
    rows = 1 if given.node.attributes.get_int("transA", 0) else 0
    if first is None or first.axis != rows or 1 in given.inputs:
        return None
    added = given.inputs.get(2)
    if added is not None and (added.axis != len(given.dims(2)) - 2 or _parts(added) != _parts(first)):
        return None
    return _parts(first)


def _matmul(given: Given) -> Parts | None:
    left, right = given.inputs.get(0), given.inputs.get(_RIGHT.get(given.node.op_type, 1))
    ranks = len(given.dims(0)), len(given.dims(_RIGHT.get(given.node.op_type, 1)))
    if len(given.inputs) != (left is not None) + (right is not None):
        return None
    if left is not None and right is not None:
        places = {(ranks[0] - left.axis, *(_parts(left) or ())), (ranks[1] - right.axis, *(_parts(right) or ()))}
        return _parts(left) if len(places) == 1 and ranks[0] - left.axis > 2 else None
    if left is not None:
        return _parts(left) if left.axis != ranks[0] - 1 else None
    assert right is not None
    return _parts(right) if ranks[1] == 1 or right.axis != ranks[1] - 2 else None


def _einsum(given: Given) -> Parts | None:
    equation = given.node.attributes.get_string("equation", "") or ""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if not arrow or "." in equation or len(names) != len(given.node.inputs):
        return None
    letters = {(names[i][layout.axis], layout.before, layout.after) for i, layout in given.inputs.items()}
    if len(letters) != 1:
        return None
    letter, before, after = letters.pop()
    plain = all(letter not in name for i, name in enumerate(names) if i not in given.inputs)
    once = all(names[i].count(letter) == 1 for i in given.inputs)
    return (before, after) if plain and once and letter in result else None


def _transpose(given: Given) -> Parts | None:
    return _parts(given.alone())


def _concat(given: Given) -> Parts | None:
    layouts, axis = given.inputs, given.axis(0)
    if len(layouts) != len(given.node.inputs) or len({layout.axis for layout in layouts.values()}) != 1:
        return None
    first = layouts[0]
    if axis != first.axis:
        return _parts(given.same())
    if len({layout.after for layout in layouts.values()}) != 1:
        return None
    return sum(layout.before for layout in layouts.values()), first.after


def _split(given: Given) -> Parts | None:
    return _parts(given.alone())  # along the batch, each output has so many of what comes before


def _same_elements(given: Given) -> Parts | None:
    """Elements stay in their order: so many lie before the batch's index, in whatever axes."""
    layout, out = given.alone(), given.out()
    axes = batch_axes(out)
    if layout is None or not axes or len(axes) != 1:
        return None
    outer = math.prod(d for d in given.dims(0)[: layout.axis] if isinstance(d, int)) * layout.before
    axis = axes[0]
    rest = math.prod(d for d in out[:axis] if isinstance(d, int))
    extent = out[axis]
    assert isinstance(extent, str)
    if rest == 0 or outer % rest or multiple(extent) % (outer // rest):
        return None
    return outer // rest, multiple(extent) // (outer // rest)


def _expand(given: Given) -> Parts | None:
    """What has no samples is the same for all of them."""
    return _elementwise(given) if given.inputs else _filled(given)


def _filled(given: Given) -> Parts | None:
    """The same for every sample: any layout is right."""
    axes = batch_axes(given.out())
    if given.inputs or not axes or len(axes) != 1:
        return None
    extent = given.out()[axes[0]]
    assert isinstance(extent, str)
    return 1, multiple(extent)


def _tile(given: Given) -> Parts | None:
    if not given.inputs:
        return _filled(given)
    layout, out = given.alone(), given.out()
    if layout is None or len(out) != len(given.dims(0)):
        return None
    have, want = given.dims(0)[layout.axis], out[layout.axis]
    if not isinstance(have, str) or not isinstance(want, str):
        return None
    return layout.before * (multiple(want) // multiple(have)), layout.after


def _gather(given: Given) -> Parts | None:
    """Rows of a table for each sample's indices, or the same rows of every sample."""
    if len(given.inputs) != 1:
        return None
    data = given.inputs.get(0)
    if data is None:
        return _parts(given.inputs[1])
    return _parts(data) if given.axis(0) != data.axis else None


def _elements(given: Given) -> Parts | None:
    """GatherElements and ScatterElements: the same place in all inputs, along another axis."""
    layout = given.same()
    if layout is None or len(given.inputs) != len(given.node.inputs) or given.axis(0) == layout.axis:
        return None
    return _parts(layout)


def _gather_nd(given: Given) -> Parts | None:
    shared = given.node.attributes.get_int("batch_dims", 0)
    if set(given.inputs) == {1}:
        return _parts(given.inputs[1]) if given.inputs[1].axis < len(given.dims(1)) - 1 else None
    layout = given.same()
    return _parts(layout) if layout is not None and len(given.inputs) == 2 and layout.axis < shared else None


def _slice(given: Given) -> Parts | None:
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
    return _parts(layout) if layout.axis not in axes else None


def _pad(given: Given) -> Parts | None:
    layout, rank = given.alone(), len(given.dims(0))
    pads, axes = given.array(1), given.array(3)
    if layout is None or pads is None or (axes is None and input_of(given.node, 3) is not None):
        return None
    listed = range(rank) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    about = dict(zip(listed, zip(pads[: len(listed)], pads[len(listed) :], strict=True), strict=True))
    return _parts(layout) if not any(about.get(layout.axis, (0, 0))) else None


def _one_hot(given: Given) -> Parts | None:
    return _parts(given.alone())


def _triangle(given: Given) -> Parts | None:
    layout = given.alone()
    return _parts(layout) if layout is not None and layout.axis < len(given.dims(0)) - 2 else None


def _recurrent(given: Given) -> Parts | None:
    """X with the batch first or second, and states and lengths of the same samples."""
    first = bool(given.node.attributes.get_int("layout", 0))
    axes = {0: 0 if first else 1, 4: 0, 5: 0 if first else 1, 6: 0 if first else 1}
    if 0 not in given.inputs or any(layout.axis != axes.get(i) for i, layout in given.inputs.items()):
        return None
    return (1, 1) if all(_parts(layout) == (1, 1) for layout in given.inputs.values()) else None


_RIGHT = {"QLinearMatMul": 3}  # where the right operand of a product is, if not second
# Inputs that are shapes, which may grow with the batch; whatever comes out has the shape to show for it.
SHAPES = {"Reshape": {1}, "Expand": {1}, "Tile": {1}, "ConstantOfShape": {0}, "Resize": {3}}
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
RULES: dict[str, Rule] = {
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
    **dict.fromkeys(("GatherElements", "ScatterElements"), _elements),
    **dict.fromkeys(("GridSample", "MaxUnpool"), _sampled),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "CumSum": _cumsum,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MeanVarianceNormalization": _mean_variance,
    "OneHot": _one_hot,
    "Pad": _pad,
    "ReverseSequence": _reversed,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
}
