"""Messages about files without any trainable layer: classical models, and files made for one runtime only."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from ..errors import ModelError
from .limits import all_nodes
from .passes.unfuse import DOMAIN

CLASSICAL = "ai.onnx.ml"
_NETWORKS = (
    "Only neural networks and linear models can be retrained here, such as scikit-learn's MLPClassifier and "
    "LogisticRegression."
)
_AGAIN = "Fit it again in its original library."
_TREES = "a tree ensemble (a random forest, gradient boosting or a decision tree), which has no layers and no gradient"
_VECTORS = "a support vector machine, which has no layers"
_MODELS = {
    "SVMClassifier": _VECTORS,
    "SVMRegressor": _VECTORS,
    "TreeEnsemble": _TREES,
    "TreeEnsembleClassifier": _TREES,
    "TreeEnsembleRegressor": _TREES,
}
_LAYERS = frozenset({"Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
_BEFORE = "Give the originally exported model"
_BLOCKED = (
    "an operator in a blocked channel layout, which ONNX Runtime's optimisation at level ORT_ENABLE_ALL produces for "
    "one kind of processor",
    f"{_BEFORE}, or optimise it again at ORT_ENABLE_EXTENDED at most.",
)
_QUANTISED = (
    "a quantised operator specific to ONNX Runtime, as its quantisation tools and its optimiser write them",
    f"{_BEFORE}: the float32 model, or one quantised with QuantizeLinear and DequantizeLinear (quant_format=QDQ).",
)
_FUSED = (
    "a fused operator specific to ONNX Runtime: the file was optimised by ONNX Runtime, or written by a tool that "
    "targets only this runtime",
    f"{_BEFORE} (the input of onnxruntime.transformers.optimizer, or Optimum's export without --optimize).",
)


def reject_classical(proto: onnx.ModelProto, name: str) -> None:
    """Reject tree ensembles and similar models, which onnx_ir may not even load.

    A file that also contains layers passes: whether it can be used depends on the chosen output.

    Raises:
        ModelError: the model is of such a kind; the message says which.
    """
    nodes = [node for node, _ in all_nodes(proto.graph.node)]
    if any(node.op_type in _LAYERS for node in nodes):
        return
    for node in nodes:
        if node.domain == CLASSICAL and node.op_type in _MODELS:
            raise ModelError(classical_operator_message(node.op_type, f"{name}: node {_node_name(node)}"))
    text = next((value.name for value in proto.graph.input if _is_text(value)), None)
    if text is not None:
        raise ModelError(
            f"{name}: input {text!r} is text, and layers take numbers; the model has no layer whose weights are "
            f"trained by gradients (operators: {_listed(proto.graph.node)}). {_NETWORKS}"
        )


def classical_operator_message(op_type: str, where: str) -> str:
    """The message about a node of ai.onnx.ml; ``where`` names the file and the node."""
    kind = _MODELS.get(op_type)
    if kind is not None:
        return f"{where} ({op_type}): this is {kind}, so no part of it can be scored or retrained. {_AGAIN} {_NETWORKS}"
    return (
        f"{where} ({op_type}) is an operator of {CLASSICAL} (scikit-learn) that preprocesses tables or text, or names "
        "classes, and has no gradient. Apply it outside the model, and export only the network (skl2onnx: the last "
        f"step of the pipeline). {_NETWORKS}"
    )


def onnxruntime_operator_message(domain: str, op_type: str, where: str) -> str:
    """The message about a node of com.microsoft; ``where`` names the file and the node."""
    if domain == f"{DOMAIN}.nchwc":
        kind, remedy = _BLOCKED
    elif op_type.startswith(("QLinear", "QGemm", "QAttention", "QEmbed", "QOrdered")) or any(
        part in op_type for part in ("Quantize", "Integer", "NBits", "Bnb4", "FpQ4")
    ):
        kind, remedy = _QUANTISED
    else:
        kind, remedy = _FUSED
    return f"{where} is {domain}.{op_type}, {kind}. {remedy}"


def _node_name(node: onnx.NodeProto) -> str:
    return repr((node.name or (node.output[0] if node.output else ""))[:200])


def _is_text(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == onnx.TensorProto.STRING


def _listed(nodes: Iterable[onnx.NodeProto]) -> str:
    names = list(dict.fromkeys(node.op_type for node in nodes))
    return ", ".join(names[:6]) + (" and others" if len(names) > 6 else "")
