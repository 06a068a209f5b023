"""Which nodes are layers, what their parameters and activations are, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import helper, numpy_helper

from adabet_onnx import ModelError, open_model
from adabet_onnx.model.layers import Layer
from adabet_onnx.trainability.decisions import decisions


def with_head(nodes: list[onnx.NodeProto], values: dict[str, np.ndarray], **options: Any) -> onnx.ModelProto:
    """A model of nodes that go from `input` to `last`, followed by a head, so that there is always a layer."""
    shape = options["input_shape"][1:]
    body = tiny.build(nodes, values, output="last", output_shape=None, **options)
    del body.graph.output[0].type.tensor_type.shape.dim[:]
    body.graph.output[0].type.tensor_type.ClearField("shape")
    size = tiny.run(body, normal(1, *shape)).size
    nodes = [*nodes, node("Flatten", ["last"], ["flat"], "/flat"), node("MatMul", ["flat", "head"], ["logits"], "h")]
    return tiny.build(nodes, {**values, "head": normal(size, 2)}, **options)


def layers_of(nodes: list[onnx.NodeProto], values: dict[str, np.ndarray], **options: Any) -> dict[str, Layer]:
    """The layers of `with_head` by name, without the head; their activation shapes are those that a run gives."""
    opened = open_model(with_head(nodes, values, **options))
    for layer in opened.layers:
        found = tiny.run(opened.graph, normal(2, *options["input_shape"][1:]), output=layer.activation)
        assert (*found.shape[: layer.batch_axis], *found.shape[layer.batch_axis + 1 :]) == layer.activation_shape
        assert found.shape[layer.batch_axis] == 2
        assert layer.activation_size == found.size // 2
    return {layer.name: layer for layer in opened.layers if layer.node != "h"}


def names(layer: Layer) -> list[str]:
    return [parameter.name for parameter in layer.parameters]


def vector(size: int = 4) -> np.ndarray:
    return 1 + np.abs(normal(size))


IMAGE = {"input_shape": ("N", 4, 6, 6)}
ROWS = {"input_shape": ("N", 5, 4)}
CONV, DENSE = ((3, 4, 3, 3), (3,)), ((4, 7), (7,))
LAYERS = {
    "Conv": ("Conv", ["x.weight", "x.bias"], [(3, 4, 3, 3), (3,)], {}, IMAGE),
    "Conv without bias": ("Conv", ["x.weight"], [(3, 4, 3, 3)], {}, IMAGE),
    "depthwise Conv": ("Conv", ["x.weight", "x.bias"], [(4, 1, 3, 3), (4,)], {"group": 4}, IMAGE),
    "ConvTranspose": ("ConvTranspose", ["x.weight", "x.bias"], [(4, 3, 2, 2), (3,)], {"strides": [2, 2]}, IMAGE),
    "Gemm": ("Gemm", ["x.weight", "x.bias"], [(4, 7), (7,)], {}, {"input_shape": ("N", 4)}),
    "Gemm transB": ("Gemm", ["x.weight", "x.bias"], [(7, 4), (7,)], {"transB": 1}, {"input_shape": ("N", 4)}),
    "MatMul": ("MatMul", ["x.weight"], [(4, 7)], {}, ROWS),
    "LayerNormalization": ("LayerNormalization", ["x.weight", "x.bias"], [(4,), (4,)], {}, ROWS),
    "LayerNormalization without bias": ("LayerNormalization", ["x.weight"], [(4,)], {}, ROWS),
    "InstanceNormalization": ("InstanceNormalization", ["x.weight", "x.bias"], [(4,), (4,)], {}, IMAGE),
    "GroupNormalization": (
        "GroupNormalization",
        ["x.weight", "x.bias"],
        [(4,), (4,)],
        {"num_groups": 2},
        {**IMAGE, "opset": 21},
    ),
    "PRelu": ("PRelu", ["x.weight"], [(4, 1, 1)], {}, IMAGE),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layer_and_its_parameters(case: str) -> None:
    operator, inputs, shapes, attributes, options = LAYERS[case]
    values = {name: normal(*shape) for name, shape in zip(inputs, shapes, strict=True)}
    layer = layers_of([node(operator, ["input", *inputs], ["last"], "node", **attributes)], values, **options)["x"]
    assert (layer.op_type, layer.node, layer.activation) == (operator, "node", "last")
    assert [(p.name, p.shape, p.position) for p in layer.parameters] == [
        (name, shape, index + 1) for index, (name, shape) in enumerate(zip(inputs, shapes, strict=True))
    ]
    assert layer.parameter_count == sum(int(np.prod(shape)) for shape in shapes)
    assert layer.is_norm == ("Normalization" in operator)


def test_running_statistics_are_no_parameters() -> None:
    values = {f"bn.{key}": vector() for key in ("weight", "bias", "mean", "var")}
    layers = layers_of([node("BatchNormalization", ["input", *values], ["last"], "bn")], values, **IMAGE)
    assert names(layers["bn"]) == ["bn.weight", "bn.bias"]


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_recurrent_layers(operator: str) -> None:
    gates = 4 if operator == "LSTM" else 3
    values = {"rnn.w": normal(1, gates * 3, 4), "rnn.r": normal(1, gates * 3, 3), "rnn.b": normal(1, gates * 6)}
    nodes = [
        node("Transpose", ["input"], ["t"], "t", perm=[1, 0, 2]),
        node(operator, ["t", *values], ["y"], "rnn", hidden_size=3),
        node("Transpose", ["y"], ["last"], "back", perm=[2, 0, 1, 3]),
    ]
    layer = layers_of(nodes, values, **ROWS)["rnn"]
    assert names(layer) == ["rnn.w", "rnn.r", "rnn.b"]
    assert layer.op_type == operator
    assert layer.activation_shape == (5, 1, 3)  # of (tokens, directions, batch, units)
    assert layer.batch_axis == 2


def test_activation_with_the_batch_merged_with_tokens() -> None:
    """Two-dimensional dense layers on tokens: Reshape to (batch * tokens, features) and back."""
    values = {
        "rows": np.array([-1, 4]),
        "back": np.array([-1, 35]),
        "fc.weight": normal(4, 7),
        "out.weight": normal(35, 2),
    }
    nodes = [
        node("Reshape", ["input", "rows"], ["r"], "rows"),
        node("Gemm", ["r", "fc.weight"], ["g"], "fc"),
        node("Reshape", ["g", "back"], ["b"], "back"),
        node("Gemm", ["b", "out.weight"], ["logits"], "out"),
    ]
    first, last = open_model(tiny.build(nodes, values, **ROWS)).layers
    assert (first.activation_shape, first.activation_size, first.batch_axis) == ((5, 7), 35, 0)
    assert last.activation_shape == (2,)


def test_embedding_but_not_a_gather_of_activations() -> None:
    tensors = {"tokens.weight": normal(11, 4), "index": np.array(0), "scalars": normal(9), "head": normal(4, 2)}
    nodes = [
        node("Gather", ["tokens.weight", "ids"], ["e"], "embed"),
        node("Gather", ["e", "index"], ["first"], "first", axis=1),
        node("Gather", ["scalars", "index"], ["s"], "constant"),
        node("Mul", ["first", "s"], ["scaled"], "scale"),
        node("MatMul", ["scaled", "head"], ["logits"], "h"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 6])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    layers = open_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).layers
    assert [(layer.op_type, names(layer)) for layer in layers] == [
        ("Gather", ["tokens.weight"]),
        ("MatMul", ["head"]),
    ]
    assert layers[0].activation_shape == (6, 4)


# --- biases and elementwise layers ---------------------------------------------------------------------------


def test_activation_is_the_value_after_the_bias() -> None:
    values = {"fc.weight": normal(4, 7), "fc.bias": normal(7)}
    for order in (["m", "fc.bias"], ["fc.bias", "m"]):
        nodes = [node("MatMul", ["input", "fc.weight"], ["m"], "mm"), node("Add", order, ["last"], "add")]
        layer = layers_of(nodes, values, **ROWS)["fc"]
        assert (layer.op_type, layer.node, layer.activation) == ("MatMul", "mm", "last")
        bias = layer.parameters[1]
        assert (bias.name, bias.node, bias.position) == ("fc.bias", "add", order.index("fc.bias"))


def test_conv_and_add() -> None:
    values = {"conv.weight": normal(3, 4, 1, 1), "conv.bias": normal(3, 1, 1)}
    nodes = [node("Conv", ["input", "conv.weight"], ["c"], "conv"), node("Add", ["c", "conv.bias"], ["last"], "add")]
    layer = layers_of(nodes, values, **IMAGE)["conv"]
    assert (names(layer), layer.activation) == (["conv.weight", "conv.bias"], "last")


def test_conv_with_a_bias_does_not_take_another() -> None:
    values = {"conv.weight": normal(3, 4, 1, 1), "conv.bias": normal(3), "shift": normal(3, 1, 1)}
    nodes = [
        node("Conv", ["input", *list(values)[:2]], ["c"], "conv"),
        node("Add", ["c", "shift"], ["last"], "shifted"),
    ]
    layers = layers_of(nodes, values, **IMAGE)
    assert names(layers["conv"]) == ["conv.weight", "conv.bias"]
    assert names(layers["shifted"]) == ["shift"]


def test_no_bias_where_the_product_is_used_twice() -> None:
    values = {"fc.weight": normal(4, 4), "fc.bias": normal(4)}
    nodes = [
        node("MatMul", ["input", "fc.weight"], ["m"], "mm"),
        node("Add", ["m", "fc.bias"], ["a"], "add"),
        node("Mul", ["m", "a"], ["last"], "product"),
    ]
    layers = layers_of(nodes, values, **ROWS)
    assert {name: names(layer) for name, layer in layers.items()} == {"mm": ["fc.weight"], "add": ["fc.bias"]}


def test_residual_add_is_no_layer() -> None:
    nodes = [node("MatMul", ["input", "fc.weight"], ["m"], "mm"), node("Add", ["m", "input"], ["last"], "residual")]
    layers = layers_of(nodes, {"fc.weight": normal(4, 4)}, **ROWS)
    assert layers["fc"].activation == "m"


@pytest.mark.parametrize("operator", ["Mul", "Add"])
def test_learned_vector(operator: str) -> None:
    nodes = [node("Relu", ["input"], ["r"], "relu"), node(operator, ["scale.v", "r"], ["last"], "scale")]
    layer = layers_of(nodes, {"scale.v": normal(4)}, **ROWS)["scale"]
    assert (layer.op_type, names(layer), layer.parameters[0].position) == (operator, ["scale.v"], 0)


def test_learned_mul_and_add_are_one_layer() -> None:
    nodes = [
        node("Relu", ["input"], ["r"], "relu"),
        node("Mul", ["r", "norm.scale"], ["m"], "mul"),
        node("Add", ["m", "norm.shift"], ["last"], "add"),
    ]
    layers = layers_of(nodes, {"norm.scale": normal(4), "norm.shift": normal(4)}, **ROWS)
    assert {name: names(layer) for name, layer in layers.items()} == {"norm": ["norm.scale", "norm.shift"]}
    assert layers["norm"].activation == "last"


def test_bias_of_a_layer_with_one_output() -> None:
    """A single number is a constant, unless a layer with one output adds it."""
    values = {"fc.weight": normal(4, 1), "fc.bias": normal(1)}
    nodes = [node("MatMul", ["input", "fc.weight"], ["m"], "mm"), node("Add", ["m", "fc.bias"], ["logits"], "add")]
    (layer,) = open_model(tiny.build(nodes, values, input_shape=("N", 4))).layers
    assert names(layer) == ["fc.weight", "fc.bias"]


# --- what is not a layer --------------------------------------------------------------------------------------

NO_LAYERS = {
    "bounds of a Clip": (
        [node("Clip", ["input", "low", "high"], ["last"], "clip")],
        {"low": np.float32(0), "high": np.float32(6)},
    ),
    "a number": (
        [node("Relu", ["input"], ["r"], "relu"), node("Mul", ["r", "half"], ["last"], "half")],
        {"half": np.array([0.5], np.float32)},
    ),
    "preprocessing": (
        [node("Mul", ["input", "std"], ["m"], "std"), node("Add", ["mean", "input"], ["last"], "mean")],
        {"std": vector(), "mean": vector()},
    ),
    "a difference": (
        [node("Relu", ["input"], ["r"], "relu"), node("Sub", ["r", "mean"], ["last"], "sub")],
        {"mean": vector()},
    ),
    "arithmetic on constants": (
        [
            node("Add", ["a", "b"], ["sum"], "sum"),
            node("MatMul", ["sum", "c"], ["product"], "product"),
            node("Sub", ["input", "product"], ["last"], "sub"),
        ],
        {"a": normal(1, 4), "b": normal(4), "c": normal(4, 4)},
    ),
    "integers": (
        [
            node("Cast", ["input"], ["i"], "cast", to=onnx.TensorProto.INT64),
            node("Add", ["i", "steps"], ["a"], "add"),
            node("Cast", ["a"], ["last"], "back", to=onnx.TensorProto.FLOAT),
        ],
        {"steps": np.arange(4)},
    ),
}


# Steps from the input to the normalised value; every tensor in them is a preprocessing constant.
COLOURS = np.array([[[0.4]], [[0.5]], [[0.6]], [[0.7]]], np.float32)
PREPROCESSING: dict[str, list[tuple[str, list[object], dict[str, Any]]]] = {
    "times, then minus, divided": [("Mul", [np.float32(1 / 255)], {}), ("Sub", [COLOURS], {}), ("Div", [COLOURS], {})],
    "times and plus": [("Mul", [COLOURS], {}), ("Add", [-COLOURS], {})],
    "plus and times": [("Add", [-COLOURS[None]], {}), ("Mul", [1 / COLOURS[None]], {})],
    "channels last": [("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Mul", [COLOURS.ravel()], {}),
                      ("Add", [COLOURS.ravel()], {}), ("Transpose", [], {"perm": [0, 3, 1, 2]})],
    "cropped": [("Slice", [np.array([1, 1]), np.array([5, 5]), np.array([2, 3])], {}), ("Mul", [COLOURS], {})],
    "enlarged": [("Resize", ["", np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}), ("Add", [COLOURS], {})],
    "colours swapped": [("Gather", [np.array([3, 2, 1, 0])], {"axis": 1}), ("Mul", [COLOURS], {})],
    "clipped": [("Clip", [np.float32(0), np.float32(1)], {}), ("Mul", [COLOURS], {})],
    "a mean image": [("Sub", [normal(4, 6, 6)], {}), ("Mul", [1 + normal(4, 6, 6)], {})],
}  # fmt: skip


def chain(steps: list[tuple[str, list[object], dict[str, Any]]]) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes from ``input`` to ``last``, and the constants they use."""
    nodes, values, value = [], {}, "input"
    for index, (operator, constants, attributes) in enumerate(steps):
        given = []
        for position, constant in enumerate(constants):
            given.append("" if isinstance(constant, str) else f"c{index}{position}")
            if not isinstance(constant, str):
                values[given[-1]] = np.asarray(constant)
        made = "last" if index == len(steps) - 1 else f"v{index}"
        nodes.append(node(operator, [value, *given], [made], f"/{index}", **attributes))
        value = made
    return nodes, values


