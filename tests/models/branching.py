"""Models with graphs inside nodes, which read values from outside: If, Loop and Scan."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from .tiny import build, node, normal

WEIGHTS = {"a.weight": normal(8, 16), "fc.weight": normal(16, 3), "fc.bias": normal(3)}


def _value(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(output: str, *nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.GraphProto:
    """A graph without inputs that gives one value."""
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    return helper.make_graph(list(nodes), output, [], [_value(output)], tensors)


def step(operator: str, output: str) -> onnx.GraphProto:
    """One operator on ``h``, which is captured."""
    return branch(output, node(operator, ["h"], [output]))


# What makes a condition: nodes, and initializers.
CONDITIONS = {
    "constant": ([], {"flag": np.array(True)}),
    "computed": ([node("Not", ["no"], ["flag"], "/not")], {"no": np.array(False)}),
    "shape": (
        [
            node("Shape", ["input"], ["shape"], "/shape"),
            node("Gather", ["shape", "one"], ["extent"], "/extent"),
            node("Equal", ["extent", "eight"], ["flag"], "/equal"),
        ],
        {"one": np.array(1), "eight": np.array(8)},
    ),
    "batch": (
        [
            node("Shape", ["input"], ["shape"], "/shape"),
            node("Gather", ["shape", "zero"], ["extent"], "/extent"),
            node("Greater", ["extent", "zero"], ["flag"], "/greater"),
        ],
        {"zero": np.array(0)},
    ),
    "input": (
        [
            node("ReduceMax", ["input"], ["most"], "/most", keepdims=0),
            node("Greater", ["most", "least"], ["flag"], "/greater"),
        ],
        {"least": np.array(-1e6, np.float32)},
    ),
}


def _model(nodes: list[onnx.NodeProto], values: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["input", "a.weight"], ["h"], "/a"),
        *nodes,
        node("MatMul", ["z", "fc.weight"], ["m"], "/fc"),
        node("Add", ["m", "fc.bias"], ["logits"], "/fc/add"),
    ]
    return build(nodes, WEIGHTS | values, input_shape=("N", 8))


def whole(condition: str = "constant", operator: str = "Relu") -> onnx.ModelProto:
    """A layer's whole activation goes through an If: Relu or Tanh."""
    before, values = CONDITIONS[condition]
    made = node("If", ["flag"], ["z"], "/if", then_branch=step(operator, "t"), else_branch=step("Tanh", "e"))
    return _model([*before, made], values)


def partly(condition: str = "constant", operator: str = "Softplus") -> onnx.ModelProto:
    """tanh(h) + (softplus(h), or h): the If captures what another node reads too."""
    before, values = CONDITIONS[condition]
    made = node("If", ["flag"], ["q"], "/if", then_branch=step(operator, "t"), else_branch=step("Identity", "e"))
    more = [node("Tanh", ["h"], ["s"], "/tanh"), node("Add", ["s", "q"], ["z"], "/join")]
    return _model([*before, made, *more], values)


def plain(kind: str, operator: str = "Softplus") -> onnx.ModelProto:
    """`whole` and `partly` with the condition true."""
    if kind == "whole":
        return _model([node(operator, ["h"], ["z"], "/taken")], {})
    nodes = [
        node("Tanh", ["h"], ["s"], "/tanh"),
        node(operator, ["h"], ["q"], "/taken"),
        node("Add", ["s", "q"], ["z"], "/join"),
    ]
    return _model(nodes, {})


def nested() -> onnx.ModelProto:
    """Ifs in an If, with weights of their own, all of whose values have the same names; then another like it."""

    def level(weight: np.ndarray) -> onnx.GraphProto:
        inner = branch(
            "t", node("MatMul", ["h", "w"], ["made"]), node("Tanh", ["made"], ["t"]), w=weight.astype(np.float32)
        )
        choice = node("If", ["flag"], ["t"], then_branch=inner, else_branch=step("Neg", "t"))
        return branch("t", choice)

    def chosen(name: str, output: str, weight: np.ndarray) -> onnx.NodeProto:
        return node("If", ["flag"], [output], name, then_branch=level(weight), else_branch=step("Abs", "t"))

    nodes = [
        chosen("/one", "z1", normal(16, 16)),
        chosen("/two", "z2", normal(16, 16, scale=0.2)),
        node("Add", ["z1", "z2"], ["z"], "/join"),
    ]
    return _model(nodes, {"flag": np.array(True)})


def passing_on() -> onnx.ModelProto:
    """Branches that return one of their initializers, a captured value, and one value twice."""
    then = helper.make_graph(
        [node("Identity", ["h"], ["t1"]), node("Relu", ["h"], ["t2"]), node("Identity", ["t2"], ["t3"])],
        "then",
        [],
        [_value("t1"), _value("t2"), _value("t3"), _value("t4")],
        [onnx.numpy_helper.from_array(normal(16), "t4")],
    )
    other = helper.make_graph(
        [node("Neg", ["h"], [f"e{i}"]) for i in range(1, 5)], "else", [], [_value(f"e{i}") for i in range(1, 5)]
    )
    nodes = [
        node("If", ["flag"], ["p", "q", "r", "s"], "/if", then_branch=then, else_branch=other),
        node("Sum", ["p", "q", "r"], ["u"], "/sum"),
        node("Mul", ["u", "s"], ["z"], "/scale"),
    ]
    return _model(nodes, {"flag": np.array(True)})


def loop() -> onnx.ModelProto:
    """z = h, then three times z = tanh(z + h w): ``h`` and ``w`` are captured."""
    body = helper.make_graph(
        [
            node("MatMul", ["h", "w"], ["hw"]),
            node("Add", ["before", "hw"], ["sum"]),
            node("Tanh", ["sum"], ["after"]),
            node("Identity", ["on"], ["go"]),
        ],
        "body",
        [_value("i", TensorProto.INT64, []), _value("on", TensorProto.BOOL, []), _value("before")],
        [_value("go", TensorProto.BOOL, []), _value("after")],
    )
    values = {"trips": np.array(3), "true": np.array(True), "w": normal(16, 16)}
    return _model([node("Loop", ["trips", "true", "h"], ["z"], "/loop", body=body)], values)


def scan() -> onnx.ModelProto:
    """z = h + the sum over k of u[k], scaled by ``h`` in the body: captured."""
    body = helper.make_graph(
        [node("Mul", ["h", "row"], ["scaled"]), node("Add", ["before", "scaled"], ["after"])],
        "body",
        [_value("before"), _value("row")],
        [_value("after")],
    )
    values = {"u": normal(3, 16)}
    return _model([node("Scan", ["h", "u"], ["z"], "/scan", body=body, num_scan_inputs=1)], values)
