"""Steps of transformers: unused tokens are not computed, and wide layers piece by piece; the results are the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from models import tiny

from adabet_onnx import export_model, make_artifacts, open_model, quantiser, select
from adabet_onnx.portable import assemble
from adabet_onnx.portable.memory import step_bytes
from adabet_onnx.trainability.choices import Choices

TOKENS, WIDTH, HIDDEN = 48, 96, 384
ROOT, HALF = np.array(np.sqrt(2), np.float32), np.array(0.5, np.float32)


def transformer(pool: str = "token", activation: str = "gelu", *, turned: bool = False) -> onnx.ModelProto:
    """A block of attention and a wide layer, then a head on the tokens that are used."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {"root": ROOT, "half": HALF, "one": np.array(1, np.float32)}

    def op(op_type: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(tiny.node(op_type, inputs, [f"{name}.out"], name, **attributes))
        return f"{name}.out"

    def linear(value: str, name: str, wide: int, narrow: int) -> str:
        weights[f"{name}.bias"], weights[f"{name}.weight"] = tiny.normal(wide), tiny.normal(narrow, wide, scale=0.1)
        weight = f"{name}.weight"
        if turned:  # as torch exports them
            weights[weight] = np.ascontiguousarray(weights[weight].T)
            weight = op("Transpose", [weight], f"{name}.t", perm=[1, 0])
        return op("Add", [op("MatMul", [value, weight], name), f"{name}.bias"], f"{name}.add")

    def norm(value: str, name: str) -> str:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + tiny.normal(WIDTH), tiny.normal(WIDTH)
        return op("LayerNormalization", [value, f"{name}.weight", f"{name}.bias"], name)

    x = linear("input", "embed", WIDTH, WIDTH)
    n = norm(x, "n1")
    q, k, v = (linear(n, name, WIDTH, WIDTH) for name in "qkv")
    scores = op("MatMul", [q, op("Transpose", [k], "kt", perm=[0, 2, 1])], "scores")
    seen = op("MatMul", [op("Softmax", [scores], "softmax", axis=-1), v], "seen")
    x = op("Add", [x, linear(seen, "project", WIDTH, WIDTH)], "added")
    h = linear(norm(x, "n2"), "up", HIDDEN, WIDTH)
    if activation == "gelu":
        gate = op("Add", [op("Erf", [op("Div", [h, "root"], "div")], "erf"), "one"], "plus")
        h = op("Mul", [op("Mul", [h, gate], "gated"), "half"], "halved")
    elif activation == "gated":
        h = op("Mul", [op("Sigmoid", [linear(norm(x, "n4"), "gate", HIDDEN, WIDTH)], "open"), h], "gated")
    else:
        h = op(activation, [h], "act")
    x = norm(op("Add", [x, linear(h, "down", WIDTH, HIDDEN)], "sum"), "n3")
    ints = {"zero": [0], "two": [2], "axis": [1], "flat": [0, -1]}
    weights |= {name: np.array(numbers, np.int64) for name, numbers in ints.items()}
    weights["place"] = np.array(-1 if pool == "last" else 0, np.int64)
    if pool == "mean":
        x = op("ReduceMean", [x], "mean", axes=[1], keepdims=0)
    elif pool == "slice":
        x = op("ReduceMean", [op("Slice", [x, "zero", "two", "axis"], "slice")], "mean", axes=[1], keepdims=0)
    elif pool == "both":
        mean = op("ReduceMean", [x], "mean", axes=[1], keepdims=0)
        x = op("Add", [op("Gather", [x, "place"], "gather", axis=1), mean], "both")
    else:
        x = op("Gather", [x, "place"], "gather", axis=1)
    weights |= {"fc.weight": tiny.normal(5, WIDTH), "fc.bias": tiny.normal(5)}
    nodes.append(tiny.node("Gemm", [x, "fc.weight", "fc.bias"], ["logits"], "fc", transB=1))
    used = {name for node in nodes for name in node.input}
    weights = {name: array for name, array in weights.items() if name in used}
    return tiny.build(nodes, weights, input_shape=("N", TOKENS, WIDTH), output_shape=("N", 5))


def artifacts(folder, layers, profile=None, **given):
    model = open_model(transformer(**given))
    selection, choices = select(model, layers=layers), Choices(profile=profile)
    return make_artifacts(model, selection, folder, backend="portable", check=False, choices=choices)


def operators(made, what="step"):
    return [node.op_type for node in onnx.load(made.file(what), load_external_data=False).graph.node]


def size(made):
    return step_bytes(assemble.ir.load(made.file("step")), 64)


def trained(made):
    rng = np.random.default_rng(4)
    x, labels = rng.standard_normal((5, TOKENS, WIDTH)).astype(np.float32), rng.integers(0, 5, 5)
    session = made.session(made.initial, threads=1)
    losses = [session.step({"input": x}, labels, 0.01)[0] for _ in range(4)]
    session.gradients({"input": x}, labels)
    gradients = {name: session.gradient(name) for name in session.parameter_names()}
    session.update(0.01)
    loss, logits = session.evaluate({"input": x}, labels)
    return [*losses, loss], logits, gradients, {name: session.parameter(name) for name in session.parameter_names()}


LATE = ["q", "project", "up", "down", "n3", "fc"]
CASES = {
    "token": (LATE, {}),
    "last, turned": (LATE, {"pool": "last", "turned": True}),
    "slice": (LATE, {"pool": "slice", "activation": "Relu"}),
    "both": (LATE, {"pool": "both"}),
    "mean": (LATE, {"pool": "mean"}),
    "mean, turned": (LATE, {"pool": "mean", "turned": True, "activation": "Tanh"}),
    "mean, gated": (["n1", "n4", "gate", "down", "fc"], {"pool": "mean", "activation": "gated"}),
    "all": (["embed", *LATE], {"turned": True}),
    "keys": (["k", "v", "fc"], {}),
    "up": (["up"], {"pool": "mean"}),
}


def unwritten(monkeypatch):
    monkeypatch.setattr(assemble, "select_early", lambda *_: None)
    monkeypatch.setattr(assemble, "compute_in_pieces", lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_same_training(case, tmp_path, monkeypatch):
    layers, given = CASES[case]
    made = artifacts(tmp_path / "a", layers, **given)
    unwritten(monkeypatch)
    plain = artifacts(tmp_path / "b", layers, **given)
    assert size(made) < size(plain)
    losses, logits, gradients, values = trained(made)
    expected_losses, expected_logits, expected_gradients, expected = trained(plain)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-3, atol=1e-3)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        scale = np.abs(expected_gradients[name]).max()
        assert scale > 0
        np.testing.assert_allclose(gradient, expected_gradients[name], rtol=1e-2, atol=2e-3 * scale, err_msg=name)
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], atol=2e-3, err_msg=name)


