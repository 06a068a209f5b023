"""Gradient rules of arithmetic, choice and functions by element."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference.ops import op_erf
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, obstacles, our_gradients, values

node = helper.make_node


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


X = values(3, 4, 5)
POSITIVE = values(3, 4, 5, low=0.3)
INSIDE = values(3, 4, 5, low=-0.9, high=0.9)
ABOVE_ONE = values(3, 4, 5, low=1.1, high=3)
CONDITION = np.random.default_rng(5).random((3, 4, 5)) > 0.5


def both(op_type, right, left=X):
    """An operator with two inputs: the gradient of the two, of each alone, and of the second as a constant."""
    made = node(op_type, ["x", "w"], ["y"])
    whole_shape = right.shape == left.shape  # it contains the batch, which no constant does
    batched = {"batched": ("x", "w") if whole_shape else ("x",)}
    fixed = {"batched": () if whole_shape else ("x",)}
    return {
        f"{op_type}-{right.shape}-both": ((made, {"x": left, "w": right}, ["x", "w"]), batched),
        f"{op_type}-{right.shape}-first": ((made, {"x": left}, ["x"], {"w": right}), fixed),
        f"{op_type}-{right.shape}-second": ((made, {"x": left}, ["w"], {"w": right}), fixed),
    }


def one(op_type, x=X, name="", constants=None, inputs=(), **attributes):
    """An operator with one input that is differentiated."""
    made = node(op_type, ["x", *inputs], ["y"], **attributes)
    opset = {"Mish": 18, "Gelu": 20}.get(op_type, 17)
    return {f"{op_type}{name}": ((made, {"x": x}, ["x"], constants), {"opset": opset})}


BROADCASTS = [values(3, 4, 5, seed=1, low=0.5), values(4, 1, seed=1, low=0.5), values(5, seed=1, low=0.5)]
BROADCASTS += [values(low=0.5, seed=1), values(1, 1, 1, low=0.5, seed=1), values(2, 1, 4, 5, seed=1, low=0.5)]
CASES = {}
for op in ("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min"):
    for right in BROADCASTS:
        CASES |= both(op, right)
for right in BROADCASTS:
    CASES |= both("Pow", right, POSITIVE)
for op in ("Neg", "Abs", "Exp", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Erf", "Identity"):
    CASES |= one(op)
for op in ("Sqrt", "Log", "Reciprocal"):
    CASES |= one(op, POSITIVE)
for op in ("Asin", "Acos", "Atanh"):
    CASES |= one(op, INSIDE)
CASES |= one("Acosh", ABOVE_ONE)
for exponent in (0, 1, 2, 3, -1, -0.5, 0.5, 1.7):
    signed = exponent in (0, 1, 2, 3)
    CASES |= one("Pow", X if signed else POSITIVE, f" {exponent}", {"p": number(exponent)}, ["p"])
CASES |= one("Pow", X, " int64", {"p": whole(3)}, ["p"])
CASES |= one("Pow", X, " of several", {"p": np.array([0, 1, 2, 3, 4], np.float32)}, ["p"])
for op in ("Max", "Min", "Sum", "Mean"):
    CASES |= one(op, X, " of three", {"a": values(4, 1, seed=3), "b": values(5, seed=4)}, ["a", "b"])
    CASES |= one(op, X, " of one")
for name, inputs, bounds in [
    ("relu6", ["a", "b"], {"a": number(0), "b": number(0.7)}),
    ("low", ["a"], {"a": number(-0.3)}),
    ("high", ["", "b"], {"b": number(0.4)}),
    ("none", [], {}),
    ("infinite", ["a", "b"], {"a": number(-np.inf), "b": number(0.5)}),
    ("crossed", ["a", "b"], {"a": number(0.5), "b": number(-0.5)}),
]:
    CASES |= one("Clip", X, f" {name}", bounds, inputs)
CASES |= {
    "square": ((node("Mul", ["x", "x"], ["y"]), {"x": X}, ["x"]), {}),
    "double": ((node("Add", ["x", "x"], ["y"]), {"x": X}, ["x"]), {}),
    "x ** x": ((node("Pow", ["x", "x"], ["y"]), {"x": POSITIVE}, ["x"]), {}),
    "x / x": ((node("Div", ["x", "x"], ["y"]), {"x": POSITIVE}, ["x"]), {}),
    "1 / x": ((node("Div", ["one", "x"], ["y"]), {"x": POSITIVE}, ["x"], {"one": number(1)}), {}),
    "number - x": ((node("Sub", ["one", "x"], ["y"]), {"x": X}, ["x"], {"one": number(1)}), {}),
    "number ** x": ((node("Pow", ["two", "x"], ["y"]), {"x": X}, ["x"], {"two": number(2)}), {}),
    "Clip, bounds computed": (
        (
            [node("Neg", ["b"], ["a"]), node("Clip", ["x", "a", "b"], ["y"])],
            {"x": X, "b": number(0.6)},
            ["x"],
        ),
        {},
    ),
    "Trilu": ((node("Trilu", ["x"], ["y"]), {"x": X}, ["x"]), {}),
    "Trilu lower": ((node("Trilu", ["x", "k"], ["y"], upper=0), {"x": X}, ["x"], {"k": np.array(1)}), {}),
    "Dropout": ((node("Dropout", ["x"], ["y"]), {"x": X}, ["x"]), {}),
    "Dropout with inputs": (
        (node("Dropout", ["x", "r", "t"], ["y"]), {"x": X}, ["x"], {"r": number(0.5), "t": np.array(False)}),
        {},
    ),
    "Where both": (
        (node("Where", ["c", "x", "w"], ["y"]), {"x": X, "w": values(4, 1), "c": CONDITION}, ["x", "w"]),
        {"batched": ("x", "c")},
    ),
    "Where first": ((node("Where", ["c", "x", "w"], ["y"]), {"x": X}, ["x"], {"w": number(-9), "c": CONDITION[0]}), {}),
    "Where second": ((node("Where", ["c", "w", "x"], ["y"]), {"x": X}, ["x"], {"w": number(1), "c": CONDITION[0]}), {}),
    "Where stretched": (
        (
            node("Where", ["c", "w", "v"], ["y"]),
            {"c": CONDITION, "w": values(4, 1)},
            ["w", "v"],
            {"v": values(5, seed=2)},
        ),
        {"batched": ("c",)},
    ),
    "sigmoid by hand": (
        (
            [
                node("Neg", ["x"], ["a"]),
                node("Exp", ["a"], ["b"]),
                node("Add", ["b", "one"], ["c"]),
                node("Reciprocal", ["c"], ["y"]),
            ],
            {"x": X},
            ["x"],
            {"one": number(1)},
        ),
        {},
    ),
    "scale of channels": (
        (node("Mul", ["x", "w"], ["y"]), {"x": values(2, 3, 4, 4), "w": values(2, 3, 1, 1)}, ["x", "w"]),
        {"batched": ("x", "w")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_against_torch(case, torch_oracle):
    arguments, options = CASES[case]
    check_torch(torch_oracle, *arguments, **options)


# The reference evaluator's Mean adds in place, in the shape of its first operand.
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("Mean-(2,")])
def test_against_finite_differences(case, monkeypatch):
    # The reference evaluator computes Erf in float32, whatever its input.
    monkeypatch.setattr(op_erf.Erf, "_run", lambda self, x: (np.vectorize(math.erf)(x),))
    arguments, options = CASES[case]
    check_differences(*arguments, **options)


def test_cast_to_double_and_back(torch_oracle):
    nodes = [
        node("Cast", ["x"], ["a"], to=TensorProto.DOUBLE),
        node("Mul", ["a", "w"], ["b"]),
        node("CastLike", ["b", "x"], ["y"]),
    ]
    feeds = {"x": X}
    constants = {"w": values(5, seed=1).astype(np.float64)}
    check_torch(torch_oracle, nodes, feeds, ["x", "w"], constants)
    found = our_gradients(graph_of(nodes, feeds, constants), feeds, np.ones_like(X), ["x", "w"])
    assert (found["x"].dtype, found["w"].dtype) == (np.float32, np.float64)


def test_the_second_input_of_cast_like_gets_nothing(torch_oracle):
    nodes = [node("CastLike", ["x", "w"], ["a"]), node("Mul", ["a", "w"], ["y"])]
    check_torch(torch_oracle, nodes, {"x": X}, ["x", "w"], {"w": values(5)})
    check_differences(nodes, {"x": X}, ["x", "w"], {"w": values(5)})


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_two_equal_operands_share_the_gradient_as_in_torch(op_type, torch_oracle):
    left = np.array([[1, 2, 3, 0], [0, 0, 5, 5]], np.float32)
    right = np.array([[1, 3, 2, 0], [0, 1, 5, 4]], np.float32)
    check_torch(torch_oracle, node(op_type, ["x", "w"], ["y"]), {"x": left, "w": right}, ["x", "w"], batched=("x", "w"))


def test_three_equal_operands_share_the_gradient_evenly():
    x = np.array([[1, 2]], np.float32)
    model = graph_of(node("Max", ["x", "x1", "w"], ["y"]), {"x": x, "x1": x, "w": x}, batched=("x", "x1", "w"))
    found = our_gradients(model, {"x": x, "x1": x, "w": x}, np.array([[3, 6]], np.float32), ["x", "w"])
    np.testing.assert_allclose(found["x"], [[1, 2]], rtol=1e-6)
    np.testing.assert_allclose(found["w"], [[1, 2]], rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 1.5])
@pytest.mark.parametrize("kind", ["number", "several", "wanted"])
def test_powers_of_zero_as_in_torch(exponent, kind, torch_oracle):
    x = np.array([[0, 1, 0], [2, 0, 3]], np.float32)
    p = np.full({"number": (), "several": (3,), "wanted": (3,)}[kind], exponent, np.float32)
    wrt = ["x", "p"] if kind == "wanted" else ["x"]
    check_torch(torch_oracle, node("Pow", ["x", "p"], ["y"]), {"x": x}, wrt, {"p": p})


def test_abs_of_zero_and_without_sign(torch_oracle):
    x = np.array([[0, 1, -2]], np.float32)
    lacking = {"Greater", "Less", "Cast", "Sub", "Mul"}
    for allowed in (None, lacking):
        check_torch(torch_oracle, node("Abs", ["x"], ["y"]), {"x": x}, ["x"], allowed=allowed)
    made = gradient_graph(graph_of(node("Abs", ["x"], ["y"]), {"x": x}), ["x"], lacking)
    assert {n.op_type for n in made.graph.node} <= lacking | {"Abs", "Identity"}


def test_clip_without_and():
    """WebGPU has no And; two numeric bounds do not need it."""
    model = graph_of(node("Clip", ["x", "a", "b"], ["y"]), {"x": X}, {"a": number(0), "b": number(6)})
    assert "And" not in {n.op_type for n in gradient_graph(model, ["x"]).graph.node}


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
def test_other_opsets(opset, torch_oracle):
    for case in ("Mul-(4, 1)-both", "Div-(5,)-both", "Clip relu6", "Max of three", "Mean of three", "Pow of several"):
        arguments, options = CASES[case]
        check_torch(torch_oracle, *arguments, **{**options, "opset": opset})


def test_a_product_with_a_constant_keeps_no_activation():
    """The backward pass multiplies by the constant; the product's input and output are not needed."""
    mask = values(4, 5)
    nodes = [node("Exp", ["x"], ["a"]), node("Mul", ["a", "m"], ["b"]), node("Neg", ["b"], ["y"])]
    made = gradient_graph(graph_of(nodes, {"x": X}, {"m": mask}), ["x"])
    uses = [n for n in made.graph.node if "b" in n.input]
    assert [n.op_type for n in uses] == ["Neg"]
    users = [n.op_type for n in made.graph.node if "a" in n.input]
    assert users == ["Mul", "Mul"]  # forward, and as Exp's own output


