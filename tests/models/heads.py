"""Models whose head is not simply the last Gemm or Conv."""

from __future__ import annotations

import numpy as np
import onnx
from models.tiny import build, node, normal

FEATURES = 8
CLASSES = 10


def cntk() -> onnx.ModelProto:
    """The end of mnist-8 of the ONNX model zoo: the weight in four axes behind a Reshape, the bias (1, 10)."""
    nodes = [
        node("Conv", ["input", "Parameter5"], ["c"], "conv", auto_pad="SAME_UPPER", kernel_shape=[3, 3]),
        node("Add", ["c", "Parameter6"], ["plus"], "plus"),
        node("Relu", ["plus"], ["r"], "relu"),
        node("MaxPool", ["r"], ["pooled"], "pool", kernel_shape=[4, 4], strides=[4, 4]),
        node("Reshape", ["pooled", "pooled_shape"], ["features"], "rows"),
        node("Reshape", ["Parameter193", "weight_shape"], ["reshaped"], "weight"),
        node("MatMul", ["features", "reshaped"], ["times"], "times"),
        node("Add", ["times", "Parameter194"], ["logits"], "plus214"),
    ]
    values = {
        "Parameter5": normal(FEATURES, 1, 3, 3),
        "Parameter6": normal(FEATURES, 1, 1),
        "Parameter193": normal(FEATURES, 2, 2, CLASSES),
        "Parameter194": normal(1, CLASSES),
        "pooled_shape": np.array([1, FEATURES * 4]),
        "weight_shape": np.array([FEATURES * 4, CLASSES]),
    }
    return build(nodes, values, input_shape=(1, 1, 8, 8), output_shape=(1, CLASSES))


def embedding(ending: str) -> onnx.ModelProto:
    """An embedding of 6 numbers brought to length 1: by LpNormalization, as torch writes it, or as TensorFlow does."""
    endings = {
        "LpNormalization": [node("LpNormalization", ["e"], ["logits"], "norm", axis=1)],
        "torch": [
            node("ReduceL2", ["e"], ["length"], "length", axes=[1], keepdims=1),
            node("Clip", ["length", "least"], ["clipped"], "clip"),
            node("Shape", ["e"], ["shape"], "shape"),
            node("Expand", ["clipped", "shape"], ["expanded"], "expand"),
            node("Div", ["e", "expanded"], ["logits"], "divide"),
        ],
        "tensorflow": [
            node("Mul", ["e", "e"], ["squares"], "squares"),
            node("ReduceSum", ["squares", "axes"], ["total"], "total", keepdims=1),
            node("Max", ["total", "least"], ["most"], "most"),
            node("Sqrt", ["most"], ["root"], "root"),
            node("Reciprocal", ["root"], ["inverse"], "inverse"),
            node("Mul", ["e", "inverse"], ["logits"], "scaled"),
        ],
    }
    nodes = [
        node("Gemm", ["input", "body.weight", "body.bias"], ["b"], "body"),
        node("Relu", ["b"], ["r"], "relu"),
        node("Gemm", ["r", "embedding.weight", "embedding.bias"], ["e"], "embedding"),
        *endings[ending],
    ]
    values = {
        "body.weight": normal(5, FEATURES, scale=1),
        "body.bias": normal(FEATURES),
        "embedding.weight": normal(FEATURES, 6),
        "embedding.bias": normal(6),
        "least": np.array(1e-12, np.float32),
        "axes": np.array([1]),
    }
    return build(nodes, values, input_shape=("N", 5), output_shape=("N", 6))


def expanded(*ending: onnx.NodeProto) -> onnx.ModelProto:
    """A mask expanded as torch writes it, whose shape cannot be inferred; ``ending`` follows ``fc``."""
    nodes = [
        node("Equal", ["sizes", "minus_one"], ["is_open"], "is_open"),
        node("Shape", ["input"], ["shape"], "shape"),
        node("Where", ["is_open", "shape", "sizes"], ["wanted"], "wanted"),
        node("Expand", ["mask", "wanted"], ["full"], "full"),
        node("Mul", ["input", "full"], ["masked"], "masked"),
        node("Gemm", ["masked", "body.weight", "body.bias"], ["b"], "body"),
        node("Relu", ["b"], ["r"], "relu"),
        node("MatMul", ["r", "fc.weight"], ["fc"], "fc"),
        *ending,
    ]
    values = {
        "sizes": np.array([-1, 6]),
        "minus_one": np.array(-1),
        "mask": np.ones((1, 1), np.float32),
        "body.weight": normal(6, FEATURES, scale=1),
        "body.bias": normal(FEATURES),
        "fc.weight": normal(FEATURES, 4),
        "residual": normal(FEATURES, 4),
    }
    return build(nodes, values, input_shape=("N", 6), output_shape=("N", 4))


