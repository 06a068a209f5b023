"""What is computed from constants alone becomes one initializer, under the name of the value.

Weights are computed where an exporter folded nothing (the gates of an LSTM put in ONNX's order, biases put together),
and where training computes them (weight norm, spectral norm, weight standardisation, int8 behind a Cast and a Mul). No
operator counts for that: a value is folded because it is constant (`constant_values.varying`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from ..constant_values import evaluate, varying
from ..layers import ELEMENTWISE, PASSED_THROUGH, TRAINABLE, source_initializer
from ..origins import Origin, add_origins
from ..shapes import infer_shapes
from ..uses import ancestors, reads
from .unused import RemoveUnused

_BYTES = 4  # of an element, about
_FREE = 1 << 24  # bytes that a value may take whatever it is made from
_MOST_TIMES = 8  # what it is made from, otherwise: int4 becomes float32
_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


class FoldConstants(ir.passes.InPlacePass):
    """Turn every constant value that something else reads into an initializer.

    An initializer that is only moved about, by Transpose, Reshape and the like, stays: it keeps its name, and may be
    tied; likewise what only moves a folded value about. What is computed twice from the same tensors, and comes out the
    same, becomes one. A value far larger than what it is made from stays, and what cannot be computed in time.

    Attributes:
        folded: how many values were.
        learned: what those of floats, that may be weights, took the place of, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folded = 0
        self.learned: dict[str, Origin] = {}
        self._order: dict[ir.Node, int] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        self._order = {node: place for place, node in enumerate(graph)}
        values = self._of_fair_size(model, computed_constants(graph))
        found = evaluate(model, values)
        taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
        taken |= {value.name for node in graph for value in node.outputs}
        made = {value: self._origin(value, found[value].size) for value in values if value in found}
        moved = {value for value in made if _moved_from(value, made)}
        first: dict[tuple[Origin, tuple[int, ...], bytes], ir.Value] = {}
        for value, origin in made.items():
            array = found[value]
            is_weight = array.dtype == np.float32 and array.size > 1 and origin.learned
            if is_weight and value in moved:
                continue  # it stays a Transpose, say, of the weight, and tied to it
            key = (origin, array.shape, hashlib.sha256(array.tobytes()).digest())
            if is_weight and key in first:  # computed again for another application of the layer
                value.replace_all_uses_with(first[key])
                continue
            first[key] = self._fold(graph, value, array, origin, taken)
        self._order = {}
        if found:
            RemoveUnused()(model)
            add_origins(model, self.learned)
        return ir.passes.PassResult(model, bool(found))

    def _of_fair_size(self, model: ir.Model, values: Sequence[ir.Value]) -> list[ir.Value]:
        """Those that would not make a small file a large one."""
        shapes = infer_shapes(model) if values else {}
        return [
            value
            for value in values
            if _BYTES * math.prod(shapes.get(value.name or "", (0,)))
            <= _FREE + _MOST_TIMES * sum(tensor.nbytes for _, tensor in self._roots(value))
        ]

    def _origin(self, value: ir.Value, size: int) -> Origin:
        """What a computed value is made from: initializers that may be weights, and the operators, in order."""
        roots = [(name, tensor) for name, tensor in self._roots(value) if tensor.size > 1]
        weights = [name for name, tensor in roots if tensor.dtype not in _INTEGERS]
        if not weights:  # an int32 bias behind a Cast and a single scale
            weights = [name for name, tensor in roots if tensor.size == size and not _is_range(tensor.numpy())]
        return Origin(tuple(weights), tuple(dict.fromkeys(node.op_type for node in self._makers(value))))

    def _roots(self, value: ir.Value) -> list[tuple[str, ir.TensorProtocol]]:
        """The initializers that a value is computed from."""
        read = dict.fromkeys(operand for node in self._makers(value) for operand in reads(node))
        return [
            (operand.name or "", operand.const_value)
            for operand in read
            if operand is not None and operand.is_initializer() and operand.const_value is not None
        ]

    def _makers(self, value: ir.Value) -> list[ir.Node]:
        """The nodes that a value is computed by, in order."""
        return sorted(ancestors([value]), key=self._order.__getitem__)

    def _fold(
        self, graph: ir.Graph, value: ir.Value, array: np.ndarray, origin: Origin, taken: set[str | None]
    ) -> ir.Value:
        name = value.name or ""
        old = f"{name}/computed"
        while old in taken:
            old += "'"
        taken.add(old)
        value.name = old
        constant = ir.Value(name=name, const_value=ir.tensor(np.array(array, order="C"), name=name))
        graph.register_initializer(constant)
        value.replace_all_uses_with(constant)
        self.folded += 1
        if array.dtype == np.float32 and array.size > 1:
            self.learned[name] = origin
        return constant


