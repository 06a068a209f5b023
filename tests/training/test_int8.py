"""The frozen part in int8: training and export use the same weights, and a quantised file keeps its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import tiny
from models.tiny import node

import adabet_onnx
from adabet_onnx import (
    Adapting,
    Choices,
    Choosing,
    Data,
    ModelError,
    Plan,
    RuntimeMissingError,
    Scoring,
    Settings,
    Trainer,
    UsageError,
    adapt,
    compare,
    evaluate,
    export_model,
    make_artifacts,
    open_model,
    predict,
    quantiser,
    select,
)
from adabet_onnx.study.plan import keep_plan
from adabet_onnx.training import artifacts, selfcheck
from adabet_onnx.training.history import trained_checkpoint
from adabet_onnx.training.manifest import load_manifest
from adabet_onnx.training.precision import compare_precisions, precision_text
from adabet_onnx.training.samples import sample_feeds, sample_labels

pytestmark = pytest.mark.usefixtures("checked_here")

DEMO = Path(adabet_onnx.__file__).parent / "demo"
MODEL, DATA = DEMO / "digits.onnx", DEMO / "digits_shifted.npz"
INT8 = Choices(frozen_precision="int8")
QUICK = Settings(epochs=1, learning_rate=3e-3)


def operators(path: Path) -> list[str]:
    return [item.op_type for item in onnx.load(path, load_external_data=False).graph.node]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of artifacts in int8, checked and trained, and its manifest."""
    folder = tmp_path_factory.mktemp("int8") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "check_in_subprocess", lambda part: selfcheck.check(load_manifest(part)))
        selection = select(MODEL, strategy="last", rho=0.3)
        manifest = make_artifacts(MODEL, selection, folder, choices=INT8, calibrate=DATA)
    Trainer(folder).fit(DATA, settings=QUICK)
    return folder, manifest


def test_the_frozen_graph_is_quantised_and_the_rest_is_not(trained):
    folder, manifest = trained
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(operators(folder / "frozen.onnx"))
    for name in ("step.onnx", "grads.onnx", "eval.onnx", "update.onnx", "float.onnx"):
        assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators(folder / name)), name
    assert manifest.content["checked"]["outputs"] < 1e-4
    weights = [item for item in onnx.load(folder / "frozen.onnx").graph.initializer if len(item.dims) == 4]
    assert {item.data_type for item in weights} == {onnx.TensorProto.INT8}


def test_what_moves_is_said(trained):
    _, manifest = trained
    found = manifest.content["precision"]
    assert found["samples"] == 256
    assert not found["random"]
    assert 0 < found["mean"] < found["largest"] < 0.1
    assert found["same_class"] > 0.9
    [note] = [note for note in manifest.content["notes"] if "int8" in note]
    assert f"{found['largest']:.1%} at most" in note


def test_the_export_is_what_was_trained(trained, tmp_path, inference_python):
    folder, manifest = trained
    proto = export_model(folder, tmp_path / "adapted.onnx")
    assert {"QuantizeLinear", "BatchNormalization", "Relu"} <= {item.op_type for item in proto.graph.node}
    session = manifest.session(trained_checkpoint(manifest)[0])
    feeds = sample_feeds(manifest, 6)
    _, expected = session.evaluate(feeds, sample_labels(manifest, np.zeros((6, 10), np.float32)))
    np.save(tmp_path / "x.npy", feeds["input"])
    script = (
        "import sys, numpy as np, onnxruntime as ort; s = ort.InferenceSession(sys.argv[1]); "
        "np.save(sys.argv[3], s.run(None, {'input': np.load(sys.argv[2])})[0])"
    )
    paths = [tmp_path / "adapted.onnx", tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run([str(inference_python), "-c", script, *map(str, paths)], check=True)
    # Another release of the runtime may round a number to its neighbour.
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=0.05 * np.abs(expected).max())
    here = tiny.run(proto, feeds["input"], output="logits")
    np.testing.assert_allclose(here, expected, atol=1e-5 * np.abs(expected).max())


def test_the_file_says_what_the_folder_says(trained, tmp_path):
    folder, _ = trained
    export_model(folder, tmp_path / "adapted.onnx")
    export_model(folder, tmp_path / "float.onnx", full_precision=True)
    here, there, other = (evaluate(it, DATA) for it in (folder, tmp_path / "adapted.onnx", tmp_path / "float.onnx"))
    assert here == there
    assert other["loss"] != here["loss"]
    assert predict(folder, DATA)[0]["logits"] == predict(tmp_path / "adapted.onnx", DATA)[0]["logits"]
    assert (tmp_path / "adapted.onnx").stat().st_size < (tmp_path / "float.onnx").stat().st_size


