"""Inputs that are not data: bound to values, recorded, rejected if they differ, and restored on export."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from models import settings, tiny
from models.settings import BOOL
from models.tiny import node, normal
from safetensors.numpy import save_file

from adabet_onnx import ModelError, RecordError, UsageError, export_model, make_artifacts, open_model, score, select
from adabet_onnx.cli.main import main
from adabet_onnx.cost.scored import scored_model
from adabet_onnx.model.bindings import binding_mismatch
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.record import load_scores
from adabet_onnx.selection.options import Choosing
from adabet_onnx.selection.record import load_selection
from adabet_onnx.trainability.decisions import decisions


def run(proto: onnx.ModelProto, feeds, output: str = "logits"):
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return session.run([output], feeds)[0]


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command in this process; returns its output."""

    def command(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        return printed.out + printed.err

    return command


@pytest.fixture
def x(rng):
    return rng.standard_normal((5, 8)).astype(np.float32)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_number_decides_an_if(rate, x):
    proto = settings.two_rates()
    model = open_model(proto, bind={"sr": rate})
    assert [spec.name for spec in model.inputs] == ["x"]
    assert all(item.op_type != "If" for item in model.graph.graph)
    found = run(model.proto(), {"x": x})
    np.testing.assert_allclose(found, run(proto, {"x": x, "sr": np.array(rate)}), rtol=1e-5, atol=1e-6)
    assert f"input 'sr' was bound to {rate}" in model.notes
    assert f"input sr: bound to {rate} (it is not data" in " ".join(map(str, decisions(model)))


def test_another_value_is_another_model():
    proto = settings.two_rates()
    digests = {open_model(proto, bind={"sr": rate}).sha256 for rate in (8000, 16000, 16000)}
    assert len(digests) == 2


def test_the_message_of_a_setting_leads_on(call, tmp_path, x):
    onnx.save(settings.two_rates(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"input 'sr' has no shape .*`open_model\('.*', bind=\{'sr': 16000\}\)`"):
        open_model(tmp_path / "m.onnx")
    call("import", tmp_path / "m.onnx", "-o", tmp_path / "bound.onnx", "--input", "sr=16000")
    found = run(onnx.load(tmp_path / "bound.onnx"), {"x": x})
    np.testing.assert_allclose(found, run(settings.two_rates(), {"x": x, "sr": np.array(16000)}), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_every_step_remembers(call, tmp_path, rng):
    path, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    onnx.save(settings.two_rates(), path)
    np.savez(data, x=rng.standard_normal((40, 8)).astype(np.float32), y=rng.integers(0, 3, 40))
    scores, selection, folder = tmp_path / "s.json", tmp_path / "sel.json", tmp_path / "art"
    call("score", path, data, "-o", scores, "--samples", 32, "--input", "sr=8000")
    assert load_scores(scores).inputs == {"sr": 8000}
    assert scored_model(load_scores(scores)).bound == {"sr": 8000}
    call("select", scores, "-o", selection, "--max-memory", "1GB", "--rho", "0.5")  # opens the model again
    assert load_selection(selection).inputs == {"sr": 8000}
    output = call("artifacts", path, selection, "-o", tmp_path / "no", "--input", "sr=16000", code=1)
    assert "the model was scored with --input sr=8000 and is opened with --input sr=16000" in output
    assert not (tmp_path / "no").exists()
    call("artifacts", path, selection, "-o", folder)
    assert json.loads((folder / "manifest.json").read_text())["bound"] == {"sr": 8000}
    call("cost", path, selection)
    call("train", folder, data, "--epochs", 1)
    call("export", folder, "-o", tmp_path / "adapted.onnx")
    adapted = open_model(tmp_path / "adapted.onnx")
    assert adapted.metadata("inputs") == {"sr": "8000"}
    call("evaluate", tmp_path / "adapted.onnx", data)
    for command in ("inspect", "check"):
        call(command, path, "--input", "sr=16000")
    call("evaluate", path, data, "--input", "sr=8000")


def test_a_selection_of_other_values_is_refused(tmp_path, rng):
    proto = settings.two_rates()
    data = rng.standard_normal((40, 8)).astype(np.float32)
    scored = open_model(proto, bind={"sr": 8000})
    selection = select(score(scored, data, scoring=Scoring(samples=32)), rho=0.5)
    for bind, said in (({"sr": 16000}, r"`bind=\{'sr': 16000\}`"),):
        with pytest.raises(RecordError, match=rf"scored with `bind=\{{'sr': 8000\}}` and is opened with {said}"):
            make_artifacts(open_model(proto, bind=bind), selection, tmp_path / "a")


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize(
    "names", [("h0", "c0", "hn", "cn"), ("hidden_in", "cell_in", "hidden_out", "cell_out"), ("p", "q", "r", "s")]
)
def test_states_are_zeros(batch, names, rng):
    proto = settings.streaming(batch, names=names)
    model = open_model(proto, logits="logits" if names[0] == "p" else None)
    assert [spec.name for spec in model.inputs] == ["x"]
    assert [item.name for item in model.graph.graph.outputs] == ["logits"]
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    parts = [x] if batch == "N" else [x[i : i + 1] for i in range(3)]
    expected = [
        run(proto, {"x": part, **{name: np.zeros((1, len(part), 6), np.float32) for name in names[:2]}})
        for part in parts
    ]
    np.testing.assert_allclose(run(model.proto(), {"x": x}), np.concatenate(expected), rtol=1e-5, atol=1e-6)
    said = " ".join(map(str, decisions(model)))
    assert f"input {names[0]}: a recurrent state, zeros" in said
    assert f"input {names[0]!r} (float" in " ".join(model.notes)


@pytest.mark.slow
def test_states_train_and_export(tmp_path, rng):
    model = open_model(settings.streaming())
    x, y = rng.standard_normal((40, 5, 4)).astype(np.float32), rng.integers(0, 3, 40)
    selection = select(score(model, (x, y), scoring=Scoring(samples=32)), strategy="all")
    make_artifacts(model, selection, tmp_path / "a")  # its check compares gradients with differences of the loss
    adapted = export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    zeros = np.zeros((1, 40, 6), np.float32)
    expected = run(settings.streaming(), {"x": x, "h0": zeros, "c0": zeros})
    np.testing.assert_allclose(run(adapted, {"x": x}), expected, rtol=1e-5, atol=1e-6)


def test_a_given_state_is_that_of_every_sample(rng):
    proto = settings.streaming()
    h = rng.standard_normal((1, 1, 6)).astype(np.float32)
    model = open_model(proto, bind={"h0": h})
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    feeds = {"x": x, "h0": np.repeat(h, 3, 1), "c0": np.zeros((1, 3, 6), np.float32)}
    np.testing.assert_allclose(run(model.proto(), {"x": x}), run(proto, feeds), rtol=1e-5, atol=1e-6)


def test_the_state_of_a_system_is_data(rng):
    """A model of dynamics: (batch, features) beside a next_state is data, not memory."""
    nodes = [
        node("Concat", ["state", "action"], ["both"], "/both", axis=1),
        node("MatMul", ["both", "w"], ["next_state"], "/next"),
        node("MatMul", ["both", "v"], ["logits"], "/fc"),
    ]
    inputs = [settings.value("state", ["N", 6]), settings.value("action", ["N", 2])]
    outputs = [settings.value("next_state", ["N", 6]), settings.value("logits", ["N", 3])]
    model = open_model(tiny.assemble(nodes, {"w": normal(8, 6), "v": normal(8, 3)}, inputs, outputs))
    assert [spec.name for spec in model.inputs] == ["state", "action"]


def test_a_state_that_is_not_recognised_is_named_and_given(rng):
    proto = settings.streaming(names=("p", "q", "r", "s"))
    del proto.graph.output[1:]  # possible outputs of an encoder are not assumed to be zero
    with pytest.raises(ModelError, match=r"(if 'p' is not data but a state|a state that) .* `bind=\{'p': 0\}`"):
        open_model(proto)
    model = open_model(proto, bind={"p": 0, "q": 0})
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    zeros = np.zeros((1, 3, 6), np.float32)
    expected = run(proto, {"x": x, "p": zeros, "q": zeros})
    np.testing.assert_allclose(run(model.proto(), {"x": x}), expected, rtol=1e-5, atol=1e-6)


def test_steps_of_one_sequence_are_no_batch():
    with pytest.raises(ModelError, match=r"depends on the samples beside it, through the state \('c0', 'h0'\)"):
        open_model(settings.streaming(steps_first=True))
    unknown = settings.streaming(steps_first=True, names=("p", "q", "r", "s"))
    del unknown.graph.output[1:]
    with pytest.raises(ModelError, match=r"depends on the samples beside it, through the state \('p', 'q'\)"):
        open_model(unknown, bind={"p": 0, "q": 0})


def test_a_mode_is_off(x):
    proto = settings.scaled("phase_train", dtype=BOOL)
    model = open_model(proto)
    assert "input 'phase_train' switches training on according to its name: it is bound to false" in model.notes
    expected = run(proto, {"x": x, "phase_train": np.array(False)})
    np.testing.assert_allclose(run(model.proto(), {"x": x}), expected, rtol=1e-5, atol=1e-6)
    on = open_model(proto, bind={"phase_train": True})
    expected = run(proto, {"x": x, "phase_train": np.array(True)})
    np.testing.assert_allclose(run(on.proto(), {"x": x}), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "value"),
    [
        ("keep_prob", (), "1"),
        ("keep_prob", (1,), "1"),
        ("model/dropout_rate:0", (), "0"),
        ("is_training", (), "0"),
        ("temperature", (), "VALUE"),
    ],
)
def test_settings_that_only_the_user_knows(name, shape, value, x):
    proto = settings.scaled(name, shape)
    with pytest.raises(ModelError, match="It is one number for all samples, so bind it") as error:
        open_model(proto)
    assert f"`open_model(model, bind={{{name!r}: {value}}})`" in str(error.value)
    number = 0.5 if value == "VALUE" else float(value)
    model = open_model(proto, bind={name: number})
    expected = run(proto, {"x": x, name: np.full(shape, number, np.float32)})
    np.testing.assert_allclose(run(model.proto(), {"x": x}), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_exported_model_has_the_input_again(tmp_path, rng, x):
    """As a default that can be overridden, unless it was trained or folded."""
    proto = settings.scaled()
    model = open_model(proto, bind={"keep_prob": 0.5})
    selection = select(
        score(model, rng.standard_normal((40, 8)).astype(np.float32), scoring=Scoring(samples=32)), strategy="all"
    )
    make_artifacts(model, selection, tmp_path / "a")
    adapted = export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    for value in (0.5, 0.25):
        expected = run(proto, {"x": x, "keep_prob": np.array(value, np.float32)})
        given = {} if value == 0.5 else {"keep_prob": np.array(value, np.float32)}
        np.testing.assert_allclose(run(adapted, {"x": x, **given}), expected, rtol=1e-5, atol=1e-6)
    assert [spec.name for spec in open_model(adapted).inputs] == ["x"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "array"])
def test_an_adapter_from_a_file(kind, tmp_path, rng, x):
    arrays = {"base.lora_A": normal(8, 2), "base.lora_B": normal(2, 6)}
    bind = dict(arrays)
    if kind == "npy":
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
            bind[name] = str(tmp_path / f"{name}.npy")
    elif kind != "array":
        file = tmp_path / f"adapter.{kind}"
        _ = np.savez(file, **arrays) if kind == "npz" else save_file(arrays, file)
        bind = dict.fromkeys(arrays, file)
    proto = settings.with_adapter()
    model = open_model(proto, bind=bind)
    np.testing.assert_allclose(run(model.proto(), {"x": x}), run(proto, {"x": x, **arrays}), rtol=1e-5, atol=1e-6)
    names = [item.name for layer in model.layers for item in layer.parameters]
    assert names == ["base.weight", "base.lora_A", "base.lora_B", "fc.weight"]
    if kind != "array":
        return
    scores = score(model, rng.standard_normal((40, 8)).astype(np.float32), scoring=Scoring(samples=32))
    layers = [layer.name for layer in model.layers if layer.parameters[0].name == "base.lora_A"]
    make_artifacts(model, select(scores, layers=layers, choosing=Choosing(head="never")), tmp_path / "a")
    adapted = export_model(tmp_path / "a", tmp_path / "adapted.onnx")
    assert [value.name for value in adapted.graph.input] == ["x", "base.lora_B"]  # lora_A was trained


def test_a_file_that_changed_is_refused(tmp_path, rng):
    arrays = {"base.lora_A": normal(8, 2), "base.lora_B": normal(2, 6)}
    file = tmp_path / "adapter.npz"
    np.savez(file, **arrays)
    onnx.save(settings.with_adapter(), tmp_path / "m.onnx")
    model = open_model(tmp_path / "m.onnx", bind=dict.fromkeys(arrays, file))
    scores = score(model, rng.standard_normal((40, 8)).astype(np.float32), scoring=Scoring(samples=32))
    assert scored_model(scores).sha256 == model.sha256
    np.savez(file, **{**arrays, "base.lora_B": normal(2, 6, scale=1.0)})
    with pytest.raises(UsageError, match=r"adapter.npz, the value of input 'base.lora_B', has changed since"):
        scored_model(scores)


def test_an_adapter_that_was_not_given_is_named():
    with pytest.raises(ModelError, match=r"bind=\{'base.lora_A': 'FILE.npy'\}"):
        open_model(settings.with_adapter())


def test_one_number_for_a_whole_input(rng):
    nodes = [
        node("Mul", ["x", "mask"], ["m"], "/mask"),
        node("MatMul", ["m", "w"], ["logits"], "/fc"),
    ]
    inputs = [settings.value("x", ["N", 8]), settings.value("mask", ["N", 8])]
    proto = tiny.assemble(nodes, {"w": normal(8, 3)}, inputs, [settings.value("logits", ["N", 3])])
    model = open_model(proto, bind={"mask": 1})
    x = rng.standard_normal((4, 8)).astype(np.float32)
    np.testing.assert_allclose(run(model.proto(), {"x": x}), x @ normal(8, 3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        ({"rate": 1}, r"has no input 'rate' to bind. Its inputs: 'x' \(float \[N, 8\]\), 'sr' \(int64 \[\]\)"),
        ({"sr": 0.5}, r"input 'sr' is \(int64 \[\]\), which 0.5 is not. Give a value of that type"),
        ({"sr": True}, r"input 'sr' is \(int64 \[\]\), which True is not"),
        ({"sr": [1, 2]}, r"the value has shape \[2\]. Give one of that shape"),
        ({"sr": "fast"}, r"the value 'fast' of input 'sr' is not a number, .* Write `bind=\{'sr': 16000\}`"),
        ({"sr": "no.npy"}, r"'no.npy', is not a file. Give it again"),
        ({"sr": "a.onnx_adapter"}, r"a.onnx_adapter is an ONNX Runtime adapter file, which cannot be read. Save"),
        ({"sr": [[1], [2, 3]]}, r"the value of input 'sr' is not an array|must be numbers"),
        ({"sr": None}, r"the value of input 'sr' must be numbers, or true or false"),
    ],
)
def test_values_that_do_not_fit(bind, said):
    with pytest.raises(UsageError, match=said):
        open_model(settings.two_rates(), bind=bind)


def test_files_that_hold_no_such_array(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    for file, said in (("two.npz", r"has no array 'sr' .* Its arrays: 'a', 'b'"), ("bad.npy", "cannot be read")):
        with pytest.raises(UsageError, match=said):
            open_model(settings.two_rates(), bind={"sr": tmp_path / file})


def test_the_only_input_is_data():
    with pytest.raises(UsageError, match="has no input other than 'input'"):
        open_model(tiny.mlp(), bind={"input": 1})


def test_options_of_the_command_line(call, tmp_path):
    onnx.save(settings.two_rates(), tmp_path / "m.onnx")
    output = call("inspect", tmp_path / "m.onnx", "--input", "sr=16000", "--input", "sr=8000", code=2)
    assert "--input gives 'sr' two values" in output
    assert "is not NAME=VALUE" in call("inspect", tmp_path / "m.onnx", "--input", "sr", code=2)
    assert "has no input 'rate'" in call("inspect", tmp_path / "m.onnx", "--input", "rate=1", code=2)


def test_a_mean_of_probabilities_is_in_doubt():
    nodes = [
        node("MatMul", ["input", "a.weight"], ["m"], "/a"),
        node("Sigmoid", ["m"], ["p"], "/sigmoid"),
        node("ReduceMean", ["p"], ["mean"], "/mean", axes=[1], keepdims=1),
    ]
    proto = tiny.build(nodes, {"a.weight": normal(8, 4)}, input_shape=("N", 8), output="mean", output_shape=("N", 1))
    assert open_model(proto).doubt == "'mean' is the ReduceMean of probabilities"


def test_a_mean_over_one_step_is_no_mean(rng):
    nodes = [
        node("MatMul", ["input", "a.weight"], ["m"], "/a"),
        node("Sigmoid", ["m"], ["p"], "/sigmoid"),
        node("Unsqueeze", ["p", "two"], ["steps"], "/steps"),
        node("ReduceMean", ["steps"], ["mean"], "/mean", axes=[2], keepdims=0),
    ]
    tensors = {"a.weight": normal(8, 1), "two": np.array([2], np.int64)}
    proto = tiny.build(nodes, tensors, input_shape=("N", 8), output="mean", output_shape=("N", 1))
    model = open_model(proto)
    assert model.logits == "m"
    x = rng.standard_normal((4, 8)).astype(np.float32)
    np.testing.assert_allclose(run(model.proto(), {"input": x}, "mean"), tiny.run(proto, x))


@pytest.mark.parametrize(
    ("proto", "bind"),
    [
        (settings.two_rates, {"sr": np.int32(8000)}),
        (settings.two_rates, {"sr": np.uint16(8000)}),
        (settings.streaming, {"h0": normal(1, 1, 6)}),
    ],
)
def test_what_results_note_opens_the_same_model(proto, bind):
    """Recorded values have no types: a float32 array and its value read from a results file are the same binding."""
    model = open_model(proto(), bind=bind)
    noted = json.loads(json.dumps(model.bound))
    assert open_model(proto(), bind=noted).sha256 == model.sha256


def test_where_a_file_lies_does_not_count(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "h.npy", normal(1, 1, 6))
    first, second = (open_model(settings.streaming(), bind={"h0": tmp_path / name / "h.npy"}) for name in "ab")
    assert first.sha256 == second.sha256
    assert binding_mismatch(first.bound, second.bound) is None
    np.save(tmp_path / "b" / "h.npy", 2 * normal(1, 1, 6))
    third = open_model(settings.streaming(), bind={"h0": tmp_path / "b" / "h.npy"})
    assert "was scored with" in (binding_mismatch(first.bound, third.bound) or "")