def _moved_from(value: ir.Value, folded: Collection[ir.Value]) -> bool:
    """Whether a value is another one that is folded, moved about by Transpose, Reshape and the like."""
    node = value.producer()
    while node is not None and node.op_type in PASSED_THROUGH - {"Cast"} and node.inputs[0] is not None:
        if node.inputs[0] in folded:
            return True
        node = node.inputs[0].producer()
    return False


def _is_range(array: np.ndarray) -> bool:
    """Whether integers count on in even steps, as positions do."""
    return array.dtype == bool or len(np.unique(np.diff(array.reshape(-1)))) <= 1


def computed_constants(graph: ir.Graph) -> list[ir.Value]:
    """The values that take part in a computation as constants though the graph computes them.

    Accepted is every value that is not `constant_values.varying` and is read by a node whose result is, or by one that stays.
    Rejected are initializers, also when `is_moved_about`, what only other constants read, outputs of the graph, and
    what comes from a table by constant indices (see `_looked_up`).
    """
    changing = varying(graph)
    changing |= _looked_up(graph, changing)
    found: dict[ir.Value, None] = {}
    for node in graph:
        if not any(value in changing or is_moved_about(value) for value in node.outputs):
            continue
        for value in reads(node):
            if value is None or value in changing or value.producer() is None or value.is_graph_output():
                continue
            if value.name and not is_moved_about(value):
                found[value] = None
    return list(found)


def _looked_up(graph: ir.Graph, changing: Collection[ir.Value]) -> set[ir.Value]:
    """Constant values that come from a table of rows by constant indices: an embedding of positions or of kinds.

    The table is a layer, and one row may stand in many places; as a weight of their own these would be trained apart.
    A Gather that puts the rows of a weight in another order is no such table: nothing but a product or the like reads
    what it gives, as its weight.
    """
    found: set[ir.Value] = set()
    for node in graph:
        if node.outputs and node.outputs[0] in changing:
            continue
        if (_is_table(node) and not _is_reordering(node, changing)) or any(value in found for value in reads(node)):
            found.update(node.outputs)
    return found


def _is_table(node: ir.Node) -> bool:
    table = node.inputs[0] if node.op_type == "Gather" and node.inputs else None
    if table is None or not is_moved_about(table):
        return False
    source = source_initializer(table)
    return source is not None and source.const_value is not None and len(source.const_value.shape) == 2


def _is_reordering(node: ir.Node, changing: Collection[ir.Value]) -> bool:
    indices = node.inputs[1]
    tensor = ir.convenience.get_const_tensor(indices) if indices is not None else None
    if tensor is None or len(tensor.shape) != 1 or len(np.unique(tensor.numpy())) < tensor.size:
        return False
    stack, seen = list(node.outputs), set(node.outputs)
    while stack:
        for user, position in stack.pop().uses():
            if not any(value in changing for value in user.outputs):
                stack += [value for value in user.outputs if value not in seen]
                seen.update(user.outputs)
            elif user.op_type in ELEMENTWISE or position not in TRAINABLE.get(user.op_type, ()):
                return False
    return True


def is_moved_about(value: ir.Value) -> bool:
    """Whether a value is a float32 initializer, or one that Transpose, Reshape and the like have moved about.

    Rejected: a value computed from several tensors or by arithmetic, and one that was an integer on the way.
    """
    source = source_initializer(value)
    if source is None or source.const_value is None or source.const_value.dtype != ir.DataType.FLOAT:
        return False
    while value is not source:
        node = value.producer()
        assert node is not None
        assert node.op_type in PASSED_THROUGH
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) != int(ir.DataType.FLOAT):
            return False
        operand = node.inputs[0]
        assert operand is not None
        value = operand
    return True
