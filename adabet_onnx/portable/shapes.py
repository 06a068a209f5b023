"""Shapes of every value of a graph with the batch as the only unknown, written into the graph."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from ..model.shapes import BATCH, fix_batch, infer_shapes, measured_shapes
from .builder import Dim, times

_SIZES = (7, 11)  # two batch sizes: what differs between them is a multiple of the batch


def annotate(model: ir.Model, *, measure: bool = True) -> None:
    """Set shape and dtype of every value, in place: numbers, or multiples of the batch (``"N"``, ``"49*N"``).

    Shapes are inferred at two batch sizes, which sees through Reshape, Shape and Concat where symbols do not; with
    ``measure``, the graph is run for those that are still missing. What cannot be found keeps no shape.
    """
    first, second = (infer_shapes(model, size) for size in _SIZES)
    values = [value for node in model.graph for value in node.outputs if value.name]
    missing = [v.name or "" for v in values if v.name not in first or v.name not in second]
    if missing and measure:
        first |= measured_shapes(model, missing, _SIZES[0])
        second |= measured_shapes(model, missing, _SIZES[1])
    dtypes = _dtypes(model)
    for value in values:
        name = value.name or ""
        if name in dtypes:
            value.dtype = dtypes[name]
        shape = _symbolic(first.get(name), second.get(name))
        value.shape = None if shape is None else ir.Shape(shape)
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.dtype, value.shape = value.const_value.dtype, ir.Shape(value.const_value.shape.numpy())


def _symbolic(first: Iterable[int] | None, second: Iterable[int] | None) -> list[Dim] | None:
    if first is None or second is None:
        return None
    found: list[Dim] = []
    for a, b in zip(first, second, strict=True):
        if a == b:
            found.append(a)
        elif a % _SIZES[0] == 0 and a // _SIZES[0] * _SIZES[1] == b:
            found.append(times(BATCH, a // _SIZES[0]))
        else:
            return None
    return found


def _dtypes(model: ir.Model) -> dict[str, ir.DataType]:
    proto = fix_batch(ir.to_proto(model), _SIZES[0])
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    infos = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    return {info.name: ir.DataType(info.type.tensor_type.elem_type) for info in infos}
