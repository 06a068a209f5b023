"""Wide hidden layers between two matrix products, as in a transformer, computed in pieces of their width.

The hidden layer is several times as wide as its input and output, and the gradient of its activation needs several
values of that size at once. Hidden units are independent of each other: the first product is computed for some of them,
then their activation, then their part of the second product, which is added to the sum of the earlier pieces. In the
backward pass of a graph written this way, temporaries have the size of a piece. Weights are cut by a Split in every
step; they are small compared with the activations, or else the layer is not rewritten.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ..model.dims import count, dims, dims_or_none, product
from ..model.uses import dependents
from .builder import Builder

_ELEMENTWISE = frozenset(
    {"Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"}
    | {"Mish", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub"}
    | {"Swish", "Tanh"}
)
_PRODUCTS = frozenset({"Gemm", "MatMul"})
_OPERATORS = ("Concat", "Gemm", "Reshape", "Split")
_MOST_PIECES = 8
_LEAST_ELEMENTS = 1 << 14  # elements of a sample's hidden layer; smaller layers gain nothing


@dataclass
class _Hidden:
    """A hidden layer.

    Attributes:
        node: the product that reads it.
        width: number of its units.
        nodes: the nodes that compute it, in the graph's order, including the products before it.
        products: those products.
    """

    node: ir.Node
    width: int
    nodes: list[ir.Node] = field(default_factory=list)
    products: list[ir.Node] = field(default_factory=list)


def compute_in_pieces(
    model: ir.Model,
    trained: Collection[ir.Value],
    in_part: Collection[ir.Value],
    allowed: Collection[str] | None,
    keep: bool = False,
) -> None:
    """Rewrite the hidden layers of a graph that depend on trained values, in place.

    Args:
        model: a graph with shapes.
        trained: values that are trained.
        in_part: those among them that are trained only in part; nodes that read one are not rewritten.
        allowed: operators that may be used; None for all.
        keep: do not rewrite layers with a branch that depends on nothing trained: the frozen part may end there.
    """
    graph = model.graph
    build = Builder(graph, opset=model.opset_imports[""] or 0, allowed=allowed)
    if not all(build.allows(operator) for operator in _OPERATORS):
        return
    at = {node: i for i, node in enumerate(graph)}
    changing = dependents(graph, trained)
    for node in list(graph):
        hidden = _hidden_layer(node, at, changing)
        if hidden is None or (keep and any(inner.outputs[0] not in changing for inner in hidden.nodes)):
            continue
        pieces = _pieces(hidden)
        if pieces > 1 and not any(_source(product)[0] in in_part for product in (*hidden.products, node)):
            build.begin(f"{node.name}/pieces")
            total = _Pieces(hidden, pieces, build).write()
            graph.insert_before(node, build.take())
            node.outputs[0].replace_all_uses_with(total, replace_graph_outputs=True)
            graph.remove([*hidden.nodes, node], safe=True)
    for value in build.initializers:
        graph.register_initializer(value)


def _hidden_layer(last: ir.Node, at: dict[ir.Node, int], changing: Collection[ir.Value]) -> _Hidden | None:
    """The hidden layer that a product reads, if nothing else uses it; otherwise None."""
    wide = last.inputs[0] if _is_product(last) else None
    shape = None if wide is None else dims_or_none(wide)
    if wide is None or not shape or not isinstance(shape[-1], int) or wide not in changing:
        return None
    hidden = _Hidden(last, shape[-1])
    inside: set[ir.Node] = set()
    stack = [wide]
    while stack:
        value = stack.pop()
        node, extents = value.producer(), dims_or_none(value)
        if extents is None:
            return None
        if node in inside:
            continue
        if extents == shape and node is not None and _may_be_cut(node):
            inside.add(node)
            if _is_product(node):
                hidden.products.append(node)
            else:
                stack.extend(operand for operand in node.inputs if operand is not None)
        elif any(d != 1 for d in extents[:-1]):
            return None  # it differs from row to row
        elif extents and extents[-1] != shape[-1] and (len(extents) > 2 and value.const_value is None):
            return None
    if not hidden.products or any(_leaves(node, inside, last) for node in inside):
        return None
    hidden.nodes = sorted(inside, key=at.__getitem__)
    return hidden


def _is_product(node: ir.Node) -> bool:
    """Whether a node multiplies rows by a matrix, and adds at most a vector."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _PRODUCTS or node.attributes.get_int("transA", False):
        return False
    weight = node.inputs[1]
    shape = None if weight is None else dims_or_none(weight)
    if shape is None or len(shape) != 2 or not all(isinstance(d, int) for d in shape):
        return False
    if any(node.attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta")):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    extents = () if bias is None else dims_or_none(bias)
    if extents is None or any(d != 1 for d in extents[:-1]):
        return False
    return sum(isinstance(d, str) for d in dims_or_none(node.outputs[0]) or ("", "")) < 2


def _may_be_cut(node: ir.Node) -> bool:
    return _is_product(node) or (node.domain in ("", "ai.onnx") and node.op_type in _ELEMENTWISE)


def _leaves(node: ir.Node, inside: Collection[ir.Node], last: ir.Node) -> bool:
    """Whether a node outside the layer reads the output of this node."""
    value = node.outputs[0]
    users = value.uses()
    return value.is_graph_output() or any(user not in inside and (user is not last or place) for user, place in users)


def _pieces(hidden: _Hidden) -> int:
    """The number of pieces: each piece is as wide as the input or the output of the layer."""
    extents = dims_or_none(hidden.nodes[-1].outputs[0]) or ()
    narrow = dims_or_none(hidden.node.outputs[0]) or ()
    given = [(dims_or_none(value) or (0,))[-1] for node in hidden.products if (value := node.inputs[0]) is not None]
    widths = [width for width in (*given, *narrow[-1:]) if isinstance(width, int) and width > 0]
    if len(widths) < len(given) + 1 or count(extents, 1) < max(_LEAST_ELEMENTS, hidden.width * min(widths) // 4):
        return 1
    most = min(_MOST_PIECES, hidden.width // max(widths))
    return next((n for n in range(most, 1, -1) if hidden.width % n == 0), 1)


def _source(product: ir.Node) -> tuple[ir.Value, bool]:
    """The weight of a product before it is transposed, and whether it is transposed."""
    weight = product.inputs[1]
    assert weight is not None
    node = weight.producer()
    if node is not None and node.op_type == "Transpose" and node.inputs[0] is not None:
        return node.inputs[0], node.attributes.get_ints("perm", (1, 0))[0] == 1
    return weight, False


def _bias(product: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The node that adds a vector to the output of a product, and the vector; None if there is no such node."""
    made, users = product.outputs[0], product.outputs[0].uses()
    if len(product.inputs) > 2 or len(users) != 1:
        return None
    ((node, place),) = users
    other = node.inputs[1 - place] if node.op_type == "Add" else None
    extents = None if other is None else dims_or_none(other)
    along = extents is not None and extents[-1:] == dims(made)[-1:] and all(d == 1 for d in extents[:-1])
    return (node, other) if along and other is not None else None


class _Pieces:
    """Writes a layer in pieces, with its rows in one dimension.

    Args:
        hidden: the layer.
        count: number of pieces.
        build: makes the nodes.
    """

    def __init__(self, hidden: _Hidden, count: int, build: Builder) -> None:
        self._hidden, self._count, self._build = hidden, count, build
        self._rows = product(dims(hidden.nodes[-1].outputs[0])[:-1])
        self._cut: dict[tuple[ir.Value, int], Sequence[ir.Value]] = {}
        self._flat: dict[ir.Value, ir.Value] = {}
        self._biases = {node: bias for node in hidden.products if (bias := _bias(node)) is not None}

    def write(self) -> ir.Value:
        """Write all pieces, and return the output of the last product."""
        last, total = self._hidden.node, None
        for number in range(self._count):
            made: dict[ir.Value, ir.Value] = {}
            for node in self._hidden.nodes:
                if node.outputs[0] in made:  # a bias that was added by the product
                    continue
                if node in self._hidden.products:
                    result = self._first(node, number)
                    if node in self._biases:
                        made[self._biases[node][0].outputs[0]] = result
                else:
                    given = [None if v is None else made.get(v) or self._operand(v, number) for v in node.inputs]
                    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
                    result = self._build.op(node.op_type, *given, shape=(self._rows, self._width), **attributes)
                made[node.outputs[0]] = result
            piece = made[self._hidden.nodes[-1].outputs[0]]
            weight, turned = self._weight(last, number, columns=False)
            wide = dims(last.outputs[0])[-1]
            if total is None and len(last.inputs) > 2:
                total = last.inputs[2]
            total = self._build.op("Gemm", piece, weight, total, transB=turned, shape=(self._rows, wide))
        assert total is not None
        return self._build.reshape(total, dims(last.outputs[0]))

    @property
    def _width(self) -> int:
        return self._hidden.width // self._count

    def _first(self, node: ir.Node, number: int) -> ir.Value:
        """A piece of a product before the layer."""
        given = node.inputs[0]
        assert given is not None
        if given not in self._flat:
            self._flat[given] = self._build.reshape(given, (self._rows, dims(given)[-1]))
        weight, turned = self._weight(node, number, columns=True)
        bias = self._biases[node][1] if node in self._biases else node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            bias = self._operand(bias, number)
        return self._build.op("Gemm", self._flat[given], weight, bias, transB=turned, shape=(self._rows, self._width))

    def _weight(self, node: ir.Node, number: int, *, columns: bool) -> tuple[ir.Value, int]:
        """A piece of the columns or rows of a stored weight, and whether it must be transposed."""
        source, turned = _source(node)
        turn = int(turned) ^ node.attributes.get_int("transB", 0)
        return self._split(source, int(columns) ^ turn)[number], turn

    def _operand(self, value: ir.Value, number: int) -> ir.Value:
        """Another operand of a node: a piece of a vector, or a number, with at most two dimensions."""
        shape = dims(value)
        if shape and shape[-1] == self._hidden.width:
            if len(shape) > 2 and value not in self._flat:
                self._flat[value] = self._build.reshape(value, shape[-2:])
            return self._split(self._flat.get(value, value), -1)[number]
        if len(shape) < 3 or value.const_value is None:
            return value
        return self._build.constant(value.const_value.numpy().reshape(1, 1))

    def _split(self, value: ir.Value, axis: int) -> Sequence[ir.Value]:
        shape = list(dims(value))
        axis %= len(shape)
        if (value, axis) not in self._cut:
            shape[axis] = int(shape[axis]) // self._count
            sizes = self._build.ints(*[int(shape[axis])] * self._count)
            shapes = [shape] * self._count
            cut = self._build.ops("Split", value, sizes, axis=axis, outputs=self._count, shapes=shapes)
            self._cut[value, axis] = cut
        return self._cut[value, axis]