@pytest.mark.parametrize("case", PREPROCESSING)
def test_constants_of_normalisation_in_the_graph_are_no_layer(case: str) -> None:
    nodes, values = chain(PREPROCESSING[case])
    assert layers_of(nodes, values, **IMAGE) == {}


@pytest.mark.parametrize("steps", [PREPROCESSING["times and plus"], PREPROCESSING["channels last"]])
def test_normalisation_of_bytes_is_no_layer(steps: list[tuple[str, list[object], dict[str, Any]]]) -> None:
    """A uint8 input, cast first; the convolution after it is the first layer, and the only one with its head."""
    nodes, values = chain([("Cast", [], {"to": onnx.TensorProto.FLOAT}), *steps])
    nodes += [
        node("Conv", ["last", "conv.weight"], ["c"], "/conv"),
        node("GlobalAveragePool", ["c"], ["p"], "/pool"),
        node("Flatten", ["p"], ["f"], "/flat"),
        node("MatMul", ["f", "fc.weight"], ["logits"], "/fc"),
    ]
    values |= {"conv.weight": normal(5, 4, 1, 1), "fc.weight": normal(5, 2)}
    given = [helper.make_tensor_value_info("input", onnx.TensorProto.UINT8, ["N", 4, 6, 6])]
    made = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])]
    model = open_model(tiny.assemble(nodes, values, given, made))
    assert [layer.name for layer in model.layers] == ["conv", "fc"]
    assert model.parameter_count == 5 * 4 + 5 * 2
    about = {decision.about: decision.taken_for for decision in decisions(model)}
    assert about["preprocessing in the graph"] == ", ".join(
        key for key in values if key.startswith("c") and "." not in key
    )


