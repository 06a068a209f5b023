"""Turn ConstantOfShape of a constant shape into an initializer, since it may be a weight."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ...errors import ModelError

_MOST_BYTES = 1 << 28  # a few bytes in a file can request any amount of memory


class FillConstants(ir.passes.InPlacePass):
    """Compute every ConstantOfShape whose shape is an initializer."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        for node in list(model.graph):
            shape = node.inputs[0] if node.op_type == "ConstantOfShape" else None
            extents = ir.convenience.get_const_tensor(shape) if shape is not None else None
            output = node.outputs[0]
            if extents is None or output.is_graph_output():
                continue
            fill_attribute = node.attributes.get("value")
            fill = np.zeros(1, np.float32) if fill_attribute is None else fill_attribute.as_tensor().numpy().reshape(-1)
            integers = extents.dtype == ir.DataType.INT64
            target = [int(extent) for extent in extents.numpy().reshape(-1)] if integers else []
            if len(fill) != 1 or not integers or any(extent < 0 for extent in target):
                raise ModelError(
                    f"node {node.name or output.name!r} (ConstantOfShape) has the shape {target[:9]} and {len(fill)} "
                    "values, but nonnegative extents and one value are expected. Export the model again."
                )
            if math.prod(target) * fill.itemsize > _MOST_BYTES:
                raise ModelError(
                    f"node {node.name or output.name!r} (ConstantOfShape) requests "
                    f"{math.prod(target) * fill.itemsize:.3g} bytes ({target[:9]}), more than is supported. Is the "
                    "file damaged? Export it again."
                )
            name = output.name
            output.name = None
            value = ir.Value(name=name, const_value=ir.tensor(np.full(target, fill[0], fill.dtype), name=name))
            model.graph.register_initializer(value)
            output.replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