def test_a_frozen_number_gets_the_rank_of_the_gradient():
    model = graph_of(node("Mul", ["x", "w"], ["y"]), {"x": X}, {"w": number(2)})
    made = gradient_graph(model, ["x"])
    ranks = {t.name: len(t.dims) for t in made.graph.initializer}
    (backward,) = [n for n in made.graph.node if "output_gradient" in n.input]
    assert [ranks[name] for name in backward.input if name in ranks] == [3]


def test_a_trained_number_is_not_frozen_into_the_graph():
    """A parameter of one element must stay an input of the backward pass: it changes from step to step."""
    nodes = [node("Mul", ["x", "w"], ["a"]), node("Div", ["a", "w"], ["b"]), node("Pow", ["b", "w"], ["y"])]
    model = graph_of(nodes, {"x": POSITIVE}, {"w": number(1.5)})
    made = gradient_graph(model, ["x", "w"])
    for tensor in made.graph.initializer:
        assert tensor.name == "w" or not np.any(np.isclose(np.frombuffer(tensor.raw_data, np.float32), 1.5))
    check_differences(nodes, {"x": POSITIVE}, ["x", "w"], {"w": number(1.5)})


REMAINDERS = node("Mod", ["x", "w"], ["y"], fmod=1), {"x": values(3, 4) * 5, "w": values(4, low=0.7)}


