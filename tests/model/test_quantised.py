"""Quantised models are converted back to float32: close to the quantised model and to its original."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny
from models.number_formats import quantise
from models.tiny import node, normal
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import ModelError, make_artifacts, open_model, score, select
from adabet_onnx.model.passes.dequantise import Dequantise
from adabet_onnx.scoring.options import Scoring

UINT8, INT8 = TensorProto.UINT8, TensorProto.INT8


def images(rng: np.random.Generator, count: int = 4) -> np.ndarray:
    return rng.uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32)


def check(proto: onnx.ModelProto, original: onnx.ModelProto, x: np.ndarray, within: float = 0.06) -> list[str]:
    """The opened model is float32, has the original's layers, and is about as near to it as the quantised one."""
    model = open_model(proto)
    assert not {item.op_type for item in model.graph.graph} & {"QuantizeLinear", "DequantizeLinear", "Cast"}
    found, quantised, expected = (tiny.run(graph, x) for graph in (model.proto(), proto, original))
    assert tiny.difference(found, quantised) < within
    assert np.linalg.norm(found - expected) <= np.linalg.norm(quantised - expected) * 1.3
    assert any("converted back to float32 (on random inputs" in note for note in model.notes)
    assert open_model(model.proto()).graph.graph.outputs[0].shape == model.graph.graph.outputs[0].shape
    return [parameter.name for layer in model.layers for parameter in layer.parameters]


@pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("style", ["QDQ", "QOperator"])
def test_static_quantisation_of_convolutions(style, per_channel, activations, tmp_path, rng):
    original = tiny.conv_net(norm=False)
    proto = quantise(original, tmp_path, style=style, per_channel=per_channel, activations=activations)
    names = check(proto, original, images(rng))
    assert names == ["conv1.weight", "conv2.weight", "fc.weight", "fc.bias"]


@pytest.mark.parametrize("style", ["QDQ", "QOperator", "dynamic"])
def test_quantisation_of_matrix_products(style, tmp_path, rng):
    nodes = [
        node("MatMul", ["input", "a.weight"], ["m"], "/a"),
        node("Add", ["m", "a.bias"], ["s"], "/a/add"),
        node("Relu", ["s"], ["r"], "/relu"),
        node("MatMul", ["r", "b.weight"], ["logits"], "/b"),
    ]
    original = tiny.build(
        nodes, {"a.weight": normal(8, 6), "a.bias": normal(6), "b.weight": normal(6, 3)}, input_shape=("N", 8)
    )
    proto = quantise(original, tmp_path, style=style)
    names = check(proto, original, rng.uniform(-1, 1, (5, 8)).astype(np.float32))
    assert [name for name in names if "weight" in name] == ["a.weight", "b.weight"]


def test_dynamic_quantisation_of_convolutions(tmp_path, rng):
    original = tiny.conv_net(norm=False)
    names = check(quantise(original, tmp_path, style="dynamic"), original, images(rng))
    assert names[:2] == ["conv1.weight", "conv2.weight"]


def test_a_relu_that_the_range_stands_for_stays():
    """Quantisers drop a Relu if the range begins at zero: without a Clip, the function would differ."""
    tensors = {"w": normal(6, 4, scale=1.0), "v": normal(4, 3, scale=1.0), "s": np.float32(0.02), "z": np.uint8(0)}
    nodes = [
        node("MatMul", ["input", "w"], ["m"], "/w"),
        node("QuantizeLinear", ["m", "s", "z"], ["q"], "/quantize"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], "/dequantize"),
        node("MatMul", ["d", "v"], ["logits"], "/v"),
    ]
    proto = tiny.build(nodes, tensors, input_shape=("N", 6))
    model = open_model(proto)
    assert [item.op_type for item in model.graph.graph] == ["MatMul", "Clip", "MatMul"]
    x = normal(5, 6, scale=2.0)
    assert (x @ tensors["w"]).min() < -1
    assert tiny.difference(tiny.run(model.proto(), x), tiny.run(proto, x)) < 0.02


@pytest.mark.parametrize("kind", ["int4 blocks", "uint8 axis 0", "int8 with zero points", "fake"])
def test_weights_by_hand(kind):
    rng = np.random.default_rng(3)
    weight = normal(8, 6)
    attributes, opset = {}, 21
    if kind == "int4 blocks":
        scale = (np.abs(weight.reshape(2, 4, 6)).max(1) / 7).astype(np.float32)
        stored = np.clip(np.rint(weight / np.repeat(scale, 4, 0)), -8, 7).astype(ml_dtypes.int4)
        zero, attributes = None, {"axis": 0, "block_size": 4}
        expected = stored.astype(np.float32) * np.repeat(scale, 4, 0)
    elif kind == "uint8 axis 0":
        scale, zero = rng.uniform(0.01, 0.02, 8).astype(np.float32), rng.integers(100, 150, 8).astype(np.uint8)
        stored, attributes = rng.integers(0, 255, (8, 6)).astype(np.uint8), {"axis": 0}
        expected = (stored.astype(np.float32) - zero[:, None]) * scale[:, None]
    elif kind == "int8 with zero points":
        scale, zero = np.float32(0.02), np.int8(-3)
        stored = rng.integers(-128, 127, (8, 6)).astype(np.int8)
        expected = (stored.astype(np.float32) + 3) * scale
    else:  # float weights, quantised and dequantised in the graph, as after training for quantisation
        scale, zero, stored, expected = np.float32(0.01), np.int8(0), None, weight
    tensors = {"scale": scale, **({"zero": zero} if zero is not None else {})}
    ends = ["scale", *(["zero"] if zero is not None else [])]
    nodes = [
        node("DequantizeLinear", ["w_q", *ends], ["w"], "/dequantize", **attributes),
        node("MatMul", ["input", "w"], ["logits"], "/fc"),
    ]
    if stored is None:
        nodes.insert(0, node("QuantizeLinear", ["fc.weight", *ends], ["w_q"], "/quantize"))
        tensors["fc.weight"] = weight
    else:
        tensors["w_q"] = stored
    proto = tiny.build(nodes, tensors, input_shape=("N", 8), opset=opset, ir_version=10)
    model = open_model(proto)
    (layer,) = model.layers
    assert [parameter.name for parameter in layer.parameters] == ["fc.weight" if kind == "fake" else "w"]
    x = normal(5, 8, scale=1.0)
    assert tiny.difference(tiny.run(model.proto(), x), x @ expected) < 1e-5
    assert tiny.difference(tiny.run(model.proto(), x), tiny.run(proto, x)) < (0.02 if kind == "fake" else 1e-5)


