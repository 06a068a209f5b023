"""Weights computed from constants become plain ones; numbers that belong to no layer are counted."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
from models import computed, tiny
from models.tiny import build, node, normal
from onnx import TensorProto, numpy_helper

from adabet_onnx import ModelError, check_model, make_artifacts, open_model
from adabet_onnx.measuring import trainable_share
from adabet_onnx.model import origins
from adabet_onnx.model.passes import fold_constants
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.decisions import decisions

pytestmark = pytest.mark.usefixtures("checked_here")

LAYERS = {"LSTM": ["g", "f"], "GRU": ["g", "f"], "joined": ["/qk", "fc"]}


@pytest.fixture(params=["portable", "ort"])
def backend(request):
    if request.param == "ort":
        request.getfixturevalue("training")
    return request.param


def everything(model, layers=None) -> Selection:
    chosen = [layer for layer in model.layers if layers is None or layer.name in layers]
    names = dict.fromkeys(parameter.name for layer in chosen for parameter in layer.parameters)
    return Selection(model.sha256, "layers", tuple(layer.name for layer in chosen), tuple(names))


def samples(proto, count=5):
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    return normal(count, *shape, scale=1.0)


# --- what becomes a weight -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", computed.MODELS)
def test_a_computed_weight_is_one_tensor_under_the_name_of_the_value(kind):
    proto, plain = (computed.MODELS[kind](plain=flag) for flag in (False, True))
    model, reference = open_model(proto), open_model(plain)
    assert [layer.name for layer in model.layers] == LAYERS.get(kind, ["c", "fc"])
    assert [layer.parameters for layer in model.layers] == [layer.parameters for layer in reference.layers]
    assert model.weight_count == model.parameter_count == reference.parameter_count
    assert model.frozen == ()
    x = samples(proto)
    assert tiny.difference(tiny.run(model.proto(), x), tiny.run(proto, x)) <= 1e-6
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    for layer in model.layers:
        for parameter in layer.parameters:
            found = model.graph.graph.initializers[parameter.name].const_value.numpy()
            np.testing.assert_allclose(found, stored[parameter.name], rtol=1e-5, atol=1e-7)
    assert all(layer.portable.trainable for layer in check_model(model).layers)


@pytest.mark.parametrize("kind", [*computed.CONVOLUTIONS, "joined"])
def test_it_has_the_gradient_of_a_plain_weight(kind, backend, tmp_path, torch_oracle):
    proto, plain = (computed.MODELS[kind](plain=flag) for flag in (False, True))
    model = open_model(proto)
    manifest = make_artifacts(model, everything(model), tmp_path / "a", backend=backend)
    session = manifest.session(manifest.initial, threads=1)
    feeds, labels = {"input": samples(proto)}, np.arange(5) % 3
    loss, _ = session.gradients(feeds, labels)
    expected_loss, expected = torch_oracle.gradients(plain, feeds, labels, manifest.parameters)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name in manifest.parameters:
        scale = np.abs(expected[name]).max()
        assert np.abs(session.gradient(name) - expected[name]).max() <= 1e-4 * scale, name


@pytest.mark.parametrize("kind", computed.GATES)
def test_so_have_the_gates_of_a_recurrent_layer(kind, tmp_path, torch_oracle):
    import torch

    proto = computed.recurrent(kind, plain=False)
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    module = getattr(torch.nn, kind)(computed.INPUTS, computed.HIDDEN, batch_first=True).double()
    for name, parameter in module.named_parameters():
        parameter.data = torch.from_numpy(given[f"g.{name}"].astype(np.float64))
    x, labels = samples(proto), np.arange(5) % 3
    weight, bias = (torch.from_numpy(given[f"f.{name}"].astype(np.float64)) for name in ("weight", "bias"))
    logits = module(torch.from_numpy(x.astype(np.float64)))[0][:, -1] @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    gradients = {f"g.{name}": parameter.grad.numpy() for name, parameter in module.named_parameters()}

    model = open_model(proto)
    manifest = make_artifacts(model, everything(model), tmp_path / "a", backend="portable")
    session = manifest.session(manifest.initial, threads=1)
    assert session.gradients({"input": x}, labels)[0] == pytest.approx(loss.item(), rel=1e-5)
    for name, expected in computed.in_order_of_onnx(kind, gradients).items():
        assert np.abs(session.gradient(name) - expected).max() <= 1e-4 * np.abs(expected).max(), name


def test_what_it_took_the_place_of_is_said_and_outlives_training(tmp_path):
    model = open_model(computed.standardised(plain=False))
    told = [str(item) for item in decisions(model) if item.about == "learned"]
    assert told == [
        "learned: w, of layer c (computed from constants, it replaces c.weight through ReduceMean, Sub, "
        "ReduceL2, Div; trained as a plain weight)"
    ]
    manifest = make_artifacts(model, everything(model), tmp_path / "a", backend="portable")
    again = open_model(manifest.file("model"))  # the model that an export writes the trained values into
    assert [layer.name for layer in again.layers] == ["c", "fc"]
    assert [item for item in decisions(again) if item.about == "learned"]


@pytest.mark.parametrize("entry", ["[]", "{", '{"w": 1}', '{"w": {"from": [1], "through": []}}', '{"gone": {}}'])
def test_a_damaged_note_of_origins_is_passed_over(entry):
    proto = computed.standardised(plain=True)
    proto.metadata_props.add(key="adabet_onnx.folded", value=entry)
    assert origins.origins(open_model(proto).graph) == {}


def test_a_weight_that_two_are_computed_from_is_no_longer_shared_and_that_is_said():
    values = {"e": normal(8, 8), "two": np.float32(2), "fc": normal(8, 3)}
    nodes = [
        node("MatMul", ["input", "e"], ["a"], "/a"),
        node("Mul", ["e", "two"], ["double"], "/double"),
        node("MatMul", ["a", "double"], ["b"], "/b"),
        node("Gemm", ["b", "fc"], ["logits"], "/fc"),
    ]
    model = open_model(build(nodes, values, input_shape=("N", 8)))
    assert [layer.parameters[0].name for layer in model.layers] == ["e", "double", "fc"]
    assert any("'e', 'double' are computed from 'e'" in note for note in model.notes)


# --- what stays unchanged ------------------------------------------------------------------------------------


def test_a_weight_that_is_only_moved_about_keeps_its_name_and_stays_tied():
    values = {"emb": normal(10, 6), "ids": np.array([0]), "head.bias": normal(10)}
    nodes = [
        node("Transpose", ["emb"], ["t"], "/t", perm=[1, 0]),
        node("Identity", ["t"], ["i"], "/i"),
        node("MatMul", ["input", "emb"], ["h"], "/first"),
        node("Tanh", ["h"], ["n"], "/tanh"),
        node("MatMul", ["n", "i"], ["m"], "/head"),
        node("Add", ["m", "head.bias"], ["logits"], "/add"),
    ]
    model = open_model(build(nodes, values, input_shape=("N", 10)))
    assert [layer.parameters[0].name for layer in model.layers] == ["emb", "emb"]
    assert any(item.about == "tied" for item in decisions(model))
    assert not fold_constants.computed_constants(model.graph.graph)


@pytest.mark.parametrize(
    ("operator", "inputs", "more", "accepted"),
    [
        ("Neg", ["w"], {}, True),
        ("Cast", ["w"], {"to": TensorProto.FLOAT}, False),
        ("Transpose", ["w"], {}, False),
        ("Cast", ["q"], {"to": TensorProto.FLOAT}, True),
        ("Add", ["w", "w"], {}, True),
        ("Mul", ["w", "mean"], {}, False),  # the mean of the input is not constant
    ],
)
def test_which_values_are_computed_constants(operator, inputs, more, accepted):
    values = {"w": normal(8, 8), "q": np.ones((8, 8), np.int8), "fc": normal(8, 3)}
    nodes = [
        node("ReduceMean", ["input"], ["mean"], "/mean", keepdims=0),
        node(operator, inputs, ["made"], "/made", **more),
        node("MatMul", ["input", "made"], ["h"], "/h"),
        node("Add", ["h", "mean"], ["k"], "/k"),
        node("Gemm", ["k", "fc"], ["logits"], "/fc"),
    ]
    from onnx_ir import from_proto

    graph = from_proto(build(nodes, values, input_shape=("N", 8))).graph
    found = [value.name for value in fold_constants.computed_constants(graph)]
    assert found == (["made"] if accepted else [])


def test_a_file_does_not_grow_by_what_it_only_repeats():
    values = {"one": np.ones((1, 1), np.float32), "shape": np.array([3000, 3000]), "fc": normal(6, 3)}
    nodes = [
        node("Neg", ["one"], ["minus"], "/neg"),
        node("Expand", ["minus", "shape"], ["big"], "/expand"),
        node("ReduceMean", ["big"], ["mean"], "/mean", keepdims=0),
        node("Gemm", ["input", "fc"], ["g"], "/fc"),
        node("MatMul", ["big", "big"], ["product"], "/product"),
        node("ReduceMax", ["product"], ["most"], "/most"),
        node("Add", ["g", "mean"], ["logits"], "/add"),
    ]
    proto = build(nodes, values, input_shape=("N", 6))
    model = open_model(proto)
    assert len(model.proto().SerializeToString()) < 10_000


@pytest.mark.parametrize(("kind", "learned"), [("sines", False), ("steps", False), ("scaled", True), ("int32", True)])
def test_what_a_formula_gives_is_no_weight(kind, learned):
    """Sinusoidal positions are added like a bias; so are a ramp, a scaled table, and an int32 bias."""
    values = {"fc.weight": normal(6, 3), "half": np.float32(0.5), "table": normal(6), "rates": normal(6)}
    values |= {"stored": np.array([5, -3, 9, 1, 0, 7], np.int32), "positions": np.arange(6)}
    real = node("Cast", ["positions"], ["real"], "/real", to=TensorProto.FLOAT)
    nodes = {
        "sines": [real, node("Mul", ["real", "rates"], ["angle"], "/angle"), node("Sin", ["angle"], ["made"], "/sin")],
        "steps": [real, node("Mul", ["real", "half"], ["made"], "/ramp")],
        "scaled": [node("Mul", ["table", "half"], ["made"], "/scaled")],
        "int32": [
            node("Cast", ["stored"], ["back"], "/back", to=TensorProto.FLOAT),
            node("Mul", ["back", "half"], ["made"], "/scale"),
        ],
    }[kind]
    nodes += [
        node("Tanh", ["input"], ["t"], "/tanh"),
        node("Add", ["t", "made"], ["h"], "/add"),
        node("Gemm", ["h", "fc.weight"], ["logits"], "/fc"),
    ]
    model = open_model(build(nodes, values, input_shape=("N", 6)))
    assert [parameter.name for layer in model.layers for parameter in layer.parameters] == [
        *(["made"] if learned else []),
        "fc.weight",
    ]
    assert model.frozen == ()
    assert [item.about for item in decisions(model)].count("constant") == (not learned)


# --- shapes --------------------------------------------------------------------------------------------------


def padded(*, shape_of_input: bool) -> onnx.ModelProto:
    """F.pad as torch exports it, its numbers put in ONNX's order by a chain of operators; SAME-like pads of 0 and 1."""
    values = {
        "c.weight": normal(6, 3, 3, 3),
        "fc": normal(6, 3),
        "pads": np.array([0, 1, 0, 1]),
        "rank": np.array(4),
        "two": np.array(2),
        "size": np.array([4]),
        "pairs": np.array([-1, 2]),
        "flat": np.array([-1]),
        "backwards": np.array([-1]),
        "end": np.array([-(2**62)]),
        "axis": np.array([0]),
        "first": np.array(0),
    }
    measured = [node("Shape", ["input"], ["dims"], "/dims"), node("Shape", ["dims"], ["many"], "/many")]
    constant = [node("Shape", ["pads"], ["many"], "/many")]
    nodes = [
        *(measured if shape_of_input else constant),
        node("Gather", ["many", "first"], ["number"], "/gather"),
        node("Mul", ["rank", "two"], ["all"], "/mul"),
        node("Sub", ["all", "number"], ["missing"], "/sub"),
        node("Unsqueeze", ["missing", "axis"], ["length"], "/unsqueeze"),
        node("ConstantOfShape", ["length"], ["zeros"], "/zeros", value=numpy_helper.from_array(np.array([0]), "v")),
        node("Concat", ["pads", "zeros"], ["long"], "/concat", axis=0),
        node("Reshape", ["long", "pairs"], ["table"], "/reshape"),
        node("Slice", ["table", "backwards", "end", "axis", "backwards"], ["turned"], "/slice"),
        node("Transpose", ["turned"], ["across"], "/transpose", perm=[1, 0]),
        node("Reshape", ["across", "flat"], ["ordered"], "/reshape_1"),
        node("Cast", ["ordered"], ["given"], "/cast", to=TensorProto.INT64),
        node("Pad", ["input", "given"], ["wide"], "/pad"),
        node("Conv", ["wide", "c.weight"], ["a"], "/c/Conv"),
        node("GlobalAveragePool", ["a"], ["p"], "/pool"),
        node("Flatten", ["p"], ["q"], "/flatten"),
        node("Gemm", ["q", "fc"], ["logits"], "/fc"),
    ]
    return build(nodes, values)


