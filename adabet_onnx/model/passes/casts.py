"""Replace CastLike by Cast: what reads a value for its type alone does not depend on it."""

from __future__ import annotations

import onnx_ir as ir

from ..shapes import infer_types


class ExplicitCasts(ir.passes.InPlacePass):
    """Turn every CastLike into a Cast to the type of its second input, if that is known."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        casts = [node for node in model.graph if node.op_type == "CastLike" and node.domain in ("", "ai.onnx")]
        types, modified = infer_types(model) if casts else {}, False
        for node in casts:
            like = node.inputs[1]
            tensor = None if like is None else like.const_value
            dtype = types.get(like.name or "") if like is not None else None
            dtype = dtype if tensor is None else int(tensor.dtype)
            if dtype:
                node.op_type = "Cast"
                node.attributes["to"] = ir.AttrInt64("to", dtype)
                node.resize_inputs(1)
                modified = True
        return ir.passes.PassResult(model, modified)
