"""Shapes and sizes of the values of an optimized graph at a batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from ..model.dims import count, dims_or_none
from ..model.uses import input_of

Shape = tuple[int, ...]
_TOKEN = "reorder_token"  # how ONNX Runtime names values in blocks of channels
_BLOCK = 16  # channels (8 without AVX-512)


class ValueSizes:
    """Shapes and sizes of an optimized graph's values at a batch size.

    Args:
        graph: the graph as ONNX Runtime wrote it.
        known: values of the original graph by name, whose shapes fill gaps.
        batch: number of samples.
    """

    def __init__(self, graph: ir.Graph, known: Mapping[str, ir.Value], batch: int) -> None:
        self._shapes: dict[ir.Value, Shape] = {}
        self._items: dict[ir.Value, int] = {}
        self.unresolved: set[ir.Value] = set()  # values whose shape ONNX Runtime does not know before a run
        self._named = {value.name or "": value for value in (*graph.inputs, *graph.initializers.values())}
        for value in (*graph.inputs, *graph.initializers.values()):
            self._take(value, value, batch)
        for node in graph:
            for value in node.outputs:
                if not value.name:
                    continue
                if not self._take(value, value, batch):
                    if not (value.name or "").startswith(_TOKEN):
                        self.unresolved.add(value)
                    if not self._take(value, known.get(value.name), batch):
                        self._infer(node, value)

    def shape(self, value: ir.Value | None) -> Shape | None:
        """The shape, None if it is unknown."""
        return None if value is None else self._shapes.get(value)

    def size(self, value: ir.Value) -> int:
        """The size in bytes, 0 if it is unknown."""
        shape = self._shapes.get(value)
        return 0 if shape is None else math.prod(shape) * self._items[value]

    def _take(self, value: ir.Value, source: ir.Value | None, batch: int) -> bool:
        if source is None:
            return False
        extents = dims_or_none(source)
        if extents is None or source.dtype is None:
            return False
        try:
            self._shapes[value] = tuple(count((extent,), batch) for extent in extents)
        except ValueError:  # a symbol other than the batch
            return False
        self._items[value] = max(1, round(source.dtype.itemsize))
        return True

    def _infer(self, node: ir.Node, value: ir.Value) -> None:
        """Infer shapes that ONNX Runtime leaves unknown: channel blocks, masks, and gradients of weights."""
        given = [self.shape(v) for v in node.inputs]
        first = next((shape for shape in given if shape is not None), None)
        gradient_of = self._named.get((value.name or "").removesuffix("_grad"))
        shape: Shape | None = None
        if node.op_type in _TRUTHS or node.op_type in _ELEMENTWISE or node.op_type == "Cast":
            shape = _broadcast([shape for shape in given if shape is not None])
        elif node.op_type in _SHAPED_LIKE:
            index = _SHAPED_LIKE[node.op_type].get(list(node.outputs).index(value))
            shape = given[index] if index is not None and index < len(given) else None
        elif node.op_type in ("Gemm", "MatMul", "FusedMatMul"):
            shape = _product(node, given)
        elif node.op_type == "Split" and first is not None:
            shape = _part(node, list(node.outputs).index(value), first)
        elif node.op_type == "Squeeze" and first is not None:
            shape = _squeezed(node, first)
        elif gradient_of is not None:
            shape = self.shape(gradient_of)
        elif first is not None and len(first) > 2:
            shape = _of_blocks(node, first, given)
        if shape is not None:
            self._shapes[value] = shape
            self._items[value] = _item(node)


_TRUTHS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor", "IsNaN"})
_ELEMENTWISE = frozenset(
    {"Add", "Sum", "Mul", "Sub", "Div", "Pow", "Neg", "Sqrt", "Exp", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu"}
    | {"HardSigmoid", "Scale", "Where", "ReluGrad", "GeluGrad", "Gelu", "SoftmaxGrad_13", "Identity", "Unsqueeze"}
)
# For onnxruntime-training's gradients: by output, the index of the input with the same shape.
_SHAPED_LIKE = {"ConvGrad": {0: 1, 1: 2}, "LayerNormalizationGrad": {0: 0, 1: 2, 2: 2}}


def _item(node: ir.Node) -> int:
    """Bytes of an element."""
    if node.op_type == "Cast":
        return max(1, round(ir.DataType(node.attributes["to"].as_int()).itemsize))
    return 1 if node.op_type in _TRUTHS else 4


def _broadcast(shapes: list[Shape]) -> Shape | None:
    rank = max((len(shape) for shape in shapes), default=0)
    full = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(max(extents) for extents in zip(*full, strict=True)) if shapes else None


def _product(node: ir.Node, given: list[Shape | None]) -> Shape | None:
    left, right = given[0], given[1]
    if not left or not right or len(left) < 2 or len(right) < 2:
        return None
    rows = left[-1] if _number(node, "transA") else left[-2]
    columns = right[-2] if _number(node, "transB") else right[-1]
    return (*left[:-2], rows, columns)


def _constant(node: ir.Node, position: int, attribute: str) -> list[int] | None:
    """Integers given as an input or, in older opsets, as an attribute."""
    value = input_of(node, position)
    if value is None:
        return list(node.attributes[attribute].as_ints()) if attribute in node.attributes else None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]


def _part(node: ir.Node, index: int, whole: Shape) -> Shape:
    """The shape of an output of a Split."""
    axis, count = _number(node, "axis") % len(whole), len(node.outputs)
    sizes = _constant(node, 1, "split")
    if sizes is None or len(sizes) != count:
        each = math.ceil(whole[axis] / count)
        sizes = [min(each, whole[axis] - i * each) for i in range(count)]
    return (*whole[:axis], sizes[index], *whole[axis + 1 :])


def _squeezed(node: ir.Node, whole: Shape) -> Shape:
    axes = _constant(node, 1, "axes")
    gone = {axis % len(whole) for axis in axes} if axes else {i for i, extent in enumerate(whole) if extent == 1}
    return tuple(extent for i, extent in enumerate(whole) if i not in gone)


def _of_blocks(node: ir.Node, image: Shape, given: list[Shape | None]) -> Shape | None:
    """The output shape of an operator that works on channel blocks."""
    if node.op_type == "ReorderInput":
        last = _number(node, "channels_last")
        channels, rest = (image[-1], image[1:-1]) if last else (image[1], image[2:])
        return (image[0], math.ceil(channels / _BLOCK) * _BLOCK, *rest)
    if node.op_type in ("Conv", "MaxPool", "AveragePool"):
        weight = given[1] if node.op_type == "Conv" else None
        kernel = weight[2:] if weight is not None else tuple(node.attributes["kernel_shape"].as_ints())
        channels = weight[0] if weight is not None else image[1]
        return (image[0], channels, *_extents(node, image[2:], kernel))
    if node.op_type in ("GlobalAveragePool", "GlobalMaxPool"):
        return (*image[:2], *(1 for _ in image[2:]))
    return image if node.op_type == "Concat" else None


def _extents(node: ir.Node, image: Shape, kernel: Shape) -> Shape:
    rank = len(kernel)
    strides = _numbers(node, "strides", [1] * rank)
    dilations = _numbers(node, "dilations", [1] * rank)
    pads = _numbers(node, "pads", [0] * (2 * rank))
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string().startswith("SAME"):
        return tuple(math.ceil(image[i] / strides[i]) for i in range(rank))
    room = [image[i] + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1 for i in range(rank)]
    up = _number(node, "ceil_mode")
    return tuple((math.ceil if up else math.floor)(room[i] / strides[i]) + 1 for i in range(rank))


def _number(node: ir.Node, name: str) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else 0


def _numbers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default
