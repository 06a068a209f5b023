"""A new head: another number of outputs with new weights; later nodes are unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import helper, numpy_helper

from adabet_onnx import ModelError, UsageError, open_model
from adabet_onnx.model.head import new_head
from adabet_onnx.model.open import Model


def weights(model: Model) -> dict[str, np.ndarray]:
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.graph.initializers.items()
        if value.const_value is not None
    }


def with_new_head(proto: onnx.ModelProto, classes: int, *inputs: np.ndarray) -> Model:
    """Create a new head, and check what every new head must fulfil."""
    model = open_model(proto)
    before = model.proto().SerializeToString(deterministic=True)
    made = new_head(model, classes)
    assert model.proto().SerializeToString(deterministic=True) == before
    assert made.new_head
    assert made.head is not None
    assert model.head is not None
    assert made.head.op_type == model.head.op_type
    assert [value.name for value in made.graph.graph.outputs] == [value.name for value in model.graph.graph.outputs]
    assert made.logits == made.graph.graph.outputs[0].name
    assert not model.new_head
    inputs = inputs or (normal(3, *(int(extent) for extent in model.inputs[0].shape[1:]), scale=1.0),)
    logits = tiny.run(made.graph, *inputs)
    assert logits.shape == (3, classes)
    assert logits.std(axis=0).min() > 0  # every class sees the input
    again = open_model(made.proto())  # what is saved says the same
    assert again.new_head
    assert again.layers == made.layers
    own = {parameter.name for parameter in made.head.parameters}
    for name, value in weights(model).items():  # only the head and shapes have changed
        if name not in own and value.dtype == np.float32 and name in weights(made):
            np.testing.assert_array_equal(weights(made)[name], value)
    return made


ROWS = {"input_shape": ("N", 6)}
SMALL, LARGE = 2, 9  # than the 4 classes that are there


@pytest.mark.parametrize("classes", [1, SMALL, 4, LARGE])
@pytest.mark.parametrize("trans", [0, 1])
def test_gemm(trans: int, classes: int) -> None:
    shape = (4, 6) if trans else (6, 4)
    nodes = [node("Gemm", ["input", "fc.weight", "fc.bias"], ["logits"], "fc", transB=trans)]
    made = with_new_head(tiny.build(nodes, {"fc.weight": normal(*shape), "fc.bias": normal(4)}, **ROWS), classes)
    found = weights(made)
    assert found["fc.weight"].shape == ((classes, 6) if trans else (6, classes))
    bound = 1 / np.sqrt(6)
    assert np.abs(found["fc.weight"]).max() <= bound
    assert np.abs(found["fc.weight"]).max() > bound / 3
    np.testing.assert_array_equal(found["fc.bias"], np.zeros(classes, np.float32))


def test_gemm_without_bias() -> None:
    made = with_new_head(
        tiny.build([node("Gemm", ["input", "w"], ["logits"], "fc")], {"w": normal(6, 4)}, **ROWS), LARGE
    )
    assert weights(made)["w"].shape == (6, LARGE)


@pytest.mark.parametrize("bias", [(4,), (1, 4)], ids=str)
def test_matmul_and_add(bias: tuple[int, ...]) -> None:
    nodes = [
        node("MatMul", ["input", "fc.weight"], ["m"], "mm"),
        node("Add", ["fc.bias", "m"], ["logits"], "add"),
    ]
    made = with_new_head(tiny.build(nodes, {"fc.weight": normal(6, 4), "fc.bias": normal(*bias)}, **ROWS), LARGE)
    assert weights(made)["fc.weight"].shape == (6, LARGE)
    assert weights(made)["fc.bias"].shape == (*bias[:-1], LARGE)


@pytest.mark.parametrize("bias", [(1,), (1, 1)], ids=str)
def test_a_head_of_one_output(bias: tuple[int, ...]) -> None:
    nodes = [
        node("MatMul", ["input", "fc.weight"], ["m"], "mm"),
        node("Add", ["m", "fc.bias"], ["logits"], "add"),
    ]
    made = with_new_head(tiny.build(nodes, {"fc.weight": normal(6, 1), "fc.bias": normal(*bias)}, **ROWS), LARGE)
    assert weights(made)["fc.bias"].shape == (*bias[:-1], LARGE)


CONV = {"head.weight": normal(4, 5, 1, 1), "head.bias": normal(4)}
IMAGE = {"input_shape": ("N", 5, 3, 3)}


@pytest.mark.parametrize(
    "ending",
    [
        [node("GlobalAveragePool", ["c"], ["p"], "pool"), node("Flatten", ["p"], ["logits"], "flat")],
        [node("GlobalAveragePool", ["c"], ["p"], "pool"), node("Reshape", ["p", "two"], ["logits"], "flat")],
        [node("GlobalAveragePool", ["c"], ["p"], "pool"), node("Squeeze", ["p", "axes"], ["logits"], "flat")],
        [
            node("Reshape", ["c", "three"], ["p"], "rows"),
            node("ReduceMean", ["p"], ["logits"], "mean", axes=[2], keepdims=0),
        ],
        [
            node("Transpose", ["c"], ["t"], "nhwc", perm=[0, 2, 3, 1]),
            node("Reshape", ["t", "last"], ["p"], "rows"),
            node("ReduceMean", ["p"], ["logits"], "mean", axes=[1], keepdims=0),
        ],
    ],
    ids=["Flatten", "Reshape", "Squeeze", "Reshape to classes and places", "classes last"],
)
def test_conv_head(ending: list[onnx.NodeProto]) -> None:
    """The old number of classes, 4, is in the targets of the Reshapes."""
    targets = {
        "two": np.array([-1, 4]),
        "axes": np.array([2, 3]),
        "three": np.array([0, 4, 9]),
        "last": np.array([-1, 9, 4]),
    }
    nodes = [node("Conv", ["input", *CONV], ["c"], "head"), *ending]
    used = {name for item in ending for name in item.input}
    values = {**CONV, **{name: array for name, array in targets.items() if name in used}}
    made = with_new_head(tiny.build(nodes, values, **IMAGE), LARGE)
    assert weights(made)["head.weight"].shape == (LARGE, 5, 1, 1)
    assert made.head is not None
    twice = new_head(made, 3)  # a second time, with a target that was changed already
    assert tiny.run(twice.graph, normal(2, 5, 3, 3)).shape == (2, 3)


def test_only_the_classes_of_a_reshape_target_change() -> None:
    """Four classes, and four places: [0, 4, 4]."""
    nodes = [
        node("Conv", ["input", *CONV], ["c"], "head"),
        node("Reshape", ["c", "target"], ["r"], "rows"),
        node("ReduceMean", ["r"], ["logits"], "mean", axes=[2], keepdims=0),
    ]
    proto = tiny.build(nodes, {**CONV, "target": np.array([0, 4, 4])}, input_shape=("N", 5, 2, 2))
    made = with_new_head(proto, LARGE)
    mean = tiny.run(made.graph, normal(1, 5, 2, 2), output="c").mean(axis=(2, 3))
    np.testing.assert_allclose(tiny.run(made.graph, normal(1, 5, 2, 2)), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)], ids=str)
def test_conv_and_add(shape: tuple[int, ...]) -> None:
    nodes = [
        node("Conv", ["input", "head.weight"], ["c"], "head"),
        node("Add", ["c", "head.bias"], ["a"], "add"),
        node("GlobalAveragePool", ["a"], ["p"], "pool"),
        node("Flatten", ["p"], ["logits"], "flat"),
    ]
    made = with_new_head(tiny.build(nodes, {**CONV, "head.bias": normal(*shape)}, **IMAGE), LARGE)
    assert weights(made)["head.bias"].shape == tuple(LARGE if extent == 4 else extent for extent in shape)


@pytest.mark.parametrize("ending", ["Softmax", "Sigmoid", "LogSoftmax"])
def test_final_probabilities_are_dropped(ending: str) -> None:
    proto = tiny.conv_net(softmax=True)
    last = proto.graph.node[-1]
    last.op_type = ending
    if ending == "Sigmoid":
        del last.attribute[:]
    made = with_new_head(proto, LARGE)
    assert not {"Softmax", "Sigmoid", "LogSoftmax"} & {item.op_type for item in made.graph.graph}


# --- what belongs to the old outputs -------------------------------------------------------------------------

ONES = np.ones(4, np.float32)
NORM = [("BatchNormalization", ["m", "vector", "vector", "vector", "vector"], ["logits"], {})]
L2 = [
    ("Mul", ["m", "m"], ["mm"], {}),
    ("ReduceSum", ["mm", "axis"], ["s"], {}),
    ("Max", ["s", "eps"], ["t"], {}),
    ("Sqrt", ["t"], ["r"], {}),
    ("Div", ["m", "r"], ["logits"], {}),
]
# (steps from the head's ``m`` to ``logits``, operators that are named, whether they can be kept)
TAILS: dict[str, tuple[list[tuple[str, list[str], list[str], dict[str, object]]], set[str], bool]] = {
    "LpNormalization": ([("LpNormalization", ["m"], ["logits"], {"axis": 1})], {"LpNormalization"}, True),
    "ReduceL2 and Div": (
        [("ReduceL2", ["m"], ["n"], {"axes": [1]}), ("Div", ["m", "n"], ["logits"], {})],
        {"ReduceL2", "Div"},
        True,
    ),
    "ReduceL2, Clip, Expand, Div": (
        [
            ("ReduceL2", ["m"], ["n"], {"axes": [1]}),
            ("Clip", ["n", "eps"], ["c"], {}),
            ("Shape", ["m"], ["shape"], {}),
            ("Expand", ["c", "shape"], ["e"], {}),
            ("Div", ["m", "e"], ["logits"], {}),
        ],
        {"ReduceL2", "Clip", "Expand", "Div", "Shape"},
        True,
    ),
    "Sqrt of a sum of squares": (L2, {"Mul", "ReduceSum", "Max", "Sqrt", "Div"}, True),
    "Relu": ([("Relu", ["m"], ["logits"], {})], {"Relu"}, True),
    "Clip": ([("Clip", ["m", "eps", "ten"], ["logits"], {})], {"Clip"}, True),
    "a temperature": ([("Div", ["m", "ten"], ["logits"], {})], {"Div"}, True),
    "a scale": ([("Mul", ["ten", "m"], ["logits"], {})], {"Mul"}, True),
    "a soft cap": (
        [("Div", ["m", "ten"], ["d"], {}), ("Tanh", ["d"], ["t"], {}), ("Mul", ["t", "ten"], ["logits"], {})],
        {"Div", "Tanh", "Mul"},
        True,
    ),
    "Swish written out": (
        [("Sigmoid", ["m"], ["s"], {}), ("Mul", ["m", "s"], ["logits"], {})],
        {"Sigmoid", "Mul"},
        True,
    ),
    "a normalisation and L2 (ArcFace)": (
        [
            ("BatchNormalization", ["m", *["vector"] * 4], ["b"], {}),
            ("LpNormalization", ["b"], ["logits"], {"axis": 1}),
        ],
        {"BatchNormalization", "LpNormalization"},
        False,
    ),
    "a scale for each output": ([("Mul", ["m", "vector"], ["logits"], {})], {"Mul"}, False),
    "L2, then a Softmax with a temperature": (
        [
            ("LpNormalization", ["m"], ["n"], {"axis": 1}),
            ("Mul", ["n", "ten"], ["z"], {}),
            ("Softmax", ["z"], ["logits"], {"axis": 1}),
        ],
        {"LpNormalization", "Mul"},
        True,
    ),
}


def headed(steps: list[tuple[str, list[str], list[str], dict[str, object]]]) -> onnx.ModelProto:
    nodes = [node("Relu", ["input"], ["i"], "relu"), node("Gemm", ["i", "fc.weight", "fc.bias"], ["m"], "fc")]
    nodes += [node(op_type, given, made, f"/tail{i}", **more) for i, (op_type, given, made, more) in enumerate(steps)]
    values = {"fc.weight": normal(6, 4), "fc.bias": normal(4), "vector": ONES * 1.5, "axis": np.array([1]),
              "eps": np.float32(1e-6), "ten": np.float32(10)}  # fmt: skip
    used = {name for item in nodes for name in item.input}
    return tiny.build(nodes, {key: np.asarray(array) for key, array in values.items() if key in used}, **ROWS)


@pytest.mark.parametrize("case", TAILS)
def test_what_belongs_to_the_old_head_goes_or_is_kept(case: str) -> None:
    steps, operators, keepable = TAILS[case]
    model = open_model(headed(steps))
    made = with_new_head(headed(steps), LARGE)
    x = normal(3, 6, scale=1.0)
    found = weights(made)
    np.testing.assert_allclose(
        tiny.run(made.graph, x), np.maximum(x, 0) @ found["fc.weight"] + found["fc.bias"], rtol=1e-5, atol=1e-6
    )
    (note,) = [note for note in made.notes if "removed together with the old outputs" in note]
    assert set(note.split(" after the head")[0].split(", ")) == operators
    if not keepable:
        with pytest.raises(ModelError, match="`keep_tail`"):
            new_head(model, LARGE, keep_tail=True)
        return
    kept = new_head(model, LARGE, keep_tail=True)
    assert not [note for note in kept.notes if "removed together" in note]
    assert {item.op_type for item in kept.graph.graph} >= operators
    assert tiny.run(kept.graph, x).shape == (3, LARGE)


@pytest.mark.parametrize(
    "steps", [[("Squeeze", ["m", "axis"], ["logits"], {})], [("Reshape", ["m", "flat"], ["logits"], {})]]
)
def test_the_shape_of_one_number_goes_with_it(steps: list[tuple[str, list[str], list[str], dict[str, object]]]) -> None:
    """A regression's output of shape (N,)."""
    nodes = [node("Gemm", ["input", "fc.weight"], ["m"], "fc")]
    nodes += [node(op_type, given, made, "/tail", **more) for op_type, given, made, more in steps]
    used = {name for item in nodes for name in item.input}
    values = {"fc.weight": normal(6, 1), "axis": np.array([1]), "flat": np.array([-1])}
    values = {key: array for key, array in values.items() if key in used}
    with_new_head(tiny.build(nodes, values, output_shape=("N",), **ROWS), LARGE)