def test_one_token_takes_less_by_far(tmp_path, monkeypatch):
    made = artifacts(tmp_path / "a", ["up", "down", "fc"])
    assert [entry["shape"][1:] for entry in made.content["boundary"]] == [[1, WIDTH], [1, WIDTH]]
    unwritten(monkeypatch)
    plain = artifacts(tmp_path / "b", ["up", "down", "fc"])
    stored = [sum(entry["bytes"] for entry in each.content["boundary"]) for each in (made, plain)]
    assert stored[0] * 10 < stored[1]
    assert size(made) < 0.3 * size(plain)


def test_what_else_is_read_is_computed_whole(tmp_path):
    made = artifacts(tmp_path / "a", ["up", "down", "fc"], pool="both")
    assert [TOKENS, WIDTH] in [entry["shape"][1:] for entry in made.content["boundary"]]


def test_pieces(tmp_path):
    assert "Split" in operators(artifacts(tmp_path / "mean", LATE, pool="mean"), "evaluation")
    assert "Split" not in operators(artifacts(tmp_path / "down", ["down", "fc"], pool="mean"))  # up is frozen
    assert "Split" not in operators(artifacts(tmp_path / "token", LATE))  # there is one token


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_what_is_evaluated_is_what_the_model_computes(pool, tmp_path):
    made = artifacts(tmp_path / "a", ["embed", *LATE], pool=pool)
    x = np.random.default_rng(1).standard_normal((3, TOKENS, WIDTH)).astype(np.float32)
    _, logits = made.session(made.initial, threads=1).evaluate({"input": x}, np.zeros(3, np.int64))
    model = onnxruntime.InferenceSession(str(made.file("model")), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(logits, model.run(None, {"input": x})[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_a_profile(pool, tmp_path):
    made = artifacts(tmp_path / "a", LATE, "webgpu", pool=pool)
    losses, *_ = trained(made)
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "given"),
    [(["up", "down", "fc"], {}), (["n3", "fc"], {"pool": "last"}), (["gate"], {"pool": "mean", "activation": "gated"})],
)
@pytest.mark.parametrize("came", [False, True])
def test_a_frozen_part_in_int8_ends_at_values_of_the_model(came, layers, given, tmp_path):
    x = np.random.default_rng(1).standard_normal((32, TOKENS, WIDTH)).astype(np.float32)
    proto, how = (
        transformer(**given),
        {"choices": Choices(frozen_precision="int8"), "calibrate": (x, np.arange(32) % 5)},
    )
    if came:
        proto, how = quantiser.quantised(open_model(proto).proto(), [{"input": x[:16]}, {"input": x[16:]}], "m"), {}
    model = open_model(proto)
    made = make_artifacts(model, select(model, layers=layers), tmp_path / "a", backend="portable", check=False, **how)
    assert "QuantizeLinear" in operators(made, "frozen")
    exported = export_model(tmp_path / "a", tmp_path / "m.onnx", check=False)
    _, logits = made.session(made.initial, threads=1).evaluate({"input": x[:3]}, np.zeros(3, np.int64))
    np.testing.assert_allclose(tiny.run(exported, x[:3]), logits, rtol=1e-2, atol=1e-2)  # int8 rounds either way