@pytest.mark.parametrize("wrt", [["x"], ["w"], ["x", "w"]])
def test_remainders(wrt, torch_oracle):
    check_torch(torch_oracle, *REMAINDERS, wrt)
    check_differences(*REMAINDERS, wrt)


REFUSED = {
    "Dropout in training mode": (
        node("Dropout", ["x", "r", "t"], ["y"]),
        {"x": X},
        {"r": number(0.5), "t": np.array(True)},
        "is in training mode",
    ),
    "Dropout, mode computed": (
        node("Dropout", ["x", "r", "t"], ["y"]),
        {"x": X, "t": np.array(False)},
        {"r": number(0.5)},
        "its mode is computed at run time",
    ),
    "Mod of whole numbers": (node("Mod", ["x", "w"], ["y"]), {"x": X}, {"w": number(2)}, "integer remainder (fmod 0)"),
    "Hardmax": (node("Hardmax", ["x"], ["y"]), {"x": X}, {}, "has no gradient here"),
    "bound of Clip": (
        node("Clip", ["c", "x"], ["y"]),
        {"x": number(0.5), "c": X},
        {},
        "has no gradient for its input 1 ('x')",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case):
    made, feeds, constants, reason = REFUSED[case]
    (found,) = obstacles(graph_of(made, feeds, constants, batched=()), ["x"])
    assert reason in found
    assert f"({made.op_type})" in found


@pytest.mark.parametrize("op_type", ["Floor", "Ceil", "Round", "Sign"])
def test_gradients_stop_at_steps(op_type, torch_oracle):
    """The gradient goes around an operator whose result changes in steps, and through the rest."""
    nodes = [node("Mul", ["x", "w"], ["a"]), node(op_type, ["a"], ["b"]), node("Add", ["a", "b"], ["y"])]
    feeds, constants = {"x": X}, {"w": values(5)}
    check_torch(torch_oracle, nodes, feeds, ["x", "w"], constants)
    check_differences(nodes, feeds, ["x", "w"], constants)
    assert op_type not in [n.op_type for n in gradient_graph(graph_of(nodes, feeds, constants), ["w"]).graph.node[3:]]
