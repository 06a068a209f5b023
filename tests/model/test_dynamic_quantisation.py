"""Dynamically quantised products are converted back to float32, with the weights that the file represents."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import helper, numpy_helper

from adabet_onnx import ModelError, Settings, Trainer, make_artifacts, open_model, select

MICROSOFT = {"domain": "com.microsoft"}


def microsoft(nodes, tensors, features: int) -> onnx.ModelProto:
    """A model with operators of ONNX Runtime on (N, features), which onnx cannot check."""
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", features])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def real(stored: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The float value of a weight of quantize_dynamic, per tensor or per direction."""
    scale, zero = stored[f"{name}_scale"], stored[f"{name}_zero_point"]
    if scale.ndim:
        scale, zero = scale.reshape(len(scale), 1, -1), zero.reshape(len(zero), 1, -1)
    return (stored[f"{name}_quantized"].astype(np.float32) - zero.astype(np.float32)) * scale


def with_weights(proto: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for tensor in made.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))
    return made


def lstm(directions: int) -> onnx.ModelProto:
    """(N, 5, 4) through an LSTM of 6 units, (5, N, ...) inside, and a MatMul of the last step."""
    tensors = {
        "rnn.w": normal(directions, 24, 4),
        "rnn.r": normal(directions, 24, 6),
        "rnn.b": normal(directions, 48),
        "flat": np.array([0, -1], np.int64),
        "fc.weight": normal(5 * 6 * directions, 3),
    }
    direction = "bidirectional" if directions == 2 else "forward"
    nodes = [
        node("Transpose", ["input"], ["steps"], "/turn", perm=[1, 0, 2]),
        node("LSTM", ["steps", "rnn.w", "rnn.r", "rnn.b"], ["all"], "/rnn", hidden_size=6, direction=direction),
        node("Transpose", ["all"], ["batch"], "/back", perm=[2, 0, 1, 3]),
        node("Reshape", ["batch", "flat"], ["row"], "/flat"),
        node("MatMul", ["row", "fc.weight"], ["logits"], "/fc"),
    ]
    return tiny.build(nodes, tensors, input_shape=("N", 5, 4))


def by_the_runtime(proto: onnx.ModelProto, folder) -> onnx.ModelProto:
    quantization = pytest.importorskip("onnxruntime.quantization")
    onnx.save(proto, folder / "float.onnx")
    quantization.quantize_dynamic(
        folder / "float.onnx", folder / "quantised.onnx", reduce_range=True
    )  # 8 bits saturate
    return onnx.load(folder / "quantised.onnx")


@pytest.mark.parametrize("directions", [1, 2])
def test_lstm(directions, tmp_path, rng):
    original = lstm(directions)
    proto = by_the_runtime(original, tmp_path)
    assert "DynamicQuantizeLSTM" in {item.op_type for item in proto.graph.node}
    stored = weights(proto)
    reference = with_weights(
        original,
        {
            "rnn.w": real(stored, "rnn.w").transpose(0, 2, 1),
            "rnn.r": real(stored, "rnn.r").transpose(0, 2, 1),
            "fc.weight": real(stored, "fc.weight"),
        },
    )
    model = open_model(proto)
    assert [layer.op_type for layer in model.layers] == ["LSTM", "MatMul"]
    assert [item.name for item in model.layers[0].parameters] == ["rnn.w", "rnn.r", "rnn.b"]
    x = rng.standard_normal((7, 5, 4)).astype(np.float32)
    found = tiny.run(model.proto(), x)
    np.testing.assert_allclose(found, tiny.run(reference, x), rtol=1e-5, atol=1e-6)
    assert tiny.difference(found, tiny.run(proto, x)) < 0.05


