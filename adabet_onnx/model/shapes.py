"""Static shapes of a graph's values, at a given batch size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError
from ..isolation import during
from .passes.unused import RemoveUnused

BATCH = "N"  # name of the batch dimension in every opened model
Shapes = dict[str, tuple[int, ...]]
TRIAL_SECONDS = 8.0  # a loop in a graph may never end
_SMALL = 1024  # most elements of a constant that shapes may depend on
_FIRST_IR_VERSION = 4  # in which an initializer need not be an input


def infer_shapes(model: ir.Model, batch: int = 1, *, strict: bool = False, propagate: bool = True) -> Shapes:
    """Shapes that ONNX shape inference finds when the batch dimension is ``batch``.

    Values of unknown shape are absent. Graph inputs and initializers are included. Without ``propagate``, fewer shapes
    are found: the graph's own shape computations are not evaluated.

    Raises:
        ModelError: with ``strict``, the graph contradicts itself at this batch size.
    """
    proto = _inferred(
        fix_batch(light_proto(model), batch), f" at batch {batch}", data_prop=propagate, strict_mode=strict
    )
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for info in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        tensor = info.type.tensor_type
        if tensor.HasField("shape") and all(extent.HasField("dim_value") for extent in tensor.shape.dim):
            shapes[info.name] = tuple(extent.dim_value for extent in tensor.shape.dim)
    return shapes


def infer_types(model: ir.Model) -> dict[str, int]:
    """The element type (ONNX enum) of every value whose type ONNX shape inference finds, including inputs.

    Raises:
        ModelError: the graph contradicts itself.
    """
    proto = _inferred(light_proto(model), "")
    infos = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    return {info.name: info.type.tensor_type.elem_type for info in infos if info.type.tensor_type.elem_type}


def _inferred(proto: onnx.ModelProto, where: str, **options: bool) -> onnx.ModelProto:
    try:
        with during("onnx infers shapes"):
            return onnx.shape_inference.infer_shapes(proto, **options)
    except Exception as error:  # the C++ checker raises its own kinds
        raise ModelError(f"the shapes in the graph are inconsistent{where}: {str(error).strip()[:300]}") from error


def light_proto(model: ir.Model) -> onnx.ModelProto:
    """The graph without its weights, which become inputs, for uses that only need their shapes.

    Copying the weights is most of the cost of a ModelProto, which moreover cannot exceed 2 GiB.
    """
    graph = model.graph
    proto = onnx.ModelProto(ir_version=max(model.ir_version, _FIRST_IR_VERSION))
    proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in model.opset_imports.items())
    proto.graph.name = graph.name or "graph"
    proto.graph.node.extend(ir.serde.serialize_node(node) for node in graph)
    proto.graph.input.extend(ir.serde.serialize_value(value) for value in graph.inputs)
    proto.graph.output.extend(ir.serde.serialize_value(value) for value in graph.outputs)
    names = {value.name for value in graph.inputs}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or name in names:
            continue
        if tensor.size <= _SMALL:
            proto.graph.initializer.append(ir.serde.serialize_tensor(_named(tensor, name)))
        else:
            shape = [int(extent) for extent in tensor.shape.numpy()]
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), shape))
    return proto


def serialised_tensor(value: ir.Value) -> onnx.TensorProto:
    """An initializer with its elements as a TensorProto with the value's name, wherever the elements are stored."""
    assert value.const_value is not None
    assert value.name is not None
    return ir.serde.serialize_tensor(_named(value.const_value, value.name))


def _named(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    inside = tensor.name == name and not isinstance(tensor, ir.ExternalTensor)
    return tensor if inside else ir.tensor(tensor.numpy(), name=name, dtype=tensor.dtype)


def fix_batch(proto: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Replace the batch dimension by a number, in place, and drop shapes inferred from the symbol."""
    for info in (*proto.graph.input, *proto.graph.output):
        for extent in info.type.tensor_type.shape.dim:
            if extent.dim_param == BATCH:
                extent.dim_value = batch
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return proto


def measured_shapes(model: ir.Model, names: Iterable[str], batch: int = 2) -> Shapes:
    """Shapes of the named values from a run of the graph on zeros, for values without an inferred shape.

    Raises:
        ModelError: the graph cannot run, or an input has a dimension of unknown size.
    """
    requested = list(names)
    feeds = {}
    for graph_input in model.graph.inputs:
        assert graph_input.shape is not None
        assert graph_input.dtype is not None
        extents = [extent if isinstance(extent, int) else batch for extent in graph_input.shape]
        feeds[graph_input.name or ""] = np.zeros(extents, graph_input.dtype.numpy())
    probed = model.clone()
    values = {value.name: value for node in probed.graph for value in node.outputs}
    if all(name in values for name in requested):
        probed.graph.outputs.clear()  # what the values do not depend on is not run
    existing = {value.name for value in probed.graph.outputs}
    for name in requested:
        if name in values and name not in existing:
            values[name].type = values[name].shape = None  # its recorded shape may be outdated
            probed.graph.outputs.append(values[name])
    RemoveUnused()(probed)
    # Not optimised: onnxruntime's optimizer may remove a value, and returns None for it.
    session = runtime.inference_session(probed, "the model", runtime.plain_options())
    arrays = runtime.run_session(session, requested, feeds, "the model", seconds=TRIAL_SECONDS)
    return {name: tuple(array.shape) for name, array in zip(requested, arrays, strict=True)}
