"""Trained depthwise convolutions of small images: matrix products, equal except for rounding."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from models import tiny

from adabet_onnx import make_artifacts, open_model, select
from adabet_onnx.portable import assemble
from adabet_onnx.portable.small_maps import convolve_by_matrix

CHANNELS = 6


def depthwise_net(size: int = 5, *, bias: bool = True, stride: int = 1, turns: int = 1):
    """A Conv, depthwise convolutions of an image of ``size`` x ``size``, a mean and a Gemm."""
    nodes, weights, value = [], {"c.weight": tiny.normal(CHANNELS, 3, 3, 3)}, "c.relu"
    nodes.append(tiny.node("Conv", ["input", "c.weight"], ["c.out"], "c", pads=[1] * 4))
    nodes.append(tiny.node("Relu", ["c.out"], ["c.relu"], "c.relu"))
    for i in range(turns):
        weights[f"d{i}.weight"] = tiny.normal(CHANNELS, 1, 3, 3)
        inputs = [value, f"d{i}.weight"]
        if bias:
            weights[f"d{i}.bias"] = tiny.normal(CHANNELS)
            inputs.append(f"d{i}.bias")
        how = {"group": CHANNELS, "pads": [1] * 4, "strides": [stride] * 2}
        nodes.append(tiny.node("Conv", inputs, [f"d{i}.out"], f"d{i}", **how))
        nodes.append(tiny.node("Relu", [f"d{i}.out"], [f"d{i}.relu"], f"d{i}.relu"))
        value = f"d{i}.relu"
    weights |= {"fc.weight": tiny.normal(4, CHANNELS), "fc.bias": np.zeros(4, np.float32)}
    nodes.append(tiny.node("ReduceMean", [value], ["mean"], "mean", axes=[2, 3], keepdims=0))
    nodes.append(tiny.node("Gemm", ["mean", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1))
    return tiny.build(nodes, weights, input_shape=("N", 3, size, size), output_shape=("N", 4))


def artifacts(folder, layers=("d0", "fc"), **given):
    model = open_model(depthwise_net(**given))
    return make_artifacts(model, select(model, layers=list(layers)), folder, backend="portable", check=False)


def grouped(manifest, what):
    """How many convolutions of groups a graph has."""
    nodes = onnx.load(manifest.file(what), load_external_data=False).graph.node
    found = [{a.name: a for a in node.attribute} for node in nodes if node.op_type == "Conv"]
    return sum("group" in attributes and attributes["group"].i > 1 for attributes in found)


def trained(manifest, size, steps=5):
    """Losses, the last logits, those of evaluation, and the parameters."""
    rng = np.random.default_rng(4)
    x, labels = rng.standard_normal((9, 3, size, size)).astype(np.float32), rng.integers(0, 4, 9)
    session = manifest.session(manifest.initial, threads=1)
    losses = [session.step({"input": x}, labels, 0.01)[0] for _ in range(steps)]
    _, gradient_logits = session.gradients({"input": x}, labels)
    session.update(0.01)
    loss, logits = session.evaluate({"input": x}, labels)
    values = {name: session.parameter(name) for name in session.parameter_names()}
    return [*losses, loss], gradient_logits, logits, values


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "given"), [(5, {}), (7, {"turns": 2}), (5, {"bias": False}), (9, {"stride": 2}), (3, {"stride": 2})]
)
def test_the_same_training(size, given, tmp_path, monkeypatch):
    layers = ["d0", "d1", "fc"] if "turns" in given else ["d0", "fc"]
    made = artifacts(tmp_path / "a", layers, size=size, **given)
    assert [grouped(made, what) for what in ("step", "gradients", "evaluation")] == [0, 0, 0]
    for what in ("convolve_by_matrix", "put_batch_inside"):
        monkeypatch.setattr(assemble, what, lambda *_: None)
    plain = artifacts(tmp_path / "b", layers, size=size, **given)
    assert grouped(plain, "step") == len(layers) - 1
    assert made.boundary == plain.boundary
    losses, gradient_logits, logits, values = trained(made, size)
    expected_losses, expected_gradient_logits, expected_logits, expected = trained(plain, size)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(gradient_logits, expected_gradient_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    assert values.keys() == expected.keys()
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_what_is_evaluated_is_what_the_model_computes(tmp_path):
    made = artifacts(tmp_path / "a")
    x = np.random.default_rng(1).standard_normal((3, 3, 5, 5)).astype(np.float32)
    _, logits = made.session(made.initial, threads=1).evaluate({"input": x}, np.zeros(3, np.int64))
    model = onnxruntime.InferenceSession(str(made.file("model")), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(logits, model.run(None, {"input": x})[0], rtol=1e-5, atol=1e-6)


def test_large_images_and_frozen_weights_stay_convolutions(tmp_path):
    assert grouped(artifacts(tmp_path / "large", size=8), "step") == 1
    # d1 is behind a trained layer, and its own weight is a constant: ONNX Runtime is fast at that.
    assert grouped(artifacts(tmp_path / "frozen", ["d0", "fc"], size=5, turns=2), "evaluation") == 1


def test_operators_that_may_not_be_used_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "convolve_by_matrix", lambda *_: None)
    made = artifacts(tmp_path / "a")
    model = assemble.ir.load(made.file("evaluation"))
    convolve_by_matrix(model, {"d0.weight"}, {"Conv", "Reshape", "Add", "Relu"})
    assert sum(node.op_type == "Conv" for node in model.graph) == 1
    convolve_by_matrix(model, {"d0.weight"}, None)
    assert not any(node.op_type == "Conv" for node in model.graph)