def test_the_float_export_differs_by_what_is_said(trained, tmp_path):
    folder, _ = trained
    proto = export_model(folder, tmp_path / "float.onnx", full_precision=True)
    assert "QuantizeLinear" not in {item.op_type for item in proto.graph.node}
    found = compare_precisions(folder, DATA)
    plain = np.array([row["logits"] for row in predict(tmp_path / "float.onnx", DATA)])
    own = np.array([row["logits"] for row in predict(folder, DATA)])
    assert found["largest"] == pytest.approx(np.abs(own - plain).max() / np.abs(plain).max(), rel=1e-3)
    assert found["same_class"] == pytest.approx((own.argmax(1) == plain.argmax(1)).mean())
    assert found["full_accuracy"] == evaluate(tmp_path / "float.onnx", DATA)["accuracy"]
    assert f"accuracy {found['accuracy']:.1%}, in float32 {found['full_accuracy']:.1%}" in precision_text(found)


def test_an_exported_file_is_adapted_again_with_its_numbers(trained, tmp_path):
    folder, _ = trained
    export_model(folder, tmp_path / "adapted.onnx")
    again = open_model(tmp_path / "adapted.onnx")
    assert again.quantised is not None
    selection = select(again, strategy="head")
    manifest = make_artifacts(again, selection, tmp_path / "again", calibrate=DATA)
    assert any("keeps the file's quantised numbers" in note for note in manifest.content["notes"])
    assert "QuantizeLinear" in operators(tmp_path / "again" / "frozen.onnx")
    before = onnx.load(tmp_path / "adapted.onnx")
    kept = {item.name: onnx.numpy_helper.to_array(item) for item in before.graph.initializer}
    ours = {
        item.name: onnx.numpy_helper.to_array(item)
        for item in onnx.load(tmp_path / "again" / "frozen.onnx").graph.initializer
    }
    same = [name for name in ours if name in kept and kept[name].dtype == np.int8 and kept[name].ndim == 4]
    assert len(same) >= 5
    assert all(np.array_equal(ours[name], kept[name]) for name in same)
    Trainer(tmp_path / "again").fit(DATA, settings=QUICK)
    out = export_model(tmp_path / "again", tmp_path / "out.onnx")
    assert "QuantizeLinear" in {item.op_type for item in out.graph.node}
    assert evaluate(tmp_path / "again", DATA) == evaluate(tmp_path / "out.onnx", DATA)


@pytest.fixture(scope="module")
def whole():
    """The embedded model, all of it quantised."""
    x = (np.load(DATA)["x_train"][:64].reshape(-1, 1, 16, 16) / np.float32(255)).astype(np.float32)
    proto = open_model(MODEL).proto()
    return quantiser.quantised(proto, [{"input": x[i : i + 16]} for i in range(0, 64, 16)], "the model")


