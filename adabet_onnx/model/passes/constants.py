"""What a graph computes from constants and from the shapes of values, once and for all.

Exporters write sizes as arithmetic: torch's ``chunk`` slices from ``shape[1] // 2`` on. Gradient rules take starts,
pads and scales that are constants, and ONNX shape inference gives up at such a Cast or Div.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from ...errors import ModelError
from ..constant_values import is_random
from ..shapes import infer_shapes, measured_shapes
from ..uses import subgraphs

_BATCHES = (7, 11)  # two batch sizes: what is equal in both does not depend on it
_MOST_ELEMENTS = 1024
# They take the elements of some inputs as they are, so that of those some may depend on the batch and others not.
_ARRANGING: dict[str, frozenset[int] | None] = {
    "Concat": None,  # of all inputs
    **dict.fromkeys(
        ("Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
        frozenset({0}),
    ),
}
_Arrays = tuple[np.ndarray, ...]  # one for each of _BATCHES


def shape_arithmetic(model: ir.Model, trainable: Collection[str] = ()) -> dict[ir.Value, _Arrays]:
    """Values, at two batch sizes, of what is computed from small constants and from shapes.

    Accepted are the results of any operators whose inputs are the same at both sizes, and what is taken as it is from
    inputs that are not. Rejected is what is computed from a size that differs: `Min` of it and 5 is 5 at both, and
    another number at a batch of 3.

    Args:
        model: a graph with a symbolic batch.
        trainable: names of initializers that are not constants.
    """
    found = _Arithmetic(model, trainable)
    for node in model.graph:
        found.look_at(node)
    return found.known


def constants_of_shapes(model: ir.Model, values: Sequence[ir.Value]) -> dict[ir.Value, np.ndarray]:
    """Those of some values that shapes decide, the same for every batch; see `shape_arithmetic`."""
    try:
        known = shape_arithmetic(model)
    except ModelError:  # a shape that no run tells
        return {}
    return {value: known[value][0] for value in values if value in known and _equal(known[value])}


class FoldShapeArithmetic(ir.passes.InPlacePass):
    """Small values that depend on constants and on static dimensions alone become initializers, under their names.

    Args:
        trainable: names of initializers that are not constants.
    """

    def __init__(self, trainable: Collection[str]) -> None:
        super().__init__()
        self._trainable = frozenset(trainable)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        known = shape_arithmetic(model, self._trainable)
        modified = False
        for node in list(model.graph):
            for value in node.outputs:
                if value in known and _equal(known[value]) and not value.is_graph_output():
                    _replace(model.graph, value, known[value][0])
                    modified = True
            if node.outputs and not any(value.name or value.uses() for value in node.outputs):
                model.graph.remove(node, safe=True)
        return ir.passes.PassResult(model, modified)


def _replace(graph: ir.Graph, value: ir.Value, array: np.ndarray) -> None:
    constant = ir.Value(name=value.name, const_value=ir.tensor(np.array(array, order="C")))
    value.replace_all_uses_with(constant)
    value.name = None
    graph.register_initializer(constant)


class _Arithmetic:
    """The walk over a graph of `shape_arithmetic`."""

    def __init__(self, model: ir.Model, trainable: Collection[str]) -> None:
        self._trainable = frozenset(trainable)
        self._opset = model.opset_imports.get("") or 0
        self._dims = _dims(model)
        self.known: dict[ir.Value, _Arrays] = {}

    def look_at(self, node: ir.Node) -> None:
        """Find the values that a node gives, if they can be known."""
        if node.domain not in ("", "ai.onnx") or is_random(node) or any(True for _ in subgraphs(node)):
            return
        found = self._measured(node) if node.op_type in ("Shape", "Size") else self._computed(node)
        for position, value in enumerate(node.outputs):
            if found is not None and value.name:
                self.known[value] = tuple(results[position] for results in found)

    def _measured(self, node: ir.Node) -> list[list[np.ndarray]] | None:
        (measured,) = node.inputs
        shapes = self._dims.get(measured.name or "") if measured is not None else None
        if shapes is None:
            return None
        if node.op_type == "Size":
            return [[np.array(math.prod(shape), np.int64)] for shape in shapes]
        part = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", None))
        return [[np.array(shape, np.int64)[part]] for shape in shapes]

    def _computed(self, node: ir.Node) -> list[list[np.ndarray]] | None:
        inputs: dict[str, _Arrays] = {}
        moved = _ARRANGING.get(node.op_type, frozenset())
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            arrays = self._array(value)
            if arrays is None or not (_equal(arrays) or moved is None or position in moved):
                return None
            inputs[value.name or ""] = arrays
        if not inputs:
            return None
        sizes = range(len(_BATCHES))
        if all(_equal(arrays) for arrays in inputs.values()):
            once = _run(node, {name: arrays[0] for name, arrays in inputs.items()}, self._opset)
            return None if once is None else [once for _ in sizes]
        each = [_run(node, {name: arrays[i] for name, arrays in inputs.items()}, self._opset) for i in sizes]
        found = [results for results in each if results is not None]
        return found if len(found) == len(each) else None

    def _array(self, value: ir.Value) -> _Arrays | None:
        if value in self.known:
            return self.known[value]
        tensor = value.const_value if value.is_initializer() and value.name not in self._trainable else None
        if tensor is None or tensor.size > _MOST_ELEMENTS or tensor.dtype == ir.DataType.STRING:
            return None
        return (tensor.numpy(),) * len(_BATCHES)


def _dims(model: ir.Model) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the values that a Shape or Size is taken of, at both batch sizes."""
    names = [
        value.name or ""
        for node in model.graph
        if node.op_type in ("Shape", "Size") and node.inputs and (value := node.inputs[0]) is not None
    ]
    if not names:
        return {}
    found: list[Mapping[str, tuple[int, ...]]] = []
    for batch in _BATCHES:
        shapes = infer_shapes(model, batch)
        missing = [name for name in dict.fromkeys(names) if name not in shapes]
        found.append(shapes | (measured_shapes(model, missing, batch) if missing else {}))
    return {name: [shapes[name] for shapes in found] for name in names}


def _equal(arrays: _Arrays) -> bool:
    first, second = arrays
    return first.shape == second.shape and bool(np.array_equal(first, second))


def _run(node: ir.Node, inputs: dict[str, np.ndarray], opset: int) -> list[np.ndarray] | None:
    """What a node gives; None where it cannot be computed, or is not small."""
    proto = ir.to_proto(node)
    made = [onnx.ValueInfoProto(name=name) for name in proto.output]
    given = [onnx.numpy_helper.from_array(np.array(array, order="C"), name) for name, array in inputs.items()]
    graph = onnx.helper.make_graph([proto], "node", [], made, given)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        if not _is_small(onnx.shape_inference.infer_shapes(model, data_prop=True)):
            return None
        with np.errstate(all="ignore"):
            results = onnx.reference.ReferenceEvaluator(model).run(None, {})
    except Exception:  # whatever onnx meets in an operator of a file
        return None
    arrays = [np.asarray(result) for result in results]
    return arrays if all(array.dtype.kind in "biuf" for array in arrays) else None


def _is_small(model: onnx.ModelProto) -> bool:
    """Whether shapes of all results are known, and of few elements: a node of a few bytes may ask for gigabytes."""
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            return False
        if math.prod(dim.dim_value for dim in tensor.shape.dim) > _MOST_ELEMENTS:
            return False
    return True
