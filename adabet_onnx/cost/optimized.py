"""The graph that ONNX Runtime makes of a graph before it runs it: folded, fused, convolutions in blocks of channels.

Its nodes stand in the order in which they run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from .. import runtime
from ..files import temporary_folder
from ..model.dims import count, dims_or_none
from ..model.uses import input_of
from ..portable.order import execution_order
from ..training import ort
from .pieces import by_pieces, cut

Shape = tuple[int, ...]
_TOKEN = "reorder_token"  # how ONNX Runtime names values in blocks of channels
_BLOCK = 16  # channels (8 without AVX-512)


def optimized(model: ir.Model, options: Any) -> ir.Model:
    """What ONNX Runtime would run.

    Args:
        model: a graph as it stands in a file.
        options: the session's, which get the file's name.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
        RuntimeMissingError: it is not installed.
    """
    proto = ir.to_proto(model)
    proto.ir_version = min(proto.ir_version, ort.IR_VERSION)
    made = _run(proto, options)
    found = ir.from_proto(made)
    if [node.output for node in made.graph.node] == [node.output for node in proto.graph.node]:
        # Where there was nothing to do, ONNX Runtime writes the file as it was, and not in the order of a run.
        order = execution_order(list(found.graph))
        found.graph.remove(order)
        found.graph.extend(order)
    return found


def optimized_step(model: ir.Model, options: Callable[[], Any]) -> ir.Model:
    """The same of a step, a long one by pieces (see `pieces`).

    Args:
        model: a graph as it stands in a file.
        options: makes those of a session.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
        RuntimeMissingError: it is not installed.
    """
    if not cut(model):
        return optimized(model, options())

    def optimize(piece: onnx.ModelProto) -> onnx.ModelProto:
        piece.ir_version = min(piece.ir_version, ort.IR_VERSION)
        return _run(piece, options())

    return by_pieces(model, optimize)


def _run(proto: onnx.ModelProto, options: Any) -> onnx.ModelProto:
    with temporary_folder() as folder:
        path = folder / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        runtime.inference_session(proto.SerializeToString(), "the graph of a step", options)
        return onnx.load(path)


class Sizes:
    """Shapes and bytes of an optimized graph's values at a batch size.

    Args:
        graph: as ONNX Runtime wrote it.
        known: values of the graph it was made from, whose shapes fill gaps.
        batch: number of samples.
    """

    def __init__(self, graph: ir.Graph, known: Mapping[str, ir.Value], batch: int) -> None:
        self._shapes: dict[ir.Value, Shape] = {}
        self._items: dict[ir.Value, int] = {}
        self.unresolved: set[ir.Value] = set()  # whose shape ONNX Runtime does not know before a run
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
        """The shape, None where it is unknown."""
        return None if value is None else self._shapes.get(value)

    def size(self, value: ir.Value) -> int:
        """Bytes, 0 where they are unknown."""
        shape = self._shapes.get(value)
        return 0 if shape is None else math.prod(shape) * self._items[value]

    def _take(self, value: ir.Value, source: ir.Value | None, batch: int) -> bool:
        if source is None:
            return False
        found = dims_or_none(source)
        if found is None or source.dtype is None:
            return False
        try:
            self._shapes[value] = tuple(count((extent,), batch) for extent in found)
        except ValueError:  # a symbol that is not the batch's
            return False
        self._items[value] = max(1, round(source.dtype.itemsize))
        return True

    def _infer(self, node: ir.Node, value: ir.Value) -> None:
        """What ONNX Runtime leaves open: what works on blocks of channels, masks, and gradients of weights."""
        given = [self.shape(v) for v in node.inputs]
        first = next((shape for shape in given if shape is not None), None)
        gradient_of = self._named.get((value.name or "").removesuffix("_grad"))
        found: Shape | None = None
        if node.op_type in _TRUTHS or node.op_type in _ELEMENTWISE or node.op_type == "Cast":
            found = _broadcast([shape for shape in given if shape is not None])
        elif node.op_type in _SHAPED_LIKE:
            of = _SHAPED_LIKE[node.op_type].get(list(node.outputs).index(value))
            found = given[of] if of is not None and of < len(given) else None
        elif node.op_type in ("Gemm", "MatMul", "FusedMatMul"):
            found = _product(node, given)
        elif node.op_type == "Split" and first is not None:
            found = _part(node, list(node.outputs).index(value), first)
        elif node.op_type == "Squeeze" and first is not None:
            found = _squeezed(node, first)
        elif gradient_of is not None:
            found = self.shape(gradient_of)
        elif first is not None and len(first) > 2:
            found = _of_blocks(node, first, given)
        if found is not None:
            self._shapes[value] = found
            self._items[value] = _item(node)


_TRUTHS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor", "IsNaN"})
_ELEMENTWISE = frozenset(
    {"Add", "Sum", "Mul", "Sub", "Div", "Pow", "Neg", "Sqrt", "Exp", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu"}
    | {"HardSigmoid", "Scale", "Where", "ReluGrad", "GeluGrad", "Gelu", "SoftmaxGrad_13", "Identity", "Unsqueeze"}
)
# Of onnxruntime-training's gradients: by output, the input whose shape it has.
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
    """Numbers that are an input or, in older opsets, an attribute."""
    value = input_of(node, position)
    if value is None:
        return list(node.attributes[attribute].as_ints()) if attribute in node.attributes else None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]


def _part(node: ir.Node, index: int, whole: Shape) -> Shape:
    """An output of a Split."""
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
    """Of the operators that work on blocks of channels."""
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
