"""Add a batch of 1 to a graph whose input is one sample: (3, 32, 32) becomes (1, 3, 32, 32).

Such a graph adds the batch itself, by an Unsqueeze, and often removes it at the end. Here every value that holds a
sample without a batch gets one as its first axis: the Unsqueeze and a Squeeze of the batch are removed, axes move by
one, and elementwise operators stay. The caller must check that the result computes the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ..uses import input_of
from .replacement import replace_output

_ELEMENTWISE = frozenset(
    {"Abs", "Add", "Cast", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"}
    | {"Identity", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus"}
    | {"Sqrt", "Sub", "Tanh", "Where"}
)
_ONE_AXIS = frozenset({"ArgMax", "Concat", "Gather", "LogSoftmax", "Softmax"})
_SEVERAL_AXES = frozenset({"ReduceMax", "ReduceMean", "ReduceSum", "Squeeze", "Unsqueeze"})


class AddBatch(ir.passes.InPlacePass):
    """Give every input, and every value that holds a sample without a batch, a leading batch of 1.

    Attributes:
        opened: names of the nodes that added a batch.
        refused: the node that cannot be given a batch; the graph is then half changed. None: it is complete.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: ir.Node | None = None
        self.opened: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place; the graph's nodes are in topological order."""
        graph = model.graph
        single = {value for value in graph.inputs if not value.is_initializer()}  # samples without a batch
        batched: set[ir.Value] = set()
        for value in single:
            assert value.shape is not None
            value.shape = ir.Shape([1, *value.shape])
        for node in list(graph):
            mine = [value for value in node.inputs if value in single]
            others = [value for value in node.inputs if value in batched]
            for value in node.outputs:
                value.shape = None
            if _opens(node, single):
                self.opened.append(node.name or "")
                batched.add(_pass_on(graph, node))
            elif _closes(node, batched):
                single.add(_pass_on(graph, node))
            elif others and not mine:
                batched.update(node.outputs)
            elif mine:
                if others or not _rewrite(graph, node):
                    self.refused = node
                    return ir.passes.PassResult(model, True)
                single.update(node.outputs)
        return ir.passes.PassResult(model, True)


def _pass_on(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """Pass a value through where a node added or removed the batch; a Reshape keeps a 1 for it."""
    if node.op_type == "Reshape":
        _prepend(graph, node)
        return node.outputs[0]
    same = ir.node("Identity", [node.inputs[0]], name=node.name)
    same.outputs[0].type = node.outputs[0].type
    graph.insert_before(node, same)
    replace_output(graph, node, same.outputs[0])
    return same.outputs[0]


def _opens(node: ir.Node, single: set[ir.Value]) -> bool:
    """Whether a node adds the batch: Unsqueeze of axis 0 alone."""
    return node.op_type == "Unsqueeze" and node.inputs[0] in single and _axes(node) == [0]


def _closes(node: ir.Node, batched: set[ir.Value]) -> bool:
    """Whether a node removes the batch: Squeeze of axis 0 alone, Gather of index 0 there, or a Reshape to one axis."""
    if not node.inputs or node.inputs[0] not in batched:
        return False
    if node.op_type == "Squeeze":
        return _axes(node) == [0]
    numbers = _constant(node, 1)
    if node.op_type == "Gather":
        return node.attributes.get_int("axis", 0) == 0 and numbers is not None and numbers.shape == () and not numbers
    return node.op_type == "Reshape" and numbers is not None and numbers.size == 1


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    """Shift the axes of a node that reads a sample; return whether that was possible."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _ELEMENTWISE:
        return True
    if node.op_type == "MatMul":
        weight = _constant(node, 1)
        return weight is not None and weight.ndim == 2
    known: dict[str, Callable[[], bool]] = {
        "Transpose": lambda: _move_order(node),
        "Reshape": lambda: _prepend(graph, node),
    }
    if node.op_type in known:
        return known[node.op_type]()
    if node.op_type in _ONE_AXIS:
        return _move_axis(node)
    return node.op_type in _SEVERAL_AXES and _move_axes(graph, node)


def _move_order(node: ir.Node) -> bool:
    order = node.attributes.get("perm")
    if order is None:
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [0, *(axis + 1 for axis in order.as_ints())])
    return True


def _move_axis(node: ir.Node) -> bool:
    axis = node.attributes.get_int("axis", 0 if node.op_type in ("ArgMax", "Gather") else -1)
    if node.op_type == "Gather" and _constant(node, 1) is None:
        return False
    if axis >= 0:
        node.attributes["axis"] = ir.AttrInt64("axis", axis + 1)
    return True


def _move_axes(graph: ir.Graph, node: ir.Node) -> bool:
    axes = _axes(node)
    if axes is None or (node.op_type == "Squeeze" and 0 in axes):  # removes a batch of 1, not an axis of the sample
        return False
    moved = [axis + 1 if axis >= 0 else axis for axis in axes]
    if "axes" in node.attributes:
        node.attributes["axes"] = ir.AttrInt64s("axes", moved)
    else:
        node.replace_input_with(1, _stored(graph, node, "axes", moved))
    return True


def _prepend(graph: ir.Graph, node: ir.Node) -> bool:
    target = _constant(node, 1)
    if target is None or target.ndim != 1:
        return False
    node.replace_input_with(1, _stored(graph, node, "shape", [1, *map(int, target)]))
    return True


def _axes(node: ir.Node) -> list[int] | None:
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    axes = _constant(node, 1)
    return None if axes is None else [int(axis) for axis in axes.reshape(-1)]


def _constant(node: ir.Node, position: int) -> np.ndarray | None:
    value = input_of(node, position)
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _stored(graph: ir.Graph, node: ir.Node, suffix: str, numbers: list[int]) -> ir.Value:
    name, existing = f"{node.name}/{suffix}", graph.initializers
    while name in existing:
        name += "'"
    value = ir.Value(name=name, const_value=ir.tensor(np.array(numbers, np.int64)))
    graph.register_initializer(value)
    return value
