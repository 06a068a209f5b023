"""Inferring the shape of every value of a graph, with the batch as the only unknown, and writing it into the graph."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from ..model.dims import Dim, times
from ..model.shapes import BATCH, fix_batch, infer_shapes, measured_shapes

_SIZES = (7, 11)  # two batch sizes: a dimension that differs between them is a multiple of the batch


def annotate(model: ir.Model, *, measure: bool = True) -> None:
    """Set shape and dtype of every value, in place: numbers, or multiples of the batch (``"N"``, ``"49*N"``).

    Shapes are inferred at two batch sizes, which works through Reshape, Shape and Concat where symbols fail; with
    ``measure``, the graph is run to find those that are still missing. A value whose shape cannot be found gets none.
    """
    first, second = (infer_shapes(model, size) for size in _SIZES)
    values = [value for node in model.graph for value in node.outputs if value.name]
    missing = [v.name or "" for v in values if v.name not in first or v.name not in second]
    if missing and measure:
        first |= measured_shapes(model, missing, _SIZES[0])
        second |= measured_shapes(model, missing, _SIZES[1])
    _set_dtypes(model)
    for value in values:
        name = value.name or ""
        shape = _symbolic(first.get(name), second.get(name))
        value.shape = None if shape is None else ir.Shape(shape)
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.dtype, value.shape = value.const_value.dtype, ir.Shape(value.const_value.shape.numpy())


def _symbolic(first: Iterable[int] | None, second: Iterable[int] | None) -> list[Dim] | None:
    if first is None or second is None:
        return None
    dims: list[Dim] = []
    for a, b in zip(first, second, strict=True):
        if a == b:
            dims.append(a)
        elif a % _SIZES[0] == 0 and a // _SIZES[0] * _SIZES[1] == b:
            dims.append(times(BATCH, a // _SIZES[0]))
        else:
            return None
    return dims


def _set_dtypes(model: ir.Model) -> None:
    proto = fix_batch(ir.to_proto(model), _SIZES[0])
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    infos = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    dtypes = {info.name: info.type.tensor_type.elem_type for info in infos if info.type.tensor_type.elem_type}
    for node in model.graph:
        for position, value in enumerate(node.outputs):
            if value.name in dtypes:
                value.dtype = ir.DataType(dtypes[value.name])
            elif value.name and value.dtype in (None, ir.DataType.UNDEFINED):
                dtype = _dtype_by_schema(node, position, model.opset_imports.get("") or 0)
                if dtype is not None:
                    value.dtype = dtype


def _dtype_by_schema(node: ir.Node, position: int, opset: int) -> ir.DataType | None:
    """The dtype of an output that must have the dtype of an input.

    ONNX shape inference finds nothing after a GroupNormalization.
    """
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, ""):
        return None
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    kind = schema.outputs[min(position, len(schema.outputs) - 1)].type_str
    for i, value in enumerate(node.inputs):
        if value is not None and schema.inputs[min(i, len(schema.inputs) - 1)].type_str == kind:
            return value.dtype
    return None
