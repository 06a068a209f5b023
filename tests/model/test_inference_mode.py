"""Nodes in training mode are set to inference, and random ones are rejected, so that evaluation is repeatable."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import tiny, training_mode
from models.tiny import node, normal
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import ModelError, make_artifacts, open_model
from adabet_onnx.model import error_context
from adabet_onnx.selection.record import Selection

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture(params=["portable", "ort"])
def backend(request):
    if request.param == "ort":
        request.getfixturevalue("training")
    return request.param


def x(count=6) -> np.ndarray:
    return normal(count, 8, scale=1.0)


# --- Dropout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["initializer", "constant", "computed", "input"])
def test_a_dropout_in_training_mode_drops_nothing(mode, backend, tmp_path):
    model = open_model(training_mode.dropout(mode))
    assert any("Dropout was in training mode" in note and "'/2/Dropout'" in note for note in model.notes)
    assert [spec.name for spec in model.inputs] == ["input"]
    expected = tiny.run(training_mode.plain(), x())
    for _ in range(3):  # a random one agrees at most once
        np.testing.assert_allclose(tiny.run(model.proto(), x()), expected, rtol=1e-6)
    names = tuple(parameter.name for layer in model.layers for parameter in layer.parameters)
    selection = Selection(model.sha256, "all", tuple(layer.name for layer in model.layers), names)
    manifest = make_artifacts(model, selection, tmp_path / "a", backend=backend)
    session = manifest.session(manifest.initial, threads=1)
    for _ in range(2):
        np.testing.assert_allclose(session.gradients({"input": x()}, np.arange(6) % 3)[1], expected, rtol=1e-5)


@pytest.mark.parametrize("fed", ["ratio", "inverted mode"])
def test_inputs_that_only_set_a_dropout_up_go(fed):
    model = open_model(training_mode.dropout_set_by_input(fed))
    assert [spec.name for spec in model.inputs] == ["input"]
    assert any("which only configured Dropout, was dropped" in note and "'fed'" in note for note in model.notes)
    np.testing.assert_allclose(tiny.run(model.proto(), x()), tiny.run(training_mode.plain(), x()), rtol=1e-6)


@pytest.mark.parametrize("mode", ["initializer", "constant"])
def test_one_at_inference_is_nothing_to_speak_of(mode):
    model = open_model(training_mode.dropout(mode, training=False))
    assert not any("Dropout" in note for note in model.notes)


def test_a_dropout_in_the_branch_of_an_if():
    model = open_model(training_mode.dropout_in_a_branch())
    np.testing.assert_allclose(tiny.run(model.proto(), x()), tiny.run(training_mode.plain(), x()), rtol=1e-6)


@pytest.mark.parametrize("opset", [10, 11])
def test_before_opset_12_a_dropout_drops_nothing_at_inference(opset):
    nodes = [
        node("Dropout", ["input"], ["d"], "/drop", ratio=0.5),
        node("MatMul", ["d", "fc"], ["logits"], "/fc"),
    ]
    proto = tiny.build(nodes, {"fc": normal(8, 3)}, input_shape=("N", 8), opset=opset)
    np.testing.assert_allclose(tiny.run(open_model(proto).proto(), x()), x() @ normal(8, 3), rtol=1e-5, atol=1e-6)


# --- BatchNormalization --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["batch", "old", "read"])
def test_a_normalisation_by_the_batch_uses_what_is_stored(how):
    model = open_model(training_mode.normalised(how))
    assert any("stored statistics" in note and "'/1/BatchNormalization'" in note for note in model.notes)
    expected = tiny.run(training_mode.normalised("stored"), x())
    np.testing.assert_allclose(tiny.run(model.proto(), x()), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tiny.run(model.proto(), x(1)), tiny.run(model.proto(), x(1)[:1]), rtol=1e-6)


# --- random nodes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniform", "Bernoulli"])
def test_random_numbers_are_rejected_by_name(operator):
    with pytest.raises(ModelError, match=rf"node '/noise' \({operator}\) generates random numbers"):
        open_model(training_mode.noisy(operator))


def test_random_numbers_that_the_logits_do_not_need_are_no_matter():
    proto = training_mode.plain()
    proto.graph.node.append(node("RandomNormalLike", ["h"], ["noise"], "/noise"))
    assert len(open_model(proto).layers) == 2


# --- sparse tensors, and calls on opening --------------------------------------------------------------------


def sparse(places, values, dims, name="fc") -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(
        values=numpy_helper.from_array(np.asarray(values, np.float32), name),
        indices=numpy_helper.from_array(np.asarray(places, np.int64), "indices"),
        dims=dims,
    )


def with_sparse(tensor: onnx.SparseTensorProto, *, constant: bool = False) -> onnx.ModelProto:
    proto = tiny.build([node("MatMul", ["input", "fc"], ["logits"], "/fc")], {"fc": normal(8, 3)}, input_shape=("N", 8))
    del proto.graph.initializer[:]
    if constant:
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["fc"], sparse_value=tensor))
    else:
        proto.graph.sparse_initializer.append(tensor)
    return proto


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("places", [[0, 4, 23], [[0, 0], [1, 1], [7, 2]]], ids=["flat", "by axis"])
def test_a_sparse_tensor_is_a_weight_like_others(places, constant):
    model = open_model(with_sparse(sparse(places, [1, 2, 3], [8, 3]), constant=constant))
    weight = np.zeros((8, 3), np.float32)
    weight[[0, 1, 7], [0, 1, 2]] = 1, 2, 3
    assert [layer.parameter_count for layer in model.layers] == [24]
    np.testing.assert_allclose(tiny.run(model.proto(), x()), x() @ weight, rtol=1e-5)


@pytest.mark.parametrize(
    ("places", "dims", "reason"),
    [
        ([0, 4, 24], [8, 3], "out of range"),
        ([0, -1, 2], [8, 3], "out of range"),
        ([0, 4, 4], [8, 3], "twice"),
        ([0, 4], [8, 3], "2 indices"),
        ([[0, 0], [1, 1], [8, 2]], [8, 3], "out of range"),
        ([0, 4, 5], [2**40, 3], "shape"),
        ([0, 4, 5], [-8, -3], "shape"),
    ],
)
def test_a_damaged_one_is_rejected(places, dims, reason):
    with pytest.raises(ModelError, match=rf"sparse tensor 'fc'.*{reason}"):
        open_model(with_sparse(sparse(places, [1, 2, 3], dims)))


def test_whatever_is_raised_becomes_a_model_error():
    above = RuntimeError("above")
    above.__cause__ = ValueError("at the bottom")
    told = r"m\.onnx: opening it failed: at the bottom\. .*export it again"
    with pytest.raises(ModelError, match=told), error_context.error_context("m.onnx", "opening"):
        raise above
    with pytest.raises(ModelError, match="more memory"), error_context.error_context("m.onnx", "opening"):
        raise MemoryError
    for kind in (ModelError, FileNotFoundError, KeyboardInterrupt):
        with pytest.raises(kind), error_context.error_context("m.onnx", "opening"):
            raise kind("as it is")


def test_an_error_of_onnx_ir_in_the_depths_of_opening(monkeypatch, tmp_path):
    from adabet_onnx.model import opening_steps

    def fail(*arguments):
        raise AttributeError("of onnx_ir's own")

    monkeypatch.setattr(opening_steps, "name_batch", fail)
    onnx.save(tiny.conv_net(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx: opening it failed: of onnx_ir's own"):
        open_model(tmp_path / "m.onnx")


def test_a_mode_that_other_nodes_read_stays_an_input_and_is_named():
    proto = training_mode.dropout("input")
    proto.graph.node.insert(0, node("Cast", ["mode"], ["number"], "/cast", to=TensorProto.FLOAT))
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(node("Add", ["before", "number"], ["logits"], "/more"))
    with pytest.raises(ModelError, match="input 'mode' has no shape with a batch"):
        open_model(proto)
