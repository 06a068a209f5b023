"""Sequences of tensors inside the graph: replaced if they are the same in every run, otherwise the node is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import sequences
from models.tiny import normal, run

from adabet_onnx import Choices, ModelError, check_model, make_artifacts, open_model
from adabet_onnx.model.passes.sequences import is_sequence_node
from adabet_onnx.selection.record import Selection

pytestmark = pytest.mark.usefixtures("checked_here")
X = normal(5, 8, scale=1.0)


def given(name, opset=17) -> tuple[onnx.ModelProto, np.ndarray]:
    """The model, and its logits for X in NumPy."""
    h = X @ normal(8, 12) + normal(12)
    y = sequences.expected(name, h)
    body = sequences.BODIES[name]
    return sequences.model(body, y.shape[1], opset), y @ normal(y.shape[1], 3) + normal(3)


@pytest.mark.parametrize("name", sequences.BODIES)
def test_a_sequence_is_taken_apart(name):
    proto, logits = given(name)
    if name not in sequences.NOT_IN_ONNXRUNTIME:
        np.testing.assert_allclose(run(proto, X), logits, rtol=1e-5, atol=1e-5)
    model = open_model(proto)
    assert not any(is_sequence_node(node) for node in model.graph.graph.all_nodes())
    assert any("sequences of tensors were replaced by Split" in note for note in model.notes)
    np.testing.assert_allclose(run(model.proto(), X), logits, rtol=1e-5, atol=1e-5)
    assert [layer.name for layer in model.layers] == ["a", "b"]
    assert all(layer.portable.trainable for layer in check_model(model).layers)


@pytest.mark.parametrize("name", ["split by a number", "split by a list", "construct and concat"])
def test_opset_12_splits_by_an_attribute(name):
    proto, logits = given(name, opset=12)
    np.testing.assert_allclose(run(open_model(proto).proto(), X), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["split by a number", "split by a list", "a new axis"])
def test_gradients_through_what_was_a_sequence_equal_differences(name, tmp_path):
    model = open_model(given(name)[0])
    selection = Selection(model.sha256, "layers", ("a",), ("a.weight", "a.bias"))
    made = make_artifacts(model, selection, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd"))
    labels = np.array([0, 1, 2, 1, 0])
    session = made.session(made.initial, threads=1)
    session.gradients({"input": X}, labels)
    found = session.gradient("a.bias")
    width = given(name)[0].graph.initializer[2].dims[0]

    def loss(bias):
        y = sequences.expected(name, X.astype(np.float64) @ normal(8, 12) + bias)
        logits = y @ normal(width, 3) + normal(3)
        return -np.mean((logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(5), labels])

    bias = normal(12).astype(np.float64)
    steps = 1e-6 * np.eye(12)
    wanted = [(loss(bias + step) - loss(bias - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("operator", sequences.UNKNOWN)
def test_a_sequence_that_runs_decide_is_named(operator):
    body, why = sequences.UNKNOWN[operator]
    with pytest.raises(ModelError) as caught:
        open_model(sequences.model(body, 12))
    message = str(caught.value)
    assert f"({operator})" in message
    assert why in message
    assert "and export again" in message


def test_a_place_beyond_the_sequence_is_named():
    body = sequences.BODIES["keepdims counts for no list"].replace("{1}", "{3}")
    with pytest.raises(ModelError, match=r"\(SequenceAt\) takes position 3 of a sequence of length 3"):
        open_model(sequences.model(body, 4))


def test_a_sequence_in_a_branch_is_taken_apart():
    proto, _ = given("split by a number")
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 8] input, bool[1] flag) => (float[N, 3] logits) {
        size = Constant<value: tensor = int64 {4}>()  s = SplitToSequence<axis = 1>(input, size)
        one = Constant<value: tensor = int64 {1}>()
        y = If(flag) <
            then_branch = yes () => (float[N, 4] p) { p = SequenceAt(s, one) },
            else_branch = no () => (float[N, 4] q) { r = SequenceAt(s, one)  q = Neg(r) }>
        logits = Gemm(y, "b.weight", "b.bias")
    }"""
    proto = onnx.parser.parse_model(
        text.replace("bool[1] flag", "float[N, 1] mark").replace(
            "size =",
            "m = ReduceMax<keepdims = 0>(mark)  zero = Constant<value: tensor = float {0.0}>()  flag = Greater(m, "
            "zero)  size =",
            1,
        )
    )
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in (("b.weight", normal(4, 3)), ("b.bias", normal(3)))
    )
    model = open_model(proto)
    for sign in (1, -1):
        mark = np.full((5, 1), sign, np.float32)
        wanted = sign * X[:, 4:] @ normal(4, 3) + normal(3)
        np.testing.assert_allclose(run(model.proto(), X, mark), wanted, rtol=1e-5, atol=1e-6)


def test_an_output_that_is_a_sequence_leads_to_one_that_is_none():
    proto, logits = given("split by a number")
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_sequence_value_info("s", 1, None))
    with pytest.raises(ModelError, match=r"output 's' is not a tensor but a sequence.*logits='NAME'"):
        open_model(proto)
    np.testing.assert_allclose(run(open_model(proto, logits="logits").proto(), X), logits, rtol=1e-5, atol=1e-5)
