"""Several outputs and dynamic dimensions: automatic choices, required options, the command that writes the result."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import ModelError, UsageError, open_model, save_model
from adabet_onnx.cli.main import main
from adabet_onnx.cli.translate import translate


def two_outputs(first: str, second: str) -> onnx.ModelProto:
    """Features of a Gemm, and a head on them, both outputs."""
    nodes = [
        node("Gemm", ["input", "body.weight"], [first], "/body"),
        node("Gemm", [first, "head.weight"], [second], "/head"),
    ]
    values = {"body.weight": normal(6, 5), "head.weight": normal(5, 3)}
    proto = tiny.build(nodes, values, input_shape=("N", 6), output=second, output_shape=("N", 3))
    proto.graph.output.insert(0, helper.make_tensor_value_info(first, TensorProto.FLOAT, ["N", 5]))
    return proto


def text_net(*, sequence: str | None = "sequence") -> onnx.ModelProto:
    """An embedding of token ids (N, sequence), a mask input, a mean over tokens, a Gemm."""
    nodes = [
        node("Gather", ["table", "ids"], ["tokens"], "/embed"),
        node("Cast", ["mask"], ["m"], "/mask", to=TensorProto.FLOAT),
        node("Unsqueeze", ["m", "last"], ["m3"], "/unsqueeze"),
        node("Mul", ["tokens", "m3"], ["masked"], "/masked"),
        node("ReduceMean", ["masked"], ["mean"], "/mean", axes=[1], keepdims=0),
        node("Gemm", ["mean", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {"table": normal(11, 4), "last": np.array([-1]), "fc.weight": normal(4, 3)}
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", sequence]) for name in ("ids", "mask")]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    return tiny.assemble(nodes, values, given, made)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(("features", "logits"), "logits"), (("logits", "features"), "logits"), (("hidden", "output"), "output")],
)
def test_a_telling_name_wins(names, chosen, rng):
    proto = two_outputs(*names)
    model = open_model(proto)
    assert model.logits == chosen
    assert [value.name for value in model.graph.graph.outputs] == [chosen]
    assert any(repr(chosen) in note and "dropped" in note for note in model.notes)
    x = rng.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(tiny.run(model.proto(), x), tiny.run(proto, x, output=chosen), rtol=1e-5)


def test_the_only_output_of_numbers_wins():
    """As scikit-learn's converters write: labels and probabilities."""
    nodes = [
        node("Gemm", ["input", "fc.weight"], ["scores"], "/fc"),
        node("Softmax", ["scores"], ["probabilities"], "/softmax"),
        node("ArgMax", ["scores"], ["label"], "/argmax", axis=1),
    ]
    proto = tiny.build(nodes, {"fc.weight": normal(6, 3)}, input_shape=("N", 6), output="probabilities")
    proto.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, ["N", 1]))
    model = open_model(proto)
    assert model.logits == "scores"
    assert [value.name for value in model.graph.graph.outputs] == ["label", "probabilities"]  # the label from them too


def test_two_like_outputs_are_listed():
    with pytest.raises(ModelError, match=r"'boxes' \(float \[N, 5\]\), 'classes' \(float \[N, 3\]\).*logits='NAME'"):
        open_model(two_outputs("boxes", "classes"))


@pytest.mark.parametrize("logits", ["boxes", "classes"])
def test_an_output_is_chosen(logits, rng):
    proto = two_outputs("boxes", "classes")
    model = open_model(proto, logits=logits)
    assert model.logits == logits
    assert len(model.layers) == (1 if logits == "boxes" else 2)
    x = rng.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(tiny.run(model.proto(), x), tiny.run(proto, x, output=logits), rtol=1e-5)


