"""ConstantOfShape of a constant shape becomes an initializer: it may be a weight."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ...errors import ModelError

_MOST_BYTES = 1 << 28  # a few bytes of file can ask for any amount of memory


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
            given = node.attributes.get("value")
            fill = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy().reshape(-1)
            integers = extents.dtype == ir.DataType.INT64
            wanted = [int(extent) for extent in extents.numpy().reshape(-1)] if integers else []
            if len(fill) != 1 or not integers or any(extent < 0 for extent in wanted):
                raise ModelError(
                    f"node {node.name or output.name!r} (ConstantOfShape) has the shape {wanted[:9]} and {len(fill)} "
                    "values, where extents of 0 and more and one value are expected. Export the model again."
                )
            if math.prod(wanted) * fill.itemsize > _MOST_BYTES:
                raise ModelError(
                    f"node {node.name or output.name!r} (ConstantOfShape) asks for "
                    f"{math.prod(wanted) * fill.itemsize:.3g} bytes ({wanted[:9]}), more than any weight of a model is "
                    "filled with. Is the file damaged? Export it again."
                )
            name = output.name
            output.name = None
            value = ir.Value(name=name, const_value=ir.tensor(np.full(wanted, fill[0], fill.dtype), name=name))
            model.graph.register_initializer(value)
            output.replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