@pytest.mark.parametrize("shape_of_input", [False, True], ids=["of constants", "of a rank"])
def test_pads_that_are_computed_keep_no_layer_from_training(shape_of_input, tmp_path, torch_oracle):
    proto = padded(shape_of_input=shape_of_input)
    model = open_model(proto)
    assert [layer.portable.trainable for layer in check_model(model).layers] == [True, True]
    manifest = make_artifacts(model, everything(model), tmp_path / "a", backend="portable")
    session = manifest.session(manifest.initial, threads=1)
    feeds, labels = {"input": samples(proto)}, np.arange(5) % 3
    _, logits = session.gradients(feeds, labels)
    np.testing.assert_allclose(logits, tiny.run(proto, feeds["input"]), rtol=1e-5, atol=1e-6)
    _, expected = torch_oracle.gradients(model.proto(), feeds, labels, ["c.weight"])
    assert (
        np.abs(session.gradient("c.weight") - expected["c.weight"]).max() <= 1e-4 * np.abs(expected["c.weight"]).max()
    )


@pytest.mark.slow
def test_all_layers_of_efficientnet_lite_can_be_trained(shared):
    found = check_model(shared / "models" / "efficientnet_lite0_imagenet224.onnx")
    assert len(found.layers) == 99
    assert not found.untrainable


