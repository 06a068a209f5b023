"""Replace values computed from constants alone by initializers of the same name.

Weights are computed in the graph if the exporter did not fold constants (the gates of an LSTM reordered for ONNX,
biases concatenated), or if training computes them (weight norm, spectral norm, weight standardisation, int8 behind a
Cast and a Mul). The operators do not matter: a value is folded because it is constant (`constant_values.varying`).
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

_BYTES = 4  # of an element, approximately
_FREE = 1 << 24  # bytes that any folded value may take
_MOST_TIMES = 8  # otherwise, the size of its inputs times this: int4 becomes float32
_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


class FoldConstants(ir.passes.InPlacePass):
    """Turn every constant value that something else reads into an initializer.

    Initializers that are only rearranged by Transpose, Reshape and the like are not folded: they keep their name, and
    may be tied. The same holds for rearranged folded values. Equal values computed from the same tensors become one
    initializer. Values far larger than their inputs, and values that cannot be computed in time, are not folded.

    Attributes:
        folded: number of folded values.
        learned: origins of folded float values, which may be weights, by name.
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
        values = self._of_reasonable_size(model, computed_constants(graph))
        arrays = evaluate(model, values)
        names = {value.name for value in (*graph.inputs, *graph.initializers.values())}
        names |= {value.name for node in graph for value in node.outputs}
        origins = {value: self._origin(value, arrays[value].size) for value in values if value in arrays}
        rearranged = {value for value in origins if _moved_from(value, origins)}
        first: dict[tuple[Origin, tuple[int, ...], bytes], ir.Value] = {}
        for value, origin in origins.items():
            array = arrays[value]
            is_weight = array.dtype == np.float32 and array.size > 1 and origin.learned
            if is_weight and value in rearranged:
                continue  # it stays, for example, a Transpose of the weight, and tied to it
            key = (origin, array.shape, hashlib.sha256(array.tobytes()).digest())
            if is_weight and key in first:  # computed once more for another application of the layer
                value.replace_all_uses_with(first[key])
                continue
            first[key] = self._fold(graph, value, array, origin, names)
        self._order = {}
        if arrays:
            RemoveUnused()(model)
            add_origins(model, self.learned)
        return ir.passes.PassResult(model, bool(arrays))

    def _of_reasonable_size(self, model: ir.Model, values: Sequence[ir.Value]) -> list[ir.Value]:
        """The values whose folding would not turn a small file into a large one."""
        shapes = infer_shapes(model) if values else {}
        return [
            value
            for value in values
            if _BYTES * math.prod(shapes.get(value.name or "", (0,)))
            <= _FREE + _MOST_TIMES * sum(tensor.nbytes for _, tensor in self._roots(value))
        ]

    def _origin(self, value: ir.Value, size: int) -> Origin:
        """The origin of a computed value: initializers that may be weights, and the operators, in order."""
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
        """The nodes that contribute to a value, in order."""
        return sorted(ancestors([value]), key=self._order.__getitem__)

    def _fold(
        self, graph: ir.Graph, value: ir.Value, array: np.ndarray, origin: Origin, names: set[str | None]
    ) -> ir.Value:
        name = value.name or ""
        old = f"{name}/computed"
        while old in names:
            old += "'"
        names.add(old)
        value.name = old
        constant = ir.Value(name=name, const_value=ir.tensor(np.array(array, order="C"), name=name))
        graph.register_initializer(constant)
        value.replace_all_uses_with(constant)
        self.folded += 1
        if array.dtype == np.float32 and array.size > 1:
            self.learned[name] = origin
        return constant


def _moved_from(value: ir.Value, folded: Collection[ir.Value]) -> bool:
    """Whether a value is a folded one, rearranged by Transpose, Reshape and the like."""
    node = value.producer()
    while node is not None and node.op_type in PASSED_THROUGH - {"Cast"} and node.inputs[0] is not None:
        if node.inputs[0] in folded:
            return True
        node = node.inputs[0].producer()
    return False


def _is_range(array: np.ndarray) -> bool:
    """Whether integers are evenly spaced, like positions."""
    return array.dtype == bool or len(np.unique(np.diff(array.reshape(-1)))) <= 1


def computed_constants(graph: ir.Graph) -> list[ir.Value]:
    """The values that are used as constants although the graph computes them.

    Included is every value that is not `constant_values.varying` and that is read by a varying node, or by one that
    stays. Excluded are initializers, even rearranged (`is_moved_about`), values that only other constants read, graph
    outputs, and values looked up in a table by constant indices (see `_looked_up`).
    """
    changing = varying(graph)
    changing |= _looked_up(graph, changing)
    constants: dict[ir.Value, None] = {}
    for node in graph:
        if not any(value in changing or is_moved_about(value) for value in node.outputs):
            continue
        for value in reads(node):
            if value is None or value in changing or value.producer() is None or value.is_graph_output():
                continue
            if value.name and not is_moved_about(value):
                constants[value] = None
    return list(constants)


def _looked_up(graph: ir.Graph, changing: Collection[ir.Value]) -> set[ir.Value]:
    """Constant values looked up in a table by constant indices: an embedding of positions or of token types.

    The table is a layer, and one row may occur many times; folded into a new weight, the copies would be trained
    separately. A Gather that reorders the rows of a weight is not such a look-up: its result is read only as the weight
    of a product or the like.
    """
    from_table: set[ir.Value] = set()
    for node in graph:
        if node.outputs and node.outputs[0] in changing:
            continue
        if (_is_table(node) and not _is_reordering(node, changing)) or any(
            value in from_table for value in reads(node)
        ):
            from_table.update(node.outputs)
    return from_table


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
    """Whether a value is a float32 initializer, possibly rearranged by Transpose, Reshape and the like.

    False for a value computed from several tensors or by arithmetic, and for one cast from integers.
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
