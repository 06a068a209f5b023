"""What a graph computes from constants and from the shapes of values, once and for all.

Exporters write sizes as arithmetic: torch's ``chunk`` slices from ``shape[1] // 2`` on. Gradient rules take starts,
pads and scales that are constants, and ONNX shape inference gives up at such a Cast or Div.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from ..shapes import infer_shapes, measured_shapes

_BATCHES = (7, 11)  # two batch sizes: what is equal in both does not depend on it
_MOST_ELEMENTS = 1024
# They take elements as they are, so that some may depend on the batch and others not.
_ARRANGING = frozenset({"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_COMPUTING = frozenset(
    {"Abs", "Add", "Ceil", "Div", "Equal", "Floor", "Max", "Min", "Mod", "Mul", "Neg", "Pow", "Sqrt", "Sub", "Where"}
)
_Arrays = tuple[np.ndarray, ...]  # one for each of _BATCHES


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
        dims, opset = self._dims(model), model.opset_imports.get("") or 0
        known: dict[ir.Value, _Arrays] = {}
        modified = False
        for node in list(model.graph):
            found = self._evaluate(node, known, dims, opset)
            if found is None:
                continue
            value = node.outputs[0]
            known[value] = found
            if not _equal(found) or value.is_graph_output():
                continue
            constant = ir.Value(name=value.name, const_value=ir.tensor(np.array(found[0], order="C")))
            value.replace_all_uses_with(constant)
            model.graph.remove(node, safe=True)
            value.name = None
            model.graph.register_initializer(constant)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _dims(self, model: ir.Model) -> dict[str, list[tuple[int, ...]]]:
        """Shapes of the values that a Shape is taken of, at both batch sizes."""
        names = [node.inputs[0].name or "" for node in model.graph if node.op_type == "Shape" and node.inputs[0]]
        if not names:
            return {}
        found: list[dict[str, tuple[int, ...]]] = []
        for batch in _BATCHES:
            shapes = infer_shapes(model, batch)
            missing = [name for name in dict.fromkeys(names) if name not in shapes]
            found.append(shapes | (measured_shapes(model, missing, batch) if missing else {}))
        return {name: [shapes[name] for shapes in found] for name in names}

    def _evaluate(
        self, node: ir.Node, known: dict[ir.Value, _Arrays], dims: dict[str, list[tuple[int, ...]]], opset: int
    ) -> _Arrays | None:
        """The node's value at both batch sizes; None where it is not known."""
        if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
            return None
        if node.op_type == "Shape":
            part = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", None))
            (measured,) = node.inputs
            assert measured is not None
            shapes = dims[measured.name or ""]
            return tuple(np.array(shape, np.int64)[part] for shape in shapes)
        if node.op_type not in _ARRANGING | _COMPUTING:
            return None
        inputs: dict[str, _Arrays] = {}
        for value in node.inputs:
            arrays = None if value is None else self._array(value, known)
            if value is None or arrays is None or (node.op_type in _COMPUTING and not _equal(arrays)):
                return None
            inputs[value.name or ""] = arrays
        if not inputs:
            return None
        return tuple(
            _run(node, {name: arrays[i] for name, arrays in inputs.items()}, opset) for i in range(len(_BATCHES))
        )

    def _array(self, value: ir.Value, known: dict[ir.Value, _Arrays]) -> _Arrays | None:
        if value in known:
            return known[value]
        tensor = value.const_value if value.is_initializer() and value.name not in self._trainable else None
        if tensor is None or tensor.size > _MOST_ELEMENTS:
            return None
        return (tensor.numpy(),) * len(_BATCHES)


def _equal(arrays: _Arrays) -> bool:
    first, second = arrays
    return first.shape == second.shape and bool(np.array_equal(first, second))


def _run(node: ir.Node, inputs: dict[str, np.ndarray], opset: int) -> np.ndarray:
    proto = ir.to_proto(node)
    given = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    graph = onnx.helper.make_graph([proto], "node", given, [onnx.ValueInfoProto(name=proto.output[0])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (result,) = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    return np.asarray(result)