@pytest.mark.parametrize("said", ["a type", "nothing"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_an_output_that_says_no_shape_gets_one(said, batch, tmp_path, rng):
    """onnx's checker refuses such a file; onnxruntime runs it, and converters write it."""
    proto = tiny.conv_net()
    if isinstance(batch, int):
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    if said == "nothing":
        proto.graph.output[0].ClearField("type")
    else:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    before = proto.SerializeToString()
    model = open_model(proto)
    assert proto.SerializeToString() == before
    (output,) = model.proto().graph.output
    assert output == tiny.conv_net().graph.output[0]
    save_model(model, tmp_path / "saved.onnx")
    onnx.checker.check_model(tmp_path / "saved.onnx", full_check=True)


def test_an_output_without_an_element_type(caplog):
    proto = tiny.conv_net()
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.UNDEFINED
    assert open_model(proto).proto().graph.output[0] == tiny.conv_net().graph.output[0]
    nodes = [*proto.graph.node, node("ArgMax", ["logits"], ["best"], "/best", axis=1)]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    numbers = tiny.build(nodes, values, output="best")
    numbers.graph.output[0].ClearField("type")
    with pytest.raises(ModelError, match="'best' is int64, but a loss needs float32 logits"):
        open_model(numbers)
    assert not caplog.records


def test_an_output_whose_shape_only_a_run_tells():
    """A Reshape to a computed shape, which inference does not follow."""
    nodes = [
        node("Gemm", ["input", "fc.weight"], ["y"], "/fc"),
        node("Shape", ["y"], ["shape"], "/shape"),
        node("Cast", ["shape"], ["float"], "/float", to=TensorProto.FLOAT),
        node("Sqrt", ["float"], ["root"], "/root"),
        node("Mul", ["root", "root"], ["square"], "/square"),
        node("Round", ["square"], ["round"], "/round"),
        node("Cast", ["round"], ["back"], "/back", to=TensorProto.INT64),
        node("Reshape", ["y", "back"], ["logits"], "/same"),
    ]
    proto = tiny.build(nodes, {"fc.weight": normal(6, 3)}, input_shape=("N", 6))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    (output,) = open_model(proto).proto().graph.output
    assert output.type.tensor_type.shape.dim[0].dim_param == "N"
    assert output.type.tensor_type.shape.dim[1].dim_value == 3


def test_models_opened_in_two_ways_have_two_hashes():
    proto = two_outputs("boxes", "classes")
    assert open_model(proto, logits="boxes").sha256 != open_model(proto, logits="classes").sha256
    assert open_model(proto, logits="boxes").sha256 == open_model(proto, logits="boxes").sha256


def test_a_value_inside_is_chosen(rng):
    model = open_model(tiny.conv_net(), logits="pooled")
    assert model.logits == "pooled"
    assert [layer.name for layer in model.layers] == ["conv1", "bn1", "conv2", "bn2"]
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(tiny.run(model.proto(), x), tiny.run(tiny.conv_net(), x, output="pooled"), rtol=1e-5)


def test_an_unknown_value_is_refused():
    with pytest.raises(UsageError, match=r"no value 'nowhere'.*'logits'"):
        open_model(tiny.conv_net(), logits="nowhere")


def test_an_input_that_only_a_dropped_output_needed_goes():
    proto = two_outputs("boxes", "classes")
    proto.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N", 3]))
    proto.graph.node.append(node("Add", ["classes", "more"], ["sum"], "/sum"))
    proto.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 3]))
    assert [spec.name for spec in open_model(proto, logits="classes").inputs] == ["input"]
    assert [spec.name for spec in open_model(proto, logits="sum").inputs] == ["input", "more"]


@pytest.mark.parametrize(("sequence", "key"), [("sequence", "sequence"), (None, "ids:1")])
def test_open_dimensions_are_named_and_fixed(sequence, key, rng):
    proto = text_net(sequence=sequence)
    with pytest.raises(ModelError, match=rf"dimension {key} .*dims=\{{'{key}': SIZE"):
        open_model(proto)
    dims = {"sequence": 7} if sequence else {"ids:1": 7, "mask:1": 7}
    model = open_model(proto, dims=dims)
    assert [spec.shape for spec in model.inputs] == [("N", 7), ("N", 7)]
    assert model.layers[0].activation_shape == (7, 4)
    ids, mask = rng.integers(0, 11, (3, 7)), rng.integers(0, 2, (3, 7))
    np.testing.assert_allclose(tiny.run(model.proto(), ids, mask), tiny.run(proto, ids, mask), rtol=1e-5)


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"width": 3}, "no open dimension 'width'.*sequence of 'ids'"),
        ({"batch": 3}, "'batch' is the first dimension"),
        ({"sequence": 0}, "must be a number from 1"),
    ],
)
def test_dims_that_do_not_fit(dims, words):
    with pytest.raises(UsageError, match=words):
        open_model(text_net(), dims=dims)


def _cut(batch: int) -> onnx.ModelProto:
    """A convolution of a signal that is split in eight, which works if its length is a multiple of 8.

    The sizes are computed with floats, so that shape inference fails.
    """
    nodes = [
        node("Shape", ["input"], ["length"], start=1),
        node("Cast", ["length"], ["float"], to=TensorProto.FLOAT),
        node("Div", ["float", "eight"], ["part"]),
        node("Concat", ["batch", "eight", "part"], ["sizes"], axis=0),
        node("Cast", ["sizes"], ["cut"], to=TensorProto.INT64),
        node("Reshape", ["input", "cut"], ["signal"]),
        node("Conv", ["signal", "kernel"], ["maps"]),
        node("ReduceMean", ["maps"], ["means"], axes=[2], keepdims=0),
        node("Gemm", ["means", "head"], ["logits"]),
    ]
    tensors = {"eight": np.array([8], np.float32), "batch": np.array([batch], np.float32)}
    tensors |= {"kernel": normal(5, 8, 1), "head": normal(5, 3)}
    return tiny.build(nodes, tensors, input_shape=("N", "length"))