LEARNED: dict[str, list[tuple[str, list[object], dict[str, Any]]]] = {
    "after a convolution": [("Conv", [normal(4, 4, 1, 1)], {}), ("Mul", [COLOURS], {})],
    "after an activation": [("Sub", [COLOURS], {}), ("Relu", [], {}), ("Mul", [COLOURS], {})],
    "after a normalisation by the data": [("GlobalAveragePool", [], {}), ("Mul", [COLOURS], {})],
    "after a dense layer": [("MatMul", [normal(6, 6)], {}), ("Tanh", [], {}), ("Add", [COLOURS], {})],
}


@pytest.mark.parametrize("case", LEARNED)
def test_a_learned_scale_is_a_layer(case: str) -> None:
    nodes, values = chain(LEARNED[case])
    assert nodes[-1].name in {layer.node for layer in layers_of(nodes, values, **IMAGE).values()}


def test_a_table_of_positions_added_to_an_embedding_is_a_layer() -> None:
    nodes = [
        node("Gather", ["tokens.weight", "ids"], ["e"], "/embed"),
        node("Add", ["e", "positions"], ["p"], "/positions"),
        node("ReduceMean", ["p"], ["m"], "/mean", axes=[1], keepdims=0),
        node("MatMul", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {"tokens.weight": normal(11, 4), "positions": normal(1, 6, 4), "fc.weight": normal(4, 2)}
    given = [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 6])]
    made = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])]
    model = open_model(tiny.assemble(nodes, values, given, made))
    assert [layer.node for layer in model.layers] == ["/embed", "/positions", "/fc"]