@pytest.mark.parametrize(
    ("operator", "constant"), [("Min", False), ("Div", False), ("Concat", False), ("Max of the rank", True)]
)
def test_what_is_computed_of_the_batch_is_no_constant(operator, constant):
    """Min(N, 5) is 5 at a batch of 7 and of 11, and 3 at one of 3."""
    from adabet_onnx.model.passes.constants import constants_of_shapes

    values = {"five": np.array([5]), "zero": np.array([0]), "one": np.array([1]), "fc": normal(6, 3)}
    given = {"Min": "batch", "Div": "batch", "Concat": "batch", "Max of the rank": "extent"}[operator]
    name = operator.split()[0]
    nodes = [
        node("Shape", ["input"], ["shape"], "/shape"),
        node("Gather", ["shape", "zero"], ["batch"], "/batch"),
        node("Gather", ["shape", "one"], ["extent"], "/extent"),
        node(name, [given, "five"], ["found"], "/found", **({"axis": 0} if name == "Concat" else {})),
        node("ReduceSum", ["found"], ["sum"], "/sum", keepdims=0),
        node("Cast", ["sum"], ["real"], "/real", to=TensorProto.FLOAT),
        node("Gemm", ["input", "fc"], ["g"], "/fc"),
        node("Mul", ["g", "real"], ["logits"], "/mul"),
    ]
    model = open_model(build(nodes, values, input_shape=("N", 6)))
    value = next(value for item in model.graph.graph for value in item.outputs if value.name == "real")
    assert bool(constants_of_shapes(model.graph, [value])) == constant


