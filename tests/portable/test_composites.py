"""Activation functions that exporters write as several nodes keep only their argument."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of

node = helper.make_node
X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def erf(*, divide: bool, half_first: bool) -> tuple[list, dict]:
    constants = {"one": number(1), "half": number(0.5), "root": number(math.sqrt(2 if divide else 0.5))}
    nodes = [
        node("Div" if divide else "Mul", ["h", "root"], ["s"]),
        node("Erf", ["s"], ["e"]),
        node("Add", ["e", "one"], ["g"]),
    ]
    if half_first:
        nodes += [node("Mul", ["h", "half"], ["p"]), node("Mul", ["p", "g"], ["y"])]
    else:
        nodes += [node("Mul", ["h", "g"], ["p"]), node("Mul", ["p", "half"], ["y"])]
    return nodes, constants


def tanh() -> tuple[list, dict]:
    constants = {"one": number(1), "half": number(0.5), "three": number(3), "c": number(0.044715)}
    constants["root"] = number(math.sqrt(2 / math.pi))
    nodes = [
        node("Pow", ["h", "three"], ["cube"]),
        node("Mul", ["cube", "c"], ["term"]),
        node("Add", ["h", "term"], ["sum"]),
        node("Mul", ["sum", "root"], ["u"]),
        node("Tanh", ["u"], ["t"]),
        node("Add", ["t", "one"], ["g"]),
        node("Mul", ["h", "half"], ["p"]),
        node("Mul", ["p", "g"], ["y"]),
    ]
    return nodes, constants


def silu() -> tuple[list, dict]:
    return [node("Sigmoid", ["h"], ["s"]), node("Mul", ["h", "s"], ["y"])], {}


FORMS = {
    "erf, divided": erf(divide=True, half_first=False),
    "erf, multiplied": erf(divide=False, half_first=False),
    "erf, half first": erf(divide=True, half_first=True),
    "tanh": tanh(),
    "silu": silu(),
}


def after_a_layer(form: str) -> tuple[list, dict]:
    nodes, constants = FORMS[form]
    return [node("Mul", ["x", "w"], ["h"]), *nodes], constants


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form, torch_oracle):
    nodes, constants = after_a_layer(form)
    feeds = {"x": X, "w": number(1.3).reshape(1)}
    check_torch(torch_oracle, nodes, feeds, ["x", "w"], constants)
    if not form.startswith("erf"):  # the reference evaluator computes Erf in float32
        check_differences(nodes, feeds, ["x", "w"], constants)


def kept(nodes: list, constants: dict) -> set[str]:
    """Forward values of the backward pass."""
    model = graph_of(nodes, {"x": X, "w": number(1.3).reshape(1)}, constants)
    graph = ir.from_proto(gradient_graph(model, ["x"])).graph
    forward = {n.output[0] for n in nodes}
    return {v.name for n in graph if "/grad" in (n.name or "") for v in n.inputs if v is not None and v.name in forward}


@pytest.mark.parametrize("form", FORMS)
def test_only_the_argument_is_kept(form):
    assert kept(*after_a_layer(form)) == {"h"}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_used_elsewhere_is_no_composite(form, torch_oracle):
    nodes, constants = after_a_layer(form)
    inner = nodes[-2].output[0] if form == "silu" else "g"
    nodes = [*nodes, node("Add", ["y", inner], ["z"])]
    assert kept(nodes, constants) != {"h"}
    check_torch(torch_oracle, nodes, {"x": X, "w": number(1.3).reshape(1)}, ["x", "w"], constants)


def test_another_constant_is_no_composite(torch_oracle):
    nodes, constants = after_a_layer("erf, divided")
    for name, value in (("half", 0.6), ("one", 1.1), ("root", 1.5)):
        changed = {**constants, name: number(value)}
        assert kept(nodes, changed) != {"h"}
        check_torch(torch_oracle, nodes, {"x": X, "w": number(1.3).reshape(1)}, ["x", "w"], changed)
