"""Selecting part of a value before it is computed, such as the one token of a sequence that a classifier reads.

Nodes that compute each token from the same token alone, or from it and all of another value, give the same result for
the selected token if they compute no other. So a Gather or Slice moves up, past normalisations, activations, sums and
matrix products, to where all tokens are needed: in a transformer, to keys and values of its last block. This is done
for values that depend on trained ones, and only if the other results are not needed elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ..model.dims import Dim, dims, dims_or_none, product
from ..model.uses import dependents
from .builder import Builder

_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Celu", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater"}
    | {"HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not"}
    | {"Or", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"}
    | {"Swish", "Tanh", "ThresholdedRelu", "Where"}
)
_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_ONE_AXIS = 13  # before this opset, a Softmax was over all axes from one on


@dataclass
class _Selection:
    """Consecutive elements of one axis.

    Attributes:
        node: the Gather or Slice.
        start: the first of the elements.
        count: number of elements.
        axes: for each value of which nothing else is needed, the axis in which it is selected.
        nodes: nodes that need to compute only the selection, the last one first.
    """

    node: ir.Node
    start: int
    count: int
    axes: dict[ir.Value, int] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)


def select_early(model: ir.Model, trained: Collection[ir.Value], allowed: Collection[str] | None) -> None:
    """Move the selections of a graph up, in place.

    Args:
        model: a graph with shapes.
        trained: values that are trained.
        allowed: operators that may be used; None for all.
    """
    graph, opset = model.graph, model.opset_imports[""] or 0
    build = Builder(graph, opset=opset, allowed=allowed)
    if not all(build.allows(operator) for operator in ("Reshape", "Slice")):
        return
    changing = dependents(graph, trained)
    for node in list(graph):
        selection = _selection(node)
        if selection is None:
            continue
        _extend(selection, list(graph), changing, opset)
        if selection.nodes:
            build.begin(f"{node.name}/early")
            result = _SelectionWriter(selection, build).write()
            graph.insert_before(node, build.take())
            node.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
            graph.remove([*selection.nodes, node], safe=True)
            changing = dependents(graph, trained)
    for value in build.initializers:
        if value.uses():
            graph.register_initializer(value)


def _selection(node: ir.Node) -> _Selection | None:
    """What a Gather or Slice selects: consecutive elements, but not all, of an axis other than the batch; or None."""
    value = node.inputs[0] if node.inputs else None
    shape = None if value is None else dims_or_none(value)
    if node.domain not in ("", "ai.onnx") or value is None or not shape or dims_or_none(node.outputs[0]) is None:
        return None
    if node.op_type == "Gather":
        indices = _numbers(node, 1)
        axis = int(node.attributes.get_int("axis", False)) % len(shape)
        extent = shape[axis]
        if indices is None or len(indices) != 1 or not isinstance(extent, int):
            return None
        start, count = indices[0] % extent, 1
    elif node.op_type == "Slice" and len(node.inputs) > 3:
        starts, ends, axes, steps = (_numbers(node, place) for place in (1, 2, 3, 4))
        if starts is None or ends is None or axes is None or len(axes) != 1 or (steps or [1]) != [1]:
            return None
        if len(node.inputs) > 4 and node.inputs[4] is not None and steps is None:
            return None
        axis = axes[0] % len(shape)
        extent = shape[axis]
        if not isinstance(extent, int):
            return None
        start, stop, _ = slice(starts[0], ends[0]).indices(extent)
        count = stop - start
    else:
        return None
    if not 0 < count < extent:
        return None
    return _Selection(node, start, count, {value: axis})


def _numbers(node: ir.Node, place: int) -> list[int] | None:
    value = node.inputs[place] if place < len(node.inputs) else None
    tensor = None if value is None else value.const_value
    return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]


def _extend(selection: _Selection, nodes: list[ir.Node], changing: Collection[ir.Value], opset: int) -> None:
    """Find the nodes before a selection whose other results are not needed."""
    inside: set[ir.Node] = {selection.node}
    conflicts: set[ir.Value] = set()
    for node in reversed(nodes[: nodes.index(selection.node)]):
        value = node.outputs[0]
        axis = selection.axes.get(value)
        if axis is None or axis < 0 or value in conflicts or value not in changing or value.is_graph_output():
            continue
        if any(user not in inside for user, _ in value.uses()) or any(other.uses() for other in node.outputs[1:]):
            continue
        axes = _before(node, axis, opset)
        if axes is None:
            continue
        inside.add(node)
        selection.nodes.append(node)
        for operand in node.inputs:
            if operand is None:
                continue
            if selection.axes.setdefault(operand, axes.get(operand, -1)) != axes.get(operand, -1):
                conflicts.add(operand)  # needed both whole and in part, or along two axes
    selection.axes = {value: axis for value, axis in selection.axes.items() if axis >= 0}


def _before(node: ir.Node, axis: int, opset: int) -> Mapping[ir.Value, int] | None:
    """The axis in which to select each input of a node for a selection in its output; None if that does not suffice.

    Inputs that are not in the mapping are read whole.
    """
    values = [value for value in node.inputs if value is not None]
    shapes = [dims_or_none(value) for value in values]
    made = dims_or_none(node.outputs[0])
    if node.domain not in ("", "ai.onnx") or made is None or not values or any(shape is None for shape in shapes):
        return None
    known, rank = [shape or () for shape in shapes], len(made)
    if node.op_type in _ELEMENTWISE:
        places = [(value, axis - rank + len(shape), shape) for value, shape in zip(values, known, strict=True)]
        return {value: place for value, place, shape in places if place >= 0 and shape[place] != 1}
    if node.op_type in _VIEWS:
        same = [
            b for b, d in enumerate(known[0]) if d == made[axis] and _same_elements_before(known[0][:b], made[:axis])
        ]
        return {values[0]: same[0]} if same else None
    if node.op_type == "Transpose":
        perm = [int(i) for i in node.attributes.get_ints("perm", ()) or range(rank)[::-1]]
        return {values[0]: perm[axis]}
    if node.op_type == "LayerNormalization":
        last = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return {values[0]: axis} if axis < last % rank and len(node.outputs) == 1 else None
    if node.op_type in ("Softmax", "LogSoftmax") and opset >= _ONE_AXIS:
        along = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return {values[0]: axis} if axis != along % rank else None
    if (
        node.op_type == "MatMul"
        and values[0] is not values[1]
        and len(known[0]) >= 2
        and len(known[1]) >= 2
        and axis >= rank - 2
    ):
        place = axis - (rank - 2)
        return {values[place]: len(known[place]) - 2 + place}
    return None


def _same_elements_before(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> bool:
    """Whether the same number of elements is before an axis, and the batch is not split."""
    if sum(isinstance(d, str) for d in before) > 1 or sum(isinstance(d, str) for d in after) > 1:
        return False
    return product(before) == product(after)


class _SelectionWriter:
    """Rewrites nodes so that they compute only what is selected.

    Args:
        selection: what is selected.
        build: makes the nodes.
    """

    def __init__(self, selection: _Selection, build: Builder) -> None:
        self._selection, self._build = selection, build
        self._made: dict[ir.Value, ir.Value] = {}
        self._cut: dict[tuple[ir.Value, int], ir.Value] = {}

    def write(self) -> ir.Value:
        """Write all nodes, and return the output of the selection."""
        last = self._selection.node
        for node in reversed(self._selection.nodes):
            self._made[node.outputs[0]] = self._rebuilt(node)
        value = last.inputs[0]
        assert value is not None
        return self._build.reshape(self._made[value], dims(last.outputs[0]))

    def _rebuilt(self, node: ir.Node) -> ir.Value:
        value, build = node.outputs[0], self._build
        axis = self._selection.axes[value]
        shape = list(dims(value))
        shape[axis] = self._selection.count
        needed = _before(node, axis, build.opset) or {}
        given = [None if v is None else self._operand(v, needed.get(v)) for v in node.inputs]
        if node.op_type in _VIEWS:
            assert given[0] is not None
            return build.reshape(given[0], shape)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        result = build.op(node.op_type, *given, shape=shape, **attributes)
        if value.dtype is not None:
            result.dtype = value.dtype
        return result

    def _operand(self, value: ir.Value, axis: int | None) -> ir.Value:
        """An operand of a node: whole, or the selected part of it."""
        if axis is None:
            return value
        if value in self._made:
            return self._made[value]
        if (value, axis) not in self._cut:
            start, count, build = self._selection.start, self._selection.count, self._build
            shape = list(dims(value))
            shape[axis] = count
            bounds = [build.ints(number) for number in (start, start + count, axis)]
            self._cut[value, axis] = build.op("Slice", value, *bounds, shape=shape)
        return self._cut[value, axis]
