"""The samples in C, C#, Kotlin and Swift against Python: losses, scores, predictions, deltas; kills and errors.

What is special to one language is in its own module, such as test_device_c.py.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import onnx
import pytest
from bad_inputs import limited_files
from device_languages import demo_program
from device_mistakes import mistakes
from device_programs import DEMO, KEPT, TOLERANCE, resnet_package, trained
from device_rules import description, features, losses, run_graph, scores, stored
from models import tiny
from safetensors import safe_open
from safetensors.numpy import load_file

from adabet_onnx import Packing, apply_delta, load_delta, make_artifacts, make_device, open_model, select
from adabet_onnx.device.scoring import score_package

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

ENDLESS = 1_000_000


@pytest.fixture(scope="module", params=["c", "csharp", "jvm", pytest.param("swift", marks=pytest.mark.swift)])
def language(request):
    return request.param


@pytest.fixture(scope="module")
def demo(language, tmp_path_factory):
    """The program with a package of the demo's model, with batch statistics that move, and its data in files."""
    with demo_program(language, tmp_path_factory.getbasetemp()) as program:
        yield program


@pytest.fixture(scope="module")
def training(demo):
    """The lines that a training of two epochs printed, which wrote all output files."""
    return trained(demo)


@pytest.mark.parametrize("which", ["demo", "resnet20"])
def test_twenty_losses_are_those_of_python(which, demo, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    program = demo if which == "demo" else demo.of(resnet_package(base))
    x, y = program.data()
    batch = 8 if which == "resnet20" else 16
    expected = list(itertools.islice(losses(program.package, x, y, batch=batch, seed=7, rate=1e-3), 20))
    options = {"x": program.place("x"), "y": program.place("y"), "batch": batch, "seed": 7, "rate": 1e-3, "epochs": 3}
    printed, message = program.failing("fit", **options, stop=20)
    assert re.match(program.stopped, message), message
    found = [float(line) for line in printed if not line.startswith("epoch")]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
    assert len(set(found)) == 20


def test_scores_are_those_of_the_rule(demo):
    x, _ = demo.data()
    for samples in (300, 20):  # as many as the package says; fewer than a subset has
        x[:samples].tofile(demo.place("scored"))
        printed = [line.split(" ", 1) for line in demo.run("score", x=demo.place("scored"))]
        assert printed.pop() == ["choice", description(demo.package)["entries"][0]["name"]]
        found = {name: float(score) for score, name in printed}
        assert found == scores(demo.package, x[:samples])
        assert found == score_package(demo.package, {"input": x[:samples]}, threads=1)
        assert len(set(found.values())) > 5


def test_graphs_of_one_sample_predict_the_same(demo, tmp_path):
    make_device(demo.place("artifacts"), tmp_path / "device", packing=Packing(profile="mobile"))
    for program, name in ((demo, "many"), (demo.of(tmp_path / "device"), "one")):
        program.run("predict", x=demo.place("held_x"), out=tmp_path / name)
    found, expected = (np.fromfile(tmp_path / name, "<f4") for name in ("one", "many"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.size == 3000


@pytest.mark.parametrize("bgr", [False, True])
def test_raw_numbers_are_preprocessed(demo, tmp_path, bgr):
    model = open_model(tiny.conv_net())
    make_artifacts(model, select(model, strategy="head"), tmp_path / "a", backend="portable", check=False)
    made = demo.of(tmp_path / "device")
    content = make_device(tmp_path / "a", made.package)
    rule = {"scale": 1 / 255, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "bgr": bgr, "channel_axis": 1}
    (made.package / "device.json").write_text(json.dumps(content | {"preprocessing": rule}))
    raw = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8)).astype("<f4")
    one = raw[:, ::-1] if bgr else raw
    fed = (one / 255 - np.reshape(rule["mean"], (3, 1, 1))) / np.reshape(rule["std"], (3, 1, 1))
    raw.tofile(tmp_path / "raw")
    fed.astype("<f4").tofile(tmp_path / "fed")
    made.run("predict", x=tmp_path / "raw", raw="yes", out=tmp_path / "found")
    made.run("predict", x=tmp_path / "fed", out=tmp_path / "expected")
    made.run("predict", x=tmp_path / "raw", out=tmp_path / "other")
    found, expected, other = (np.fromfile(tmp_path / name, "<f4") for name in ("found", "expected", "other"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(other - expected).max() > 0.1


def test_a_delta_gives_the_same_accuracy_in_python(demo, training):
    delta, entry = load_file(demo.place("delta")), description(demo.package)["entries"][0]
    kept = [tensor for tensor in entry["tensors"] if tensor["kind"] in KEPT]
    assert list(delta) == [tensor["name"] for tensor in kept]
    start = stored(entry, (demo.package / entry["state"]).read_bytes(), KEPT)
    for name, array in delta.items():
        assert array.shape == start[name].shape
        assert not np.array_equal(array, start[name])
    x, y = demo.data("held_")
    feeds = features(demo.package, x) | {tensor["input"]: delta[tensor["name"]] for tensor in kept}
    found = run_graph(demo.package / entry["evaluation"], feeds | {entry["names"]["labels"]: y})
    right = int((found[entry["names"]["logits"]].argmax(1) == y).sum())
    loss, accuracy = re.fullmatch(r"epoch 2 loss \S+ held-out loss (\S+) accuracy (\S+)", training[-1]).groups()
    assert float(accuracy) == right / len(y)
    assert 0.3 < right / len(y) < 1
    np.testing.assert_allclose(float(loss), float(found[entry["names"]["loss"]]), rtol=TOLERANCE)
    assert load_delta(demo.place("delta")).model_sha256 == description(demo.package)["model_sha256"]


def test_the_delta_goes_into_the_artifacts(demo, training, tmp_path):
    assert apply_delta(demo.package, demo.place("delta"), tmp_path / "selected") == "selected"
    assert (tmp_path / "selected").read_bytes() == demo.place("selected").read_bytes()
    assert apply_delta(demo.place("artifacts"), demo.place("delta"), tmp_path / "adapted.onnx") == "model"
    x, y = demo.data("held_")
    answers = run_graph(tmp_path / "adapted.onnx", {"input": x})["logits"].argmax(1)
    accuracy = training[-1].split(" accuracy ")[1]
    assert float(accuracy) == np.mean(answers == y)
    assert demo.written_accuracy is None or accuracy == format(np.mean(answers == y), demo.written_accuracy)
    models = [onnx.load(path) for path in (DEMO / "digits.onnx", tmp_path / "adapted.onnx")]
    values = [{v.name: onnx.numpy_helper.to_array(v) for v in model.graph.initializer} for model in models]
    changed = {name for name, array in values[0].items() if not np.array_equal(array, values[1][name])}
    assert changed == set(load_file(demo.place("delta")))


@pytest.mark.usefixtures("training")
def test_only_selected_tensors_changed(demo):
    entry, selected = description(demo.package)["entries"][0], demo.place("selected").read_bytes()
    initial, end = (demo.package / entry["state"]).read_bytes(), 0
    assert len(selected) == len(initial) == entry["selected_bytes"]
    for tensor in entry["tensors"]:
        if tensor["kind"] in KEPT:
            here = slice(tensor["offset"], tensor["offset"] + tensor["bytes"])
            assert not any(selected[end : here.start]), "between tensors there are zeros"
            assert selected[here] != initial[here], tensor["name"]
            end = here.stop
    assert not any(selected[end:])


@pytest.mark.usefixtures("training")
def test_the_file_alone_makes_the_model_personal(demo, tmp_path):
    entry = description(demo.package)["entries"][0]
    x, _ = demo.data("held_")
    ordinary = run_graph(demo.package / entry["model"], {"input": x})["logits"]
    shutil.copytree(demo.package, tmp_path / "device")
    shutil.copy(demo.place("selected"), tmp_path / "device" / entry["selected"])
    personal = run_graph(tmp_path / "device" / entry["model"], {"input": x})["logits"]
    assert np.abs(personal - ordinary).max() > 0.1
    for options, expected in (({"from": demo.place("delta")}, personal), ({}, ordinary)):
        written = []
        for package in (demo.package, tmp_path / "device"):  # a personal file is not damage; it begins with the state
            demo.of(package).run("predict", x=demo.place("held_x"), out=tmp_path / "logits", **options)
            written.append((tmp_path / "logits").read_bytes())
            found = np.frombuffer(written[-1], "<f4").reshape(expected.shape)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            assert np.array_equal(found.argmax(1), expected.argmax(1))
        assert written[0] == written[1]
    assert demo.of(tmp_path / "device").run("show") == demo.run("show"), "it still is a whole package"


@pytest.mark.usefixtures("training")
def test_what_is_saved_from_progress_is_what_training_saved(demo, tmp_path):
    demo.run("save", **{"from": demo.place("progress")}, delta=tmp_path / "delta", selected=tmp_path / "selected")
    for name in ("delta", "selected"):
        assert (tmp_path / name).read_bytes() == demo.place(name).read_bytes()


def test_a_kill_costs_an_epoch_at_most(demo, tmp_path):
    options = {"x": demo.place("x"), "y": demo.place("y"), "batch": 16, "rate": 0.005, "seed": 3}
    command = demo.command("fit", **options, epochs=ENDLESS, progress=tmp_path / "progress")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=demo.environment) as process:
        for line in process.stdout:
            if line.startswith("epoch 1"):
                break
        assert len([process.stdout.readline() for _ in range(5)]) == 5
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    with safe_open(tmp_path / "progress", "numpy") as file:
        whole = int(file.metadata()["epoch"])
    assert whole >= 1
    os.link(tmp_path / "progress", kept := tmp_path.parent / f"{tmp_path.name}-kept")
    first = kept.read_bytes()
    options["epochs"] = whole + 1
    again = demo.run("fit", **options, progress=tmp_path / "progress", delta=tmp_path / "delta")
    assert kept.read_bytes() == first, "progress must be renamed, not written over"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "progress"]
    (other := tmp_path / "straight").mkdir()
    straight = demo.run("fit", **options, progress=other / "progress", delta=other / "delta")
    assert again == straight[-len(again) :]
    assert len(again) == len(straight) / (whole + 1) == 20, "one epoch was left"
    assert sorted(path.name for path in other.iterdir()) == ["delta", "progress"]
    for name in ("progress", "delta"):
        assert (tmp_path / name).read_bytes() == (other / name).read_bytes()
    line = demo.fails("fit", **options | {"seed": 4}, progress=tmp_path / "progress")
    assert "belongs to another training run: seed 3, " in line


def test_a_full_disk_is_an_error_that_leaves_nothing(demo, tmp_path):
    command = demo.command("fit", x=demo.place("x"), y=demo.place("y"), epochs=1, progress=tmp_path / "p")
    environment = {**demo.environment, **demo.with_small_files}
    for _ in range(2):
        with limited_files(50_000):
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, restore_signals=False, check=False
            )
        assert re.fullmatch(demo.no_space.format(path=re.escape(str(tmp_path / "p"))) + "\n", done.stderr), done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("training")
def test_refusals_say_what_was_wrong(demo, tmp_path):
    made = mistakes(demo, tmp_path)
    for what, pattern in demo.refusals.items():
        command, options = made[what]
        line = demo.fails(command, **options)
        assert re.match(pattern, line), (what, line)


def test_a_newer_runtime_is_asked_for(demo, tmp_path):
    shutil.copytree(demo.package, tmp_path / "device")
    content = description(demo.package) | {"oldest_onnxruntime": "1.999"}
    (tmp_path / "device" / "device.json").write_text(json.dumps(content))
    line = demo.of(tmp_path / "device").fails("show")
    assert re.fullmatch(demo.newer_runtime, line), line
