"""Convolutions of small images behind trained layers: merged with pads and normalisations, with the batch inside."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import onnx
import pytest
import rule_checks
from models import tiny
from onnx import numpy_helper

from adabet_onnx import make_artifacts, open_model, select
from adabet_onnx.portable import assemble
from adabet_onnx.trainability.choices import Choices

LAYERS = ("expand", "expand.bn", "depth", "depth.bn", "project", "project.bn", "mix", "mix.bn", "less", "more", "fc")
PASSES = ("merge_norms", "put_batch_inside", "convolve_by_matrix")


def block_net(size: int = 6, *, stride: int = 1, offset: float = 0.0) -> onnx.ModelProto:
    """A frozen stem, an inverted residual with its Pad, and a squeeze and excitation.

    Args:
        size: of the images.
        stride: of the depthwise convolution; the residual is left out where there is one.
        offset: what the stored means are, in standard deviations.
    """
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def add(operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(tiny.node(operator, inputs, [f"{name}.out"], name, **attributes))
        return f"{name}.out"

    def conv(x: str, name: str, shape: tuple[int, ...], *, bias: bool = False, **attributes: object) -> str:
        weights[f"{name}.weight"] = tiny.normal(*shape)
        if bias:
            weights[f"{name}.bias"] = tiny.normal(shape[0])
        return add("Conv", [x, f"{name}.weight", *([f"{name}.bias"] if bias else [])], name, **attributes)

    def norm(x: str, name: str, channels: int) -> str:
        rng = np.random.default_rng(channels)
        deviation = rng.uniform(0.5, 1.5, channels)
        values = {
            "scale": rng.uniform(0.5, 1.5, channels),
            "shift": rng.normal(0.5, 0.5, channels),
            "mean": rng.normal(0, 0.3, channels) + offset * deviation,
            "var": deviation**2,
        }
        weights.update({f"{name}.{key}": value.astype(np.float32) for key, value in values.items()})
        return add("BatchNormalization", [x, *(f"{name}.{key}" for key in values)], name, epsilon=1e-3)

    weights |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    weights |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "none": np.array(0, np.float32)}
    stem = add("Relu", [conv("input", "stem", (6, 3, 3, 3), pads=[1] * 4)], "stem.relu")
    x = norm(conv(stem, "expand", (12, 6, 1, 1)), "expand.bn", 12)
    x = add("Pad", [add("Clip", [x, "low", "high"], "expand.clip"), "pads", "none"], "pad")
    x = norm(conv(x, "depth", (12, 1, 3, 3), group=12, strides=[stride] * 2), "depth.bn", 12)
    x = add("Clip", [x, "low", "high"], "depth.clip")
    x = norm(conv(x, "project", (6, 12, 1, 1), bias=True), "project.bn", 6)
    if stride == 1:
        x = add("Add", [x, stem], "residual")
    x = add("Relu", [norm(conv(x, "mix", (10, 6, 1, 1)), "mix.bn", 10)], "mix.relu")
    squeezed = add("Relu", [conv(add("GlobalAveragePool", [x], "squeeze"), "less", (4, 10, 1, 1), bias=True)], "less.r")
    gate = add("Sigmoid", [conv(squeezed, "more", (10, 4, 1, 1), bias=True)], "gate")
    x = add("GlobalAveragePool", [add("Clip", [add("Mul", [x, gate], "excite"), "low", "high"], "last.clip")], "pool")
    weights |= {"fc.weight": tiny.normal(4, 10), "fc.bias": np.zeros(4, np.float32)}
    nodes.append(tiny.node("Gemm", [add("Flatten", [x], "flat"), "fc.weight", "fc.bias"], ["logits"], "fc", transB=1))
    return tiny.build(nodes, weights, input_shape=("N", 3, size, size), output_shape=("N", 4))


def artifacts(folder, model, layers=LAYERS, **choices):
    """Of plain gradient descent."""
    model = open_model(model)
    chosen = select(model, layers=list(layers))
    return make_artifacts(
        model, chosen, folder, backend="portable", choices=Choices(optimizer="sgd", **choices), check=False
    )


def operators(manifest, what="step"):
    nodes = onnx.load(manifest.file(what), load_external_data=False).graph.node
    return collections.Counter(node.op_type for node in nodes)


def batch(size, samples=5):
    rng = np.random.default_rng(7)
    return rng.standard_normal((samples, 3, size, size)).astype(np.float32), rng.integers(0, 4, samples)


def gradients(manifest, x, labels):
    """Loss and gradients, which equal the change of a step with rate 1."""
    session = manifest.session(manifest.initial, threads=1)
    before = {name: session.parameter(name).astype(np.float64) for name in session.parameter_names()}
    loss, _ = session.step({"input": x}, labels, 1.0)
    return loss, {name: value - session.parameter(name) for name, value in before.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ({}, LAYERS),
        ({"stride": 2}, LAYERS),
        ({"size": 9}, LAYERS),
        ({"offset": 20.0}, LAYERS),
        ({"offset": 200.0}, LAYERS),
        ({}, ("expand.bn", "fc")),
        ({}, ("depth", "mix.bn", "fc")),
        ({}, ("project", "fc")),
    ],
    ids=str,
)
def test_gradients_equal_torch(given, layers, tmp_path, torch_oracle):
    model = block_net(**given)
    x, labels = batch(given.get("size", 6))
    made = artifacts(tmp_path / "a", model, layers)
    loss, found = gradients(made, x, labels)
    expected_loss, expected = torch_oracle.gradients(
        model, {"input": x}, labels, list(found), loss="cross-entropy", logits="logits"
    )
    assert loss == pytest.approx(float(expected_loss), rel=1e-5)
    assert len(found) >= len(layers)
    for name, gradient in found.items():
        assert rule_checks.relative(gradient, expected[name]) < 2e-4, name


def test_the_samples_of_a_batch_may_be_of_any_number(tmp_path):
    """Evaluated alone and together, in training and evaluation, they give the same logits, and those of the model."""
    made = artifacts(tmp_path / "a", block_net())
    x, labels = batch(6, 7)
    session = made.session(made.initial, threads=1)
    _, together = session.evaluate({"input": x}, labels)
    alone = [session.evaluate({"input": x[i : i + 1]}, labels[i : i + 1])[1] for i in range(7)]
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(session.gradients({"input": x}, labels)[1], together, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tiny.run(onnx.load(made.file("model")), x), together, rtol=1e-4, atol=1e-5)


def test_what_a_step_computes(tmp_path, monkeypatch):
    """No Pad and no normalisation, one convolution (its input is frozen), and few values are turned."""
    x, labels = batch(6)
    made = artifacts(tmp_path / "a", block_net())
    found = operators(made)
    assert (found["Pad"], found["BatchNormalization"], found["Conv"], found["ConvTranspose"]) == (0, 0, 1, 0)
    assert [kept["name"] for kept in made.content["boundary"]] == ["stem.relu.out"]
    for name in PASSES:
        monkeypatch.setattr(assemble, name, lambda *_: None)
    plain = artifacts(tmp_path / "b", block_net())
    assert found["Transpose"] < operators(plain)["Transpose"]
    assert operators(plain)["BatchNormalization"] >= 12
    (loss, ours), (expected_loss, expected) = gradients(made, x, labels), gradients(plain, x, labels)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in ours.items():
        assert rule_checks.relative(gradient, expected[name]) < 2e-4, name


def test_means_far_from_zero_stay_in_normalisations(tmp_path):
    assert operators(artifacts(tmp_path / "a", block_net(offset=20.0)))["BatchNormalization"] == 0
    assert operators(artifacts(tmp_path / "b", block_net(offset=200.0)))["BatchNormalization"] > 0


def test_large_images_stay_convolutions(tmp_path):
    found = operators(artifacts(tmp_path / "a", block_net(size=9)))
    assert found["Conv"] >= 4
    assert found["BatchNormalization"] == 0


def test_statistics_of_the_batch_stay_normalisations(tmp_path):
    assert operators(artifacts(tmp_path / "a", block_net(), batch_norm="batch"))["BatchNormalization"] > 0


def test_some_channels_are_trained_as_before(tmp_path, torch_oracle):
    model = open_model(block_net())
    chosen = select(model, layers=["depth", "mix", "fc"])
    chosen = dataclasses.replace(chosen, channels={"mix": (1, 4), "depth": (0, 2, 7)})
    made = make_artifacts(
        model, chosen, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd"), check=False
    )
    x, labels = batch(6)
    _, found = gradients(made, x, labels)
    _, expected = torch_oracle.gradients(
        block_net(), {"input": x}, labels, list(found), loss="cross-entropy", logits="logits"
    )
    for name, rows in (("mix.weight", [1, 4]), ("depth.weight", [0, 2, 7])):
        assert rule_checks.relative(found[name], expected[name][rows]) < 2e-4, name


def test_profiles_and_recomputing(tmp_path):
    x, labels = batch(6)
    loss, expected = gradients(artifacts(tmp_path / "a", block_net()), x, labels)
    for number, choices in enumerate(({"profile": "webgpu"}, {"recompute": True})):
        found_loss, found = gradients(artifacts(tmp_path / f"b{number}", block_net(), **choices), x, labels)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        for name, gradient in found.items():
            assert rule_checks.relative(gradient, expected[name]) < 2e-4, name


def test_masks_are_made_before_the_backward_pass(tmp_path):
    """Of values with the batch inside too: the loss waits for the size of each."""
    graph = onnx.load(artifacts(tmp_path / "a", block_net()).file("step"), load_external_data=False).graph
    shown = [node for node in graph.node if node.op_type == "Shape" and any(a.name == "start" for a in node.attribute)]
    starts = [next(a.i for a in node.attribute if a.name == "start") for node in shown]
    assert 1 in starts


def test_weights_are_where_they_were(tmp_path):
    """An exported weight is the trained one, not what it is merged into."""
    made = artifacts(tmp_path / "a", block_net())
    stored = {t.name: numpy_helper.to_array(t) for t in block_net().graph.initializer}
    session = made.session(made.initial, threads=1)
    for name in session.parameter_names():
        np.testing.assert_array_equal(session.parameter(name), stored[name])