def test_pooling_after_the_head_stays() -> None:
    """As in SqueezeNet: a convolution, its Relu, which is removed, and the mean over positions, which stays."""
    nodes = [
        node("Conv", ["input", *CONV], ["c"], "head"),
        node("Relu", ["c"], ["r"], "relu"),
        node("GlobalAveragePool", ["r"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Softmax", ["f"], ["logits"], "softmax", axis=1),
    ]
    made = with_new_head(tiny.build(nodes, CONV, **IMAGE), LARGE)
    assert [item.op_type for item in made.graph.graph] == ["Conv", "GlobalAveragePool", "Flatten"]


# --- shared and transposed weights ---------------------------------------------------------------------------


def test_a_weight_that_another_node_uses_too() -> None:
    """The head gets a separate weight; the other node keeps the old one."""
    nodes = [
        node("MatMul", ["input", "tied.weight"], ["h"], "first"),
        node("Gemm", ["h", "tied.weight", "tied.bias"], ["g"], "second"),
        node("Gemm", ["g", "tied.weight", "tied.bias"], ["logits"], "head"),
    ]
    values = {"tied.weight": normal(6, 6), "tied.bias": normal(6)}
    proto = tiny.build(nodes, values, **ROWS)
    made = with_new_head(proto, LARGE)
    assert made.head is not None
    assert made.head.node == "head"
    for name, array in values.items():
        np.testing.assert_array_equal(weights(made)[name], array)
    x = normal(3, 6)
    np.testing.assert_array_equal(tiny.run(made.graph, x, output="g"), tiny.run(proto, x, output="g"))


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
@pytest.mark.parametrize("steps", [["Transpose"], ["Identity", "Transpose"], ["Identity"]], ids=str)
def test_a_weight_behind_other_nodes(operator: str, steps: list[str]) -> None:
    nodes, value = [], "fc.weight"
    for index, step in enumerate(steps):
        nodes.append(node(step, [value], [f"w{index}"], f"step{index}"))
        value = f"w{index}"
    shape = (4, 6) if "Transpose" in steps else (6, 4)
    nodes.append(node(operator, ["input", value], ["logits"], "fc"))
    made = with_new_head(tiny.build(nodes, {"fc.weight": normal(*shape)}, **ROWS), LARGE)
    assert weights(made)["fc.weight"].shape == tuple(LARGE if extent == 4 else extent for extent in shape)


def test_a_weight_tied_to_an_embedding() -> None:
    tensors = {"tokens.weight": normal(11, 5)}
    nodes = [
        node("Gather", ["tokens.weight", "ids"], ["e"], "embed"),
        node("ReduceMean", ["e"], ["m"], "mean", axes=[1], keepdims=0),
        node("Transpose", ["tokens.weight"], ["t"], "t", perm=[1, 0]),
        node("MatMul", ["m", "t"], ["logits"], "out"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 6])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 11])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ids = np.arange(18).reshape(3, 6) % 11
    made = with_new_head(proto, 4, ids)
    np.testing.assert_array_equal(weights(made)["tokens.weight"], tensors["tokens.weight"])


