"""What a graph computes for each sample by itself: where the samples lie in a value, if that can be told.

A value that depends on model inputs alone may be computed once and kept, sample by sample, only if no sample's part of
it depends on the other samples of its batch. That is told here by rules, an operator at a time, from the shapes that
`shapes.annotate` found: what no rule accepts is taken for mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
import onnx_ir as ir

from .. import runtime
from ..errors import AdabetError
from ..model.constant import is_random
from ..model.dims import Dims, count, dims_or_none, multiple
from ..model.shapes import serialised_tensor
from ..model.uses import input_of, reads, subgraphs

_SOFTMAX_OF_ONE_AXIS = 13  # before this opset it went over all axes from one on
_SIZES = (7, 11)  # two batch sizes: what is the same with both does not depend on the batch


@dataclass(frozen=True)
class Layout:
    """Where the samples lie in a value, each of which is computed from its own part of the inputs.

    Attributes:
        axis: that is the batch, or that the batch is merged into.
        before: index in the merged axis that goes before the sample's: T of (T*N, C).
        after: index that goes after it: T of (N*T, C).
    """

    axis: int
    before: int = 1
    after: int = 1


class Kind(Enum):
    """A value that has no samples."""

    CONSTANT = "depends on constants alone"
    SIZE = "depends on the batch size alone"
    TAIL = "depends on what changes in training, on several samples, or on chance"


Place = Layout | Kind
_Parts = tuple[int, int]  # before and after
_Rule = Callable[["Given"], _Parts | None]


def places(model: ir.Model, data: Collection[str]) -> dict[ir.Value, Place]:
    """The place of the samples in every value of a graph.

    Args:
        model: with shapes on its values, its nodes in order.
        data: names of the inputs that are model inputs, the batch first; every other input changes in training.
    """
    graph = model.graph
    found: dict[ir.Value, Place] = dict.fromkeys(graph.initializers.values(), Kind.CONSTANT)
    for value in graph.inputs:
        found[value] = Layout(0) if value.name in data else Kind.TAIL
    sizes = _Sizes(model, found)
    for node in graph:
        for value, place in zip(node.outputs, _placed(node, found, sizes), strict=True):
            found[value] = place
    return found


def from_size(node: ir.Node, found: Mapping[ir.Value, Place]) -> bool:
    """Whether a node gives the shape of a value with samples, which is known but for the batch."""
    value = node.inputs[0] if node.op_type in ("Shape", "Size") and node.inputs else None
    return value is not None and isinstance(found.get(value), Layout) and dims_or_none(value) is not None


def _placed(node: ir.Node, found: dict[ir.Value, Place], sizes: _Sizes) -> list[Place]:
    read = [found.get(value, Kind.TAIL) for value in reads(node) if value is not None]
    tail: list[Place] = [Kind.TAIL] * len(node.outputs)
    if Kind.TAIL in read or is_random(node):
        return tail
    if all(place is Kind.CONSTANT for place in read):
        return [Kind.CONSTANT] * len(node.outputs)
    if from_size(node, found):
        return [Kind.SIZE]
    if node.domain not in ("", "ai.onnx") or any(True for _ in subgraphs(node)):
        return tail
    if not any(isinstance(place, Layout) for place in read) and node.op_type not in _FILLING:
        grown = any(_batch_axes(dims_or_none(value)) != [] for value in node.outputs)
        return tail if grown else [Kind.SIZE] * len(node.outputs)
    rule = RULES.get(node.op_type)
    if rule is None:
        return tail
    given = Given.of(node, found, sizes)
    parts = None if given is None else rule(given)
    if parts is None:
        return tail
    made = [_in_output(value, parts, node) for value in node.outputs]
    named = [place for value, place in zip(node.outputs, made, strict=True) if value.name]
    return tail if Kind.TAIL in named else made


def _in_output(value: ir.Value, parts: _Parts, node: ir.Node) -> Place:
    extents = dims_or_none(value)
    axes = _batch_axes(extents)
    if extents is None or not axes or len(axes) != 1:
        return Kind.TAIL
    before, after = parts
    extent = extents[axes[0]]
    assert isinstance(extent, str)
    if node.op_type == "Split" and multiple(extent) % after == 0:
        before = multiple(extent) // after
    return Layout(axes[0], before, after) if multiple(extent) == before * after else Kind.TAIL


def _batch_axes(extents: Dims | None) -> list[int] | None:
    return None if extents is None else [axis for axis, d in enumerate(extents) if isinstance(d, str)]


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
    def of(cls, node: ir.Node, found: dict[ir.Value, Place], sizes: _Sizes) -> Given | None:
        """None where an input changes with the batch size in a place that is no shape."""
        inputs = {}
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            place, is_shape = found[value], position in _SHAPES.get(node.op_type, ())
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


def _parts(layout: Layout | None) -> _Parts | None:
    return None if layout is None else (layout.before, layout.after)


def _elementwise(given: Given) -> _Parts | None:
    """Broadcast from the right: the axis of the batch is the same, counted from there."""
    places = {(len(given.dims(i)) - x.axis, x.before, x.after) for i, x in given.inputs.items()}
    axes = _batch_axes(given.out())
    if len(places) != 1 or not axes or len(axes) != 1:
        return None
    from_right, before, after = places.pop()
    return (before, after) if len(given.out()) - axes[0] == from_right else None


def _images(given: Given) -> _Parts | None:
    """The batch first, and nothing else with samples."""
    layout, node = given.alone(), given.node
    if layout is None or layout.axis != 0 or node.attributes.get_int("training_mode", 0) != 0:
        return None
    if node.op_type == "MaxPool" and len(node.outputs) > 1:  # its indices count through the whole batch
        return None
    return _parts(layout)


def _sampled(given: Given) -> _Parts | None:
    layout = given.same()
    return _parts(layout) if layout is not None and layout.axis == 0 and len(given.inputs) == 2 else None


def _along(default: int) -> _Rule:
    """Along one axis, which is not the batch."""

    def rule(given: Given) -> _Parts | None:
        layout = given.alone()
        return _parts(layout) if layout is not None and given.axis(default) != layout.axis else None

    return rule


def _onward(default: int) -> _Rule:
    """Over all axes from one on, which come after the batch."""

    def rule(given: Given) -> _Parts | None:
        layout = given.alone()
        return _parts(layout) if layout is not None and layout.axis < given.axis(default) else None

    return rule


def _softmax(given: Given) -> _Parts | None:
    return (_along(-1) if given.opset >= _SOFTMAX_OF_ONE_AXIS else _onward(1))(given)


def _cumsum(given: Given) -> _Parts | None:
    layout, axis = given.alone(), given.array(1)
    if layout is None or axis is None:
        return None
    return _parts(layout) if int(axis.reshape(-1)[0]) % len(given.dims(0)) != layout.axis else None


def _reduce(given: Given) -> _Parts | None:
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


def _gemm(given: Given) -> _Parts | None:
    first = given.inputs.get(0)
    rows = 1 if given.node.attributes.get_int("transA", 0) else 0
    if first is None or first.axis != rows or 1 in given.inputs:
        return None
    added = given.inputs.get(2)
    if added is not None and (added.axis != len(given.dims(2)) - 2 or _parts(added) != _parts(first)):
        return None
    return _parts(first)


def _matmul(given: Given) -> _Parts | None:
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


def _einsum(given: Given) -> _Parts | None:
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


def _transpose(given: Given) -> _Parts | None:
    return _parts(given.alone())


def _concat(given: Given) -> _Parts | None:
    layouts, axis = given.inputs, given.axis(0)
    if len(layouts) != len(given.node.inputs) or len({layout.axis for layout in layouts.values()}) != 1:
        return None
    first = layouts[0]
    if axis != first.axis:
        return _parts(given.same())
    if len({layout.after for layout in layouts.values()}) != 1:
        return None
    return sum(layout.before for layout in layouts.values()), first.after


def _split(given: Given) -> _Parts | None:
    return _parts(given.alone())  # along the batch, each output has so many of what comes before


def _same_elements(given: Given) -> _Parts | None:
    """Elements stay in their order: so many lie before the batch's index, in whatever axes."""
    layout, out = given.alone(), given.out()
    axes = _batch_axes(out)
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


