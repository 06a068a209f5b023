"""Convert half precision and double to float32, the only type that is trained.

Weights, tensor attributes of nodes, casts, and inputs and outputs of the graph all change together, so that casts
between these types become unnecessary and are removed.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from ..shapes import infer_types
from .replacement import replace_output

HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_OTHERS = HALF | {ir.DataType.DOUBLE}
# Attributes that name the type of a node's result.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "output_dtype", "softmax_precision"})


def other_precision(model: ir.Model) -> list[str]:
    """The types that require this pass: half precision anywhere, double in weights, inputs or outputs.

    A double number in a formula of a float32 model is harmless.
    """
    types: set[ir.DataType] = set()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and (tensor.dtype in HALF or len(tensor.shape) > 0):
                types.add(tensor.dtype)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype is not None:
            types.add(value.dtype)
    for node in model.graph.all_nodes():
        to = _named_type(node)
        if to in HALF:
            types.add(to)
    return sorted(dtype.name.lower() for dtype in types & _OTHERS)


class SinglePrecision(ir.passes.InPlacePass):
    """Convert every half precision and double tensor of a graph."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        for graph in model.graphs():
            for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
                modified |= _convert_value(value)
        for node in model.graph.all_nodes():
            modified |= _convert_attributes(node)
            for value in node.outputs:
                modified |= _convert_value(value)
        if modified:
            _drop_casts(model)
        return ir.passes.PassResult(model, modified)


def _named_type(node: ir.Node) -> ir.DataType | None:
    for name in _TYPE_ATTRIBUTES & node.attributes.keys():
        attribute = node.attributes[name]
        if attribute.type == ir.AttributeType.INT:
            try:
                return ir.DataType(attribute.as_int())
            except ValueError:
                return None
    return None


def _convert_value(value: ir.Value) -> bool:
    modified = False
    if value.const_value is not None and value.const_value.dtype in _OTHERS:
        value.const_value = _single(value.const_value)
        modified = True
    if isinstance(value.type, ir.TensorType) and value.type.dtype in _OTHERS:
        value.type = ir.TensorType(ir.DataType.FLOAT)  # a new object: clones share theirs
        modified = True
    return modified


def _single(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    array = tensor.numpy()
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32)
    beyond = np.isinf(converted) & ~np.isinf(array.astype(np.float64))  # for example a mask of -1e308
    if beyond.any():
        converted[beyond] = np.copysign(np.finfo(np.float32).max, converted[beyond])
    return ir.tensor(converted, name=tensor.name)


def _convert_attributes(node: ir.Node) -> bool:
    modified = False
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _OTHERS:
            node.attributes[name] = ir.AttrTensor(name, _single(attribute.as_tensor()))
            modified = True
        elif name in _TYPE_ATTRIBUTES and _named_type(node) in _OTHERS:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            modified = True
    return modified


def _drop_casts(model: ir.Model) -> None:
    """Remove Cast nodes from float32 to float32."""
    singles: set[str | None] = {name for name, kind in infer_types(model).items() if kind == onnx.TensorProto.FLOAT}
    graph = model.graph
    singles |= {value.name for value in graph.initializers.values() if value.dtype == ir.DataType.FLOAT}
    for node in list(graph):
        if node.op_type != "Cast" or _named_type(node) != ir.DataType.FLOAT:
            continue
        source, output = node.inputs[0], node.outputs[0]
        if source is None or source.name not in singles:
            continue
        if output.is_graph_output():
            if source.is_graph_input() or source.is_initializer() or source.is_graph_output():
                continue
            replace_output(graph, node, source)
            if source.name:
                singles.add(source.name)
        else:
            output.replace_all_uses_with(source)
            graph.remove(node, safe=True)