@pytest.mark.parametrize("case", NO_LAYERS)
def test_no_layer(case: str) -> None:
    nodes, values = NO_LAYERS[case]
    assert layers_of(nodes, values, input_shape=("N", 4)) == {}


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer"):
        open_model(tiny.build([node("Relu", ["input"], ["logits"], "relu")], {}, input_shape=("N", 4)))


# --- weights behind other nodes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((7, 4), [("Transpose", {"perm": [1, 0]})]),
        ((4, 7), [("Identity", {})]),
        ((28,), [("Reshape", {})]),
        ((4, 7), [("Cast", {"to": onnx.TensorProto.FLOAT})]),
        ((7, 4), [("Identity", {}), ("Transpose", {"perm": [1, 0]}), ("Identity", {})]),
    ],
    ids=["Transpose", "Identity", "Reshape", "Cast", "three steps"],
)
def test_weights_behind_other_nodes(shape: tuple[int, ...], steps: list[tuple[str, dict[str, object]]]) -> None:
    nodes, value = [], "fc.weight"
    for index, (operator, attributes) in enumerate(steps):
        extra = ["target"] if operator == "Reshape" else []
        nodes.append(node(operator, [value, *extra], [f"w{index}"], f"step{index}", **attributes))
        value = f"w{index}"
    nodes.append(node("MatMul", ["input", value], ["last"], "mm"))
    layer = layers_of(nodes, {"fc.weight": normal(*shape), "target": np.array([4, 7])}, **ROWS)["fc"]
    assert [(p.name, p.shape, p.node, p.position) for p in layer.parameters] == [("fc.weight", shape, "mm", 1)]