def test_a_size_that_the_graph_does_not_take_is_named():
    with pytest.raises(ModelError, match=r"Does the model accept the given sizes \(length=20\)\? Give others"):
        open_model(_cut(-1), dims={"length": 20})
    assert open_model(_cut(-1), dims={"length": 24}).layers[0].activation_shape == (5, 3)  # as the message says


def test_a_batch_of_one_behind_an_open_one_is_called_that():
    with pytest.raises(ModelError, match=r"runs with a batch of 1: that size is fixed .* example of several samples"):
        open_model(_cut(1), dims={"length": 24})


def test_a_batch_that_is_not_first():
    proto = text_net()
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "sequence"
    proto.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "batch"
    with pytest.raises(ModelError, match="the batch is not the first dimension"):
        open_model(proto)


def test_the_command_writes_what_the_others_take(tmp_path, monkeypatch, capsys):
    path, fixed = tmp_path / "text.onnx", tmp_path / "fixed.onnx"
    onnx.save(text_net(), path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return left.value.code, printed.out + printed.err

    code, said = run("inspect", str(path))
    assert code == 1
    assert f"adabet-onnx import {path} -o fixed.onnx --dim sequence=SIZE" in said
    code, said = run("import", str(path), "-o", str(fixed), "--dim", "sequence=7")
    assert code == 0
    assert "2 layers" in said
    assert run("inspect", str(fixed))[0] == 0
    assert open_model(fixed).notes == ()
    assert run("import", str(path), "-o", str(fixed), "--dim", "sequence")[0] == 2


def test_saved_is_what_was_opened(tmp_path, rng):
    model = open_model(tiny.conv_net(batch=1, opset=10, softmax=True))
    save_model(model, tmp_path / "saved.onnx")
    again = open_model(tmp_path / "saved.onnx")
    assert again.notes == ()
    assert again.layers == model.layers
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(tiny.run(again.proto(), x), tiny.run(model.proto(), x), rtol=1e-5)


NAMELESS = ["?", "None", "unk__12", "-1", "", "unknown_3"]


def pictures(*dims: int | str) -> onnx.ModelProto:
    """A convolutional network whose input, and output, say these dimensions."""
    proto = tiny.conv_net()
    shape = proto.graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for extent in dims:
        shape.dim.add(**({"dim_value": extent} if isinstance(extent, int) else {"dim_param": extent}))
    out = proto.graph.output[0].type.tensor_type.shape.dim[0]
    out.Clear()
    out.dim_param = str(dims[0])
    return proto


@pytest.mark.parametrize("word", NAMELESS)
def test_dimensions_of_a_name_that_is_none_are_not_one(word, tmp_path, monkeypatch, rng):
    """Two dimensions called ? may have different sizes, and neither is the batch because of its name."""
    proto = pictures(word, 3, word, word)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"dimension input:2 of input 'input' \(\?, 3, \?, \?\)") as refused:
        open_model(tmp_path / "model.onnx")
    remedy = translate(str(refused.value)).split("adabet-onnx ")[1].rstrip(".")
    assert remedy.endswith("-o fixed.onnx --dim input:2=SIZE --dim input:3=SIZE")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", *remedy.replace("SIZE", "8", 1).replace("SIZE", "12").split()])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    model = open_model("fixed.onnx")
    assert [spec.shape for spec in model.inputs] == [("N", 3, 8, 12)]
    x = rng.standard_normal((2, 3, 8, 12)).astype(np.float32)
    original = pictures("N", 3, "h", "w")
    np.testing.assert_allclose(tiny.run(model.proto(), x), tiny.run(original, x), atol=1e-6)


@pytest.mark.parametrize("word", NAMELESS)
def test_a_batch_of_such_a_name_is_a_batch(word):
    assert open_model(pictures(word, 3, 8, 8)).inputs[0].shape == ("N", 3, 8, 8)


def test_a_size_for_a_name_that_is_none():
    assert open_model(pictures("N", 3, 8, "unk__7"), dims={"unk__7": 8}).inputs[0].shape == ("N", 3, 8, 8)
    with pytest.raises(UsageError, match=r"2 dimensions have it.*`dims=\{'input:2': SIZE, 'input:3': SIZE\}`"):
        open_model(pictures("?", 3, "?", "?"), dims={"?": 8})


def test_such_a_name_in_several_inputs_is_several_dimensions(rng):
    proto = text_net(sequence="?")
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "?"
    with pytest.raises(ModelError, match=r"dims=\{'ids:1': SIZE, 'mask:1': SIZE\}"):
        open_model(proto)
    model = open_model(proto, dims={"ids:1": 7, "mask:1": 7})
    ids, mask = rng.integers(0, 11, (3, 7)), rng.integers(0, 2, (3, 7))
    np.testing.assert_allclose(tiny.run(model.proto(), ids, mask), tiny.run(text_net(), ids, mask), rtol=1e-5)
