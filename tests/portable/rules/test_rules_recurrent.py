"""Gradient rules of LSTM, GRU and RNN."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from rule_checks import check_differences, check_torch, graph_of, obstacles, values

node = helper.make_node
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, SAMPLES, WIDTH, UNITS = 5, 3, 4, 6


def case(op_type, outputs, *, bias=True, initial=True, steps=STEPS, units=UNITS, **attributes):
    """Nodes whose last one is a sum over the given outputs, and feeds; the input has the batch in front."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[op_type] * units
    feeds = {
        "x": values(SAMPLES, steps, WIDTH),
        "w": values(directions, gates, WIDTH, seed=1) * 0.5,
        "r": values(directions, gates, units, seed=2) * 0.5,
    }
    names = ["turned", "w", "r", "b" if bias else "", "", "h" if initial else ""]
    if bias:
        feeds["b"] = values(directions, 2 * gates, seed=3) * 0.5
    if initial:
        feeds["h"] = values(SAMPLES, directions, units, seed=4) * 0.5
        if op_type == "LSTM":
            feeds["c"] = values(SAMPLES, directions, units, seed=5)
            names.append("cc")
        names[5] = "hh"
    known = ["y", "y_h", "y_c"][: 3 if op_type == "LSTM" else 2]
    made = [name if name in outputs else "" for name in known]
    while not made[-1]:
        made.pop()
    nodes = [node("Transpose", ["x"], ["turned"], perm=[1, 0, 2])]
    for short, long in (("h", "hh"), ("c", "cc")):
        if long in names:
            nodes.append(node("Transpose", [short], [long], perm=[1, 0, 2]))
    nodes.append(node(op_type, names, made, hidden_size=units, **attributes))
    perms = {"y": [2, 0, 1, 3], "y_h": [1, 0, 2], "y_c": [1, 0, 2]}
    parts = []
    for name in outputs:
        nodes.append(node("Transpose", [name], [f"{name}_t"], perm=perms[name]))
        nodes.append(node("Flatten", [f"{name}_t"], [f"{name}_f"]))
        parts.append(f"{name}_f")
    nodes.append(node("Concat", parts, ["out"], axis=1))
    return nodes, feeds


def batched(feeds):
    return tuple(name for name in ("x", "h", "c") if name in feeds)


CASES = {
    "LSTM": case("LSTM", ["y"]),
    "LSTM, all outputs": case("LSTM", ["y", "y_h", "y_c"]),
    "LSTM, last state": case("LSTM", ["y_h"]),
    "LSTM, last cell": case("LSTM", ["y_c"]),
    "LSTM, no bias nor state": case("LSTM", ["y"], bias=False, initial=False),
    "LSTM, reverse": case("LSTM", ["y", "y_h", "y_c"], direction="reverse"),
    "LSTM, bidirectional": case("LSTM", ["y", "y_h", "y_c"], direction="bidirectional"),
    "LSTM, one step": case("LSTM", ["y", "y_c"], steps=1),
    "LSTM, one unit": case("LSTM", ["y"], units=1),
    "GRU": case("GRU", ["y"]),
    "GRU, all outputs": case("GRU", ["y", "y_h"]),
    "GRU, last state, reverse": case("GRU", ["y_h"], direction="reverse"),
    "GRU, no bias nor state": case("GRU", ["y"], bias=False, initial=False),
    "GRU, bidirectional": case("GRU", ["y", "y_h"], direction="bidirectional"),
    "GRU, linear before reset": case("GRU", ["y", "y_h"], linear_before_reset=1),
    "GRU, linear, no bias": case("GRU", ["y"], linear_before_reset=1, bias=False),
    "GRU, linear, bidirectional": case("GRU", ["y", "y_h"], linear_before_reset=1, direction="bidirectional"),
    "GRU, one step": case("GRU", ["y"], steps=1),
    "RNN": case("RNN", ["y", "y_h"]),
    "RNN, no bias nor state": case("RNN", ["y"], bias=False, initial=False),
    "RNN, Relu": case("RNN", ["y", "y_h"], activations=["Relu"]),
    "RNN, bidirectional": case("RNN", ["y", "y_h"], direction="bidirectional"),
    "RNN, reverse": case("RNN", ["y_h"], direction="reverse"),
}


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name, torch_oracle):
    nodes, feeds = CASES[name]
    check_torch(torch_oracle, nodes, feeds, list(feeds), batched=batched(feeds))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRU, linear before reset", "RNN"])
@pytest.mark.parametrize("wrt", ["x", "w", "r", "b", "h"])
def test_of_one_input_alone(name, wrt, torch_oracle):
    nodes, feeds = CASES[name]
    check_torch(torch_oracle, nodes, feeds, [wrt], batched=batched(feeds))


@pytest.mark.parametrize("name", ["LSTM, all outputs", "GRU", "GRU, linear before reset", "RNN"])
def test_against_finite_differences(name):
    """With the reference evaluator, which supports only one direction."""
    nodes, feeds = CASES[name]
    check_differences(nodes, feeds, list(feeds), batched=batched(feeds), count=6)


@pytest.mark.parametrize("opset", [14, 18, 20])
def test_in_other_opsets(opset, torch_oracle):
    nodes, feeds = CASES["LSTM, all outputs"]
    check_torch(torch_oracle, nodes, feeds, list(feeds), batched=batched(feeds), opset=opset)


def test_many_steps(torch_oracle):
    nodes, feeds = case("LSTM", ["y"], steps=200)
    check_torch(torch_oracle, nodes, feeds, list(feeds), batched=batched(feeds))


REFUSED = {
    "clips": {"clip": 3.0},
    "couples": {"input_forget": 1},
    "activations Tanh": {"activations": ["Tanh", "Tanh", "Tanh"]},
    "layout": {"layout": 1},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_gradient_is_said(reason):
    nodes, feeds = case("LSTM", ["y"], initial=False, **REFUSED[reason])
    assert reason in obstacles(graph_of(nodes, feeds), ["w"])[0]


def test_sequences_of_differing_lengths_are_refused():
    nodes, feeds = case("LSTM", ["y"], initial=False)
    recurrent = next(made for made in nodes if made.op_type == "LSTM")
    recurrent.input[4] = "lengths"
    model = graph_of(nodes, feeds, {"lengths": np.full(SAMPLES, STEPS, np.int32)}, batched=())
    assert "sequence_lens" in obstacles(model, ["w"])[0]