# --- what stays frozen ---------------------------------------------------------------------------------------


def with_frozen() -> onnx.ModelProto:
    """A weight of an Einsum and of a Sub, 48 and 6 numbers; bounds, a mask and a scale of the input, which are none."""
    values = {
        "scale": np.full((1, 1, 8), 0.5, np.float32),
        "mask": np.triu(np.full((5, 5), -1e9, np.float32), 1),
        "einsum.weight": normal(8, 6),
        "token": normal(1, 1, 6),
        "fc.weight": normal(6, 3),
        "low": np.float32(-9),
        "high": np.float32(9),
    }
    nodes = [
        node("Mul", ["input", "scale"], ["x"], "/scale"),
        node("Einsum", ["x", "einsum.weight"], ["h"], "/einsum", equation="nti,io->nto"),
        node("ReduceMean", ["h"], ["m"], "/mean", axes=[1, 2], keepdims=1),
        node("Sub", ["m", "token"], ["tokens"], "/token"),
        node("Concat", ["tokens", "h"], ["all"], "/concat", axis=1),
        node("Clip", ["all", "low", "high"], ["c"], "/clip"),
        node("Transpose", ["c"], ["t"], "/t", perm=[0, 2, 1]),
        node("MatMul", ["c", "t"], ["scores"], "/scores"),
        node("Add", ["scores", "mask"], ["masked"], "/mask"),
        node("MatMul", ["masked", "c"], ["mixed"], "/mix"),
        node("ReduceMean", ["mixed"], ["pooled"], "/pool", axes=[1], keepdims=0),
        node("Gemm", ["pooled", "fc.weight"], ["logits"], "/fc"),
    ]
    return build(nodes, values, input_shape=("N", 4, 8))


