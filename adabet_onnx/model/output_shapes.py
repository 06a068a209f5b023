"""Determine missing shapes and types of outputs, which some exporters omit and inner values of the graph lack."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from ..errors import ModelError, RuntimeMissingError
from .alternative_logits import find_alternative
from .shapes import BATCH, Shapes, infer_shapes, infer_types, measured_shapes

_BATCHES = (2, 3)


@contextlib.contextmanager
def completed(proto: onnx.ModelProto) -> Iterator[None]:
    """Temporarily give outputs without a shape or type some: onnx's checker requires them, onnxruntime does not."""
    bare = [value for value in proto.graph.output if not value.type.WhichOneof("value")]
    shapeless = [value for value in proto.graph.output if _has_no_shape(value)]
    for value in bare:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for value in (*bare, *shapeless):
        value.type.tensor_type.shape.SetInParent()
    try:
        yield
    finally:
        for value in shapeless:
            value.type.tensor_type.ClearField("shape")
        for value in bare:
            value.ClearField("type")


def _has_no_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def set_output_types(model: ir.Model) -> None:
    """Set missing element types of outputs, in place: the inferred type, or else float32.

    Raises:
        ModelError: the graph contradicts itself.
    """
    bare = [value for value in model.graph.outputs if value.dtype in (None, ir.DataType.UNDEFINED)]
    if not bare:
        return
    shapes = [value.shape for value in bare]
    for value in bare:
        value.type = value.shape = None  # a shape without a type cannot be serialised
    inferred = infer_types(model)
    for value, shape in zip(bare, shapes, strict=True):
        value.dtype = ir.DataType(inferred.get(value.name or "", ir.DataType.FLOAT))
        value.shape = shape


def set_output_shapes(model: ir.Model, name: str) -> None:
    """Set the shape of every output, in place: inferred, or else measured in a run.

    A dimension that equals the batch size at two batch sizes becomes ``N``; others that differ stay open. The file's
    own statement may be wrong and is used only if there is no other source.

    Args:
        model: a graph whose inputs are fixed but for the batch, ``N``.
        name: of the model, for messages.

    Raises:
        ModelError: the file states no shape, and neither inference nor a run yields one.
    """
    for value in model.graph.outputs:
        if not value.name:
            continue
        try:
            small, large = _shapes(model, value.name, name)
        except ModelError:
            if value.shape is None:
                raise
            value.shape = ir.Shape([extent if isinstance(extent, int) else None for extent in value.shape])
            continue
        if len(small) != len(large):
            alternative = find_alternative(model, value.name)
            instead = "E" if alternative is None else alternative.remedy(name, "has") + " Or e"
            raise ModelError(
                f"{name}: output {value.name!r} has no fixed number of dimensions: {len(small)} for a batch of "
                f"{_BATCHES[0]}, {len(large)} for one of {_BATCHES[1]}. {instead}xport it with one."
            )
        value.shape = ir.Shape([_extent(a, b) for a, b in zip(small, large, strict=True)])


def _extent(small: int, large: int) -> int | str | None:
    if small == large:
        return small
    return BATCH if (small, large) == _BATCHES else None


def _shapes(model: ir.Model, value: str, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    inferred: list[Shapes] = [infer_shapes(model, batch) for batch in _BATCHES]
    if all(value in shapes for shapes in inferred):
        return inferred[0][value], inferred[1][value]
    try:
        small, large = (measured_shapes(model, [value], batch)[value] for batch in _BATCHES)
    except (ModelError, RuntimeMissingError) as error:
        raise ModelError(
            f"{name}: output {value!r} has no shape, and it cannot be determined: {error} Export the model with shapes."
        ) from error
    return small, large
