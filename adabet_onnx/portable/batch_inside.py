"""Trained convolutions of small images as matrix products, with the channel axis first and the batch inside.

A 1x1 convolution is a product for each sample, as wide as an image. If images are small, one product for all samples is
faster, (O, C) times (C, N P), and so are those of its gradients, which then need no transposition; a depthwise
convolution is a product for each channel (`rules.conv_matrix`). Both need the channels first, and the operators between
them work either way, so values are transposed once before such a part of the graph, and once after it.

The forward part is rewritten before it is differentiated, and only after trained layers: the values kept of the frozen
part stay as in the model.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..model.dims import dims, dims_or_none, product
from ..model.shapes import BATCH
from ..model.uses import attributes_of, dependents
from .builder import Builder
from .rules.conv_geometry import Geometry, check, geometry
from .rules.conv_matrix import channels_by_matrix
from .rules.conv_strategy import by_matrix
from .rules.registry import NodeView

_OPERATORS = ("Add", "Gemm", "MatMul", "Reshape", "Transpose")
_POSITIONS = 7 * 7  # positions of an image; at 8x8 a product for each sample is as fast
_ELEMENTWISE = frozenset(
    {"Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh"}
    | {"ThresholdedRelu"}
)
_BROADCASTING = frozenset({"Add", "Div", "Max", "Min", "Mul", "Sub", "Sum"})
_TURN = [1, 0, 2, 3]


def put_batch_inside(
    model: ir.Model,
    trained: Collection[ir.Value],
    in_part: Collection[ir.Value],
    allowed: Collection[str] | None,
) -> None:
    """Rewrite the small convolutions of a graph, in place.

    Args:
        model: a graph with shapes.
        trained: values that are trained.
        in_part: those among them that are trained only in part; nodes that read one are not rewritten.
        allowed: operators that may be used; None for all.
    """
    opset = model.opset_imports[""] or 0
    build = Builder(model.graph, opset=opset, allowed=allowed)
    if all(build.allows(operator) for operator in _OPERATORS):
        _BatchInside(model.graph, build, dependents(model.graph, trained), in_part).write()


class _BatchInside:
    """Rewrites a graph in one pass; a turned value has its first two axes swapped.

    Args:
        graph: a sorted graph.
        build: makes the nodes.
        changing: values that depend on trained ones.
        in_part: see `put_batch_inside`.
    """

    def __init__(
        self, graph: ir.Graph, build: Builder, changing: Collection[ir.Value], in_part: Collection[ir.Value]
    ) -> None:
        self._graph, self._build, self._changing, self._in_part = graph, build, changing, in_part
        self._turned: dict[ir.Value, ir.Value] = {}
        self._replaced: list[ir.Node] = []

    def write(self) -> None:
        """Rewrite the graph."""
        for node in list(self._graph):
            self._build.begin(node.name or node.op_type)
            rewritten = self._rewritten(node)
            made = self._build.take()
            if made:
                self._graph.insert_before(node, made)
            if rewritten is not None:
                self._turned[node.outputs[0]] = rewritten
                self._replaced.append(node)
        removed = set(self._replaced)
        for node in self._replaced:  # other nodes read the value turned back
            value = node.outputs[0]
            if value.is_graph_output() or any(user not in removed for user, _ in value.uses()):
                self._build.begin(node.name or node.op_type)
                back = self._build.transpose(self._turned[value], _TURN)
                self._graph.insert_after(node, self._build.take())
                for user, place in list(value.uses()):
                    if user not in removed:
                        user.replace_input_with(place, back)
                value.replace_all_uses_with(back, replace_graph_outputs=True)
        self._graph.remove(self._replaced, safe=True)
        for value in self._build.initializers:
            if value.uses():
                self._graph.register_initializer(value)

    def _rewritten(self, node: ir.Node) -> ir.Value | None:
        """A node's output, turned; None if the node is not rewritten."""
        if node.domain not in ("", "ai.onnx") or not _is_small(node.outputs[0]) or len(node.outputs) > 1:
            return None
        if node.op_type == "Conv":
            return self._convolved(node)
        if node.op_type == "BatchNormalization":
            return self._normalised(node)
        if node.op_type in _ELEMENTWISE:
            first, *rest = node.inputs
            if first not in self._turned or not all(value is None or _is_number(value) for value in rest):
                return None
            return self._rebuilt(node, [self._turned[first], *rest])
        if node.op_type in _BROADCASTING and any(value in self._turned for value in node.inputs):
            return self._combined(node)
        return None

    def _combined(self, node: ir.Node) -> ir.Value | None:
        values = [value for value in node.inputs if value is not None]
        if not all(value in self._turned or _is_number(value) or self._may_turn(value) for value in values):
            return None
        return self._rebuilt(node, [value if _is_number(value) else self._turn(value) for value in values])

    def _rebuilt(self, node: ir.Node, inputs: list[ir.Value | None]) -> ir.Value:
        shape = dims(node.outputs[0])
        turned = (shape[1], shape[0], *shape[2:])
        return self._build.op(node.op_type, *inputs, shape=turned, **attributes_of(node))

    def _may_turn(self, value: ir.Value) -> bool:
        return value in self._changing and _is_small(value)

    def _turn(self, value: ir.Value) -> ir.Value:
        if value not in self._turned:
            self._turned[value] = self._build.transpose(value, _TURN)
        return self._turned[value]

    def _normalised(self, node: ir.Node) -> ir.Value | None:
        """A BatchNormalization of a single sample that contains all of them."""
        x = node.inputs[0]
        if x not in self._turned or node.attributes.get_int("training_mode", False):
            return None
        shape, build = dims(x), self._build
        flat = build.reshape(self._turned[x], [1, shape[1], product((shape[0], *shape[2:]))])
        normalised = build.op("BatchNormalization", flat, *node.inputs[1:], shape=dims(flat), **attributes_of(node))
        return build.reshape(normalised, dims(self._turned[x]))

    def _convolved(self, node: ir.Node) -> ir.Value | None:
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or not self._may_turn(x) or weight not in self._changing:
            return None
        if any(value in self._in_part for value in node.inputs[1:]):
            return None
        view = NodeView(node, (0, 1), self._build.opset)
        if check(view) is not None:
            return None
        g = geometry(view)
        if g.depthwise and g.taps > 1 and by_matrix(g):
            return self._depthwise(node, g)
        return self._product(node, g) if _is_product(g) else None

    def _product(self, node: ir.Node, g: Geometry) -> ir.Value:
        build, weight, bias = self._build, node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert weight is not None
        assert node.inputs[0] is not None
        batch = dims(node.inputs[0])[0]
        long = product((batch, g.positions))
        matrix = build.reshape(weight, [g.features, g.channels])
        columns = build.reshape(self._turn(node.inputs[0]), [g.channels, long])
        column = None if bias is None else build.reshape(bias, [g.features, 1])
        products = build.op("Gemm", matrix, columns, column, shape=[g.features, long])
        return build.reshape(products, [g.features, batch, *g.out])

    def _depthwise(self, node: ir.Node, g: Geometry) -> ir.Value:
        build, weight, bias = self._build, node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert weight is not None
        assert node.inputs[0] is not None
        batch = dims(node.inputs[0])[0]
        images = build.reshape(self._turn(node.inputs[0]), [g.channels, batch, g.pixels])
        convolved = channels_by_matrix(build, images, weight, g)
        if bias is not None:
            convolved = build.add(convolved, build.reshape(bias, [g.channels, 1, 1]))
        return build.reshape(convolved, [g.channels, batch, *g.out])


def _is_product(g: Geometry) -> bool:
    """Whether it is a 1x1 convolution of every pixel of a small image."""
    if g.taps > 1 or g.groups > 1 or g.positions > _POSITIONS:
        return False
    return not g.strided and not any(g.begins) and not any(g.ends)


def _is_small(value: ir.Value) -> bool:
    """Whether it holds a batch of two-dimensional images of known size."""
    shape = dims_or_none(value)
    whole = shape is not None and len(shape) == 4 and shape[0] == BATCH and all(isinstance(d, int) for d in shape[1:])
    return whole and value.dtype == ir.DataType.FLOAT


def _is_number(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size == 1
