"""Turning away, by name, the files that cannot be scored or trained."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..isolation import during
from .output_shapes import completed


def check_valid(proto: onnx.ModelProto, name: str) -> None:
    """See that onnx's own checker takes the model.

    Raises:
        ModelError: it does not.
    """
    try:
        with completed(proto), during("onnx checks it"):
            onnx.checker.check_model(proto)
    except Exception as error:  # onnx.checker.ValidationError, or a C++ type error
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = (lines[0] if lines else str(error)).strip().rstrip(".")[:300]
        raise ModelError(f"{name} is not a valid ONNX model: {reason}. Export it again.") from error


def refuse_foreign(model: ir.Model, name: str) -> None:
    """See that every node is a standard operator (local functions are inlined by now).

    Raises:
        ModelError: one is not; it is named.
    """
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            continue
        what = f"{name}: node {node.name or node.outputs[0].name!r} is {node.domain}.{node.op_type}"
        if node.domain == "ai.onnx.ml":
            raise ModelError(
                f"{what}, a classical (scikit-learn) operator that has no gradient. Only models made of matrix "
                "products, such as MLPClassifier, can be retrained; there, export with zipmap=False."
            )
        if node.domain.startswith("com.microsoft"):
            raise ModelError(
                f"{what}, so the file was optimised (fused) by ONNX Runtime. Give the model as it was exported, "
                "before optimisation."
            )
        raise ModelError(f"{what}, not a standard ONNX operator. Export the model with standard operators only.")
