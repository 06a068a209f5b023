"""Models for tests of how data is interpreted: inputs of any shape and type, and weights that reveal it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from . import tiny
from .tiny import node, normal

KINDS = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


def flat(*shape: int, kind: str = "float32", weight: np.ndarray | None = None) -> onnx.ModelProto:
    """Cast, Flatten, Gemm: takes samples of any shape and type, and does not reveal the meaning of its axes."""
    weight = normal(2, int(np.prod(shape))) if weight is None else weight
    nodes = [
        node("Cast", ["x"], ["numbers"], "/cast", to=TensorProto.FLOAT),
        node("Flatten", ["numbers"], ["flat"], "/flatten"),
        node("Gemm", ["flat", "fc.weight"], ["logits"], "/fc", transB=1),
    ]
    return _assembled(nodes, {"fc.weight": weight}, ("N", *shape), kind)


def convolution(
    channels: int, *size: int, last: bool = False, bias: tuple[float, float] = (0.0, 0.0)
) -> onnx.ModelProto:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm over any number of axes; with ``last``, channels come last."""
    axes = len(size)
    values = {
        "conv.weight": normal(8, channels, *[3] * axes),
        "conv.bias": normal(8),
        "fc.weight": np.array([[1, -1] * 4, [-1, 1] * 4], np.float32),
        "fc.bias": np.array(bias, np.float32),
    }
    first = node("Transpose", ["x"], ["first"], "/first", perm=[0, axes + 1, *range(1, axes + 1)])
    nodes = [
        *([first] if last else []),
        node("Conv", ["first" if last else "x", "conv.weight", "conv.bias"], ["a"], "/conv", pads=[1] * 2 * axes),
        node("Relu", ["a"], ["b"], "/relu"),
        node("GlobalAveragePool", ["b"], ["p"], "/pool"),
        node("Flatten", ["p"], ["f"], "/flatten"),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "/fc", transB=1),
    ]
    return _assembled(nodes, values, ("N", *size, channels) if last else ("N", channels, *size), "float32")


def tokens(steps: int, features: int) -> onnx.ModelProto:
    """MatMul, ReduceMean, Gemm: (N, steps, features), the features last."""
    nodes = [
        node("MatMul", ["x", "in.weight"], ["a"], "/in"),
        node("ReduceMean", ["a"], ["m"], "/mean", axes=[1], keepdims=0),
        node("Gemm", ["m", "fc.weight"], ["logits"], "/fc", transB=1),
    ]
    return _assembled(
        nodes, {"in.weight": normal(features, 4), "fc.weight": normal(2, 4)}, ("N", steps, features), "float32"
    )


def named(**shapes: tuple[int, ...]) -> onnx.ModelProto:
    """Inputs of these names and shapes, flattened and concatenated before a Gemm."""
    nodes = [node("Flatten", [name], [f"{name}.flat"], f"/{name}") for name in shapes]
    nodes += [
        node("Concat", [f"{name}.flat" for name in shapes], ["all"], "/all", axis=1),
        node("Gemm", ["all", "fc.weight"], ["logits"], "/fc", transB=1),
    ]
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in shapes.items()]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])]
    return tiny.assemble(nodes, {"fc.weight": normal(2, size)}, given, made)


def bright_above() -> onnx.ModelProto:
    """(N, 3, 16, 16): class 0 where the upper half is brighter, class 1 where the lower one is."""
    weight = np.zeros((2, 3, 16, 16), np.float32)
    weight[0, :, :8], weight[0, :, 8:] = 1 / 384, -1 / 384
    weight[1] = -weight[0]
    nodes = [
        node("Flatten", ["x"], ["flat"], "/flatten"),
        node("Gemm", ["flat", "fc.weight"], ["logits"], "/fc", transB=1),
    ]
    return _assembled(nodes, {"fc.weight": weight.reshape(2, -1)}, ("N", 3, 16, 16), "float32")


def embedded(count: int, length: int) -> onnx.ModelProto:
    """Gather of token ids (N, length) below ``count``, ReduceMean, Gemm."""
    nodes = [
        node("Gather", ["table.weight", "x"], ["rows"], "/gather"),
        node("ReduceMean", ["rows"], ["m"], "/mean", axes=[1], keepdims=0),
        node("Gemm", ["m", "fc.weight"], ["logits"], "/fc", transB=1),
    ]
    return _assembled(nodes, {"table.weight": normal(count, 4), "fc.weight": normal(2, 4)}, ("N", length), "int64")


def _assembled(
    nodes: list[onnx.NodeProto], values: dict[str, np.ndarray], shape: tuple[int | str, ...], kind: str
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info("x", KINDS[kind], list(shape))]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])]
    return tiny.assemble(nodes, values, given, made)
