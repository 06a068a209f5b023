"""Values that graphs inside nodes read: Ifs with a constant condition are inlined, other nodes named as obstacles."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import branching, tiny
from models.tiny import normal

from adabet_onnx import ModelError, check_model, make_artifacts, open_model, score
from adabet_onnx.model import uses
from adabet_onnx.model.passes.unused import RemoveUnused
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.record import Selection

pytestmark = pytest.mark.usefixtures("checked_here")

KINDS = {"whole": branching.whole, "partly": branching.partly}
LEFT = {
    "If whole": lambda: branching.whole("input"),
    "If partly": lambda: branching.partly("input"),
    "If of the batch": lambda: branching.whole("batch"),
    "Loop": branching.loop,
    "Scan": branching.scan,
}


@pytest.fixture(params=["portable", "ort"])
def backend(request):
    if request.param == "ort":
        request.getfixturevalue("training")
    return request.param


def selecting(model, *layers) -> Selection:
    names = [parameter.name for name in layers for parameter in model.layer(name).parameters]
    return Selection(model.sha256, "layers", layers, tuple(names))


def x(count=6) -> np.ndarray:
    return normal(count, 8, scale=1.0)


def operators(model) -> list[str]:
    return [node.op_type for node in model.graph.graph]


# --- inlining ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["constant", "computed", "shape"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_decided_if_gives_way_and_trains_rightly(kind, condition, backend, tmp_path, torch_oracle):
    operator = "Softplus" if kind == "partly" and backend == "portable" else "Sigmoid"  # the other has no Softplus
    proto = KINDS[kind](condition, operator)
    model = open_model(proto)
    assert "If" not in operators(model)
    assert any("'/if'" in note and "constant condition" in note for note in model.notes)
    assert [layer.name for layer in model.layers] == ["a", "fc"]
    np.testing.assert_allclose(tiny.run(model.proto(), x()), tiny.run(proto, x()), rtol=1e-6)
    manifest = make_artifacts(model, selecting(model, "a", "fc"), tmp_path / "a", backend=backend)
    session = manifest.session(manifest.initial, threads=1)
    labels = np.arange(6) % 3
    loss, _ = session.gradients({"input": x()}, labels)
    expected_loss, expected = torch_oracle.gradients(
        branching.plain(kind, operator), {"input": x()}, labels, manifest.parameters
    )
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name in manifest.parameters:
        assert np.abs(session.gradient(name) - expected[name]).max() <= 1e-4 * np.abs(expected[name]).max(), name


@pytest.mark.parametrize("build", [branching.nested, branching.passing_on])
def test_ifs_in_ifs_and_what_branches_pass_on(build):
    proto = build()
    model = open_model(proto)
    assert "If" not in operators(model)
    np.testing.assert_allclose(tiny.run(model.proto(), x()), tiny.run(proto, x()), rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(model.proto(), full_check=True)


def test_weights_of_branches_are_layers_with_names_of_their_own():
    model = open_model(branching.nested())
    assert [layer.op_type for layer in model.layers] == ["MatMul"] * 4
    assert len({layer.name for layer in model.layers}) == 4
    assert len({parameter.name for layer in model.layers for parameter in layer.parameters}) == 5
    assert all(layer.portable.trainable for layer in check_model(model).layers)
    assert model.frozen == ()


# --- what remains --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LEFT)
def test_a_node_with_a_graph_inside_is_the_named_obstacle(kind, backend, tmp_path):
    model = open_model(LEFT[kind]())
    operator = kind.split()[0]
    name = f"/{operator.lower()}"
    assert [layer.name for layer in model.layers] == ["a", "fc"]
    before, after = check_model(model).layers
    verdict = {"portable": before.portable, "ort": before.ort}[backend]
    assert not verdict.trainable
    assert f"node '{name}' ({operator})" in verdict.reason
    assert after.portable.trainable
    assert not after.ort.trainable  # it ends the process, whichever layers are trained
    for check in (True, False):
        with pytest.raises(ModelError, match=rf"node '{name}' \({operator}\).*contains a subgraph"):
            make_artifacts(model, selecting(model, "a"), tmp_path / "a", backend=backend, check=check)


@pytest.mark.parametrize("kind", LEFT)
def test_the_layer_after_it_trains_rightly(kind, tmp_path):
    proto = LEFT[kind]()
    model = open_model(proto)
    manifest = make_artifacts(model, selecting(model, "fc"), tmp_path / "a")
    assert manifest.backend == "portable"
    session = manifest.session(manifest.initial, threads=1)
    labels = np.arange(6) % 3
    _, logits = session.gradients({"input": x()}, labels)
    np.testing.assert_allclose(logits, tiny.run(proto, x()), rtol=1e-5, atol=1e-6)
    z = tiny.run(proto, x(), output="z").astype(np.float64)
    scores = z @ branching.WEIGHTS["fc.weight"] + branching.WEIGHTS["fc.bias"]
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(3)[labels]
    np.testing.assert_allclose(session.gradient("fc.weight"), z.T @ share / 6, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(session.gradient("fc.bias"), share.mean(0), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_they_are_scored():
    scores = score(open_model(branching.partly("input")), x(64), scoring=Scoring(samples=32, subset_size=16, subsets=2))
    assert [layer.name for layer in scores.layers] == ["a", "fc"]


def test_a_weight_that_only_a_graph_inside_reads_is_frozen():
    model = open_model(branching.loop())
    assert [(item.node, item.op_type, item.count) for item in model.frozen] == [("/loop", "Loop", 256)]
    assert model.weight_count == model.parameter_count + 256


def test_a_convolution_that_only_an_if_reads(tmp_path):
    """onnxruntime 1.19.2 aborts when it fuses a convolution with its successor while an If captures it."""
    proto = tiny.build(
        [
            tiny.node("Conv", ["input", "c.weight"], ["h"], "/c"),
            *branching.CONDITIONS["input"][0],
            tiny.node(
                "If",
                ["flag"],
                ["z"],
                "/if",
                then_branch=branching.step("Relu", "t"),
                else_branch=branching.step("Neg", "e"),
            ),
            tiny.node("GlobalAveragePool", ["z"], ["p"], "/pool"),
            tiny.node("Flatten", ["p"], ["q"], "/flatten"),
            tiny.node("Gemm", ["q", "fc"], ["logits"], "/fc"),
        ],
        {"c.weight": normal(6, 3, 3, 3), "fc": normal(6, 3), **branching.CONDITIONS["input"][1]},
    )
    images = normal(4, 3, 8, 8, scale=1.0)
    model = open_model(proto)
    assert score(model, np.tile(images, (8, 1, 1, 1)), scoring=Scoring(samples=32, subset_size=16, subsets=2)).layers
    manifest = make_artifacts(model, selecting(model, "/fc"), tmp_path / "a", backend="portable")
    assert np.isfinite(manifest.session(manifest.initial).evaluate({"input": images}, np.arange(4) % 3)[0])


def test_a_weight_that_a_loop_reads_too_is_named(tmp_path):
    proto = branching.loop()
    proto.graph.node[2].input[0] = "e"
    proto.graph.node.insert(2, onnx.helper.make_node("MatMul", ["z", "w"], ["e"], "/again"))  # after the loop
    model = open_model(proto)
    with pytest.raises(ModelError, match=r"It reads 'w' itself, which is to be trained\. .* \(the last are fc\)\."):
        make_artifacts(model, selecting(model, "/again"), tmp_path / "a")
    assert make_artifacts(model, selecting(model, "fc"), tmp_path / "b").parameters


# --- what is read --------------------------------------------------------------------------------------------


def test_what_a_node_reads_and_who_reads_a_value():
    graph = ir.from_proto(branching.loop()).graph
    nodes = {node.name: node for node in graph}
    read = [value.name for value in uses.reads(nodes["/loop"]) if value is not None]
    assert read == ["trips", "true", "h", "h", "w"]
    assert [value.name for value in uses.captured(nodes["/fc"])] == []
    h = nodes["/a"].outputs[0]
    assert [node.name for node in uses.users(h, graph)] == ["/loop"]
    assert [node.name for node in uses.users(graph.initializers["w"], graph)] == ["/loop"]
    assert uses.ancestors(graph.outputs) == set(nodes.values())
    made = {value.name for value in uses.dependents(graph, [graph.initializers["w"]])}
    assert made == {"w", "z", "m", "logits"}


def test_a_node_that_goes_takes_with_it_what_its_graph_read():
    model = ir.from_proto(branching.loop())
    z = next(node for node in model.graph if node.name == "/fc").inputs[0]
    z.replace_all_uses_with(model.graph.initializers["a.weight"])
    RemoveUnused()(model)
    assert [node.name for node in model.graph] == ["/fc", "/fc/add"]
    assert "w" not in model.graph.initializers
