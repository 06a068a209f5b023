"""What a target supports, for graphs that must run entirely on it: its operators, and the supported forms of them."""

from __future__ import annotations

import onnx_ir as ir

from ..errors import UsageError
from .webgpu import fit_webgpu
from .webgpu_forms import webgpu_lacks

# The standard operators in the table docs/webgpu-operators.md of the npm package onnxruntime-web 1.30.0.
_WEBGPU = """
    Abs Acos Acosh Add ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat Conv
    ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample
    HardSigmoid HardSwish If InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log MatMul MaxPool
    Mul Neg Not Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ScatterND Shape Sigmoid Sin Sinh Slice Softmax Split Sqrt
    Squeeze Sub Tan Tanh ThresholdedRelu Tile Transpose Unsqueeze Where"""
_OLDEST_OPSET = 13  # the first opset in which Softmax has one axis and axes are inputs
PROFILES = {"webgpu": frozenset(_WEBGPU.split())}


def allowed(profile: str | None) -> frozenset[str] | None:
    """The operators of a profile; None for all."""
    return None if profile is None else PROFILES[profile]


def fit_profile(profile: str | None, model: ir.Model) -> None:
    """Rewrite a finished graph, in place, so that a profile's target computes it correctly; its results do not change.

    Args:
        profile: name of the profile, or None.
        model: the graph.

    Raises:
        UsageError: the target lacks an operator, or a form of one.
    """
    known = allowed(profile)
    if known is None:
        return
    for node in model.graph.all_nodes():
        if node.op_type not in known:
            raise UsageError(
                f"the profile {profile} has no {node.op_type}, which is node {node.name or ''!r} of the training step. "
                "Select layers after it, or leave the profile out."
            )
    opset = model.opset_imports.get("") or 0
    if opset < _OLDEST_OPSET:
        raise UsageError(
            f"the profile {profile} needs opset {_OLDEST_OPSET} or newer, and a node keeps the graph at {opset}. "
            "Export the model with opset 17, or leave the profile out."
        )
    fit_webgpu(model)
    for node in model.graph.all_nodes():
        lacking = webgpu_lacks(node)
        if lacking is not None:
            raise UsageError(
                f"the profile {profile} has no {node.op_type} that {lacking}, as node {node.name or ''!r} does. "
                "Export the model without it, select layers after it, or leave the profile out."
            )