def test_two_nodes_behind_one_transpose() -> None:
    nodes = [
        node("Transpose", ["w.weight"], ["t"], "t", perm=[1, 0]),
        node("MatMul", ["input", "t"], ["h"], "first"),
        node("MatMul", ["h", "t"], ["logits"], "head"),
    ]
    proto = tiny.build(nodes, {"w.weight": normal(6, 6)}, **ROWS)
    made = with_new_head(proto, LARGE)
    x = normal(3, 6)
    np.testing.assert_array_equal(tiny.run(made.graph, x, output="h"), tiny.run(proto, x, output="h"))


# --- seeds, metadata, refusals -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes() -> None:
    model = open_model(tiny.conv_net())
    first, second, other = (new_head(model, 7, seed=seed) for seed in (3, 3, 4))
    assert first.proto().SerializeToString(deterministic=True) == second.proto().SerializeToString(deterministic=True)
    assert first.sha256 == second.sha256 != other.sha256
    assert not np.array_equal(weights(first)["fc.weight"], weights(other)["fc.weight"])


def test_metadata_of_the_old_classes_goes() -> None:
    proto = tiny.conv_net()
    helper.set_model_props(
        proto, {"mean": "0.5", "adabet_onnx.classes": '["a", "b", "c", "d"]', "adabet_onnx.adapted": "{}"}
    )
    made = new_head(open_model(proto), 7)
    assert dict(made.graph.metadata_props) == {"mean": "0.5", "adabet_onnx.new_head": '"fc"'}


