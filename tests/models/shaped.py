"""Small networks whose outputs have the shapes that data and losses must fit: a number, steps, pixels, time first."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper

from . import tiny

FEATURES = 5
STEPS, WIDTH = 6, 4
node = helper.make_node


def outputs_of(shape: tuple[int, ...], *, seed: int = 0) -> onnx.ModelProto:
    """One Gemm whose outputs are put into a shape per sample; () is one number per sample, the output (N,)."""
    rng = np.random.default_rng([seed, *shape])
    values = {
        "fc.weight": rng.standard_normal((FEATURES, math.prod(shape))).astype(np.float32),
        "fc.bias": rng.standard_normal(math.prod(shape)).astype(np.float32),
        "target": np.array([-1, *shape], np.int64),
    }
    nodes = [
        node("Gemm", ["input", "fc.weight", "fc.bias"], ["h"], "/fc"),
        node("Reshape", ["h", "target"], ["y"], "/r"),
    ]
    return tiny.build(nodes, values, input_shape=["N", FEATURES], output="y", output_shape=["N", *shape])


def one_conv() -> onnx.ModelProto:
    """A Conv with one output channel: (N, 1, 16, 16), as for depth or a mask."""
    nodes = [node("Conv", ["input", "c.weight", "c.bias"], ["y"], "/c", pads=[1] * 4)]
    values = {"c.weight": tiny.normal(1, 3, 3, 3), "c.bias": tiny.normal(1)}
    return tiny.build(nodes, values, input_shape=["N", 3, 16, 16], output="y", output_shape=["N", 1, 16, 16])


def squeezed() -> onnx.ModelProto:
    """A regression whose last axis is squeezed away: (N,)."""
    nodes = [node("MatMul", ["input", "w"], ["a"], "/mm"), node("Squeeze", ["a", "axis"], ["y"], "/s")]
    values = {"w": tiny.normal(FEATURES, 1), "axis": np.array([1], np.int64)}
    return tiny.build(nodes, values, input_shape=["N", FEATURES], output="y", output_shape=["N"])


def steps_of_one() -> onnx.ModelProto:
    """One number per step: (N, 12, 1)."""
    nodes = [node("MatMul", ["input", "w"], ["y"], "/mm")]
    return tiny.build(
        nodes, {"w": tiny.normal(FEATURES, 1)}, input_shape=["N", 12, FEATURES], output="y", output_shape=["N", 12, 1]
    )


def time_major(
    *,
    batch: int | str = "N",
    rows: bool = True,
    merged: bool = False,
    classes: int = 3,
    said: list[int | str] | None = None,
) -> onnx.ModelProto:
    """Steps first inside, as recurrent networks of torch have it: (N, T, 5) in, (T, N, C) out.

    Args:
        batch: of the input, a number where the exporter fixed it.
        rows: steps and samples are the rows of Gemms, (T*N, 5); otherwise three axes are kept, as in MatMul and Add.
        merged: give the rows of the last Gemm, (T*N, C), as they are.
        classes: C.
        said: the shape that the file says its output has.
    """
    nodes = [
        node("Transpose", ["input"], ["t"], "/time_first", perm=[1, 0, 2]),
        node("Reshape", ["t", "rows"], ["r"], "/rows"),
        node("Gemm", ["r", "a.weight", "a.bias"], ["h"], "/a"),
        node("Relu", ["h"], ["f"], "/relu"),
        node("Gemm", ["f", "b.weight", "b.bias"], ["g"], "/b"),
    ]
    values = {
        "rows": np.array([-1, FEATURES], np.int64),
        "a.weight": tiny.normal(FEATURES, WIDTH, scale=1.0),
        "a.bias": tiny.normal(WIDTH),
        "b.weight": tiny.normal(WIDTH, classes, scale=1.0),
        "b.bias": tiny.normal(classes),
    }
    if not rows:
        nodes = [
            nodes[0],
            node("MatMul", ["t", "a.weight"], ["m"], "/a"),
            node("Add", ["m", "a.bias"], ["h"], "/a/add"),
            nodes[3],
            node("MatMul", ["f", "b.weight"], ["n"], "/b"),
            node("Add", ["n", "b.bias"], ["g" if merged else "y"], "/b/add"),
        ]
        del values["rows"]
    elif not merged:
        nodes.append(node("Reshape", ["g", "steps"], ["y"], "/steps"))
        values["steps"] = np.array([STEPS, batch if isinstance(batch, int) else -1, classes], np.int64)
    shape = said or ([None, classes] if merged else [STEPS, batch, classes])
    return tiny.build(
        nodes,
        values,
        input_shape=[batch, STEPS, FEATURES],
        output="g" if merged else "y",
        output_shape=shape,
    )


def time_major_lstm(*, classes: int = 3) -> onnx.ModelProto:
    """A recurrent network as torch exports it with batch_first: LSTM over (T, N, 5), a MatMul, logits (T, N, C)."""
    nodes = [
        node("Transpose", ["input"], ["t"], "/time_first", perm=[1, 0, 2]),
        node("LSTM", ["t", "lstm.w", "lstm.r", "lstm.b"], ["s"], "/lstm", hidden_size=WIDTH),
        node("Squeeze", ["s", "one"], ["h"], "/squeeze"),
        node("MatMul", ["h", "fc.weight"], ["m"], "/fc"),
        node("Add", ["m", "fc.bias"], ["y"], "/fc/add"),
    ]
    values = {
        "lstm.w": tiny.normal(1, 4 * WIDTH, FEATURES),
        "lstm.r": tiny.normal(1, 4 * WIDTH, WIDTH),
        "lstm.b": tiny.normal(1, 8 * WIDTH),
        "one": np.array([1], np.int64),
        "fc.weight": tiny.normal(WIDTH, classes, scale=1.0),
        "fc.bias": tiny.normal(classes),
    }
    return tiny.build(nodes, values, input_shape=["N", STEPS, FEATURES], output="y", output_shape=[STEPS, "N", classes])


def time_first_input(first: int | str, second: int | str) -> onnx.ModelProto:
    """A recurrent network that wants its input time first, (T, N, 5), and gives (T, N, C)."""
    nodes = [
        node("LSTM", ["input", "lstm.w", "lstm.r", "lstm.b"], ["s"], "/lstm", hidden_size=WIDTH),
        node("Squeeze", ["s", "one"], ["h"], "/squeeze"),
        node("MatMul", ["h", "fc.weight"], ["y"], "/fc"),
    ]
    values = {
        "lstm.w": tiny.normal(1, 4 * WIDTH, FEATURES),
        "lstm.r": tiny.normal(1, 4 * WIDTH, WIDTH),
        "lstm.b": tiny.normal(1, 8 * WIDTH),
        "one": np.array([1], np.int64),
        "fc.weight": tiny.normal(WIDTH, 3, scale=1.0),
    }
    return tiny.build(nodes, values, input_shape=[first, second, FEATURES], output="y", output_shape=[first, second, 3])


def no_sample_alone(kind: str) -> onnx.ModelProto:
    """Outputs without a separate entry per sample: one mean for all, every pair of samples, or unnamed rows."""
    nodes = [node("Gemm", ["input", "w"], ["h"], "/fc")]
    shape: list[int | str | None]
    if kind == "mean":
        nodes.append(node("ReduceMean", ["h"], ["y"], "/mean", axes=[0], keepdims=1))
        shape = [1, 3]
    elif kind == "pairs":
        nodes += [node("Transpose", ["h"], ["t"], "/t", perm=[1, 0]), node("MatMul", ["h", "t"], ["y"], "/pairs")]
        shape = ["N", "N"]
    else:
        nodes.append(node("Reshape", ["h", "flat"], ["y"], "/flat"))
        shape = [None]
    values = {"w": tiny.normal(FEATURES, 3, scale=1.0)}
    if kind == "flat":
        values["flat"] = np.array([-1], np.int64)
    proto = tiny.build(nodes, values, input_shape=["N", FEATURES], output="y", output_shape=shape)
    assert kind in ("mean", "pairs", "flat")
    return proto


def swapped_by_reshape() -> onnx.ModelProto:
    """A fault of a model: what is (N, T, 3) is called (T, N, 3) by a Reshape, so that samples mix in batches."""
    nodes = [
        node("MatMul", ["input", "w"], ["h"], "/fc"),
        node("Reshape", ["h", "steps"], ["y"], "/wrong"),
    ]
    values = {"w": tiny.normal(FEATURES, 3, scale=1.0), "steps": np.array([STEPS, -1, 3], np.int64)}
    return tiny.build(nodes, values, input_shape=["N", STEPS, FEATURES], output="y", output_shape=[STEPS, "N", 3])