@pytest.mark.slow
def test_a_quantised_file_goes_in_and_comes_out_quantised(whole, tmp_path):
    opened = open_model(whole)
    for strategy, rho in (("head", None), ("last", 0.3)):
        folder = tmp_path / strategy
        selection = select(opened, strategy=strategy, rho=rho)
        manifest = make_artifacts(opened, selection, folder)
        assert manifest.content["precision"]["random"]
        Trainer(folder).fit(DATA, settings=QUICK)
        proto = export_model(folder, tmp_path / f"{strategy}.onnx")
        kinds = [item.op_type for item in proto.graph.node]
        assert 10 < kinds.count("QuantizeLinear") < 30
        trained = {item.name for item in proto.graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
        assert set(selection.parameters) <= trained


@pytest.mark.slow
def test_a_new_head_leaves_the_rest_quantised(whole, tmp_path):
    onnx.save(whole, tmp_path / "whole.onnx")
    how = Adapting(num_classes=10, choosing=Choosing(strategy="head"), settings=QUICK, measure=False)
    outcome = adapt(tmp_path / "whole.onnx", DATA, tmp_path / "out", adapting=how)
    assert "QuantizeLinear" in operators(tmp_path / "out" / "adapted.onnx")
    assert outcome.full_precision is not None
    assert outcome.after["accuracy"] == evaluate(tmp_path / "out" / "adapted.onnx", DATA)["accuracy"]


def test_a_quantised_file_may_be_trained_in_float32(whole, tmp_path):
    opened = open_model(whole)
    choices = Choices(frozen_precision="float32")
    manifest = make_artifacts(opened, select(opened, strategy="head"), tmp_path / "a", choices=choices)
    assert manifest.float_file is None
    assert "QuantizeLinear" not in operators(tmp_path / "a" / "frozen.onnx")


def test_predictions_are_those_of_the_quantised_file(whole):
    x = np.load(DATA)["x_test"][:5].reshape(-1, 1, 16, 16)
    rows = predict(whole, x.astype(np.float32) / 255, preset="none")
    expected = tiny.run(whole, x.astype(np.float32) / 255, output="logits")
    np.testing.assert_array_equal(np.array([row["logits"] for row in rows], np.float32), expected)


@pytest.mark.slow
def test_a_run_says_what_float32_reaches(tmp_path):
    how = Adapting(
        choosing=Choosing(strategy="last", rho=0.2),
        scoring=Scoring(samples=32, subset_size=16, subsets=8),
        choices=INT8,
        settings=QUICK,
        measure=False,
    )
    outcome = adapt(MODEL, DATA, tmp_path / "out", adapting=how)
    assert outcome.full_precision["accuracy"] == pytest.approx(outcome.after["accuracy"], abs=0.05)
    assert evaluate(tmp_path / "out" / "adapted.onnx", DATA)["loss"] == outcome.after["loss"]


@pytest.mark.slow
def test_a_comparison_trains_in_int8(tmp_path):
    plan = Plan(strategies=("head",), seeds=1, epochs=1, rates=(0.01,), train_samples=64, choices=INT8)
    found = compare(MODEL, DATA, tmp_path / "compared", plan)
    assert found.results[0].accuracy is not None
    written = json.loads((tmp_path / "compared" / "plan.json").read_text())
    assert written["choices"]["frozen_precision"] == "int8"


def test_a_comparison_of_an_older_release_goes_on(tmp_path):
    plan = Plan(strategies=("head",), seeds=1, epochs=1, rates=(0.01,), train_samples=64)
    keep_plan(tmp_path / "plan.json", plan, {})
    written = json.loads((tmp_path / "plan.json").read_text())
    del written["choices"]["frozen_precision"]
    (tmp_path / "plan.json").write_text(json.dumps(written))
    keep_plan(tmp_path / "plan.json", plan, {})
    with pytest.raises(UsageError, match="choices was"):
        keep_plan(tmp_path / "plan.json", replace(plan, choices=INT8), {})


def test_a_selection_with_nothing_frozen_is_said(tmp_path):
    manifest = make_artifacts(MODEL, select(MODEL, strategy="all"), tmp_path / "a", choices=INT8, calibrate=DATA)
    assert manifest.content["precision"] is None
    assert "nothing is frozen, so nothing is in int8" in manifest.content["notes"]


@pytest.mark.parametrize(
    ("choices", "given", "error", "said"),
    [
        ({}, {"calibrate": None}, UsageError, r"`frozen_precision='int8'` needs samples .* Give `calibrate`"),
        ({}, {"backend": "ort"}, UsageError, r"onnxruntime-training has no frozen part in int8.*`backend='portable'`"),
        ({"profile": "webgpu"}, {}, UsageError, "the profile webgpu has no QuantizeLinear"),
    ],
)
def test_what_cannot_be(tmp_path, choices, given, error, said):
    selection = select(MODEL, strategy="head")
    with pytest.raises(error, match=said):
        make_artifacts(
            MODEL,
            selection,
            tmp_path / "a",
            choices=Choices(frozen_precision="int8", **choices),
            **{"calibrate": DATA, **given},
        )
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_mask_does_not_take_the_range_of_attention(tmp_path, torch_oracle, rng):
    from models import architectures

    model = open_model(architectures.export("bert_masked"))
    ids, mask = rng.integers(0, 2, (2, 16, *model.inputs[0].shape[1:]))
    mask[:, 0] = 1
    data = Data(dict(zip([spec.name for spec in model.inputs], (ids, mask), strict=True)))
    manifest = make_artifacts(model, select(model, strategy="head"), tmp_path / "a", choices=INT8, calibrate=data)
    assert manifest.content["precision"]["mean"] < 0.05


def test_an_unknown_precision_is_named():
    with pytest.raises(
        UsageError, match="unknown precision of the frozen part 'int4': choose one of auto, float32, int8"
    ):
        Choices(frozen_precision="int4")


def test_a_quantiser_that_lacks_something_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(
        RuntimeMissingError, match=r"needs onnxruntime's quantiser.*cannot be imported.*pip install sympy"
    ):
        make_artifacts(MODEL, select(MODEL, strategy="head"), tmp_path / "a", choices=INT8, calibrate=DATA)


def test_what_the_quantiser_refuses_is_said():
    wrong = tiny.build(
        [node("MatMul", ["input", "w"], ["logits"], "/a")], {"w": tiny.normal(6, 3)}, input_shape=["N", 6]
    )
    with pytest.raises(ModelError, match=r"quantiser cannot handle the model: .*`frozen_precision='float32'`"):
        quantiser.quantised(wrong, [], "the model")


@pytest.mark.slow
def test_on_the_command_line(tmp_path, monkeypatch, capfd):
    command = command_of(monkeypatch, capfd)
    select(MODEL, strategy="head").save(tmp_path / "selection.json")
    words = ["artifacts", MODEL, tmp_path / "selection.json", "-o", tmp_path / "a", "--frozen-precision", "int8"]
    said = command(*words, code=2).err
    assert "--frozen-precision int8 needs samples of the training data" in said
    assert "Give --data" in said
    found = json.loads(command(*words, "--data", DATA, "--json").out)
    assert found["precision"]["samples"] == 256
    command("train", tmp_path / "a", DATA, "--epochs", "1", "-q")
    words = ["export", tmp_path / "a", "-o", tmp_path / "float.onnx", "--float", "--data", DATA]
    told = json.loads(command(*words, "--json").out)
    assert {"accuracy", "full_accuracy", "largest"} <= set(told["precision"])
    assert "in float32" in command(*words).out
    assert "QuantizeLinear" not in operators(tmp_path / "float.onnx")
