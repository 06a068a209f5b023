"""Operators of ONNX Runtime's own, each between a projection and a head."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from .tiny import build, node, normal

WIDTH = 8
# How each is written (operator, inputs, attributes, opset), from h (N, 5, 8).
CASES = {
    "BiasGelu": ("BiasGelu", ("h", "bias"), {}, 17),
    "FastGelu": ("FastGelu", ("h",), {}, 17),
    "FastGelu with a bias": ("FastGelu", ("h", "bias"), {}, 12),
    "FusedMatMul": ("FusedMatMul", ("h", "square"), {"alpha": 0.5, "transB": 1}, 17),
    "FusedMatMul of two values": ("FusedMatMul", ("turned", "h"), {"alpha": 0.5, "transA": 1}, 17),
    "Gelu": ("Gelu", ("h",), {}, 14),
    "LayerNormalization": ("LayerNormalization", ("h", "scale", "bias"), {"axis": -1, "epsilon": 0.01}, 14),
    "LayerNormalization without a bias": ("LayerNormalization", ("h", "scale"), {"axis": -1}, 13),
    "QuickGelu": ("QuickGelu", ("h",), {"alpha": 1.5}, 17),
    "SimplifiedLayerNormalization": ("SimplifiedLayerNormalization", ("h", "scale"), {"epsilon": 0.01}, 17),
    "SkipLayerNormalization": ("SkipLayerNormalization", ("h", "skip", "scale", "bias"), {"epsilon": 0.01}, 17),
    "SkipLayerNormalization, old": ("SkipLayerNormalization", ("h", "skip", "scale"), {"epsilon": 0.01}, 14),
    "SkipLayerNormalization with a bias": ("SkipLayerNormalization", ("h", "skip", "scale", "bias", "more"), {}, 18),
    "SkipSimplifiedLayerNormalization": ("SkipSimplifiedLayerNormalization", ("h", "skip", "scale"), {}, 18),
}


def model(name: str) -> onnx.ModelProto:
    """A model that onnxruntime runs."""
    op_type, inputs, attributes, opset = CASES[name]
    domain = "" if op_type.endswith("LayerNormalization") and not op_type.startswith("Skip") else "com.microsoft"
    weights = {
        "a.weight": normal(6, WIDTH, scale=1.0),
        "scale": 1 + normal(WIDTH),
        "bias": normal(WIDTH, scale=0.4),
        "more": normal(WIDTH, scale=0.8),
        "square": normal(WIDTH, WIDTH),
        "fc.weight": normal(5 * WIDTH, 3),
        "fc.bias": normal(3),
        "flat": np.array([-1, 5 * WIDTH]),
    }
    if name == "FusedMatMul of two values":
        weights["flat"], weights["fc.weight"] = np.array([-1, WIDTH * WIDTH]), normal(WIDTH * WIDTH, 3)
    nodes = [
        node("MatMul", ["input", "a.weight"], ["h"], "/a"),
        node("Sigmoid", ["h"], ["skip"], "/skip"),
        node("Tanh", ["h"], ["turned"], "/turned"),
        node(op_type, list(inputs), ["f"], "/fused", domain=domain, **attributes),
        node("Reshape", ["f", "flat"], ["g"], "/flat"),
        node("Gemm", ["g", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    read = {value for each in nodes for value in each.input}
    nodes = [each for each in nodes if each.output[0] == "logits" or each.output[0] in read]
    weights = {name: array for name, array in weights.items() if name in read}
    given = [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 5, 6])]
    made = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3])]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", given, made, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def network() -> onnx.ModelProto:
    """What the optimiser fuses at the level ORT_ENABLE_EXTENDED: activations with Conv and Gemm, and Gelu."""
    weights = {
        "c1.weight": normal(4, 3, 3, 3),
        "c1.bias": normal(4),
        "c2.weight": normal(4, 4, 3, 3),
        "c3.weight": normal(4, 4, 1, 1),
        "c4.weight": normal(4, 4, 1, 1),
        "low": np.array(0, np.float32),
        "high": np.array(0.5, np.float32),
        "root": np.array(np.sqrt(2), np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "f1.weight": normal(4, 8),
        "f1.bias": normal(8),
        "f2.weight": normal(8, 8),
        "f2.bias": normal(8),
        "fc.weight": normal(8, 3),
        "fc.bias": normal(3),
    }
    nodes = [
        node("Conv", ["input", "c1.weight", "c1.bias"], ["a"], "/c1", pads=[1] * 4),
        node("Relu", ["a"], ["b"], "/relu"),
        node("Conv", ["b", "c2.weight"], ["c"], "/c2", pads=[1] * 4),
        node("Add", ["c", "b"], ["d"], "/add"),
        node("Relu", ["d"], ["e"], "/relu_2"),
        node("Conv", ["e", "c3.weight"], ["f"], "/c3"),
        node("LeakyRelu", ["f"], ["g"], "/leaky", alpha=0.3),
        node("Conv", ["g", "c4.weight"], ["h"], "/c4"),
        node("Clip", ["h", "low", "high"], ["i"], "/clip"),
        node("GlobalAveragePool", ["i"], ["j"], "/pool"),
        node("Flatten", ["j"], ["k"], "/flat"),
        node("Gemm", ["k", "f1.weight", "f1.bias"], ["l"], "/f1"),
        node("Relu", ["l"], ["m"], "/relu_3"),
        node("MatMul", ["m", "f2.weight"], ["n"], "/f2"),
        node("Add", ["n", "f2.bias"], ["o"], "/f2/add"),
        node("Div", ["o", "root"], ["p"], "/div"),
        node("Erf", ["p"], ["q"], "/erf"),
        node("Add", ["q", "one"], ["r"], "/one"),
        node("Mul", ["o", "r"], ["s"], "/mul"),
        node("Mul", ["s", "half"], ["t"], "/half"),
        node("Gemm", ["t", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    return build(nodes, weights)
