"""Signals of forward passes: against numpy, and on data made to show them."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import open_model, score
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.record import load_scores
from adabet_onnx.scoring.signals import divergence, effective_rank


def network(opset: int = 17, *, dead: int = 0, norm: bool = True, image: bool = True) -> onnx.ModelProto:
    """Conv (or Gemm), BatchNormalization and a head; ``dead`` channels of the first weight are zero."""
    rng = np.random.default_rng(0)
    shape = (6, 3, 3, 3) if image else (6, 3)
    weight = rng.standard_normal(shape).astype(np.float32)
    weight[:dead] = 0
    values = {
        "conv.weight": weight,
        "bn.weight": rng.uniform(0.5, 2, 6).astype(np.float32),
        "bn.bias": rng.standard_normal(6).astype(np.float32),
        "bn.mean": rng.standard_normal(6).astype(np.float32),
        "bn.var": rng.uniform(0.5, 4, 6).astype(np.float32),
        "fc.weight": rng.standard_normal((4, 6)).astype(np.float32),
    }
    first = (
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], pads=[1, 1, 1, 1])
        if image
        else helper.make_node("Gemm", ["x", "conv.weight"], ["a"], transB=1)
    )
    nodes = [first]
    if norm:
        nodes.append(helper.make_node("BatchNormalization", ["a", *list(values)[1:5]], ["b"]))
    last = "b" if norm else "a"
    if image:
        nodes += [helper.make_node("GlobalAveragePool", [last], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
        last = "f"
    nodes.append(helper.make_node("Gemm", [last, "fc.weight"], ["y"], transB=1))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8] if image else ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in values.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def scored(proto, x, samples=64):
    return score(
        open_model(proto),
        {"x": x},
        preprocessing=Arithmetic(),
        scoring=Scoring(samples=samples, subset_size=16, subsets=4),
    )


def by_hand(proto, x, samples):
    """Statistics of the BatchNormalization's input, from numpy and onnxruntime, over the samples that were scored."""
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    (a,) = session.run(["a"], {"x": x[samples]})
    a = np.moveaxis(a.astype(np.float64), 1, 0).reshape(a.shape[1], -1)
    stored = {value.name: numpy_helper.to_array(value).astype(np.float64) for value in proto.graph.initializer}
    ratio = a.var(1) / stored["bn.var"]
    away = (a.mean(1) - stored["bn.mean"]) ** 2 / stored["bn.var"]
    return float(np.median((ratio + away - 1 - np.log(ratio)) / 2))


@pytest.mark.parametrize("opset", [12, 17, 18, 21])
@pytest.mark.parametrize("image", [True, False])
def test_the_shift_is_the_divergence_from_the_stored_statistics(rng, opset, image):
    proto = network(opset, image=image)
    x = (3 + 2 * rng.standard_normal((200, 3, 8, 8) if image else (200, 3))).astype(np.float32)
    scores = scored(proto, x, samples=160)
    chosen = np.array([i for group in scores.samples for i in group])
    found = {layer.name: layer.shift for layer in scores.layers}
    assert found["conv"] is None
    assert found["fc"] is None
    assert found["bn"] == pytest.approx(by_hand(proto, x, chosen), rel=2e-3)


def test_the_divergence_is_that_of_normal_distributions():
    # KL(N(1, 4) || N(0, 1)) = (4 + 1 - 1 - ln 4) / 2
    shift, dead = divergence(*(np.array([value]) for value in (1.0, 4.0, 0.0, 1.0)))
    assert shift == pytest.approx((4 - math.log(4)) / 2)
    assert dead == 0
    same = np.array([1.0, 2.0])
    assert divergence(same, same, same, same)[0] == 0


def test_dead_channels_are_counted_and_left_out_of_the_shift(rng):
    x = rng.standard_normal((80, 3, 8, 8)).astype(np.float32)
    layers = {layer.name: layer for layer in scored(network(dead=2), x).layers}
    assert layers["bn"].dead == pytest.approx(2 / 6)
    assert layers["bn"].shift is not None
    layers = {layer.name: layer for layer in scored(network(dead=6), x).layers}
    assert layers["bn"].dead == 1
    assert layers["bn"].shift is None


def test_a_shifted_input_is_seen(rng):
    proto = network()
    x = rng.standard_normal((120, 3, 8, 8)).astype(np.float32)
    values = {value.name: value for value in proto.graph.initializer}
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    (a,) = session.run(["a"], {"x": x})
    values["bn.mean"].CopyFrom(numpy_helper.from_array(a.mean((0, 2, 3)), "bn.mean"))
    values["bn.var"].CopyFrom(numpy_helper.from_array(a.var((0, 2, 3)), "bn.var"))

    def shift(data):
        return next(layer.shift for layer in scored(proto, data).layers if layer.name == "bn")

    assert shift(x) < 0.01
    assert shift(0.3 * x) > 0.2
    assert shift(x + 1) > 10 * shift(x)


def test_without_stored_statistics_nothing_is_claimed(rng):
    layers = scored(network(norm=False), rng.standard_normal((80, 3, 8, 8)).astype(np.float32)).layers
    assert all(layer.shift is None and layer.dead is None for layer in layers)
    assert all(layer.effective_rank > 0 for layer in layers)


def test_effective_rank():
    rng = np.random.default_rng(0)
    line = np.outer(rng.standard_normal(20), np.ones(5))
    line -= line.mean(0)
    assert effective_rank(line @ line.T) == pytest.approx(1)
    centred = np.eye(20) - 1 / 20
    assert effective_rank(centred) == pytest.approx(19)
    assert effective_rank(np.zeros((4, 4))) == 0


def test_signals_are_in_the_file_and_older_files_are_read(rng, tmp_path):
    scores = scored(network(), rng.standard_normal((80, 3, 8, 8)).astype(np.float32))
    scores.save(tmp_path / "scores.json")
    assert load_scores(tmp_path / "scores.json") == scores
    content = json.loads((tmp_path / "scores.json").read_text())
    for layer in content["layers"]:
        for key in ("shift", "dead", "effective_rank"):
            del layer[key]
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert all(layer.shift is None for layer in load_scores(tmp_path / "scores.json").layers)