def segmentation(kernel: np.ndarray, groups: int, *, bias: bool = True, crop: bool = False) -> onnx.ModelProto:
    """A classifier per pixel and, after it, a ConvTranspose of stride 2 with as many channels."""
    channels = len(kernel)
    pads = [(kernel.shape[-1] - 2) // 2] * 4
    last = "large" if crop else "logits"
    nodes = [
        node("Conv", ["input", "body.weight", "body.bias"], ["b"], "body", pads=[1] * 4),
        node("Relu", ["b"], ["r"], "relu"),
        node("Conv", ["r", "score.weight", "score.bias"], ["score"], "score"),
        node(
            "ConvTranspose",
            ["score", "up.weight", *["up.bias"] * bias],
            [last],
            "up",
            strides=[2, 2],
            pads=pads,
            group=groups,
        ),
    ]
    if crop:
        nodes.append(node("Slice", ["large", "starts", "ends", "axes"], ["logits"], "crop"))
    values = {
        "body.weight": normal(FEATURES, 3, 3, 3),
        "body.bias": normal(FEATURES),
        "score.weight": normal(channels, FEATURES, 1, 1),
        "score.bias": normal(channels),
        "up.weight": kernel,
        "up.bias": normal(channels),
        "starts": np.array([1, 1]),
        "ends": np.array([9, 9]),
        "axes": np.array([2, 3]),
    }
    return build(nodes, values, input_shape=("N", 3, 6, 6), output_shape=("N", channels, "h", "w"))


def differentiable_binarisation() -> onnx.ModelProto:
    """The end of a text detector: two ConvTransposes, the last of which makes the one map, and a Sigmoid."""
    nodes = [
        node("Conv", ["input", "body.weight", "body.bias"], ["b"], "body", pads=[1] * 4),
        node("Relu", ["b"], ["r"], "relu"),
        node("ConvTranspose", ["r", "up.weight", "up.bias"], ["u"], "up", strides=[2, 2]),
        node("Relu", ["u"], ["v"], "relu2"),
        node("ConvTranspose", ["v", "map.weight"], ["m"], "map", strides=[2, 2]),
        node("Add", ["m", "map.bias"], ["n"], "map_bias"),
        node("Sigmoid", ["n"], ["logits"], "sigmoid"),
    ]
    values = {
        "body.weight": normal(FEATURES, 3, 3, 3),
        "body.bias": normal(FEATURES),
        "up.weight": normal(FEATURES, FEATURES, 2, 2),
        "up.bias": normal(FEATURES),
        "map.weight": normal(FEATURES, 1, 2, 2),
        "map.bias": normal(1, 1, 1, 1),
    }
    return build(nodes, values, input_shape=("N", 3, 6, 6), output_shape=("N", 1, 24, 24))


def distribution(steps: np.ndarray, operator: str = "Conv") -> onnx.ModelProto:
    """The boxes of YOLOv8: a Softmax over 16 bins for each side, and a fixed product with 0, 1, ..., 15."""
    bins = steps.size
    nodes = [
        node("Conv", ["input", "box.weight", "box.bias"], ["b"], "box"),
        node("Reshape", ["b", "shape"], ["s"], "sides"),
        node("Transpose", ["s"], ["t"], "turned", perm=[0, 2, 1, 3] if operator == "Conv" else [0, 1, 3, 2]),
        node("Softmax", ["t"], ["p"], "softmax", axis=1 if operator == "Conv" else -1),
    ]
    if operator == "Conv":
        nodes.append(node("Conv", ["p", "dfl.conv.weight"], ["d"], "dfl"))
        steps = steps.reshape(1, bins, 1, 1)
    else:
        nodes.append(node("MatMul", ["p", "dfl.conv.weight"], ["d"], "dfl"))
        steps = steps.reshape(bins, 1)
    nodes.append(node("Reshape", ["d", "flat"], ["logits"], "flat"))
    values = {
        "box.weight": normal(4 * bins, 3, 1, 1),
        "box.bias": normal(4 * bins),
        "shape": np.array([0, 4, bins, 9]),
        "flat": np.array([0, 4, 9]),
        "dfl.conv.weight": steps.astype(np.float32),
    }
    return build(nodes, values, input_shape=("N", 3, 3, 3), output_shape=("N", 4, 9))
