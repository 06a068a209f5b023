"""Reject files that cannot be scored or trained, with messages that name the obstacle."""

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
    """Check a model with onnx's own checker.

    Raises:
        ModelError: the checker rejects it.
    """
    try:
        with completed(proto), during("onnx checks it"):
            onnx.checker.check_model(proto)
    except Exception as error:  # onnx.checker.ValidationError, or a C++ type error
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = (lines[0] if lines else str(error)).strip().rstrip(".")[:300]
        raise ModelError(f"{name} is not a valid ONNX model: {reason}. Export it again.") from error


def reject_random(model: ir.Model, name: str) -> None:
    """Reject graphs with random outputs (Dropouts are already in inference mode).

    Raises:
        ModelError: a node generates random numbers; the message names it.
    """
    node = next((node for node in model.graph if is_random(node)), None)
    if node is not None:
        inside = "" if node.op_type in RANDOM else f" in a subgraph ({', '.join(_random_inside(node))})"
        raise ModelError(
            f"{name}: node {node.name!r} ({node.op_type}) generates random numbers{inside}, so outputs differ from run "
            "to run: scores and accuracies would be meaningless. Export the model for inference "
            f"({inference(model.producer_name)})."
        )


def _random_inside(node: ir.Node) -> list[str]:
    inner = [inner for graph in subgraphs(node) for inner in graph.all_nodes() if inner.op_type in RANDOM]
    return list(dict.fromkeys(item.op_type for item in inner))


def reject_sequences(model: ir.Model, name: str) -> None:
    """Reject inputs and outputs that are not tensors.

    Raises:
        ModelError: one is a sequence, a map or an optional value; the message names it.
    """
    for role, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            if value.type is None or isinstance(value.type, ir.TensorType):
                continue
            if role == "input":
                remedy = "Export the model with a tensor in its place."
            else:
                remedy = (
                    f"Name a tensor to use as the logits: `open_model({path_of(name)}, logits='NAME')`; or export the "
                    "model with a tensor in its place."
                )
            raise ModelError(
                f"{name}: {role} {value.name!r} is not a tensor but {_kind(value.type)}, and only tensors are "
                f"supported as {role}s. {remedy}"
            )


def _kind(kind: ir.TypeProtocol) -> str:
    if isinstance(kind, ir.OptionalType):
        return "an optional value"
    return "a sequence" if isinstance(kind, ir.SequenceType) else "a value of another kind"


def reject_custom_operators(model: ir.Model, name: str) -> None:
    """Reject operators outside the ONNX standard (local functions are already inlined).

    Raises:
        ModelError: a node is not a standard operator; the message names it.
    """
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            continue
        description = f"{name}: node {node.name or node.outputs[0].name!r} is {node.domain}.{node.op_type}"
        where = f"{name}: node {node.name or node.outputs[0].name!r}"
        if node.domain == CLASSICAL:
            raise ModelError(classical_operator_message(node.op_type, where))
        if node.domain.startswith(DOMAIN):
            raise ModelError(onnxruntime_operator_message(node.domain, node.op_type, where))
        raise ModelError(f"{description}, not a standard ONNX operator. Export the model with standard operators only.")
