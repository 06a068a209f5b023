"""The pre-flight check: which layers can be trained, by which backend, and the obstacles."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from models import tiny
from onnx import helper

from adabet_onnx import CheckError, ModelError, UsageError, check_model, make_artifacts, open_model, score, select
from adabet_onnx.cli.main import main
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.record import load_scores
from adabet_onnx.selection.record import Selection, load_selection

node = helper.make_node


def chain(*middle, **constants):
    """Layers a, b and c, with nodes between b and c that take ``m`` and give ``n``."""
    nodes = [
        node("MatMul", ["input", "a.weight"], ["x"], "/a"),
        node("Tanh", ["x"], ["y"], "/tanh"),
        node("MatMul", ["y", "b.weight"], ["m"], "/b"),
        *middle,
        node("MatMul", ["n", "c.weight"], ["logits"], "/c"),
    ]
    weights = {f"{name}.weight": tiny.normal(6, width) for name, width in (("a", 6), ("b", 6), ("c", 3))}
    return tiny.build(nodes, weights | constants, input_shape=["N", 6])


def hardmax():
    return chain(node("Hardmax", ["m"], ["h"], "/hard"), node("Add", ["h", "m"], ["n"], "/sum"))


@pytest.fixture
def command(monkeypatch, capfd):
    """Run the command line in this process: exit code, output and messages."""

    def run(*arguments):
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return run


def test_all_layers_of_an_ordinary_network_train():
    found = check_model(tiny.conv_net())
    assert [layer.name for layer in found.layers] == [layer.name for layer in open_model(tiny.conv_net()).layers]
    assert all(layer.portable.trainable and layer.ort.trainable for layer in found.layers)
    assert all(layer.backend == "portable" for layer in found.layers)
    assert found.obstacles == ()
    assert found.untrainable == {}


def test_repairs_are_those_between_the_layer_and_the_loss():
    first, *_, last = check_model(tiny.conv_net()).layers
    assert any("BatchNormalization" in what and "2 nodes" in what for what in first.ort.repairs)
    assert first.portable.repairs == ()
    assert last.ort.repairs == ()


def test_layers_before_a_node_without_a_gradient_do_not_train():
    found = check_model(hardmax())
    assert [layer.trainable for layer in found.layers] == [False, False, True]
    obstacle = next(o for o in found.obstacles if o.backend == "portable")
    assert (obstacle.node, obstacle.op_type, obstacle.layer) == ("/hard", "Hardmax", "b")
    assert "has no gradient" in obstacle.reason
    assert "Select layers after it" in obstacle.remedy
    assert "/hard" in found.untrainable["a"]
    assert list(found.only({"c"}).untrainable) == []


def test_a_node_that_has_a_gradient_for_some_layers_alone():
    """The exponent of a Pow has a gradient here, but not in onnxruntime-training."""
    model = chain(
        node("Abs", ["y"], ["positive"], "/abs"),
        node("Add", ["positive", "d.bias"], ["base"], "/d"),
        node("Pow", ["base", "m"], ["n"], "/pow"),
        **{"d.bias": np.linspace(1, 2, 6, dtype=np.float32)},
    )
    verdicts = {layer.name: layer for layer in check_model(model).layers}
    assert all(layer.portable.trainable for layer in verdicts.values())
    assert verdicts["d"].ort.trainable
    assert not verdicts["b"].ort.trainable
    assert not verdicts["a"].ort.trainable


def test_what_the_logits_do_not_depend_on_smoothly_does_not_train():
    found = check_model(chain(node("Floor", ["m"], ["n"], "/floor")))
    assert [layer.trainable for layer in found.layers] == [False, False, True]
    assert "only in steps" in found.untrainable["a"]


def test_a_loss_that_a_backend_lacks_keeps_all_layers_from_it():
    nodes = [node("Conv", ["input", "a.weight"], ["logits"], "/a")]
    model = tiny.build(nodes, {"a.weight": tiny.normal(4, 3, 1, 1)}, output_shape=["N", 4, 8, 8])
    found = check_model(model)
    assert "per pixel" in found.refused["ort"]
    assert found.layers[0].portable.trainable
    assert not found.layers[0].ort.trainable
    assert check_model(model, loss="mse").layers[0].ort.trainable
    with pytest.raises(UsageError, match="unknown loss"):
        check_model(model, loss="hinge")


def test_a_parameter_name_that_onnxruntime_training_uses():
    model = tiny.conv_net()
    for tensor in model.graph.initializer:
        if tensor.name == "fc.weight":
            tensor.name = "fc_grad"
    for made in model.graph.node:
        made.input[:] = ["fc_grad" if name == "fc.weight" else name for name in made.input]
    head = check_model(model).layers[-1]
    assert head.portable.trainable
    assert "'fc_grad'" in head.ort.reason


def test_the_command(command, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(hardmax(), path)
    code, out, err = command("check", path)
    assert code == 1
    assert "1 of 3 layers can be trained" in out
    assert "node '/hard' (Hardmax), in layer 'b', has no gradient here" in out
    assert "no backend can train 2 of 3 layers" in err
    code, out, err = command("check", path, "--layers", "c", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert (content["format"], content["version"]) == ("adabet-onnx/check", 1)
    [layer] = content["layers"]
    assert (layer["name"], layer["trainable"], layer["backend"]) == ("c", True, "portable")
    assert {entry["node"] for entry in content["nodes"]} == {"/hard"}
    code, _, err = command("check", path, "--layers", "nothing*")
    assert code == 2
    assert "no layer matches" in err


@pytest.fixture(scope="module")
def scores():
    model = open_model(hardmax())
    return model, score(
        model, np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32), scoring=Scoring(samples=40)
    )


def test_scores_say_what_cannot_be_trained(scores, tmp_path):
    _, found = scores
    assert [layer.untrainable is None for layer in found.layers] == [False, False, True]
    assert any("2 layers cannot be trained" in note for note in found.notes)
    found.save(tmp_path / "scores.json")
    assert load_scores(tmp_path / "scores.json") == found
    content = json.loads((tmp_path / "scores.json").read_text())
    for layer in content["layers"]:
        del layer["untrainable"]  # as in a file of an older version
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert all(layer.untrainable is None for layer in load_scores(tmp_path / "scores.json").layers)


def test_select_leaves_out_what_cannot_be_trained(scores, tmp_path):
    model, found = scores
    for settings in ({"strategy": "all"}, {"strategy": "first"}, {"rho": 1.0}, {"layers": ["*"]}):
        chosen = select(found, **settings)
        assert chosen.layers == ("c",)
        assert set(chosen.left_out) == {"a", "b"}
        named = "without 2 that cannot be trained" if "layers" in settings else "only 1 of the 3 layers can be trained"
        assert named in chosen.why
    assert select(found, rho=1.0).why.startswith("1 of 3 layers with the highest")
    assert select(found, rho=1.0).why.endswith("; only 1 of the 3 layers can be trained, and 3 were requested")
    assert select(found, strategy="first").why == "the first 1 of 3 layers; only 1 of the 3 layers can be trained"
    chosen.save(tmp_path / "selection.json")
    assert load_selection(tmp_path / "selection.json") == chosen
    assert make_artifacts(model, chosen, tmp_path / "a", backend="portable", check=False).parameters == ["c.weight"]
    assert select(found, layers=["c"]).left_out == {}
    with pytest.raises(UsageError, match="matches cannot be trained"):
        select(found, layers=["a"])


def selection(model, *names):
    layers = [model.layer(name) for name in names]
    parameters = tuple(parameter.name for layer in layers for parameter in layer.parameters)
    return Selection(model.sha256, "layers", names, parameters)


def test_ort_refuses_with_the_node_and_the_layer(tmp_path, training):
    model = open_model(chain(node("Softsign", ["m"], ["n"], "/odd")))
    with pytest.raises(ModelError, match=r"node '/odd' \(Softsign\), in layer 'b', has no gradient in onnxruntime-tr"):
        make_artifacts(model, selection(model, "a"), tmp_path / "a", backend="ort")
    assert not (tmp_path / "a").exists()
    assert make_artifacts(model, selection(model, "c"), tmp_path / "c", backend="ort").backend == "ort"


def test_auto_takes_the_backend_that_trains_the_selection(tmp_path, monkeypatch, training):
    """There is no operator that only onnxruntime-training differentiates, so a rule is removed."""
    from adabet_onnx.portable.rules import registry

    model = open_model(chain(node("Erf", ["m"], ["n"], "/erf")))
    chosen = selection(model, "a")
    assert make_artifacts(model, chosen, tmp_path / "a", check=False).backend == "portable"
    monkeypatch.delitem(registry._RULES, "Erf")
    assert check_model(model).layers[0].backend == "ort"
    assert make_artifacts(model, chosen, tmp_path / "b", check=False).backend == "ort"
    assert make_artifacts(model, selection(model, "c"), tmp_path / "c", check=False).backend == "portable"
    with pytest.raises(ModelError, match="/erf"):
        make_artifacts(model, chosen, tmp_path / "d", backend="portable")


def test_a_crash_of_the_runtime_is_an_error(tmp_path, monkeypatch, training):
    """The gradient of AveragePool with a dynamic batch kills the process if it is not rewritten."""
    from adabet_onnx.model import prepare

    class Nothing:
        def __init__(self, shapes):
            pass

        def __call__(self, graph):
            pass

    monkeypatch.setattr(prepare, "AveragePoolToConv", Nothing)
    monkeypatch.setattr("adabet_onnx.training.artifacts.obstacles_to", lambda prepared, backend: None)
    nodes = [
        node("Conv", ["input", "a.weight"], ["x"], "/a"),
        node("AveragePool", ["x"], ["y"], "/pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["y"], ["f"], "/flat"),
        node("MatMul", ["f", "b.weight"], ["logits"], "/b"),
    ]
    model = open_model(tiny.build(nodes, {"a.weight": tiny.normal(4, 3, 1, 1), "b.weight": tiny.normal(64, 3)}))
    with pytest.raises(CheckError, match=r"killed its process \(signal \d+\)"):
        make_artifacts(model, selection(model, "a"), tmp_path / "a", backend="ort")
    assert not (tmp_path / "a").exists()
