"""Dtypes and shapes of a node's outputs, found by ONNX shape inference and cached.

A training step has thousands of nodes but few kinds of them: the optimizer's are the same for every parameter of a
shape, and the graphs of one training share most of theirs. So onnx infers each kind only once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..model.dims import dims_or_none

_KINDS = 1 << 14  # the most kinds that are cached
_Extents = tuple[int | str | None, ...] | None
_Output = tuple[int, _Extents] | None  # element type and shape; None if onnx cannot infer them
# Element type and shape of an input, and the bytes of a constant that shapes may depend on; None if it is omitted.
_Input = tuple[int, _Extents, tuple[tuple[int, ...], bytes] | None] | None


def infer_outputs(node: ir.Node, attributes: Mapping[str, Any], opset: int) -> None:
    """Set the dtypes and shapes of a node's outputs that follow from its inputs, in place.

    Args:
        node: a standard node.
        attributes: its attributes, as Python values.
        opset: opset of its graph.
    """
    inputs = tuple(_described(value) for value in node.inputs)
    try:
        given = tuple(sorted((name, _hashable(value)) for name, value in attributes.items()))
        inferred = _known(node.op_type, opset, given, inputs, len(node.outputs))
    except TypeError:  # an attribute that cannot be hashed, such as a tensor
        inferred = _infer(node.op_type, opset, attributes, inputs, len(node.outputs))
    for value, output in zip(node.outputs, inferred, strict=True):
        if output is not None:
            value.dtype = ir.DataType(output[0])
            if output[1] is not None:
                value.shape = ir.Shape(output[1])


def _described(value: ir.Value | None) -> _Input:
    if value is None or value.dtype is None:
        return None
    shape = dims_or_none(value)
    tensor, constant = value.const_value, None
    if tensor is not None and tensor.dtype == ir.DataType.INT64:
        array = tensor.numpy()
        constant = (tuple(array.shape), array.tobytes())
    extents = None if shape is None else tuple(None if extent == "?" else extent for extent in shape)
    return int(value.dtype), extents, constant


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


@lru_cache(maxsize=_KINDS)
def _known(
    op_type: str, opset: int, attributes: tuple[tuple[str, Any], ...], inputs: tuple[_Input, ...], outputs: int
) -> tuple[_Output, ...]:
    return _infer(op_type, opset, dict(attributes), inputs, outputs)


def _infer(
    op_type: str, opset: int, attributes: Mapping[str, Any], inputs: Sequence[_Input], outputs: int
) -> tuple[_Output, ...]:
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    names = []
    for position, given in enumerate(inputs):
        name = "" if given is None else f"x{position}"
        names.append(name)
        if given is None:
            continue
        dtype, extents, constant = given
        types[name] = onnx.helper.make_tensor_type_proto(dtype, extents)
        if constant is not None:
            array = np.frombuffer(constant[1], np.int64).reshape(constant[0])
            data[name] = onnx.numpy_helper.from_array(array, name)
    made = [ir.Value(name=name) if name else None for name in names]
    node = ir.node(op_type, made, dict(attributes), num_outputs=outputs, name="node")
    for position, value in enumerate(node.outputs):
        value.name = f"y{position}"
    inferred = onnx.shape_inference.infer_node_outputs(
        onnx.defs.get_schema(op_type, opset, ""),
        ir.to_proto(node),
        types,
        data,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )
    return tuple(_output(inferred.get(value.name or "")) for value in node.outputs)


def _output(inferred: onnx.TypeProto | None) -> _Output:
    if inferred is None:
        return None
    tensor = inferred.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    extents = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
    return tensor.elem_type, extents
