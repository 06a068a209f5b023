"""Small networks for masks: a class per pixel, with the classes where a Softmax says they are."""

from __future__ import annotations

import numpy as np
import onnx
from models.tiny import build, node, normal

SIDE, CLASSES = 4, 3


def per_pixel(axis: int, *, turned: bool, softmax: bool = True) -> onnx.ModelProto:
    """A Conv of size 1, turned to (N, H, W, C) or not, and a Softmax over an axis."""
    last = "scores" if softmax else "logits"
    nodes = [node("Conv", ["input", "score.weight", "score.bias"], ["conv" if turned else last], "score")]
    if turned:
        nodes.append(node("Transpose", ["conv"], [last], "nhwc", perm=[0, 2, 3, 1]))
    if softmax:
        nodes.append(node("Softmax", ["scores"], ["logits"], "softmax", axis=axis))
    values = {"score.weight": normal(CLASSES, 3, 1, 1, scale=1), "score.bias": normal(CLASSES)}
    shape = (SIDE, SIDE, CLASSES) if turned else (CLASSES, SIDE, SIDE)
    return build(nodes, values, input_shape=("N", 3, SIDE, SIDE), output_shape=("N", *shape))


def scores(x: np.ndarray) -> np.ndarray:
    """The input of the Softmax, by NumPy in float64: (N, H, W, C)."""
    weight = normal(CLASSES, 3, 1, 1, scale=1)[..., 0, 0].astype(np.float64)
    return np.einsum("nchw,kc->nhwk", x, weight) + normal(CLASSES)


def one_number(*, sigmoid: bool) -> onnx.ModelProto:
    """Two classes told apart by one number."""
    nodes = [
        node("Gemm", ["input", "a.weight", "a.bias"], ["h"], "a"),
        node("Relu", ["h"], ["r"], "relu"),
        node("Gemm", ["r", "b.weight", "b.bias"], ["z" if sigmoid else "logits"], "b"),
    ]
    if sigmoid:
        nodes.append(node("Sigmoid", ["z"], ["logits"], "sigmoid"))
    values = {"a.weight": normal(5, 8, scale=1), "a.bias": normal(8), "b.weight": normal(8, 1), "b.bias": normal(1)}
    return build(nodes, values, input_shape=("N", 5), output_shape=("N", 1))
