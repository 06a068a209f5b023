"""Replace sparse tensors by dense ones: trained weights are dense, and few tools read sparse tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import ModelError

_MOST_BYTES = 1 << 28  # a few bytes in a file can request any amount of memory


def densify(proto: onnx.ModelProto, name: str) -> None:
    """Replace sparse initializers and constants by dense ones, in place, including subgraphs and functions.

    Raises:
        ModelError: a tensor is invalid, not numeric, or too large.
    """
    for graph in _graphs(proto):
        dense = [_dense(sparse, name) for sparse in graph.sparse_initializer]
        del graph.sparse_initializer[:]
        graph.initializer.extend(dense)
    for node in _nodes(proto):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                tensor = _dense(attribute.sparse_tensor, name)
                attribute.ClearField("sparse_tensor")
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(tensor)


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    tensor_name = sparse.values.name[:200]
    dims = list(sparse.dims)
    try:
        dtype = ir.DataType(sparse.values.data_type)
        if dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            raise ValueError("it is not numeric")
        if any(extent < 0 for extent in dims) or math.prod(dims) * dtype.bitwidth // 8 > _MOST_BYTES:
            raise ValueError(f"it declares the shape {dims[:9]}")
        values = onnx.numpy_helper.to_array(sparse.values)
        places = _places(onnx.numpy_helper.to_array(sparse.indices), dims)
        if values.ndim != 1 or len(values) != len(places):
            raise ValueError(f"it has {len(places)} indices for values of shape {list(values.shape)[:9]}")
        if len(np.unique(places)) < len(places):
            raise ValueError("an element is given twice")
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{name} is not a valid ONNX model: sparse tensor {tensor_name!r}: {error}. The file is damaged: copy or "
            "export it again."
        ) from error
    array = np.zeros(math.prod(dims), values.dtype)
    array[places] = values
    return onnx.numpy_helper.from_array(array.reshape(dims), sparse.values.name)


def _places(indices: np.ndarray, dims: list[int]) -> np.ndarray:
    """Positions of the values in the flat tensor.

    Raises:
        ValueError: the indices are not valid.
    """
    if indices.dtype.kind != "i":
        raise ValueError("the indices are not integers")
    if indices.ndim == 1:
        flat = indices
    elif indices.ndim == 2 and indices.shape[1] == len(dims) > 0:
        if ((indices < 0) | (indices >= np.array(dims))).any():
            raise ValueError("an index is out of range")
        flat = np.ravel_multi_index(tuple(indices.T), dims)
    else:
        raise ValueError(f"the indices have the shape {list(indices.shape)[:9]}")
    if ((flat < 0) | (flat >= math.prod(dims))).any():
        raise ValueError("an index is out of range")
    return np.asarray(flat, np.int64)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for node in _nodes(proto):
        yield from _inside(node)


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, including those of subgraphs and functions."""
    stack: list[Iterable[onnx.NodeProto]] = [proto.graph.node, *(function.node for function in proto.functions)]
    while stack:
        for node in stack.pop():
            yield node
            stack += [graph.node for graph in _inside(node)]


def _inside(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