def test_weights_of_no_layer_are_named_and_counted():
    model = open_model(with_frozen())
    assert [layer.name for layer in model.layers] == ["fc"]
    assert [(item.node, item.op_type, item.count) for item in model.frozen] == [
        ("/einsum", "Einsum", 48),
        ("/token", "Sub", 6),
    ]
    assert (model.parameter_count, model.weight_count) == (18, 18 + 48 + 6)
    assert trainable_share(model, everything(model)) == 18 / 72
    told = [str(item) for item in decisions(model) if item.about == "frozen"]
    assert told[0].startswith("frozen: 48 numbers in node /einsum (Einsum) (einsum.weight: ")
    assert "frozen" in json.dumps([dataclasses.asdict(item) for item in decisions(model)])


@pytest.mark.parametrize("build_it", [tiny.conv_net, tiny.mlp, lambda: tiny.attention("four axes")])
def test_a_model_of_layers_alone_has_no_others(build_it):
    assert open_model(build_it()).frozen == ()


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("constant", [True, False])
def test_integers_divided_by_a_computed_zero_are_rejected(operator, constant):
    """ONNX Runtime ends the process, which cannot be caught."""
    values = {"two": np.array([2]), "fc": normal(6, 3)}
    nodes = [
        node("Sub", ["two", "two"], ["zero"], "/zero"),
        node("Shape", ["input"], ["shape"], "/shape"),
        node(operator, ["two" if constant else "shape", "zero"], ["divided"], "/divided"),
        node("Cast", ["divided"], ["real"], "/real", to=TensorProto.FLOAT),
        node("ReduceSum", ["real"], ["sum"], "/sum", keepdims=0),
        node("Gemm", ["input", "fc"], ["g"], "/fc"),
        node("Mul", ["g", "sum"], ["logits"], "/mul"),
    ]
    with pytest.raises(ModelError, match=rf"node '/divided' \({operator}\) divides integers by zero"):
        open_model(build(nodes, values, input_shape=("N", 6)))


# --- what is computed twice, moved about, or copied ----------------------------------------------------------


def two_products(nodes, values):
    """relu(x W) V, with the weights made by the nodes."""
    made = [
        *nodes,
        node("MatMul", ["input", "W"], ["h"], "/a"),
        node("Relu", ["h"], ["r"], "/relu"),
        node("MatMul", ["r", "V"], ["logits"], "/b"),
    ]
    return build(made, values, input_shape=("N", 6))


