"""Make a batch dimension that the exporter fixed dynamic, with the constants that repeat it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from .shapes import BATCH, Shapes, infer_shapes


def make_batch_dynamic(model: ir.Model, name: str) -> bool:
    """Give every graph input the batch dimension ``N``, in place; return whether a fixed one was replaced.

    Reshape targets that repeat a fixed batch size are changed to follow the batch. Afterwards shape inference
    at batch 1 and 3 must agree with the outputs.

    Raises:
        ModelError: an input has no shape, or another dimension unknown; a node other than Reshape holds the
            batch fixed.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    fixed: set[int] = set()
    for value in inputs:
        shape = value.shape
        if shape is None or len(shape) == 0:
            raise ModelError(
                f"{name}: input {value.name!r} has no shape with a batch dimension. Export the model with input "
                "shapes, the batch first."
            )
        if isinstance(shape[0], int):
            fixed.add(shape[0])
        unknown = [index for index in range(1, len(shape)) if not isinstance(shape[index], int)]
        if unknown:
            raise ModelError(
                f"{name}: dimension {unknown[0]} of input {value.name!r} ({shape}) is not a fixed number, so "
                "activation sizes are unknown. Fix all dimensions but the batch, for instance with "
                "python -m onnxruntime.tools.make_dynamic_shape_fixed."
            )
    if len(fixed) > 1:
        raise ModelError(f"{name}: the inputs have different fixed batch sizes {sorted(fixed)}; make them equal.")
    if fixed:
        _free_reshapes(model, next(iter(fixed)), infer_shapes(model))
    for value in inputs:
        shape = value.shape
        assert shape is not None
        value.shape = ir.Shape([BATCH, *shape[1:]])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    for value in model.graph.outputs:
        if value.shape is not None and len(value.shape) > 0:
            first = BATCH if fixed or not isinstance(value.shape[0], int) else value.shape[0]
            value.shape = ir.Shape([first, *value.shape[1:]])
    if fixed:
        _check(model, name)
    return bool(fixed)


def _free_reshapes(model: ir.Model, batch: int, shapes: Shapes) -> None:
    depends: set[ir.Value] = set(model.graph.inputs)
    for node in model.graph:
        if not any(value in depends for value in node.inputs if value is not None):
            continue
        depends.update(node.outputs)
        if node.op_type != "Reshape" or node.inputs[1] is None:
            continue
        constant = ir.convenience.get_const_tensor(node.inputs[1])
        if constant is None:
            continue
        target = constant.numpy().astype(np.int64).copy()
        data = node.inputs[0]
        assert data is not None
        source, result = shapes.get(data.name or ""), shapes.get(node.outputs[0].name or "")
        if target.size == 0 or target[0] <= 0 or not source or not result:
            continue
        zero_copies = node.attributes.get_int("allowzero", 0) == 0
        if target[0] == batch == source[0] and zero_copies:
            target[0] = 0
        else:
            target[target == -1] = [result[index] for index in np.flatnonzero(target == -1)]
            target[0] = -1
        follows = ir.Value(name=f"{node.name}/batch_free_shape", const_value=ir.tensor(target))
        model.graph.register_initializer(follows)
        node.replace_input_with(1, follows)


def _check(model: ir.Model, name: str) -> None:
    for batch in (1, 3):
        try:
            shapes = infer_shapes(model, batch, strict=True)
        except ModelError as error:
            raise ModelError(
                f"{name}: the batch size is fixed inside the graph and cannot be freed ({error}). Export the model "
                "with a dynamic batch dimension."
            ) from error
        for value in model.graph.outputs:
            shape = shapes.get(value.name or "")
            if shape and shape[0] != batch:
                raise ModelError(
                    f"{name}: output {value.name!r} has shape {shape} for a batch of {batch}: the batch size is fixed "
                    "inside the graph. Export the model with a dynamic batch dimension."
                )
