"""Opening models: reading, hashing, and that the opened graph computes the same as the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import helper, numpy_helper

from adabet_onnx import ModelError, open_model
from adabet_onnx.model.open import Model

SHARED_MODELS = (
    "mobilenetv1_025_vww96_bn",
    "mobilenetv1_025_vww96_folded",
    "mobilenetv2_035_imagenet128",
    "resnet20_cifar10_bn",
    "resnet20_cifar10_folded",
)


def images(batch: int = 3) -> np.ndarray:
    return normal(batch, 3, 8, 8, scale=1.0)


def equal(model: Model, proto: onnx.ModelProto, *inputs: np.ndarray) -> None:
    """The opened graph gives what the original gives."""
    assert tiny.difference(tiny.run(model.proto(), *inputs), tiny.run(proto, *inputs)) <= 1e-6


def equal_one_by_one(model: Model, proto: onnx.ModelProto, batch: np.ndarray) -> None:
    """The opened graph gives for a batch what the original, with its batch of one, gives for each sample."""
    expected = np.concatenate([tiny.run(proto, batch[i : i + 1]) for i in range(len(batch))])
    assert tiny.difference(tiny.run(model.proto(), batch), expected) <= 1e-5


# --- reading and hashing -------------------------------------------------------------------------------------


def test_a_path_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny.conv_net(), path)
    model = open_model(path)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.name == str(path)
    assert open_model(str(path)).sha256 == model.sha256
    equal(model, tiny.conv_net(), images())


def test_a_proto_is_hashed_by_its_serialised_bytes() -> None:
    proto = tiny.conv_net()
    model = open_model(proto)
    assert model.sha256 == hashlib.sha256(proto.SerializeToString()).hexdigest()
    assert open_model(model) is model
    equal(model, proto, images())


@pytest.mark.parametrize("one_file", [True, False], ids=["one file", "a file per tensor"])
def test_external_data(tmp_path: Path, one_file: bool) -> None:
    proto, path = tiny.conv_net(), tmp_path / "model.onnx"
    onnx.save(
        tiny.conv_net(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location="weights.bin" if one_file else None,
        size_threshold=0,
    )
    beside = sorted(file for file in tmp_path.iterdir() if file != path)
    assert len(beside) == (1 if one_file else len(proto.graph.initializer))
    model = open_model(path)
    content = b"".join(file.read_bytes() for file in (path, *beside))
    assert model.sha256 == hashlib.sha256(content).hexdigest()
    equal(model, proto, images())
    data = bytearray(beside[0].read_bytes())
    data[0] ^= 1
    beside[0].write_bytes(data)
    assert open_model(path).sha256 != model.sha256


def test_the_callers_proto_stays_as_it_is() -> None:
    proto = tiny.conv_net(batch=1, softmax=True, opset=10)
    for item in proto.graph.node:
        item.name = ""
    before = proto.SerializeToString(deterministic=True)
    model = open_model(proto)
    assert len(model.notes) == 2  # it was converted and its batch made dynamic, both error-prone
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", SHARED_MODELS)
def test_real_models_compute_the_same(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    proto = onnx.load(path)
    extents = [extent.dim_value for extent in proto.graph.input[0].type.tensor_type.shape.dim]
    model = open_model(path)
    assert ["they were folded" in note for note in model.notes] == ([] if name.endswith("_bn") else [True])
    assert model.logits == "logits"
    assert model.inputs[0].shape == ("N", *extents[1:])
    equal(model, proto, normal(2, *extents[1:], scale=1.0))


# --- IR versions and opsets ----------------------------------------------------------------------------------


def as_ir3(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers among the inputs, as IR version 3 demands."""
    proto.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in proto.graph.initializer
    )
    proto.ir_version = 3
    onnx.checker.check_model(proto)
    return proto


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 17, 18, 21])
def test_opsets_and_final_softmax(opset: int) -> None:
    proto = tiny.conv_net(opset=opset, softmax=True)
    if opset < 9:
        proto = as_ir3(proto)
    model = open_model(proto)
    assert 12 <= model.graph.graph.opset_imports[""] <= 21
    assert 4 <= model.graph.ir_version <= 10
    assert [value.name for value in model.graph.graph.inputs] == ["input"]
    assert [layer.name for layer in model.layers] == ["conv1", "bn1", "conv2", "bn2", "fc"]
    assert model.logits == "scores"
    assert bool(model.notes) == (opset < 12)
    equal(model, proto, images())


