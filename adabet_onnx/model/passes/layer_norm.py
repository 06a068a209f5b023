"""Give LayerNormalization a bias and all three outputs.

Without them, onnxruntime-training's gradient crashes or is missing; and without a bias, onnxruntime 1.17 kills the
process when it loads a graph in which several nodes use the result.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


class CompleteLayerNormalization(ir.passes.InPlacePass):
    """Give LayerNormalization a zero bias if it has none, and name its optional outputs.

    Args:
        outputs: whether to name the optional outputs.
    """

    def __init__(self, *, outputs: bool = True) -> None:
        super().__init__()
        self._outputs = outputs

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
            if not self._outputs:
                continue
            if len(node.outputs) < 3:
                node.resize_outputs(3)
                modified = True
            for value, suffix in zip(node.outputs[1:], ("mean", "inv_std_dev"), strict=True):
                if not value.name:
                    value.name = f"{node.name}/{suffix}"
                value.dtype = ir.DataType.FLOAT
        return ir.passes.PassResult(model, modified)
