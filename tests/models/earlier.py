"""Models whose result has no separate batch axis, or ends in an If, although an earlier value is usable."""

from __future__ import annotations

import numpy as np
import onnx
from models.branching import branch
from models.tiny import build, node, normal

STEPS, FEATURES, WIDTH, CLASSES = 6, 5, 8, 3
_WEIGHTS = {
    "a.weight": normal(FEATURES, WIDTH, scale=1),
    "a.bias": normal(WIDTH),
    "b.weight": normal(WIDTH, CLASSES, scale=1),
    "b.bias": normal(CLASSES),
    "rows": np.array([-1, CLASSES]),
    "wide_rows": np.array([-1, WIDTH]),
    "zero": np.array(0),
    "one": np.array(1),
    "least": np.array(-1e6, np.float32),
}
_BODY = [
    node("MatMul", ["input", "a.weight"], ["m"], "/a"),
    node("Add", ["m", "a.bias"], ["h"], "/a/add"),
    node("Relu", ["h"], ["f"], "/relu"),
]
_HEAD = [node("MatMul", ["f", "b.weight"], ["n"], "/b"), node("Add", ["n", "b.bias"], ["scores"], "/b/add")]


def merged_after_the_head(batch: int | str = "N") -> onnx.ModelProto:
    """Scores (N, T, C), as rows (N*T, C)."""
    nodes = [*_BODY, *_HEAD, node("Reshape", ["scores", "rows"], ["logits"], "/rows")]
    return build(nodes, _WEIGHTS, input_shape=(batch, STEPS, FEATURES), output_shape=("rows", CLASSES))


def merged_before_the_head() -> onnx.ModelProto:
    """Features (N, T, W) as rows, of which a Gemm makes (N*T, C)."""
    nodes = [
        *_BODY,
        node("Reshape", ["f", "wide_rows"], ["r"], "/rows"),
        node("Gemm", ["r", "b.weight", "b.bias"], ["logits"], "/b"),
    ]
    return build(nodes, _WEIGHTS, input_shape=("N", STEPS, FEATURES), output_shape=("rows", CLASSES))


def mean_of_the_batch() -> onnx.ModelProto:
    """Scores (N, C), of which the batch mean is returned."""
    nodes = [*_BODY, *_HEAD, node("ReduceMean", ["scores"], ["logits"], "/mean", axes=[0], keepdims=1)]
    return build(nodes, _WEIGHTS, input_shape=("N", FEATURES), output_shape=(1, CLASSES))


def if_on_the_result(condition: str) -> onnx.ModelProto:
    """An If after the scores: of the size of the batch, as torch writes a squeeze, or of the numbers of the input."""
    if condition == "batch":
        before = [
            node("Shape", ["scores"], ["shape"], "/shape"),
            node("Gather", ["shape", "zero"], ["extent"], "/extent"),
            node("Equal", ["extent", "one"], ["flag"], "/equal"),
        ]
        then = branch("t", node("Squeeze", ["scores"], ["t"]))
    else:
        before = [
            node("ReduceMax", ["input"], ["most"], "/most", keepdims=0),
            node("Greater", ["most", "least"], ["flag"], "/greater"),
        ]
        then = branch("t", node("Relu", ["scores"], ["t"]))
    other = branch("e", node("Identity", ["scores"], ["e"]))
    made = node("If", ["flag"], ["logits"], "/if", then_branch=then, else_branch=other)
    return build([*_BODY, *_HEAD, *before, made], _WEIGHTS, input_shape=("N", FEATURES), output_shape=("N", CLASSES))
