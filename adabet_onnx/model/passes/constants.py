"""Fold what a graph computes from constants and from the shapes of values.

Exporters write sizes as arithmetic: torch's ``chunk`` slices from ``shape[1] // 2`` on. Gradient rules require constant
starts, pads and scales, and ONNX shape inference gives up at such a Cast or Div.
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

BATCHES = (7, 11)  # two batch sizes: values equal at both do not depend on the batch
_MOST_ELEMENTS = 1024
# These copy elements of some inputs unchanged, so some of those elements may depend on the batch and others not.
_ARRANGING: dict[str, frozenset[int] | None] = {
    "Concat": None,  # of all inputs
    **dict.fromkeys(
        ("Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
        frozenset({0}),
    ),
}
_Arrays = tuple[np.ndarray, ...]  # one for each of BATCHES


def shape_arithmetic(model: ir.Model, trainable: Collection[str] = ()) -> dict[ir.Value, _Arrays]:
    """Evaluate, at two batch sizes, the values computed from small constants and from shapes.

    Included are the results of any operators whose inputs are the same at both sizes, and elements copied unchanged
    from inputs that differ. Excluded is anything else computed from a size that differs: its `Min` with 5 may be 5 at
    both sizes, but another number at a batch of 3.

    Args:
        model: a graph with a symbolic batch.
        trainable: names of initializers that are not constants.
    """
    arithmetic = _Arithmetic(model, trainable)
    for node in model.graph:
        arithmetic.evaluate(node)
    return arithmetic.known


def constants_of_shapes(model: ir.Model, values: Sequence[ir.Value]) -> dict[ir.Value, np.ndarray]:
    """Those of the given values that shapes determine and that are the same for every batch; see `shape_arithmetic`."""
    try:
        known = shape_arithmetic(model)
    except ModelError:  # a shape cannot be determined even by a run
        return {}
    return {value: known[value][0] for value in values if value in known and _equal(known[value])}


class FoldShapeArithmetic(ir.passes.InPlacePass):
    """Turn small values that depend only on constants and static dimensions into initializers of the same name.

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
    """The graph traversal of `shape_arithmetic`."""

    def __init__(self, model: ir.Model, trainable: Collection[str]) -> None:
        self._trainable = frozenset(trainable)
        self._opset = model.opset_imports.get("") or 0
        self._dims = _dims(model)
        self.known: dict[ir.Value, _Arrays] = {}

    def evaluate(self, node: ir.Node) -> None:
        """Evaluate a node's outputs, if possible."""
        if node.domain not in ("", "ai.onnx") or is_random(node) or any(True for _ in subgraphs(node)):
            return
        results_by_batch = self._measured(node) if node.op_type in ("Shape", "Size") else self._computed(node)
        for position, value in enumerate(node.outputs):
            if results_by_batch is not None and value.name:
                self.known[value] = tuple(results[position] for results in results_by_batch)

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
        copied = _ARRANGING.get(node.op_type, frozenset())
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            arrays = self._array(value)
            if arrays is None or not (_equal(arrays) or copied is None or position in copied):
                return None
            inputs[value.name or ""] = arrays
        if not inputs:
            return None
        sizes = range(len(BATCHES))
        if all(_equal(arrays) for arrays in inputs.values()):
            results = _run(node, {name: arrays[0] for name, arrays in inputs.items()}, self._opset)
            return None if results is None else [results for _ in sizes]
        each = [_run(node, {name: arrays[i] for name, arrays in inputs.items()}, self._opset) for i in sizes]
        known = [outputs for outputs in each if outputs is not None]
        return known if len(known) == len(each) else None

    def _array(self, value: ir.Value) -> _Arrays | None:
        if value in self.known:
            return self.known[value]
        tensor = value.const_value if value.is_initializer() and value.name not in self._trainable else None
        if tensor is None or tensor.size > _MOST_ELEMENTS or tensor.dtype == ir.DataType.STRING:
            return None
        return (tensor.numpy(),) * len(BATCHES)


def _dims(model: ir.Model) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the values that a Shape or Size is taken of, at both batch sizes."""
    names = [
        value.name or ""
        for node in model.graph
        if node.op_type in ("Shape", "Size") and node.inputs and (value := node.inputs[0]) is not None
    ]
    if not names:
        return {}
    shapes_by_batch: list[Mapping[str, tuple[int, ...]]] = []
    for batch in BATCHES:
        shapes = infer_shapes(model, batch)
        missing = [name for name in dict.fromkeys(names) if name not in shapes]
        shapes_by_batch.append(shapes | (measured_shapes(model, missing, batch) if missing else {}))
    return {name: [shapes[name] for shapes in shapes_by_batch] for name in names}


def _equal(arrays: _Arrays) -> bool:
    first, second = arrays
    return first.shape == second.shape and bool(np.array_equal(first, second))


def _run(node: ir.Node, inputs: dict[str, np.ndarray], opset: int) -> list[np.ndarray] | None:
    """The outputs of a node; None if they cannot be computed, or are not small."""
    proto = ir.to_proto(node)
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output]
    initializers = [onnx.numpy_helper.from_array(np.array(array, order="C"), name) for name, array in inputs.items()]
    graph = onnx.helper.make_graph([proto], "node", [], outputs, initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        if not _is_small(onnx.shape_inference.infer_shapes(model, data_prop=True)):
            return None
        with np.errstate(all="ignore"):
            results = onnx.reference.ReferenceEvaluator(model).run(None, {})
    except Exception:  # onnx may raise anything for operators of a file
        return None
    arrays = [np.asarray(result) for result in results]
    return arrays if all(array.dtype.kind in "biuf" for array in arrays) else None


def _is_small(model: onnx.ModelProto) -> bool:
    """Whether all results have known shapes and few elements: a node of a few bytes may request gigabytes."""
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            return False
        if math.prod(dim.dim_value for dim in tensor.shape.dim) > _MOST_ELEMENTS:
            return False
    return True
