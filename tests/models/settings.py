"""Models with inputs that are not data: a sampling rate, a state, a mode, the weights of an adapter."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .tiny import assemble, node, normal

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name: str, shape, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def two_rates() -> onnx.ModelProto:
    """x (N, 8) and a sampling rate, which decides between two layers; a head of 3 classes."""
    branches = {}
    for branch, rate in (("then_branch", "high"), ("else_branch", "low")):
        nodes = [node("MatMul", ["x", f"{rate}.weight"], [f"{rate}/out"], f"/{rate}")]
        weight = numpy_helper.from_array(normal(8, 6, scale=0.5 if rate == "high" else 0.25), f"{rate}.weight")
        branches[branch] = helper.make_graph(nodes, rate, [], [value(f"{rate}/out", ["N", 6])], [weight])
    nodes = [
        node("Equal", ["sr", "sixteen"], ["is_high"], "/equal"),
        node("If", ["is_high"], ["h"], "/if", **branches),
        node("Tanh", ["h"], ["t"], "/tanh"),
        node("Gemm", ["t", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    tensors = {"sixteen": np.array(16000, np.int64), "fc.weight": normal(6, 3), "fc.bias": normal(3)}
    return assemble(nodes, tensors, [value("x", ["N", 8]), value("sr", [], INT64)], [value("logits", ["N", 3])])


def streaming(batch: int | str = "N", *, names=("h0", "c0", "hn", "cn"), steps_first: bool = False) -> onnx.ModelProto:
    """x (N, 5, 4) through an LSTM of 6 units that takes a state and returns the next; 3 classes.

    Args:
        batch: of the data and the state.
        names: of the state's inputs and outputs.
        steps_first: whether the first axis of x are the steps of one sequence: x is (steps, 4).
    """
    h, c, h_next, c_next = names
    tensors = {
        "rnn.w": normal(1, 24, 4),
        "rnn.r": normal(1, 24, 6),
        "rnn.b": normal(1, 48),
        "first": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "fc.weight": normal(6, 3),
    }
    turn = (
        [node("Unsqueeze", ["x", "one"], ["steps"], "/turn")]
        if steps_first
        else [node("Transpose", ["x"], ["steps"], "/turn", perm=[1, 0, 2])]
    )
    last = (
        [node("Squeeze", ["all", "both"], ["last"], "/last")]
        if steps_first
        else [node("Squeeze", [h_next, "first"], ["last"], "/last")]
    )
    if steps_first:
        tensors["both"] = np.array([1, 2], np.int64)
    inputs = ["steps", "rnn.w", "rnn.r", "rnn.b", "", h, c]
    nodes = [
        *turn,
        node("LSTM", inputs, ["all", h_next, c_next], "/rnn", hidden_size=6),
        *last,
        node("MatMul", ["last", "fc.weight"], ["logits"], "/fc"),
    ]
    inside = 1 if steps_first else batch
    x = value("x", ["N", 4] if steps_first else [batch, 5, 4])
    states = [value(h, [1, inside, 6]), value(c, [1, inside, 6])]
    outputs = [value("logits", ["N" if steps_first else batch, 3])]
    outputs += [value(h_next, [1, inside, 6]), value(c_next, [1, inside, 6])]
    return assemble(nodes, tensors, [x, *states], outputs)


def scaled(setting: str = "keep_prob", shape=(), dtype: int = FLOAT) -> onnx.ModelProto:
    """x (N, 8) times a setting; a bool chooses between x and x / 2."""
    tensors = {"half": np.float32(0.5), "a.weight": normal(8, 6), "b.weight": normal(6, 3)}
    if dtype == BOOL:
        first = [
            node("Mul", ["x", "half"], ["halved"], "/halve"),
            node("Where", [setting, "halved", "x"], ["s"], "/where"),
        ]
    else:
        del tensors["half"]
        first = [node("Mul", ["x", setting], ["s"], "/scale")]
    nodes = [
        *first,
        node("MatMul", ["s", "a.weight"], ["m"], "/a"),
        node("Relu", ["m"], ["r"], "/relu"),
        node("MatMul", ["r", "b.weight"], ["logits"], "/b"),
    ]
    return assemble(nodes, tensors, [value("x", ["N", 8]), value(setting, shape, dtype)], [value("logits", ["N", 3])])


def with_adapter() -> onnx.ModelProto:
    """x (N, 8) through a layer with an adapter, whose weights are inputs of a fixed shape."""
    nodes = [
        node("MatMul", ["x", "base.weight"], ["m"], "/base"),
        node("MatMul", ["x", "base.lora_A"], ["down"], "/lora_A"),
        node("MatMul", ["down", "base.lora_B"], ["up"], "/lora_B"),
        node("Add", ["m", "up"], ["sum"], "/add"),
        node("Relu", ["sum"], ["r"], "/relu"),
        node("MatMul", ["r", "fc.weight"], ["logits"], "/fc"),
    ]
    inputs = [value("x", ["N", 8]), value("base.lora_A", [8, 2]), value("base.lora_B", [2, 6])]
    return assemble(
        nodes, {"base.weight": normal(8, 6), "fc.weight": normal(6, 3)}, inputs, [value("logits", ["N", 3])]
    )


def two_open_dims() -> onnx.ModelProto:
    """x (N, h, w) and a count; two outputs, neither of which is called logits."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], "/mean", axes=[1, 2], keepdims=0),
        node("Unsqueeze", ["m", "one"], ["u"], "/column"),
        node("Cast", ["count"], ["c"], "/cast", to=1),
        node("Mul", ["u", "c"], ["s"], "/scale"),
        node("MatMul", ["s", "a.weight"], ["first"], "/a"),
        node("MatMul", ["s", "b.weight"], ["second"], "/b"),
    ]
    tensors = {"one": np.array([1]), "a.weight": normal(1, 3), "b.weight": normal(1, 4)}
    inputs = [value("x", ["N", "h", "w"]), value("count", [], INT64)]
    return assemble(nodes, tensors, inputs, [value("first", ["N", 3]), value("second", ["N", 4])])