def test_a_quantised_table_that_rows_are_gathered_from():
    rng = np.random.default_rng(3)
    table = rng.integers(-128, 127, (11, 4)).astype(np.int8)
    nodes = [
        node("Cast", ["input"], ["ids"], "/ids", to=TensorProto.INT64),
        node("Gather", ["embed.weight_quantized", "ids"], ["rows_q"], "/gather"),
        node("DequantizeLinear", ["rows_q", "s", "z"], ["rows"], "/dequantize"),
        node("Flatten", ["rows"], ["flat"], "/flat"),
        node("Gemm", ["flat", "fc.weight"], ["logits"], "/fc"),
    ]
    tensors = {"embed.weight_quantized": table, "s": np.float32(0.02), "z": np.int8(4), "fc.weight": normal(20, 3)}
    proto = tiny.build(nodes, tensors, input_shape=("N", 5))
    model = open_model(proto)
    assert [layer.parameters[0].name for layer in model.layers] == ["embed.weight", "fc.weight"]
    x = rng.integers(0, 11, (3, 5)).astype(np.float32)
    assert tiny.difference(tiny.run(model.proto(), x), tiny.run(proto, x)) < 1e-5


def test_operators_of_the_runtime(rng):
    """QLinearAdd, QLinearConcat, QLinearGlobalAveragePool and QGemm, as onnxruntime writes them."""
    ms = "com.microsoft"
    u8 = {f"{name}s": np.float32(scale) for name, scale in (("x", 0.01), ("a", 0.02), ("p", 0.02), ("y", 0.03))}
    u8 |= {f"{name}z": np.uint8(zero) for name, zero in (("x", 128), ("a", 120), ("p", 120), ("y", 128))}
    stored = rng.integers(-100, 100, (5, 6)).astype(np.int8)
    bias = rng.integers(-50, 50, 5).astype(np.int32)
    nodes = [
        node("QuantizeLinear", ["input", "xs", "xz"], ["x"], "/q"),
        node("QLinearAdd", ["x", "xs", "xz", "x", "xs", "xz", "as", "az"], ["a"], "/add", domain=ms),
        node("QLinearConcat", ["as", "az", "a", "as", "az", "x", "xs", "xz"], ["c"], "/concat", domain=ms, axis=1),
        node("QLinearGlobalAveragePool", ["c", "as", "az", "ps", "pz"], ["p"], "/pool", domain=ms),
        node("Flatten", ["p"], ["f"], "/flatten"),
        node("QGemm", ["f", "ps", "pz", "w_q", "ws", "wz", "b_q", "ys", "yz"], ["y"], "/fc", domain=ms, transB=1),
        node("DequantizeLinear", ["y", "ys", "yz"], ["logits"], "/dq"),
    ]
    tensors = {**u8, "w_q": stored, "ws": np.float32(0.01), "wz": np.int8(0), "b_q": bias}
    given = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 4, 4])]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])]
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "quantised", given, made, weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(ms, 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    model = open_model(proto)
    assert [item.op_type for item in model.graph.graph] == ["Add", "Concat", "GlobalAveragePool", "Flatten", "Gemm"]
    x = rng.uniform(-1, 1, (4, 3, 4, 4)).astype(np.float32)
    assert tiny.difference(tiny.run(model.proto(), x), tiny.run(proto, x)) < 0.04


def test_the_pass_alone_leaves_float_models():
    assert not Dequantise()(ir.from_proto(tiny.conv_net())).modified


def test_what_cannot_be_undone_is_named():
    tensors = {"w": normal(6, 3), "s": np.float32(0.02), "t": np.float32(0.04), "z": np.uint8(128)}
    nodes = [
        node("QuantizeLinear", ["input", "s", "z"], ["q"], "/quantize"),
        node("DequantizeLinear", ["q", "t", "z"], ["d"], "/rescale"),
        node("MatMul", ["d", "w"], ["logits"], "/fc"),
    ]
    with pytest.raises(ModelError, match=r"'/rescale' .*another scale.*the original float32 model"):
        open_model(tiny.build(nodes, tensors, input_shape=("N", 6)))


def test_a_quantised_model_is_scored_and_trained(tmp_path, rng):
    proto = quantise(tiny.conv_net(norm=False), tmp_path, style="QDQ", per_channel=True)
    model = open_model(proto)
    x, y = rng.uniform(-1, 1, (40, 3, 8, 8)).astype(np.float32), np.arange(40) % 4
    selection = select(score(model, (x, y), preset="none", scoring=Scoring(samples=32, subsets=2)), rho=0.5)
    make_artifacts(model, selection, tmp_path / "artifacts", backend="portable", check=False)
