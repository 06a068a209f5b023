"""Layers that are applied several times, tensors that an exporter merged, and tensors that layers tie."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import shared_layers, tiny
from onnx import helper, numpy_helper

from adabet_onnx import ModelError, check_model, export_model, make_artifacts, open_model
from adabet_onnx.model.applications import is_matrix
from adabet_onnx.model.channels import channels_of
from adabet_onnx.model.head import new_head
from adabet_onnx.model.open import Model
from adabet_onnx.model.passes.unshare import consumers
from adabet_onnx.model.prepare import trainable_graph
from adabet_onnx.model.sharing import sharings_of
from adabet_onnx.scoring.probes import add_probes
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.trainability.decisions import decisions

MADE = {
    "Gemm": shared_layers.siamese(),
    "MatMul and Add": shared_layers.siamese(bias="Add"),
    "no bias": shared_layers.siamese(bias="none"),
    **{
        f"{kind} {'before' if before else 'after'}": shared_layers.siamese(norm=kind, before=before)
        for kind in ("BatchNormalization", "LayerNormalization", "PRelu", "Mul")
        for before in (False, True)
    },
    "by Identity": shared_layers.by_identity(shared_layers.siamese(norm="LayerNormalization")),
    "LSTM": shared_layers.siamese_lstm(),
    "unrolled": shared_layers.unrolled(),
    "unrolled, inputs at once": shared_layers.unrolled(at_once=True),
    "unrolled with a norm": shared_layers.unrolled(at_once=True, norm=True),
    "repeated blocks": shared_layers.repeated(),
    "two dilations": shared_layers.two_scales(),
    "bias once": shared_layers.bias_once(),
    "merged norms": shared_layers.norms_merged(),
    "embedding and head": shared_layers.embedding_and_head(),
    "transposed": shared_layers.tied_dense(),
    "two biases": shared_layers.two_biases(),
}
# For each, how often its layers are applied, and which parameters several nodes use.
NORM = {"f": 2, "/h_a": 2, "/fc": 1, "out": 1, "norm": 2}
TWICE = {"f.weight": "shared", "f.bias": "shared", "h.weight": "shared", "zero": "merged"}
EXPECTED = {
    "Gemm": ({"f": 2, "/h_a": 2, "/fc": 1, "out": 1}, TWICE),
    "MatMul and Add": ({"f": 2, "/h_a": 2, "/fc": 1, "out": 1}, TWICE),
    "no bias": (
        {"f": 2, "/h_a": 2, "/fc": 1, "out": 1},
        {"f.weight": "shared", "h.weight": "shared", "zero": "merged"},
    ),
    **{
        f"{kind} {where}": (NORM, TWICE | {"norm.weight": "shared", "norm.bias": "shared"})
        for kind in ("BatchNormalization", "LayerNormalization", "Mul")
        for where in ("before", "after")
    },
    **{f"PRelu {where}": (NORM, TWICE | {"norm.weight": "shared"}) for where in ("before", "after")},
    "by Identity": (NORM, TWICE | {"norm.weight": "shared", "norm.bias": "shared"}),
    "LSTM": ({"lstm": 2, "fc": 1}, {f"lstm.{key}": "shared" for key in "wrb"}),
    "unrolled": (
        {"/start": 1, "w": 4, "u": 4, "/bias0": 4, "fc": 1},
        {"w.weight": "shared", "u.weight": "shared", "b": "shared"},
    ),
    "unrolled, inputs at once": ({"w": 1, "u": 4, "/bias0": 4, "fc": 1}, {"u.weight": "shared", "b": "shared"}),
    "unrolled with a norm": (
        {"w": 1, "u": 4, "/bias0": 4, "norm": 4, "fc": 1},
        dict.fromkeys(("u.weight", "b", "norm.weight", "norm.bias"), "shared"),
    ),
    "repeated blocks": (
        {"in": 1, "one": 3, "norm_one": 3, "two": 3, "norm_two": 3, "fc": 1},
        {f"{key}.{end}": "shared" for key in ("one", "two", "norm_one", "norm_two") for end in ("weight", "bias")},
    ),
    "two dilations": ({"c": 2, "fc": 1}, {"c.weight": "shared", "c.bias": "shared"}),
    "bias once": ({"/first": 2, "/add": 1, "fc": 1}, {"w.weight": "shared"}),
    "merged norms": ({"a": 1, "/n1": 1, "b": 1, "/n2": 1, "fc": 1}, {"one": "merged", "zero": "merged"}),
    "embedding and head": ({"/embed": 1, "/out": 1}, {"tokens.weight": "tied"}),
    "transposed": ({"/first": 1, "/second": 1, "fc": 1}, {"w.weight": "tied", "w.bias": "tied"}),
    "two biases": ({"/first": 1, "/second": 1, "fc": 1}, {"w.weight": "tied"}),
}
# A scale and shift of the input itself is preprocessing.
EXPECTED["Mul before"] = ({"f": 2, "/h_a": 2, "/fc": 1, "out": 1}, TWICE)


def everything(model: Model) -> Selection:
    return selecting(model, *(layer.name for layer in model.layers))


def selecting(model: Model, *layers: str) -> Selection:
    names = dict.fromkeys(p.name for name in layers for p in model.layer(name).parameters)
    return Selection(model.sha256, "layers", tuple(layers), tuple(names))


def batch(model: Model, size: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        spec.name: rng.integers(0, 11, (size, *spec.shape[1:]))
        if spec.dtype == "int64"
        else rng.standard_normal((size, *map(int, spec.shape[1:]))).astype(np.float32)
        for spec in model.inputs
    }


@pytest.mark.parametrize("name", MADE)
def test_layers_and_what_their_tensors_are(name: str) -> None:
    model = open_model(MADE[name])
    applied, sharing = EXPECTED[name]
    assert {layer.name: layer.applied for layer in model.layers} == applied
    names = {parameter.name for layer in model.layers for parameter in layer.parameters}
    assert sharings_of(model.layers) == sharing
    sizes = {i.name: int(np.prod(i.dims)) for i in MADE[name].graph.initializer}
    assert model.parameter_count == sum(sizes[name] for name in names)
    order = [node.name for node in model.graph.graph]
    for layer in model.layers:
        assert len(set(layer.nodes)) == layer.applied
        assert [order.index(node) for node in layer.nodes] == sorted(order.index(node) for node in layer.nodes)
        assert all(len(parameter.uses) == layer.applied for parameter in layer.parameters)


# Each form once with each backend, and all that a vector can be with the one that has rules of its own for it.
TRAINED = [
    *[("portable", name) for name in MADE if name not in ("no bias", "Mul before", "unrolled, inputs at once")],
    *[("ort", name) for name in ("Gemm", "LayerNormalization after", "BatchNormalization before", "by Identity")],
    *[("ort", name) for name in ("unrolled with a norm", "repeated blocks", "two dilations", "transposed")],
]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "name"), TRAINED)
def test_gradients_equal_torch_and_the_tensors_stay_shared(
    name, backend, tmp_path, torch_oracle, checked_here, request
):
    if backend == "ort":
        request.getfixturevalue("training")
    model = open_model(MADE[name])
    selection = everything(model)
    manifest = make_artifacts(model, selection, tmp_path / "a", backend=backend, choices=Choices(optimizer="sgd"))
    merged = {key for key, kind in EXPECTED[name][1].items() if kind == "merged"}
    apart = [key for key in manifest.parameters if "/" in key]
    assert {key.split("/")[0] for key in apart} == merged
    assert set(manifest.parameters) - set(apart) == set(selection.parameters)

    session = manifest.session(manifest.initial)
    feeds = batch(model)
    labels = np.arange(6) % 2
    session.gradients({manifest_name: feeds[own] for own, manifest_name in manifest.feed_names}, labels)
    original = onnx.load(manifest.file("model"))
    _, expected = torch_oracle.gradients(original, feeds, labels, manifest.parameters, logits=model.logits)
    for key in manifest.parameters:
        np.testing.assert_allclose(session.gradient(key), expected[key], rtol=2e-4, atol=2e-6, err_msg=key)
    session.update(0.1)
    trained = {key: session.parameter(key) for key in manifest.parameters}
    for initializer in original.graph.initializer:
        if initializer.name in trained:
            before = numpy_helper.to_array(initializer)
            step = before - 0.1 * expected[initializer.name]
            np.testing.assert_allclose(trained[initializer.name], step, rtol=1e-4, atol=1e-5)
    adapted = export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    users: dict[str, set[str]] = {}
    for item in adapted.graph.node:
        for key in item.input:
            users.setdefault(key, set()).add(item.name)
    given: dict[str, set[str]] = {}
    for item in MADE[name].graph.node:
        for key in item.input:
            given.setdefault(key, set()).add(item.name)
    for key, kind in EXPECTED[name][1].items():  # under their own names, as in the given file
        if kind == "shared":
            assert users[key] == given[key]


@pytest.mark.parametrize("backend", ["portable", "ort"])
@pytest.mark.parametrize("selected", [("f",), ("norm", "f"), ("f", "/h_a", "/fc", "out", "norm")], ids="+".join)
def test_a_siamese_network_stays_symmetric(backend, selected, tmp_path, checked_here, request):
    """|f(a) - f(b)| is the same for (b, a), and f(a, a) for all a, whatever is trained."""
    if backend == "ort":
        request.getfixturevalue("training")
    model = open_model(shared_layers.siamese(norm="BatchNormalization"))
    manifest = make_artifacts(
        model, selecting(model, *selected), tmp_path / "a", backend=backend, choices=Choices(optimizer="sgd")
    )
    session = manifest.session(manifest.initial)
    feeds = batch(model, 16)
    for _ in range(5):
        session.step(feeds, np.arange(16) % 2, 0.3)
    graph = onnx.load(manifest.file("model"))
    for initializer in graph.graph.initializer:
        if initializer.name in manifest.parameters:
            initializer.CopyFrom(numpy_helper.from_array(session.parameter(initializer.name), initializer.name))
    one, other = tiny.run(graph, feeds["a"], feeds["b"]), tiny.run(graph, feeds["b"], feeds["a"])
    np.testing.assert_allclose(one, other, atol=1e-6)
    same = tiny.run(graph, feeds["a"], feeds["a"])
    assert np.ptp(same, axis=0).max() < 1e-6
    assert np.abs(one - tiny.run(shared_layers.siamese(norm="BatchNormalization"), feeds["a"], feeds["b"])).max() > 1e-3


def test_a_merged_vector_is_given_to_each_layer_once() -> None:
    """The applications of h keep one copy of ``zero`` in common; fc has its own."""
    model = open_model(shared_layers.siamese())
    made = trainable_graph(model, selecting(model, "/fc"), backend="portable")
    assert made.trainable == ("fc.weight", "zero//fc/2")
    users = {n.name for n, _ in consumers(made.original.graph.initializers["zero"])}
    assert users == {"/h_a", "/h_b"}
    made = trainable_graph(model, selecting(model, "/h_a"), backend="portable")
    assert made.trainable == ("h.weight", "zero")


def test_slopes_of_equal_values_are_merged_whatever_their_axes() -> None:
    """Two PRelus of one network with their initial slopes, (4, 1, 1), which the exporter stored once."""
    nodes = [
        tiny.node("Conv", ["input", "a.weight"], ["a"], "/a"),
        tiny.node("PRelu", ["a", "slope"], ["b"], "/p1"),
        tiny.node("Conv", ["b", "b.weight"], ["c"], "/b"),
        tiny.node("PRelu", ["c", "slope"], ["d"], "/p2"),
        tiny.node("GlobalAveragePool", ["d"], ["e"], "/pool"),
        tiny.node("Flatten", ["e"], ["f"], "/flat"),
        tiny.node("MatMul", ["f", "fc.weight"], ["logits"], "/fc"),
    ]
    values = {"a.weight": tiny.normal(4, 3, 1, 1), "b.weight": tiny.normal(4, 4, 1, 1), "fc.weight": tiny.normal(4, 2)}
    values["slope"] = np.full((4, 1, 1), 0.25, np.float32)
    model = open_model(tiny.build(nodes, values, input_shape=("N", 3, 5, 5)))
    assert sharings_of(model.layers)["slope"] == "merged"
    assert trainable_graph(model, selecting(model, "/p2"), backend="portable").trainable == ("slope//p2/1",)
    assert trainable_graph(model, selecting(model, "/p1"), backend="portable").trainable == ("slope",)


def test_the_activation_is_that_of_the_last_application() -> None:
    model = open_model(shared_layers.unrolled(at_once=True))
    probed, names = add_probes(model, "activations")
    x = batch(model)["input"]
    values = {i.name: numpy_helper.to_array(i) for i in shared_layers.unrolled(at_once=True).graph.initializer}
    h = np.zeros((6, 6))
    for t in range(4):
        u = h @ values["u.weight"]
        h = np.tanh(x[:, t] @ values["w.weight"] + u + values["b"])
    np.testing.assert_allclose(tiny.run(probed, x, output=names["u"]), u, rtol=1e-4, atol=1e-5)
    assert model.layer("u").activation_size == 6


def test_an_obstacle_of_one_application_is_one_of_the_layer() -> None:
    """One of the branches is followed by a node without a gradient."""
    proto = shared_layers.siamese()
    tanh = next(item for item in proto.graph.node if item.name == "/tanh_a")
    tanh.op_type = "Mod"
    tanh.input.append("a/f")
    tanh.attribute.append(helper.make_attribute("fmod", 1))
    found = {layer.name: layer for layer in check_model(proto).layers}
    assert not found["f"].ort.trainable
    assert "/tanh_a" in (found["f"].ort.reason or "")
    assert found["/h_a"].ort.trainable


def test_a_normalisation_by_the_batch_that_is_applied_twice_is_refused(tmp_path) -> None:
    model = open_model(shared_layers.siamese(norm="BatchNormalization"))
    with pytest.raises(ModelError, match=r"applied several times.*`batch_norm='frozen'`"):
        make_artifacts(
            model, everything(model), tmp_path / "a", backend="portable", choices=Choices(batch_norm="batch")
        )


def test_a_layer_that_is_applied_twice_has_no_channels_of_its_own() -> None:
    model = open_model(shared_layers.two_scales())
    assert set(channels_of(model)) == {"fc"}


def test_decisions_name_shared_tied_and_merged() -> None:
    asked = ("shared layer", "tied", "merged by the exporter")
    about = {
        name: [(d.about, d.taken_for) for d in decisions(open_model(MADE[name])) if d.about in asked] for name in MADE
    }
    assert about["Gemm"] == [
        ("shared layer", "f"),
        ("shared layer", "/h_a"),
        ("merged by the exporter", "1 vector"),
    ]
    assert about["embedding and head"] == [("tied", "tokens.weight")]
    assert about["transposed"] == [("tied", "w.weight"), ("tied", "w.bias")]
    assert about["merged norms"] == [("merged by the exporter", "2 vectors")]


@pytest.mark.parametrize(
    ("op_type", "position", "shape", "expected"),
    [
        ("Gemm", 1, (4, 5), True),
        ("MatMul", 0, (1, 4), True),
        ("Conv", 1, (1, 4, 1, 1), True),
        ("Gather", 0, (9, 4), True),
        ("LSTM", 1, (1, 8, 3), True),
        ("Add", 1, (1, 7, 5), True),  # a table of positions
        ("Gemm", 2, (1, 5), False),
        ("Conv", 2, (5,), False),
        ("PRelu", 1, (5, 1, 1), False),
        ("Add", 0, (5, 1, 1), False),
        ("LayerNormalization", 1, (5,), False),
    ],
)
def test_what_is_a_matrix(op_type: str, position: int, shape: tuple[int, ...], expected: bool) -> None:
    assert is_matrix(op_type, position, shape) == expected


# --- a new head where the head is shared ---------------------------------------------------------------------


def parallel_heads() -> onnx.ModelProto:
    """The last layer is applied to both branches, whose results are added."""
    proto = shared_layers.siamese()
    del proto.graph.node[-5:]
    proto.graph.node.append(helper.make_node("Add", ["a/h", "b/h"], ["logits"], "/sum"))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    keep = {key for item in proto.graph.node for key in item.input}
    for initializer in [i for i in proto.graph.initializer if i.name not in keep]:
        proto.graph.initializer.remove(initializer)
    return proto


def test_all_applications_of_a_head_get_the_new_one() -> None:
    made = new_head(open_model(parallel_heads()), 3)
    assert made.head is not None
    assert made.head.applied == 2
    feeds = batch(made)
    one, other = (tiny.run(made.graph, feeds[x], feeds[y]) for x, y in ("ab", "ba"))
    assert one.shape == (6, 3)
    np.testing.assert_allclose(one, other, atol=1e-6)
