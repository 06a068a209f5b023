"""Gradient rules of activation functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import helper
from onnx.reference.ops import op_erf
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, obstacles, values

node = helper.make_node
X = 2 * values(3, 4, 5)
_SINCE = {"Mish": 18, "Gelu": 20, "Swish": 24}


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def one(op_type, name="", x=X, **attributes):
    """A node with one input."""
    made = node(op_type, ["x"], ["y"], **attributes)
    return {f"{op_type}{name}": ((made, {"x": x}, ["x"]), {"opset": _SINCE.get(op_type, 17)})}


CASES = {}
for op in ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Softplus", "Softsign", "Sigmoid", "Tanh"):
    CASES |= one(op)
for op in ("HardSigmoid", "HardSwish", "Gelu", "Shrink", "Swish", "Mish"):
    CASES |= one(op)
for alpha in (0.0, 0.3, 1.0, 1.8, -0.7):
    CASES |= one("LeakyRelu", f" {alpha}", alpha=alpha)
    CASES |= one("ThresholdedRelu", f" {alpha}", alpha=alpha)
for alpha in (0.5, 2.5):
    CASES |= one("Elu", f" {alpha}", alpha=alpha) | one("Celu", f" {alpha}", alpha=alpha)
CASES |= one("Elu", " 0", alpha=0.0) | one("Celu", " negative", alpha=-2.0, x=values(3, 4))
CASES |= one("Selu", " 1.2, 0.7", alpha=1.2, gamma=0.7) | one("HardSigmoid", " 0.4, 0.3", alpha=0.4, beta=0.3)
CASES |= one("Gelu", " tanh", approximate="tanh") | one("Swish", " 1.5", alpha=1.5)
CASES |= one("Shrink", " soft", lambd=0.7, bias=0.7) | one("Shrink", " hard", lambd=1.2)
CASES |= one("Shrink", " across", lambd=0.5, bias=1.0)
for shape in ((4, 5), (4, 1), (1,), (5,), (1, 4, 1)):
    made = node("PRelu", ["x", "w"], ["y"])
    weight = {"w": values(*shape, seed=1)}
    CASES |= {f"PRelu {shape} {' and '.join(w)}": ((made, {"x": X}, w, weight), {}) for w in (["x"], ["w"], ["x", "w"])}
_HALF, _ONE, _ROOT = number(0.5), number(1), number(math.sqrt(0.5))
CASES |= {
    "swish by hand": (([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {"x": X}, ["x"]), {}),
    "gelu by hand": (
        (
            [
                node("Mul", ["x", "root"], ["a"]),
                node("Erf", ["a"], ["b"]),
                node("Add", ["b", "one"], ["c"]),
                node("Mul", ["x", "c"], ["d"]),
                node("Mul", ["d", "half"], ["y"]),
            ],
            {"x": X},
            ["x"],
            {"root": _ROOT, "one": _ONE, "half": _HALF},
        ),
        {},
    ),
    "gelu with tanh by hand": (
        (
            [
                node("Pow", ["x", "three"], ["a"]),
                node("Mul", ["a", "cubic"], ["b"]),
                node("Add", ["x", "b"], ["c"]),
                node("Mul", ["c", "factor"], ["d"]),
                node("Tanh", ["d"], ["e"]),
                node("Add", ["e", "one"], ["f"]),
                node("Mul", ["x", "f"], ["g"]),
                node("Mul", ["g", "half"], ["y"]),
            ],
            {"x": X},
            ["x"],
            {
                "three": number(3),
                "cubic": number(0.044715),
                "factor": number(math.sqrt(2 / math.pi)),
                "one": _ONE,
                "half": _HALF,
            },
        ),
        {},
    ),
    "hard swish by hand": (
        (
            [
                node("Add", ["x", "three"], ["a"]),
                node("Clip", ["a", "zero", "six"], ["b"]),
                node("Mul", ["x", "b"], ["c"]),
                node("Div", ["c", "six"], ["y"]),
            ],
            {"x": X},
            ["x"],
            {"three": number(3), "zero": number(0), "six": number(6)},
        ),
        {},
    ),
    "mish by hand": (
        (
            [node("Softplus", ["x"], ["a"]), node("Tanh", ["a"], ["b"]), node("Mul", ["x", "b"], ["y"])],
            {"x": X},
            ["x"],
        ),
        {},
    ),
}


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("Swish")])
def test_against_torch(case, torch_oracle):
    arguments, options = CASES[case]
    check_torch(torch_oracle, *arguments, **options)


@pytest.mark.parametrize("case", CASES)
def test_against_finite_differences(case, monkeypatch):
    # The reference evaluator computes Erf in float32, whatever its input.
    monkeypatch.setattr(op_erf.Erf, "_run", lambda self, x: (np.vectorize(math.erf)(x),))
    arguments, options = CASES[case]
    check_differences(*arguments, **options)


EXTREME = np.array([[-1e4, -100, -20, -3, 0], [1e-6, 3, 20, 100, 1e4]], np.float32)


@pytest.mark.parametrize(
    "op_type", ["Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Sigmoid", "Tanh", "HardSwish", "Gelu", "Mish"]
)
def test_zero_and_extremes_as_in_torch(op_type, torch_oracle):
    check_torch(
        torch_oracle, node(op_type, ["x"], ["y"]), {"x": EXTREME}, ["x"], opset=_SINCE.get(op_type, 17), tolerance=1e-6
    )


@pytest.mark.parametrize("case", ["Softsign", "Gelu tanh", "Swish"])
def test_extremes_are_finite(case, torch_oracle):
    (made, _, wrt), options = CASES[case]
    if case != "Swish":
        check_torch(torch_oracle, made, {"x": EXTREME}, wrt, **options)
    check_differences(made, {"x": EXTREME[:, 1:4]}, wrt, **options)


def test_prelu_at_zero(torch_oracle):
    x = np.array([[0, 1, -2]], np.float32)
    check_torch(torch_oracle, node("PRelu", ["x", "w"], ["y"]), {"x": x}, ["x", "w"], {"w": values(3)})


@pytest.mark.parametrize("opset", [12, 13, 18, 20, 21])
def test_other_opsets(opset, torch_oracle):
    cases = ["PRelu (4, 1) x and w", "LeakyRelu 1.8", "Elu 2.5", "HardSigmoid", "Celu", "gelu by hand", "Shrink"]
    for case in cases if opset < 14 else [*cases, "HardSwish"]:
        arguments, options = CASES[case]
        check_torch(torch_oracle, *arguments, **{**options, "opset": opset})


@pytest.mark.parametrize("op_type", ["Relu", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Shrink"])
def test_only_a_mask_is_kept(op_type):
    """The backward pass keeps only bool values, from the output."""
    made = gradient_graph(graph_of(node(op_type, ["x"], ["y"]), {"x": X}), ["x"])
    forward, *backward = made.graph.node
    assert all(forward.input[0] not in n.input for n in backward)
    taken = [n.op_type for n in backward if "y" in n.input]
    assert taken
    assert set(taken) <= {"Greater", "Less", "Equal"}


def test_prelu_keeps_a_mask_where_its_slope_is_frozen():
    model = graph_of(node("PRelu", ["x", "w"], ["y"]), {"x": X}, {"w": values(5)})
    made = gradient_graph(model, ["x"])
    assert [n.op_type for n in made.graph.node if "x" in n.input] == ["PRelu", "Greater"]


REFUSED = {
    "alpha of Elu": (node("Elu", ["x"], ["y"], alpha=-1.0), "has a negative alpha (-1)"),
    "alpha of Selu": (node("Selu", ["x"], ["y"], alpha=-0.5), "has a negative alpha (-0.5)"),
    "gamma": (node("Selu", ["x"], ["y"], gamma=-2.0), "has a negative gamma (-2)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case):
    made, reason = REFUSED[case]
    (found,) = obstacles(graph_of(made, {"x": X}), ["x"])
    assert reason in found
    assert f"({made.op_type})" in found


def test_a_chain_of_activations(torch_oracle):
    """Gradients through several in a row, with a trained bias between."""
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Add", ["a", "w"], ["b"]),
        node("LeakyRelu", ["b"], ["c"]),
        node("Sigmoid", ["c"], ["d"]),
        node("HardSwish", ["d"], ["y"]),
    ]
    weights = {"w": values(5)}
    check_torch(torch_oracle, nodes, {"x": X}, ["w"], weights)
    check_differences(nodes, {"x": X}, ["x", "w"], weights)