@pytest.mark.parametrize("opset", [9, 11, 12, 13])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_softmax_of_four_dimensions(opset: int, operator: str) -> None:
    """Converted, it becomes Flatten, Softmax, Reshape: its logits must still be found."""
    nodes = [
        node("Conv", ["input", "conv.weight"], ["c"], "conv"),
        node("GlobalAveragePool", ["c"], ["pooled"], "pool"),
        node(operator, ["pooled"], ["logits"], "last", axis=1),
    ]
    proto = tiny.build(nodes, {"conv.weight": normal(5, 3, 3, 3)}, output_shape=("N", 5, 1, 1), opset=opset)
    model = open_model(proto)
    pooled = tiny.run(model.proto(), images(), output=model.logits)
    np.testing.assert_allclose(pooled.reshape(3, 5), tiny.run(proto, images(), output="pooled").reshape(3, 5), 1e-5)
    equal(model, proto, images())


def test_softmax_before_a_flatten() -> None:
    nodes = [
        node("Conv", ["input", "conv.weight"], ["c"], "conv"),
        node("GlobalAveragePool", ["c"], ["pooled"], "pool"),
        node("Softmax", ["pooled"], ["p"], "softmax", axis=1),
        node("Flatten", ["p"], ["logits"], "flatten"),
    ]
    assert open_model(tiny.build(nodes, {"conv.weight": normal(5, 3, 3, 3)})).logits == "pooled"


@pytest.mark.parametrize("last", ["Sigmoid", "Identity"])
def test_logits_before_other_endings(last: str) -> None:
    nodes = [
        node("Gemm", ["input", "fc.weight"], ["scores"], "fc"),
        node(last, ["scores"], ["logits"], "last"),
    ]
    model = open_model(tiny.build(nodes, {"fc.weight": normal(6, 3)}, input_shape=("N", 6)))
    assert model.logits == ("scores" if last == "Sigmoid" else "logits")


def test_a_softmax_in_the_middle_is_not_the_end() -> None:
    nodes = [
        node("Gemm", ["input", "gate.weight"], ["g"], "gate"),
        node("Softmax", ["g"], ["s"], "softmax", axis=-1),
        node("Gemm", ["s", "fc.weight"], ["logits"], "fc"),
    ]
    values = {"gate.weight": normal(6, 5), "fc.weight": normal(5, 3)}
    assert open_model(tiny.build(nodes, values, input_shape=("N", 6))).logits == "logits"


def test_newer_opsets_are_converted_down() -> None:
    proto = tiny.conv_net(opset=21)
    proto.opset_import[0].version = 23
    model = open_model(proto)
    assert model.graph.graph.opset_imports[""] == 21
    assert "opset 23 was converted to 21" in model.notes
    equal(model, tiny.conv_net(opset=21), images())


def test_a_newer_ir_version_is_lowered() -> None:
    proto = tiny.conv_net(batch=1)  # whose freed batch is checked in onnxruntime, which could not read the old version
    proto.ir_version = 11
    model = open_model(proto)
    assert model.graph.ir_version == 9, "which onnxruntime 1.17 reads too"
    newest = tiny.conv_net(opset=21)
    newest.ir_version = 11
    assert open_model(newest).graph.ir_version == 10
    assert any("IR version" in note for note in model.notes)


def test_metadata_survives_conversion() -> None:
    proto = tiny.conv_net(opset=9)
    proto.metadata_props.add(key="mean", value="0.5")
    assert open_model(proto).graph.metadata_props["mean"] == "0.5"


# --- constants, functions, names -----------------------------------------------------------------------------


