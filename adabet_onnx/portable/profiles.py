"""Sets of operators that a target has, for graphs that must run there whole."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UsageError

# The standard operators in the table docs/webgpu-operators.md of the npm package onnxruntime-web 1.30.0.
_WEBGPU = """
    Abs Acos Acosh Add ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat Conv
    ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample
    HardSigmoid HardSwish If InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log MatMul MaxPool
    Mul Neg Not Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ScatterND Shape Sigmoid Sin Sinh Slice Softmax Split Sqrt
    Squeeze Sub Tan Tanh ThresholdedRelu Tile Transpose Unsqueeze Where"""
PROFILES = {"webgpu": frozenset(_WEBGPU.split())}


def allowed(profile: str | None) -> frozenset[str] | None:
    """The operators of a profile; None for all."""
    return None if profile is None else PROFILES[profile]


def check_profile(profile: str | None, operators: Iterable[tuple[str, str]]) -> None:
    """See that a graph uses only what the profile has.

    Args:
        profile: or None.
        operators: (operator, node) of the graph.

    Raises:
        UsageError: it does not.
    """
    known = allowed(profile)
    if known is None:
        return
    for operator, node in operators:
        if operator not in known:
            raise UsageError(
                f"the profile {profile} has no {operator}, which node {node!r} of the training step is. Select layers "
                "after it, or leave the profile out."
            )
