"""Static shapes of a graph's values, at a given batch size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import ModelError

BATCH = "N"  # name of the batch dimension in every opened model
Shapes = dict[str, tuple[int, ...]]


def infer_shapes(model: ir.Model, batch: int = 1, *, strict: bool = False) -> Shapes:
    """Shapes that ONNX shape inference finds when the batch dimension is ``batch``.

    Values whose shape it cannot find are absent. Values of graph inputs and initializers are included.

    Raises:
        ModelError: with ``strict``, the graph contradicts itself at this batch size.
    """
    proto = fix_batch(ir.to_proto(model), batch)
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True, strict_mode=strict)
    except Exception as error:  # the C++ checker raises its own kinds
        raise ModelError(
            f"the shapes of the graph do not fit together at batch {batch}: {str(error).strip()[:300]}"
        ) from error
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for info in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        tensor = info.type.tensor_type
        if tensor.HasField("shape") and all(extent.HasField("dim_value") for extent in tensor.shape.dim):
            shapes[info.name] = tuple(extent.dim_value for extent in tensor.shape.dim)
    return shapes


def shape_of(model: ir.Model, name: str) -> tuple[int, ...] | None:
    """The shape of one value at some batch size, by inference or else by a run; None if neither tells."""
    found = infer_shapes(model).get(name)
    if found is not None:
        return found
    try:
        return measured_shapes(model, [name])[name]
    except ModelError:
        return None


def fix_batch(proto: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Put a number in place of the batch dimension, in place, and forget what was inferred from the symbol."""
    for info in (*proto.graph.input, *proto.graph.output):
        for extent in info.type.tensor_type.shape.dim:
            if extent.dim_param == BATCH:
                extent.dim_value = batch
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return proto


def measured_shapes(model: ir.Model, names: Iterable[str], batch: int = 2) -> Shapes:
    """Shapes of the named values found by running the graph on zeros, for what inference cannot see.

    Raises:
        ModelError: the graph cannot run, or an input has a dimension of unknown size.
    """
    from .. import runtime  # only this fallback needs a runtime

    wanted = list(names)
    proto = ir.to_proto(model)
    feeds = {}
    for info in proto.graph.input:
        tensor = info.type.tensor_type
        extents = [batch if extent.dim_param == BATCH else extent.dim_value for extent in tensor.shape.dim]
        feeds[info.name] = np.zeros(extents, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    existing = {info.name for info in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in existing)
    session = runtime.inference_session(proto.SerializeToString(), "the model")
    arrays = runtime.run_session(session, wanted, feeds, "the model")
    return {name: tuple(array.shape) for name, array in zip(wanted, arrays, strict=True)}