# --- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "bias", "node_name", "expected"),
    [
        ("layer3.0.conv1.weight", "layer3.0.conv1.bias", "n", "layer3.0.conv1"),
        ("block/dense/kernel:0", "block/dense/bias:0", "n", "block/dense"),
        ("fc_weight", "fc_bias", "/fc/Gemm", "fc"),
        ("fc/x_w_0", "fc/x_b_0", "/fc/Gemm", "fc/x"),
        ("weight", "bias", "/fc/Gemm", "/fc/Gemm"),
        ("onnx::MatMul_12", "fc.bias", "/fc/Gemm", "/fc/Gemm"),
        ("onnx::Conv_1", "onnx::Conv_2", "/fc/Gemm", "/fc/Gemm"),
        ("val_3", "val_4", "/fc/Gemm", "/fc/Gemm"),
        ("17", "18", "", "Gemm_0"),
        ("a.weight", "b.bias", "n", "n"),
        ("fc.weight", "", "n", "fc"),
    ],
)
def test_name_of_a_layer(weight: str, bias: str, node_name: str, expected: str) -> None:
    values = {weight: normal(4, 7), **({bias: normal(7)} if bias else {})}
    layers = layers_of([node("Gemm", ["input", *values], ["last"], node_name)], values, input_shape=("N", 4))
    assert list(layers) == [expected]


