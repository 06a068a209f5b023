"""Networks whose frozen part ends in a particular way."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from . import tiny

node = helper.make_node
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def info(name: str, shape: list[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def residual() -> onnx.ModelProto:
    """Two frozen convolutions, a third around which the first goes, and a head."""
    nodes = [
        node("Conv", ["input", "a.weight"], ["a"], "/a", pads=[1] * 4),
        node("Relu", ["a"], ["r"], "/relu"),
        node("Conv", ["r", "b.weight"], ["b"], "/b", pads=[1] * 4),
        node("Relu", ["b"], ["s"], "/relu2"),
        node("Conv", ["s", "c.weight"], ["c"], "/c", pads=[1] * 4),
        node("Add", ["c", "r"], ["sum"], "/add"),
        node("Relu", ["sum"], ["t"], "/relu3"),
        node("GlobalAveragePool", ["t"], ["g"], "/pool"),
        node("Flatten", ["g"], ["f"], "/flat"),
        node("Gemm", ["f", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {name: tiny.normal(4, 3 if name == "a.weight" else 4, 3, 3) for name in ("a.weight", "b.weight")}
    return tiny.build(nodes, values | {"c.weight": tiny.normal(4, 4, 3, 3), "fc.weight": tiny.normal(4, 3)})


def tied() -> onnx.ModelProto:
    """Tokens, a mask of them, an encoder layer, and logits for each token by the embedding itself."""
    nodes = [
        node("Gather", ["embedding.weight", "ids"], ["e"], "/embedding"),
        node("MatMul", ["e", "a.weight"], ["m"], "/a"),
        node("Tanh", ["m"], ["t"], "/tanh"),
        node("Unsqueeze", ["mask", "last"], ["column"], "/column"),
        node("Mul", ["t", "column"], ["masked"], "/masked"),
        node("MatMul", ["masked", "b.weight"], ["n"], "/b"),
        node("Mul", ["n", "column"], ["again"], "/masked_again"),
        node("Transpose", ["embedding.weight"], ["turned"], "/turned", perm=[1, 0]),
        node("MatMul", ["again", "turned"], ["logits"], "/out"),
    ]
    values = {
        "embedding.weight": tiny.normal(20, 16),
        "a.weight": tiny.normal(16, 16),
        "b.weight": tiny.normal(16, 16),
        "last": np.array([2], np.int64),
    }
    inputs = [info("ids", ["N", 5], INT64), info("mask", ["N", 5])]
    return tiny.assemble(nodes, values, inputs, [info("logits", ["N", 5, 20])])


def read_twice() -> onnx.ModelProto:
    """An image whose mean colour is a feature beside what convolutions find; the second input goes to the head only."""
    nodes = [
        node("Conv", ["input", "a.weight"], ["a"], "/a", strides=[2, 2]),
        node("Relu", ["a"], ["r"], "/relu"),
        node("Conv", ["r", "b.weight"], ["b"], "/b"),
        node("Flatten", ["b"], ["f"], "/flat"),
        node("Concat", ["f", "extra"], ["all"], "/concat", axis=1),
        node("Gemm", ["all", "c.weight"], ["h"], "/c"),
        node("Tanh", ["h"], ["t"], "/tanh"),
        node("Concat", ["t", "extra"], ["both"], "/concat2", axis=1),
        node("Gemm", ["both", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {
        "a.weight": tiny.normal(4, 3, 3, 3),
        "b.weight": tiny.normal(4, 4, 3, 3),
        "c.weight": tiny.normal(6, 8),
        "fc.weight": tiny.normal(10, 3),
    }
    inputs = [info("input", ["N", 3, 8, 8]), info("extra", ["N", 2])]
    return tiny.assemble(nodes, values, inputs, [info("logits", ["N", 3])])


def time_major() -> onnx.ModelProto:
    """Two recurrent layers over (T, N, 5), as an exporter writes them for a model with the batch first."""
    nodes = [
        node("Transpose", ["input"], ["t"], "/time_first", perm=[1, 0, 2]),
        node("LSTM", ["t", "one.w", "one.r", "one.b"], ["s"], "/one", hidden_size=4),
        node("Squeeze", ["s", "axis"], ["h"], "/squeeze"),
        node("LSTM", ["h", "two.w", "two.r", "two.b"], ["", "last"], "/two", hidden_size=4),
        node("Squeeze", ["last", "first"], ["g"], "/squeeze2"),
        node("Gemm", ["g", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {
        "one.w": tiny.normal(1, 16, 5),
        "one.r": tiny.normal(1, 16, 4),
        "one.b": tiny.normal(1, 32),
        "two.w": tiny.normal(1, 16, 4),
        "two.r": tiny.normal(1, 16, 4, scale=0.2),
        "two.b": tiny.normal(1, 32, scale=0.2),
        "axis": np.array([1], np.int64),
        "first": np.array([0], np.int64),
        "fc.weight": tiny.normal(4, 3),
    }
    return tiny.build(nodes, values, input_shape=["N", 6, 5])


def merged_rows(*, time_first: bool = False) -> onnx.ModelProto:
    """Rows (N*T, 4), or (T*N, 4), of a shared dense layer, then another, and the mean of each sample's."""
    source, rows = ("turned", "turned") if time_first else ("input", "input")
    nodes = [
        *([node("Transpose", ["input"], [source], "/turn", perm=[1, 0, 2])] if time_first else []),
        node("Reshape", [rows, "rows"], ["r"], "/rows"),
        node("Gemm", ["r", "a.weight"], ["a"], "/a"),
        node("Tanh", ["a"], ["t"], "/tanh"),
        node("Gemm", ["t", "b.weight"], ["b"], "/b"),
        node("Reshape", ["b", "apart"], ["p"], "/apart"),
        node("ReduceMean", ["p"], ["m"], "/mean", axes=[0 if time_first else 1], keepdims=0),
        node("Gemm", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {
        "rows": np.array([-1, 4], np.int64),
        "apart": np.array([6, -1, 5] if time_first else [-1, 6, 5], np.int64),
        "a.weight": tiny.normal(4, 8),
        "b.weight": tiny.normal(8, 5),
        "fc.weight": tiny.normal(5, 3),
    }
    return tiny.build(nodes, values, input_shape=["N", 6, 4])


def normalised() -> onnx.ModelProto:
    """Convolutions with normalisations of their own."""
    nodes, values, source = [], {}, "input"
    for name, inputs in (("a", 3), ("b", 4), ("c", 4)):
        nodes += [
            node("Conv", [source, f"{name}.weight"], [f"{name}.c"], f"/{name}", pads=[1] * 4),
            node(
                "BatchNormalization",
                [f"{name}.c", *(f"{name}.bn.{what}" for what in ("weight", "bias", "mean", "var"))],
                [f"{name}.n"],
                f"/{name}/bn",
            ),
            node("Relu", [f"{name}.n"], [f"{name}.r"], f"/{name}/relu"),
        ]
        values |= {f"{name}.weight": tiny.normal(4, inputs, 3, 3)}
        values |= {f"{name}.bn.weight": 1 + tiny.normal(4), f"{name}.bn.bias": tiny.normal(4)}
        values |= {f"{name}.bn.mean": tiny.normal(4), f"{name}.bn.var": 1 + np.abs(tiny.normal(4))}
        source = f"{name}.r"
    nodes += [
        node("GlobalAveragePool", [source], ["g"], "/pool"),
        node("Flatten", ["g"], ["f"], "/flat"),
        node("Gemm", ["f", "fc.weight"], ["logits"], "/fc"),
    ]
    return tiny.build(nodes, values | {"fc.weight": tiny.normal(4, 3)})


def any_length() -> onnx.ModelProto:
    """Positions of a sequence of any length by a shape that the graph computes, added to what a convolution gives."""
    nodes = [
        node("Conv", ["input", "a.weight"], ["a"], "/a", pads=[1, 1]),
        node("Shape", ["a"], ["shape"], "/shape"),
        node("Gather", ["shape", "two"], ["length"], "/length"),
        node("Range", ["zero", "length", "one"], ["steps"], "/range"),
        node("Gather", ["positions", "steps"], ["p"], "/positions"),
        node("Transpose", ["p"], ["q"], "/turn", perm=[1, 0]),
        node("Add", ["a", "q"], ["s"], "/add"),
        node("Conv", ["s", "b.weight"], ["b"], "/b"),
        node("Relu", ["b"], ["r"], "/relu"),
        node("ReduceMean", ["r"], ["m"], "/mean", axes=[2], keepdims=0),
        node("Gemm", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {
        "a.weight": tiny.normal(6, 3, 3),
        "b.weight": tiny.normal(6, 6, 3),
        "positions": tiny.normal(32, 6),
        "fc.weight": tiny.normal(6, 3),
        "two": np.array(2, np.int64),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
    }
    return tiny.build(nodes, values, input_shape=["N", 3, "length"])


def by_indices() -> onnx.ModelProto:
    """A classifier of the largest of six steps of each sample, picked from those of all samples in a row."""
    nodes = [
        node("ReduceMax", ["input"], ["sizes"], "/sizes", axes=[2], keepdims=0),
        node("ArgMax", ["sizes"], ["step"], "/step", axis=1, keepdims=0),
        node("Shape", ["input"], ["shape"], "/shape"),
        node("Gather", ["shape", "zero"], ["count"], "/count"),
        node("Range", ["zero", "count", "one"], ["range"], "/range"),
        node("Mul", ["range", "six"], ["start"], "/start"),
        node("Add", ["start", "step"], ["index"], "/index"),
        node("Reshape", ["input", "rows"], ["flat"], "/flat"),
        node("Gather", ["flat", "index"], ["picked"], "/picked"),
        node("MatMul", ["picked", "hidden.weight"], ["h"], "/hidden"),
        node("Tanh", ["h"], ["t"], "/tanh"),
        node("Gemm", ["t", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {
        **{name: np.array(number, np.int64) for name, number in (("zero", 0), ("one", 1), ("six", 6))},
        "rows": np.array([-1, 4], np.int64),
        "hidden.weight": tiny.normal(4, 8),
        "fc.weight": tiny.normal(8, 3),
    }
    return tiny.assemble(nodes, values, [info("input", ["N", 6, 4])], [info("logits", ["N", 3])])
