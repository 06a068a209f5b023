"""LayerNormalization gets all three outputs and a bias: without them its gradient crashes or is missing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


class CompleteLayerNormalization(ir.passes.InPlacePass):
    """Name the optional outputs of LayerNormalization and give it a zero bias where it has none."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        for node in model.graph:
            if node.op_type != "LayerNormalization":
                continue
            if len(node.inputs) < 3 or node.inputs[2] is None:
                scale = node.inputs[1]
                assert scale is not None
                tensor = ir.convenience.get_const_tensor(scale)
                if tensor is None:
                    continue
                zeros = np.zeros(tensor.shape.numpy(), np.float32)
                bias = ir.Value(name=f"{node.name}/zero_bias", const_value=ir.tensor(zeros))
                model.graph.register_initializer(bias)
                node.resize_inputs(3)
                node.replace_input_with(2, bias)
                modified = True
            if len(node.outputs) < 3:
                node.resize_outputs(3)
                modified = True
            for value, suffix in zip(node.outputs[1:], ("mean", "inv_std_dev"), strict=True):
                if not value.name:
                    value.name = f"{node.name}/{suffix}"
                value.dtype = ir.DataType.FLOAT
        return ir.passes.PassResult(model, modified)