def test_weights_in_constant_nodes_become_parameters() -> None:
    proto = tiny.conv_net()
    reference = tiny.conv_net()
    constants = [node("Constant", [], [tensor.name], value=tensor) for tensor in proto.graph.initializer]
    nodes = [*constants, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    model, expected = open_model(proto), open_model(reference)
    assert [layer.name for layer in model.layers] == [layer.name for layer in expected.layers]
    assert [layer.parameters for layer in model.layers] == [layer.parameters for layer in expected.layers]
    equal(model, reference, images())


def test_constants_of_one_element_and_of_shape() -> None:
    """A bias of one number, and weights filled by ConstantOfShape (as in the light models of onnx)."""
    fill = numpy_helper.from_array(np.array([0.25], np.float32))
    nodes = [
        node("ConstantOfShape", ["shape"], ["hidden.weight"], "fill", value=fill),
        node("Constant", [], ["fc.bias"], "bias", value_floats=[0.5]),
        node("MatMul", ["input", "hidden.weight"], ["h"], "hidden"),
        node("Gemm", ["h", "fc.weight", "fc.bias"], ["logits"], "fc"),
    ]
    values = {"shape": np.array([6, 5]), "fc.weight": normal(5, 1)}
    proto = tiny.build(nodes, values, input_shape=("N", 6))
    model = open_model(proto)
    assert [[p.name for p in layer.parameters] for layer in model.layers] == [
        ["hidden.weight"],
        ["fc.weight", "fc.bias"],
    ]
    equal(model, proto, normal(3, 6))


@pytest.mark.parametrize("opset", [11, 17])
def test_local_functions_are_inlined(opset: int) -> None:
    proto = tiny.mlp()
    proto.opset_import[0].version = opset
    body = [node("Relu", ["x"], ["r"]), node("MatMul", ["r", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    imports = [helper.make_opsetid("", opset)]
    proto.functions.append(helper.make_function("local", "ReluLinear", ["x", "w", "b"], ["y"], body, imports))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    del proto.graph.node[2:]
    proto.graph.node.append(
        node("ReluLinear", ["a1", "out.weight", "out.bias"], ["logits"], "out", domain="local"),
    )
    names = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name in ("norm.weight", "norm.bias"):
        proto.graph.initializer.remove(names[name])
    onnx.checker.check_model(proto)
    model = open_model(proto)
    assert [layer.name for layer in model.layers] == ["hidden", "out"]
    assert not model.graph.functions
    equal(model, proto, normal(3, 10))


@pytest.mark.parametrize("name", ["", "same"])
def test_node_names_become_unique(name: str) -> None:
    proto = tiny.conv_net()
    for item in proto.graph.node:
        item.name = name
    model = open_model(proto)
    names = [item.name for item in model.graph.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    equal(model, tiny.conv_net(), images())


# --- the batch dimension -------------------------------------------------------------------------------------


def test_a_fixed_batch_is_freed() -> None:
    proto = tiny.conv_net(batch=1)
    model = open_model(proto)
    assert model.inputs[0].shape == ("N", 3, 8, 8)
    assert model.graph.graph.outputs[0].shape[0] == "N"
    assert any("batch" in note for note in model.notes)
    equal_one_by_one(model, proto, images())


def test_an_old_model_with_a_fixed_batch() -> None:
    proto = as_ir3(tiny.conv_net(batch=1, opset=8, softmax=True))
    model = open_model(proto)
    assert model.logits == "scores"
    equal_one_by_one(model, proto, images())


@pytest.mark.parametrize("target", [[1, -1], [1, 8], [-1, 8], [0, -1], [0, 8], [1, 2, 4]], ids=str)
def test_flattening_reshapes_follow_the_batch(target: list[int]) -> None:
    proto = tiny.conv_net(batch=1)
    flatten = next(item for item in proto.graph.node if item.op_type == "Flatten")
    flatten.CopyFrom(node("Reshape", ["pooled", "target"], ["flat"], "/flatten"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(target), "target"))
    if len(target) == 3:  # two steps
        flatten.output[0] = "three"
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "target2"))
        at = list(proto.graph.node).index(flatten) + 1
        proto.graph.node.insert(at, node("Reshape", ["three", "target2"], ["flat"], "/flatten2"))
    equal_one_by_one(open_model(proto), proto, images())


def test_a_fixed_batch_above_one() -> None:
    proto = tiny.conv_net(batch=2)
    flatten = next(item for item in proto.graph.node if item.op_type == "Flatten")
    flatten.CopyFrom(node("Reshape", ["pooled", "target"], ["flat"], "/flatten"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2, 8]), "target"))
    model, batch = open_model(proto), images(4)
    expected = np.concatenate([tiny.run(proto, batch[:2]), tiny.run(proto, batch[2:])])
    assert tiny.difference(tiny.run(model.proto(), batch), expected) <= 1e-5


def test_a_batch_as_large_as_another_axis() -> None:
    """Batch 4, 4 heads: only the first entry of the target [4, 4, 6] must change."""
    values = {"target": np.array([4, 4, 6]), "fc.weight": normal(6, 3), "flat": np.array([4, 12])}
    nodes = [
        node("Reshape", ["input", "target"], ["heads"], "split"),
        node("MatMul", ["heads", "fc.weight"], ["m"], "fc"),
        node("Reshape", ["m", "flat"], ["logits"], "join"),
    ]
    proto = tiny.build(nodes, values, input_shape=(4, 24))
    model, batch = open_model(proto), normal(8, 24)
    expected = np.concatenate([tiny.run(proto, batch[:4]), tiny.run(proto, batch[4:])])
    assert tiny.difference(tiny.run(model.proto(), batch), expected) <= 1e-5


@pytest.mark.parametrize("layout", ["four axes", "heads merged into the batch", "sequence first"])
def test_attention_with_a_fixed_batch(layout: str) -> None:
    proto = tiny.attention(layout)
    model = open_model(proto)
    assert [layer.name for layer in model.layers] == ["query", "key", "value", "fc"]
    equal_one_by_one(model, proto, normal(3, 5, 8, scale=1.0))


def test_a_recurrent_fixed_batch_cannot_be_freed() -> None:
    """The initial state holds the batch size too, and differs between its samples."""
    values = {
        "lstm.w": normal(1, 16, 6),
        "lstm.r": normal(1, 16, 4),
        "state": normal(1, 2, 4),
        "target": np.array([2, 20]),
        "fc.weight": normal(20, 3),
    }
    nodes = [
        node("Transpose", ["input"], ["t"], "swap", perm=[1, 0, 2]),
        node("LSTM", ["t", "lstm.w", "lstm.r", "", "", "state", "state"], ["y"], "lstm", hidden_size=4),
        node("Transpose", ["y"], ["back"], "back", perm=[2, 0, 1, 3]),
        node("Reshape", ["back", "target"], ["flat"], "flat"),
        node("Gemm", ["flat", "fc.weight"], ["logits"], "fc"),
    ]
    proto = tiny.build(nodes, values, input_shape=(2, 5, 6), output_shape=(2, 3))
    with pytest.raises(ModelError, match=r"'lstm' .LSTM. has a stored initial_h .* differs between its 2 samples"):
        open_model(proto)


def test_a_fixed_batch_in_a_concat_cannot_be_freed() -> None:
    """A class token stored for a batch of one."""
    values = {"token": normal(1, 1, 8), "fc.weight": normal(8, 3), "index": np.array(0)}
    nodes = [
        node("Concat", ["token", "input"], ["tokens"], "concat", axis=1),
        node("Gather", ["tokens", "index"], ["first"], "first", axis=1),
        node("MatMul", ["first", "fc.weight"], ["logits"], "fc"),
    ]
    proto = tiny.build(nodes, values, input_shape=(1, 5, 8), output_shape=(1, 3))
    with pytest.raises(ModelError, match="dynamic batch"):
        open_model(proto)


def test_a_squeezed_batch_cannot_be_freed() -> None:
    values = {"axes": np.array([0]), "fc.weight": normal(8, 3)}
    nodes = [
        node("Squeeze", ["input", "axes"], ["row"], "squeeze"),
        node("MatMul", ["row", "fc.weight"], ["m"], "fc"),
        node("Unsqueeze", ["m", "axes"], ["logits"], "unsqueeze"),
    ]
    proto = tiny.build(nodes, values, input_shape=(1, 8), output_shape=(1, 3))
    with pytest.raises(ModelError, match="dynamic batch"):
        open_model(proto)


@pytest.mark.parametrize("opset", [9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_upsampling_keeps_its_coordinates(opset, mode, rng):
    """onnx's converter keeps Resize at the default of opset 11, which is another function."""
    op_type = "Upsample" if opset == 9 else "Resize"
    nodes = [
        tiny.node(op_type, ["input", "scales"], ["u"], "/up", mode=mode),
        tiny.node("Conv", ["u", "w"], ["logits"], "/conv"),
    ]
    values = {"scales": np.array([1, 1, 2, 2], np.float32), "w": tiny.normal(2, 3, 16, 16)}
    model = tiny.build(nodes, values, output_shape=["N", 2, 1, 1], opset=opset)
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    if mode == "nearest":
        up = x.repeat(2, 2).repeat(2, 3)
    else:  # asymmetric: positions 0, 0.5, 1, ..., the last one repeated
        up = x
        for axis in (2, 3):
            after = np.concatenate([np.take(up, range(1, 8), axis), np.take(up, [7], axis)], axis)
            up = np.stack([up, (up + after) / 2], axis + 1).reshape(
                [n * (2 if i == axis else 1) for i, n in enumerate(up.shape)]
            )
    expected = np.einsum("nchw,ochw->no", up, values["w"])[..., None, None]
    assert tiny.difference(tiny.run(open_model(model).graph, x), expected) < 1e-5