def gradient_of_tied(weight, x, labels, *, transposed):
    """Cross-entropy's of a weight that is used twice, by torch, float64."""
    torch = pytest.importorskip("torch")
    used = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    logits = torch.relu(torch.tensor(x, dtype=torch.float64) @ used) @ (used.T if transposed else used)
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    return used.grad.numpy()


@pytest.mark.parametrize("form", ["transposed", "computed twice"])
def test_a_computed_weight_that_is_used_twice_is_one_weight(form, backend, tmp_path):
    transposed = form == "transposed"
    second = node("Transpose", ["W"], ["V"], "/v") if transposed else node("Mul", ["v", "gain"], ["V"], "/v")
    values = {"v": normal(6, 6), "gain": np.float32(0.5)}
    model = open_model(two_products([node("Mul", ["v", "gain"], ["W"], "/w"), second], values))
    names = {parameter.name for layer in model.layers for parameter in layer.parameters}
    assert names == {"W"}
    assert not any("apart" in note for note in model.notes)
    assert any(item.about == ("tied" if transposed else "shared layer") for item in decisions(model))
    manifest = make_artifacts(model, everything(model), tmp_path / "a", backend=backend)
    session = manifest.session(manifest.initial, threads=1)
    x, labels = normal(5, 6, scale=1.0), np.arange(5) % 6
    session.gradients({"input": x}, labels)
    expected = gradient_of_tied(values["v"] * 0.5, x, labels, transposed=transposed)
    np.testing.assert_allclose(session.gradient("W"), expected, atol=1e-5 * np.abs(expected).max())


def test_what_is_computed_in_two_ways_from_one_weight_is_trained_apart_with_a_note():
    nodes = [node("Mul", ["v", "gain"], ["W"], "/w"), node("Div", ["v", "gain"], ["V"], "/v")]
    model = open_model(two_products(nodes, {"v": normal(6, 6), "gain": np.float32(0.5)}))
    assert [layer.name for layer in model.layers] == ["/a", "/b"]
    assert any("'W', 'V' are computed from 'v', which ties them" in note for note in model.notes)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (normal(6, 6).T.copy(), "holds the transposed numbers of 'W'"),
        (normal(6, 6), "holds the numbers of 'W'"),
        (2 * normal(6, 6), None),
        (normal(6, 6)[::-1].copy(), None),
    ],
)
def test_a_copy_of_a_matrix_is_named(other, said):
    """torch's exporters store the transpose of a tied embedding as a second tensor."""
    model = open_model(two_products([], {"W": normal(6, 6), "V": other}))
    found = [note for note in model.notes if "tied in the source model" in note]
    assert len(found) == (said is not None)
    assert said is None or f"'V' {said}" in found[0]


def test_matrices_that_are_equal_by_chance_are_not_named():
    model = open_model(two_products([], {"W": np.eye(6, dtype=np.float32), "V": np.eye(6, dtype=np.float32)}))
    assert not any("tied in the source" in note for note in model.notes)


@pytest.mark.parametrize(
    ("names", "scale", "found"),
    [
        (("/n/Constant_output_0", "/n/Constant_1_output_0"), 1, True),
        (("val_3", "val_7"), 1, True),
        (("n.weight", "n.bias"), 1, False),  # not trained yet
        (("/n/Constant_output_0", "/n/Constant_1_output_0"), 1.5, False),
    ],
)
def test_a_normalisation_without_scale_and_bias_of_its_own_is_named(names, scale, found):
    nodes = [
        node("MatMul", ["input", "W"], ["h"], "/a"),
        node("LayerNormalization", ["h", *names], ["n"], "/n"),
        node("MatMul", ["n", "V"], ["logits"], "/b"),
    ]
    values = {"W": normal(6, 5), "V": normal(5, 3), names[0]: np.full(5, scale, np.float32)}
    model = open_model(build(nodes, values | {names[1]: np.zeros(5, np.float32)}, input_shape=("N", 6)))
    assert any(item.about == "normalisation, maybe not learned" for item in decisions(model)) == found
