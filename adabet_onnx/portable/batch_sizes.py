"""What a graph computes from the batch size alone, through the shapes of values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from .. import runtime
from ..errors import AdabetError
from ..model.dims import Dims, count, dims_or_none
from ..model.shapes import serialised_tensor
from ..model.uses import reads
from .sample_layout import Place, SampleLayout

_SIZES = (7, 11)  # two batch sizes: what is the same with both does not depend on the batch


def from_size(node: ir.Node, known_places: Mapping[ir.Value, Place]) -> bool:
    """Whether a node returns the shape of a value with samples, which is known except for the batch."""
    value = node.inputs[0] if node.op_type in ("Shape", "Size") and node.inputs else None
    return value is not None and isinstance(known_places.get(value), SampleLayout) and dims_or_none(value) is not None


class BatchSizeProbe:
    """Evaluates what a graph computes from the batch size, at two batch sizes.

    Args:
        model: the graph.
        known_places: places of the values found so far; the mapping grows.
    """

    def __init__(self, model: ir.Model, known_places: Mapping[ir.Value, Place]) -> None:
        self._model, self._known_places = model, known_places
        self._known: dict[ir.Value, bool] = {}
        self.opset = model.opset_imports.get("") or 0

    def fixed(self, value: ir.Value) -> bool:
        """Whether a value is the same at every batch size, such as a width taken from a shape."""
        if value not in self._known:
            try:
                first, second = (self._at(value, size) for size in _SIZES)
                self._known[value] = first.shape == second.shape and bool(np.array_equal(first, second))
            except (AdabetError, ValueError):
                self._known[value] = False
        return self._known[value]

    def _at(self, value: ir.Value, batch: int) -> np.ndarray:
        needed: dict[ir.Node, None] = {}
        given: dict[str, onnx.TensorProto] = {}
        stack = [value]
        while stack:
            current = stack.pop()
            node, name = current.producer(), current.name or ""
            if name in given or (node is not None and node in needed):
                continue
            if node is None:
                given[name] = serialised_tensor(current)
            elif from_size(node, self._known_places):
                given[name] = onnx.numpy_helper.from_array(_size(node, batch), name)
            else:
                needed[node] = None
                stack.extend(operand for operand in reads(node) if operand is not None)
        proto = onnx.ModelProto(ir_version=max(self._model.ir_version, 4))
        proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in self._model.opset_imports.items())
        proto.graph.name = "sizes"
        proto.graph.node.extend(ir.serde.serialize_node(node) for node in self._model.graph if node in needed)
        proto.graph.initializer.extend(given.values())
        proto.graph.output.append(onnx.ValueInfoProto(name=value.name or ""))
        session = runtime.inference_session(proto.SerializeToString(), "the sizes")
        return np.asarray(runtime.run_session(session, None, {}, "the sizes")[0])


def shown_dims(node: ir.Node) -> Dims:
    """The dimensions that a Shape returns."""
    value = node.inputs[0]
    extents = (dims_or_none(value) if value is not None else None) or ()
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(extents))
    return extents[start:end]


def _size(node: ir.Node, batch: int) -> np.ndarray:
    if node.op_type == "Size":
        value = node.inputs[0]
        assert value is not None
        return np.array(count(dims_or_none(value) or (), batch), np.int64)
    return np.array([count((extent,), batch) for extent in shown_dims(node)], np.int64)
