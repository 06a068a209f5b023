"""Models that were exported for training: Dropout that drops, BatchNormalization by the batch, noise."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .tiny import build, node, normal

LAYERS = {
    "0.weight": normal(16, 8),
    "0.bias": normal(16),
    "3.weight": normal(3, 16),
    "3.bias": normal(3),
}
STATISTICS = {
    "bn.weight": 1 + normal(16),
    "bn.bias": normal(16),
    "bn.mean": normal(16),
    "bn.var": 1 + np.abs(normal(16)),
}


def _model(nodes: list[onnx.NodeProto], values: dict[str, np.ndarray], opset: int = 17) -> onnx.ModelProto:
    made = [
        node("Gemm", ["input", "0.weight", "0.bias"], ["h"], "/0/Gemm", transB=1),
        *nodes,
        node("Gemm", ["d", "3.weight", "3.bias"], ["logits"], "/3/Gemm", transB=1),
    ]
    return build(made, LAYERS | values, input_shape=("N", 8), opset=opset)


def plain() -> onnx.ModelProto:
    """Without a Dropout."""
    return _model([node("Identity", ["h"], ["d"], "/2/Identity")], {})


def dropout_set_by_input(fed: str) -> onnx.ModelProto:
    """An input ``fed`` is the ratio, or says that the model is not trained."""
    ratio = fed == "ratio"
    dropped = node("Dropout", ["h", "fed" if ratio else "half", *([] if ratio else ["mode"])], ["d"], "/2/Dropout")
    before = [] if ratio else [node("Not", ["fed"], ["mode"], "/not")]
    made = plain()
    kept = [made.graph.node[0], *before, dropped, made.graph.node[2]]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    made.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    made.graph.input.append(helper.make_tensor_value_info("fed", TensorProto.FLOAT if ratio else TensorProto.BOOL, []))
    onnx.checker.check_model(made)
    return made


def dropout(mode: str, training: bool = True) -> onnx.ModelProto:
    """Half is dropped; the mode is an initializer, a constant, computed from one, or an input of the graph."""
    values: dict[str, np.ndarray] = {"ratio": np.float32(0.5)}
    before = []
    if mode == "initializer":
        values["mode"] = np.array(training)
    elif mode == "constant":
        before = [node("Constant", [], ["mode"], "/mode", value=numpy_helper.from_array(np.array(training), "mode"))]
    elif mode == "computed":
        values["other"] = np.array(not training)
        before = [node("Not", ["other"], ["mode"], "/not")]
    dropped = node("Dropout", ["h", "ratio", "mode"], ["d", "mask"], "/2/Dropout")
    if mode != "input":
        return _model([*before, dropped], values)
    proto = _model([node("Dropout", ["h", "ratio"], ["d", "mask"], "/2/Dropout")], values)
    proto.graph.node[1].input.append("mode")
    proto.graph.input.append(helper.make_tensor_value_info("mode", TensorProto.BOOL, []))
    onnx.checker.check_model(proto)
    return proto


def dropout_in_a_branch() -> onnx.ModelProto:
    """The Dropout stands in a graph inside an If that depends on the input."""

    def branch(name: str, operator: str, inputs: list[str]) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node(operator, inputs, [name], f"/{name}")], name, [], [value])

    nodes = [
        node("ReduceMax", ["input"], ["most"], "/most", keepdims=0),
        node("Greater", ["most", "least"], ["flag"], "/greater"),
        node(
            "If",
            ["flag"],
            ["d"],
            "/if",
            then_branch=branch("dropped", "Dropout", ["h", "ratio", "mode"]),
            else_branch=branch("kept", "Neg", ["h"]),
        ),
    ]
    values = {"ratio": np.float32(0.5), "mode": np.array(True), "least": np.float32(-1e6)}
    return _model(nodes, {name: np.asarray(value) for name, value in values.items()})


def normalised(how: str) -> onnx.ModelProto:
    """A BatchNormalization: ``stored``, by the ``batch``, by the batch at opset 13 (``old``), its outputs ``read``."""
    more = {} if how in ("stored", "old") else {"training_mode": 1}
    outputs = ["n"] if how == "stored" else ["n", "new_mean", "new_var"]
    if how == "old":
        outputs += ["saved_mean", "saved_var"]
    made = [node("BatchNormalization", ["h", *STATISTICS], outputs, "/1/BatchNormalization", **more)]
    if how == "read":
        made += [node("Sub", ["n", "new_mean"], ["s"], "/sub"), node("Add", ["s", "bn.mean"], ["d"], "/add")]
    else:
        made += [node("Identity", ["n"], ["d"], "/identity")]
    return _model(made, STATISTICS, opset=13 if how == "old" else 17)


def noisy(operator: str) -> onnx.ModelProto:
    """Random numbers are added, or decide."""
    nodes = {
        "RandomNormalLike": [node("RandomNormalLike", ["h"], ["noise"], "/noise")],
        "RandomUniform": [node("RandomUniform", [], ["noise"], "/noise", shape=[1, 16])],
        "Bernoulli": [node("Sigmoid", ["h"], ["p"], "/p"), node("Bernoulli", ["p"], ["noise"], "/noise")],
    }[operator]
    return _model([*nodes, node("Add", ["h", "noise"], ["d"], "/add")], {})