def test_layers_with_the_same_prefix_are_called_by_their_nodes() -> None:
    values = {"block.w1": normal(4, 4), "block.w2": normal(4, 4), "other.weight": normal(4, 4)}
    nodes = [
        node("MatMul", ["input", "block.w1"], ["a"], "first"),
        node("MatMul", ["a", "block.w2"], ["b"], "second"),
        node("MatMul", ["b", "other.weight"], ["last"], "third"),
    ]
    assert list(layers_of(nodes, values, **ROWS)) == ["first", "second", "other"]


def test_layers_that_share_a_weight_have_names_of_their_own() -> None:
    nodes = [
        node("MatMul", ["input", "tied.weight"], ["a"], "first"),
        node("Transpose", ["tied.weight"], ["turned"], "turn", perm=[1, 0]),
        node("MatMul", ["a", "turned"], ["last"], "second"),
    ]
    layers = layers_of(nodes, {"tied.weight": normal(4, 4)}, **ROWS)
    assert list(layers) == ["first", "second"]
    assert [names(layer) for layer in layers.values()] == [["tied.weight"]] * 2


def test_names_are_unique_even_where_everything_collides() -> None:
    values = {"second.weight": normal(4, 4), "x": normal(4, 4), "y": normal(4, 4)}
    nodes = [
        node("MatMul", ["input", "second.weight"], ["a"], "zero"),  # its name is that of the next node
        node("MatMul", ["a", "x"], ["b"], "second"),
        node("MatMul", ["b", "y"], ["last"], ""),
    ]
    layers = layers_of(nodes, values, **ROWS)
    assert len(set(layers)) == 3


# --- real models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "first", "head"),
    [
        ("resnet20_cifar10_bn", 39, "blocks.0.conv1", "blocks.10.fc"),
        ("mobilenetv1_025_vww96_bn", 55, "blocks.0.conv", "blocks.27.fc"),
        ("mobilenetv2_035_imagenet128", 52, "blocks.0.0", "blocks.18.fc"),
    ],
)
def test_real_models(shared: Path, name: str, count: int, first: str, head: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    model = open_model(path)
    assert len(model.layers) == count
    assert model.layers[0].name == first
    assert model.head is not None
    assert model.head.name == head
    assert len({layer.name for layer in model.layers}) == count
    graph = onnx.load(path).graph
    used = {parameter.name for layer in model.layers for parameter in layer.parameters}
    others = {key for item in graph.node if item.op_type == "Clip" for key in item.input}
    others |= {key for item in graph.node if item.op_type == "BatchNormalization" for key in item.input[3:]}
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert used == floats - others


@pytest.mark.parametrize(("op_type", "hidden", "seen"), [("Add", -1e9, 0.0), ("Add", -np.inf, 0.0), ("Mul", 0.0, 1.0)])
def test_a_mask_is_no_layer(op_type, hidden, seen):
    mask = np.where(np.tril(np.ones((4, 4))) > 0, seen, hidden).astype(np.float32)
    nodes = [
        tiny.node("MatMul", ["input", "a.weight"], ["a"], "/a"),
        tiny.node(op_type, ["a", "mask"], ["m"], "/mask"),
        tiny.node("Flatten", ["m"], ["f"], "/flat"),
        tiny.node("MatMul", ["f", "b.weight"], ["logits"], "/b"),
    ]
    values = {"a.weight": tiny.normal(4, 4), "mask": mask, "b.weight": tiny.normal(16, 3)}
    model = open_model(tiny.build(nodes, values, input_shape=["N", 4, 4]))
    assert [layer.name for layer in model.layers] == ["a", "b"]


@pytest.mark.parametrize("first", ["", "unused"])
def test_the_activation_of_an_lstm_whose_last_state_alone_is_used(first: str) -> None:
    """Keras exports it so if only the last step is used."""
    nodes = [
        node("Transpose", ["input"], ["steps"], "/turn", perm=[1, 0, 2]),
        node("LSTM", ["steps", "lstm.w", "lstm.r"], [first, "state"], "/lstm", hidden_size=5),
        node("Squeeze", ["state", "zero"], ["last"], "/squeeze"),
        node("Gemm", ["last", "fc.weight"], ["logits"], "/fc"),
    ]
    weights = {"lstm.w": normal(1, 20, 3), "lstm.r": normal(1, 20, 5), "zero": np.array([0]), "fc.weight": normal(5, 2)}
    lstm, head = open_model(tiny.build(nodes, weights, input_shape=("N", 4, 3), output_shape=("N", 2))).layers
    assert (lstm.op_type, lstm.activation, lstm.activation_size) == ("LSTM", "state", 5)
    assert head.activation == "logits"