@pytest.mark.parametrize("classes", [0, -1])
def test_no_classes_are_refused(classes: int) -> None:
    with pytest.raises(UsageError, match="`num_classes`"):
        new_head(open_model(tiny.conv_net()), classes)


def refused(nodes: list[onnx.NodeProto], values: dict[str, np.ndarray], match: str, **options: object) -> None:
    model = open_model(tiny.build(nodes, values, **options))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=match):
        new_head(model, LARGE)


def test_a_grouped_conv_is_refused() -> None:
    nodes = [
        node("Conv", ["input", "w"], ["c"], "head", group=2),
        node("GlobalAveragePool", ["c"], ["p"], "pool"),
        node("Flatten", ["p"], ["logits"], "flat"),
    ]
    refused(nodes, {"w": normal(4, 2, 1, 1)}, "grouped Conv", input_shape=("N", 4, 3, 3))


def test_a_head_followed_by_a_normalisation_that_is_kept_is_refused() -> None:
    values = {"fc.weight": normal(6, 4), **{f"bn.{key}": np.ones(4, np.float32) for key in "sbmv"}}
    nodes = [
        node("MatMul", ["input", "fc.weight"], ["m"], "fc"),
        node("BatchNormalization", ["m", *list(values)[1:]], ["logits"], "bn"),
    ]
    model = open_model(tiny.build(nodes, values, **ROWS))
    with pytest.raises(ModelError, match=r"comes after it.*Omit `keep_tail`"):
        new_head(model, LARGE, keep_tail=True)


