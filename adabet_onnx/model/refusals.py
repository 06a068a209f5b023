"""Turning away, by name, the files that cannot be scored or trained."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..isolation import during
from ..pieces import path_of
from .constant_values import RANDOM, is_random
from .output_shapes import completed
from .passes.unfuse import DOMAIN
from .producer import inference
from .untrainable_models import CLASSICAL, classical_operator_message, onnxruntime_operator_message
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


def reject_random(model: ir.Model, name: str) -> None:
    """See that the output does not depend on chance (Dropouts are at inference by now).

    Raises:
        ModelError: a node gives random numbers; it is named.
    """
    node = next((node for node in model.graph if is_random(node)), None)
    if node is not None:
        inside = "" if node.op_type in RANDOM else f" in a graph inside it ({', '.join(_random_inside(node))})"
        raise ModelError(
            f"{name}: node {node.name!r} ({node.op_type}) gives random numbers{inside}, so no two runs give the same "
            "outputs: neither scores nor accuracies would mean anything. Export the model for inference "
            f"({inference(model.producer_name)})."
        )


def _random_inside(node: ir.Node) -> list[str]:
    inner = [inner for graph in subgraphs(node) for inner in graph.all_nodes() if inner.op_type in RANDOM]
    return list(dict.fromkeys(item.op_type for item in inner))


def reject_sequences(model: ir.Model, name: str) -> None:
    """See that inputs and outputs are tensors.

    Raises:
        ModelError: one is a sequence, a map or an optional value; it is named.
    """
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            if value.type is None or isinstance(value.type, ir.TensorType):
                continue
            if what == "input":
                remedy = "Export the model with a tensor in its place."
            else:
                remedy = (
                    f"Name a tensor to be the logits: `open_model({path_of(name)}, logits='NAME')`; or export the "
                    "model with a tensor in its place."
                )
            raise ModelError(
                f"{name}: {what} {value.name!r} is no tensor but {_kind(value.type)}, and the {what}s of a model that "
                f"is scored or trained are tensors. {remedy}"
            )


def _kind(kind: ir.TypeProtocol) -> str:
    if isinstance(kind, ir.OptionalType):
        return "an optional value"
    return "a sequence" if isinstance(kind, ir.SequenceType) else "a value of another kind"


def reject_custom_operators(model: ir.Model, name: str) -> None:
    """See that every node is a standard operator (local functions are inlined by now).

    Raises:
        ModelError: one is not; it is named.
    """
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            continue
        what = f"{name}: node {node.name or node.outputs[0].name!r} is {node.domain}.{node.op_type}"
        where = f"{name}: node {node.name or node.outputs[0].name!r}"
        if node.domain == CLASSICAL:
            raise ModelError(classical_operator_message(node.op_type, where))
        if node.domain.startswith(DOMAIN):
            raise ModelError(onnxruntime_operator_message(node.domain, node.op_type, where))
        raise ModelError(f"{what}, not a standard ONNX operator. Export the model with standard operators only.")