def _expand(given: Given) -> _Parts | None:
    """What has no samples is the same for all of them."""
    return _elementwise(given) if given.inputs else _filled(given)


def _filled(given: Given) -> _Parts | None:
    """The same for every sample: any layout is right."""
    axes = _batch_axes(given.out())
    if given.inputs or not axes or len(axes) != 1:
        return None
    extent = given.out()[axes[0]]
    assert isinstance(extent, str)
    return 1, multiple(extent)


def _tile(given: Given) -> _Parts | None:
    if not given.inputs:
        return _filled(given)
    layout, out = given.alone(), given.out()
    if layout is None or len(out) != len(given.dims(0)):
        return None
    have, want = given.dims(0)[layout.axis], out[layout.axis]
    if not isinstance(have, str) or not isinstance(want, str):
        return None
    return layout.before * (multiple(want) // multiple(have)), layout.after


def _gather(given: Given) -> _Parts | None:
    """Rows of a table for each sample's indices, or the same rows of every sample."""
    if len(given.inputs) != 1:
        return None
    data = given.inputs.get(0)
    if data is None:
        return _parts(given.inputs[1])
    return _parts(data) if given.axis(0) != data.axis else None


def _elements(given: Given) -> _Parts | None:
    """GatherElements and ScatterElements: the same place in all inputs, along another axis."""
    layout = given.same()
    if layout is None or len(given.inputs) != len(given.node.inputs) or given.axis(0) == layout.axis:
        return None
    return _parts(layout)


def _gather_nd(given: Given) -> _Parts | None:
    shared = given.node.attributes.get_int("batch_dims", 0)
    if set(given.inputs) == {1}:
        return _parts(given.inputs[1]) if given.inputs[1].axis < len(given.dims(1)) - 1 else None
    layout = given.same()
    return _parts(layout) if layout is not None and len(given.inputs) == 2 and layout.axis < shared else None


def _slice(given: Given) -> _Parts | None:
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


def _pad(given: Given) -> _Parts | None:
    layout, rank = given.alone(), len(given.dims(0))
    pads, axes = given.array(1), given.array(3)
    if layout is None or pads is None or (axes is None and input_of(given.node, 3) is not None):
        return None
    listed = range(rank) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    about = dict(zip(listed, zip(pads[: len(listed)], pads[len(listed) :], strict=True), strict=True))
    return _parts(layout) if not any(about.get(layout.axis, (0, 0))) else None


def _one_hot(given: Given) -> _Parts | None:
    return _parts(given.alone())


def _triangle(given: Given) -> _Parts | None:
    layout = given.alone()
    return _parts(layout) if layout is not None and layout.axis < len(given.dims(0)) - 2 else None


def _recurrent(given: Given) -> _Parts | None:
    """X with the batch first or second, and states and lengths of the same samples."""
    first = bool(given.node.attributes.get_int("layout", 0))
    axes = {0: 0 if first else 1, 4: 0, 5: 0 if first else 1, 6: 0 if first else 1}
    if 0 not in given.inputs or any(layout.axis != axes.get(i) for i, layout in given.inputs.items()):
        return None
    return (1, 1) if all(_parts(layout) == (1, 1) for layout in given.inputs.values()) else None


_RIGHT = {"QLinearMatMul": 3}  # where the right operand of a product is, if not second
# Inputs that are shapes, which may grow with the batch; whatever comes out has the shape to show for it.
_SHAPES = {"Reshape": {1}, "Expand": {1}, "Tile": {1}, "ConstantOfShape": {0}, "Resize": {3}}
_FILLING = frozenset({"Expand", "Tile", "ConstantOfShape"})
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
RULES: dict[str, _Rule] = {
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
    "OneHot": _one_hot,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
}


class _Sizes:
    """What is computed from the batch size, at two sizes.

    Args:
        model: the graph.
        found: places so far; it grows.
    """

    def __init__(self, model: ir.Model, found: dict[ir.Value, Place]) -> None:
        self._model, self._found = model, found
        self._known: dict[ir.Value, bool] = {}
        self.opset = model.opset_imports.get("") or 0

    def fixed(self, value: ir.Value) -> bool:
        """Whether a value is the same at every batch size, as the width that is taken from a shape."""
        if value not in self._known:
            try:
                first, second = (self._at(value, size) for size in _SIZES)
                self._known[value] = first.shape == second.shape and bool(np.array_equal(first, second))
            except (AdabetError, ValueError):
                self._known[value] = False
        return self._known[value]

    def _at(self, value: ir.Value, batch: int) -> np.ndarray:
        needed: dict[ir.Node, None] = {}
        given: dict[str, onnx.TensorProto] = {}
        stack = [value]
        while stack:
            current = stack.pop()
            node, name = current.producer(), current.name or ""
            if name in given or (node is not None and node in needed):
                continue
            if node is None:
                given[name] = serialised_tensor(current)
            elif from_size(node, self._found):
                given[name] = onnx.numpy_helper.from_array(_size(node, batch), name)
            else:
                needed[node] = None
                stack.extend(operand for operand in reads(node) if operand is not None)
        proto = onnx.ModelProto(ir_version=max(self._model.ir_version, 4))
        proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in self._model.opset_imports.items())
        proto.graph.name = "sizes"
        proto.graph.node.extend(ir.serde.serialize_node(node) for node in self._model.graph if node in needed)
        proto.graph.initializer.extend(given.values())
        proto.graph.output.append(onnx.ValueInfoProto(name=value.name or ""))
        session = runtime.inference_session(proto.SerializeToString(), "the sizes")
        return np.asarray(runtime.run_session(session, None, {}, "the sizes")[0])


def shown_dims(node: ir.Node) -> Dims:
    """What a Shape gives, of the axes that it is asked for."""
    value = node.inputs[0]
    extents = (dims_or_none(value) if value is not None else None) or ()
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(extents))
    return extents[start:end]


def _size(node: ir.Node, batch: int) -> np.ndarray:
    if node.op_type == "Size":
        value = node.inputs[0]
        assert value is not None
        return np.array(count(dims_or_none(value) or (), batch), np.int64)
    return np.array([count((extent,), batch) for extent in shown_dims(node)], np.int64)