def with_integer_bias(*, other_scale: bool = False) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A ConvInteger and a MatMulInteger as quantisers of 2020 wrote them: the bias a multiple of the scales."""
    rng = np.random.default_rng(4)
    tensors = {
        "conv.weight_quantized": rng.integers(0, 255, (5, 3, 3, 3)).astype(np.uint8),
        "conv.weight_scale": np.float32(0.004),
        "conv.weight_zero_point": np.uint8(120),
        "conv.bias": normal(5),
        "across": np.array([1, -1, 1, 1], np.int64),
        "fc.weight_quantized": rng.integers(-128, 127, (5, 4)).astype(np.int8),
        "fc.weight_scale": np.float32(0.003),
        "fc.weight_zero_point": np.int8(3),
        "fc.bias": normal(4),
        "flat": np.array([0, 5], np.int64),
    }
    nodes = []
    for layer, kind, source in (("conv", "ConvInteger", "input"), ("fc", "MatMulInteger", "pooled")):
        q = [f"{source}/q", f"{source}/s", f"{source}/z"]
        divisor = f"{layer}/scale" if not other_scale else "conv.weight_scale"
        nodes += [
            node("DynamicQuantizeLinear", [source], q, f"/{layer}/quantise"),
            node("Mul", [q[1], f"{layer}.weight_scale"], [f"{layer}/scale"], f"/{layer}/scale"),
            node("Div", [f"{layer}.bias", divisor], [f"{layer}/many"], f"/{layer}/div"),
            node("Floor", [f"{layer}/many"], [f"{layer}/floor"], f"/{layer}/floor"),
            node("Cast", [f"{layer}/floor"], [f"{layer}/bias"], f"/{layer}/cast_bias", to=onnx.TensorProto.INT32),
            node(
                kind,
                [q[0], f"{layer}.weight_quantized", q[2], f"{layer}.weight_zero_point"],
                [f"{layer}/product"],
                f"/{layer}",
                **({"pads": [1, 1, 1, 1]} if layer == "conv" else {}),
            ),
        ]
        bias = f"{layer}/bias"
        if layer == "conv":
            nodes.append(node("Reshape", [bias, "across"], ["conv/across"], "/conv/across"))
            bias = "conv/across"
        nodes += [
            node("Add", [f"{layer}/product", bias], [f"{layer}/sum"], f"/{layer}/add"),
            node("Cast", [f"{layer}/sum"], [f"{layer}/float"], f"/{layer}/cast", to=onnx.TensorProto.FLOAT),
            node("Mul", [q[1], f"{layer}.weight_scale"], [f"{layer}/scales"], f"/{layer}/scales"),
            node("Mul", [f"{layer}/float", f"{layer}/scales"], [f"{layer}/out"], f"/{layer}/mul"),
        ]
        if layer == "conv":
            nodes += [
                node("Relu", ["conv/out"], ["relu"], "/relu"),
                node("GlobalAveragePool", ["relu"], ["mean"], "/mean"),
                node("Reshape", ["mean", "flat"], ["pooled"], "/flat"),
            ]
    nodes.append(node("Identity", ["fc/out"], ["logits"], "/logits"))
    return tiny.build(nodes, tensors, input_shape=("N", 3, 8, 8)), tensors


def test_a_bias_of_integers(rng):
    proto, stored = with_integer_bias()
    model = open_model(proto)
    assert next(iter(model.graph.graph)).op_type == "Conv"
    assert [item.name for layer in model.layers for item in layer.parameters] == [
        "conv.weight",
        "conv.bias",
        "fc.weight",
        "fc.bias",
    ]
    nodes = [
        node("Conv", ["input", "w", "conv.bias"], ["c"], "/c", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"], "/r"),
        node("GlobalAveragePool", ["r"], ["m"], "/m"),
        node("Flatten", ["m"], ["f"], "/f"),
        node("Gemm", ["f", "v", "fc.bias"], ["logits"], "/g"),
    ]
    arrays = {
        "w": real(stored, "conv.weight"),
        "v": real(stored, "fc.weight"),
        **{name: stored[name] for name in ("conv.bias", "fc.bias")},
    }
    reference = tiny.build(nodes, arrays, input_shape=("N", 3, 8, 8))
    x = rng.uniform(-1, 1, (6, 3, 8, 8)).astype(np.float32)
    found = tiny.run(model.proto(), x)
    np.testing.assert_allclose(found, tiny.run(reference, x), rtol=1e-5, atol=1e-6)
    assert tiny.difference(found, tiny.run(proto, x)) < 0.03


def test_a_bias_by_other_scales_is_named():
    proto, _ = with_integer_bias(other_scale=True)
    with pytest.raises(
        ModelError, match=r"'/conv' \(ConvInteger\) cannot .* 'conv/across', which is added to it, is not a const"
    ):
        open_model(proto)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("per_column", [True, False])
@pytest.mark.parametrize("kind", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_products_of_the_runtime(kind, per_column, bias, rng):
    scale = rng.uniform(0.01, 0.02, 6).astype(np.float32) if per_column else np.array([0.015], np.float32)
    zero = rng.integers(100, 150, 6).astype(np.uint8) if per_column else np.array([128], np.uint8)
    stored = rng.integers(0, 255, (8, 6)).astype(np.uint8)
    tensors = {"a.weight_quantized": stored, "s": scale, "z": zero, "v": normal(6, 3)}
    if bias:
        tensors["a.bias"] = normal(6)
    added = ["a.bias"] if bias else []
    if kind == "DynamicQuantizeMatMul":
        nodes = [node(kind, ["input", "a.weight_quantized", "s", "z", *added], ["m"], "/a", **MICROSOFT)]
    else:
        inputs = ["q", "a.weight_quantized", "qs", "s", "qz", "z", *added]
        nodes = [
            node("DynamicQuantizeLinear", ["input"], ["q", "qs", "qz"], "/q"),
            node(kind, inputs, ["m"], "/a", **MICROSOFT),
        ]
    nodes.append(node("MatMul", ["m", "v"], ["logits"], "/b"))
    proto = microsoft(nodes, tensors, 8)
    model = open_model(proto)
    x = rng.uniform(-1, 1, (5, 8)).astype(np.float32)
    weight = (stored.astype(np.float64) - zero) * scale
    expected = (x @ weight + (tensors["a.bias"] if bias else 0)) @ tensors["v"]
    found = tiny.run(model.proto(), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert tiny.difference(found, tiny.run(proto, x)) < 0.05
    assert "a.weight" in [item.name for layer in model.layers for item in layer.parameters]


def test_a_quantised_operator_without_a_rule_is_called_quantised():
    tensors = {"w": np.zeros((4, 1, 8), np.uint8), "s": np.ones(4, np.float32), "v": normal(4, 3)}
    nodes = [
        node("MatMulNBits", ["input", "w", "s"], ["m"], "/a", K=16, N=4, bits=4, block_size=16, **MICROSOFT),
        node("MatMul", ["m", "v"], ["logits"], "/b"),
    ]
    proto = microsoft(nodes, tensors, 16)
    match = r"node '/a' \(com.microsoft.MatMulNBits\) cannot be converted back .* Give the original float32 model"
    with pytest.raises(ModelError, match=match):
        open_model(proto)


@pytest.mark.parametrize(
    ("op_type", "needed"),
    [
        ("QGemm", 6),
        ("QLinearAdd", 7),
        ("QLinearSigmoid", 4),
        ("MatMulIntegerToFloat", 4),
        ("DynamicQuantizeMatMul", 3),
        ("DynamicQuantizeLSTM", 3),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_node_without_its_inputs_is_named(op_type, needed, count):
    """onnx's checker knows none of these operators."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node(op_type, ["a"] * count, ["b"], domain="com.microsoft", name="odd"),
        helper.make_node("MatMul", ["b", "v"], ["y"], name="last"),
    ]
    shapes = [helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 4), ("y", 2))]
    tensors = [
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (4, 3)), ("v", (3, 2)))
    ]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], tensors)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    with pytest.raises(
        ModelError, match=rf"'odd' \(com.microsoft.{op_type}\) .* first {needed} inputs but has only {count}"
    ):
        open_model(helper.make_model(graph, opset_imports=imports, ir_version=8))


@pytest.mark.usefixtures("checked_here")
def test_the_frozen_part_is_in_float32_for_ranges_on_the_fly_are_of_a_batch(tmp_path, rng):
    proto = by_the_runtime(tiny.mlp(), tmp_path)
    assert "DynamicQuantizeLinear" in {item.op_type for item in proto.graph.node}
    model = open_model(proto)
    make_artifacts(model, select(model, strategy="head"), tmp_path / "artifacts")
    operators = {item.op_type for item in onnx.load(tmp_path / "artifacts/frozen.onnx").graph.node}
    assert operators & {"Gemm", "MatMul"}
    assert not any("Quantize" in operator or "Integer" in operator for operator in operators)
    data = {"x": rng.standard_normal((40, 10)).astype(np.float32), "y": rng.integers(0, 3, 40)}
    losses = []
    for where in ("memory", "off"):
        rows = Trainer(tmp_path / "artifacts").fit(data, settings=Settings(epochs=2, batch_size=8, features=where))
        losses.append([(row["train_loss"], row["eval_loss"]) for row in rows])
    assert losses[0] == losses[1]
