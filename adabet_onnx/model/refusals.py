"""Turning away, by name, the files that cannot be scored or trained."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..isolation import during
from .constant import RANDOM, is_random
from .output_shapes import completed
from .uses import subgraphs


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


def refuse_random(model: ir.Model, name: str) -> None:
    """See that the output does not depend on chance (Dropouts are at inference by now).

    Raises:
        ModelError: a node gives random numbers; it is named.
    """
    node = next((node for node in model.graph if is_random(node)), None)
    if node is not None:
        inside = "" if node.op_type in RANDOM else f" in a graph inside it ({', '.join(_random_inside(node))})"
        raise ModelError(
            f"{name}: node {node.name!r} ({node.op_type}) gives random numbers{inside}, so no two runs give the same "
            "outputs: neither scores nor accuracies would mean anything. Export the model for inference (in torch: "
            "model.eval(), without training=TrainingMode.TRAINING)."
        )


def _random_inside(node: ir.Node) -> list[str]:
    inner = [inner for graph in subgraphs(node) for inner in graph.all_nodes() if inner.op_type in RANDOM]
    return list(dict.fromkeys(item.op_type for item in inner))


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
                "products, such as MLPClassifier and LogisticRegression, can be retrained."
            )
        if node.domain.startswith("com.microsoft"):
            raise ModelError(
                f"{what}, so the file was optimised (fused) by ONNX Runtime. Give the model as it was exported, "
                "before optimisation."
            )
        raise ModelError(f"{what}, not a standard ONNX operator. Export the model with standard operators only.")
