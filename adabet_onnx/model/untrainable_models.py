"""What files are that no layer of theirs can be retrained of: classical models, and files made for one runtime."""

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
_AGAIN = "Fit it again in the library that it comes from."
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
_BEFORE = "Give the model as it was exported, before that"
_BLOCKED = (
    "a convolution or its neighbour in blocks of channels, as ONNX Runtime's optimisation at the level ORT_ENABLE_ALL "
    "leaves them for one kind of processor",
    f"{_BEFORE}, or optimise it again at ORT_ENABLE_EXTENDED at most.",
)
_QUANTISED = (
    "a quantised operator of ONNX Runtime's own, as its quantisation tools and its optimiser make them",
    f"{_BEFORE}: the float32 model, or one quantised with QuantizeLinear and DequantizeLinear (quant_format=QDQ).",
)
_FUSED = (
    "an operator of ONNX Runtime's own in place of several: the file was optimised (fused) by ONNX Runtime, or made by "
    "a tool that writes for it alone",
    f"{_BEFORE} (the input of onnxruntime.transformers.optimizer, or Optimum's export without --optimize).",
)


def reject_classical(proto: onnx.ModelProto, name: str) -> None:
    """See that a model is no tree ensemble or the like, which onnx_ir may not even take in.

    A file with layers in it as well is left to what follows: which output is meant decides.

    Raises:
        ModelError: it is; the message says what it is.
    """
    nodes = [node for node, _ in all_nodes(proto.graph.node)]
    if any(node.op_type in _LAYERS for node in nodes):
        return
    for node in nodes:
        if node.domain == CLASSICAL and node.op_type in _MODELS:
            raise ModelError(classical(node.op_type, f"{name}: node {_called(node)}"))
    text = next((value.name for value in proto.graph.input if _is_text(value)), None)
    if text is not None:
        raise ModelError(
            f"{name}: input {text!r} is text, and layers take numbers; the model has no layer whose weights are "
            f"trained by gradients (operators: {_listed(proto.graph.node)}). {_NETWORKS}"
        )


def classical(op_type: str, where: str) -> str:
    """The message about a node of ai.onnx.ml; ``where`` names the file and the node."""
    what = _MODELS.get(op_type)
    if what is not None:
        return f"{where} ({op_type}): this is {what}, so nothing of it can be scored or retrained. {_AGAIN} {_NETWORKS}"
    return (
        f"{where} ({op_type}) is a step of {CLASSICAL} (scikit-learn) that prepares tables or text, or names classes, "
        "and has no gradient. Apply it outside, and export the network alone, without it (skl2onnx: the last step of "
        f"the pipeline). {_NETWORKS}"
    )


def onnxruntime_operator_message(domain: str, op_type: str, where: str) -> str:
    """The message about a node of com.microsoft; ``where`` names the file and the node."""
    if domain == f"{DOMAIN}.nchwc":
        what, remedy = _BLOCKED
    elif op_type.startswith(("QLinear", "QGemm", "QAttention", "QEmbed", "QOrdered")) or any(
        part in op_type for part in ("Quantize", "Integer", "NBits", "Bnb4", "FpQ4")
    ):
        what, remedy = _QUANTISED
    else:
        what, remedy = _FUSED
    return f"{where} is {domain}.{op_type}, {what}. {remedy}"


def _called(node: onnx.NodeProto) -> str:
    return repr((node.name or (node.output[0] if node.output else ""))[:200])


def _is_text(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == onnx.TensorProto.STRING


def _listed(nodes: Iterable[onnx.NodeProto]) -> str:
    names = list(dict.fromkeys(node.op_type for node in nodes))
    return ", ".join(names[:6]) + (" and others" if len(names) > 6 else "")