def test_a_model_without_a_head_is_refused() -> None:
    nodes = [node("LayerNormalization", ["input", "w"], ["logits"], "norm")]
    refused(nodes, {"w": normal(6)}, "no Gemm", **ROWS)


def test_a_residual_around_the_head_is_refused() -> None:
    nodes = [node("MatMul", ["input", "w"], ["m"], "fc"), node("Add", ["m", "input"], ["logits"], "residual")]
    refused(nodes, {"w": normal(6, 6)}, "repeats the old number", **ROWS)


def test_a_weight_as_the_first_operand_is_refused() -> None:
    nodes = [node("Gemm", ["w", "input"], ["y"], "fc", transB=1), node("Transpose", ["y"], ["logits"], "t")]
    refused(nodes, {"w": normal(4, 6)}, "x @ W", **ROWS)


# --- real models ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenetv1_025_vww96_bn", 96),
        ("mobilenetv1_025_vww96_folded", 96),
        ("mobilenetv2_035_imagenet128", 128),
        ("resnet20_cifar10_bn", 32),
        ("resnet20_cifar10_folded", 32),
    ],
)
def test_real_models(shared: Path, name: str, size: int) -> None:
    proto = onnx.load(shared / "models" / f"{name}.onnx")
    made = with_new_head(proto, 5, normal(3, 3, size, size, scale=1.0))
    assert set(made.graph.metadata_props) >= {entry.key for entry in proto.metadata_props}
