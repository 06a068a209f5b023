"""samples/ios against Python, if there is a Swift compiler: losses, scores, deltas, kills, full disks, memory."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_inputs import limited_files
from conftest import ROOT, SHARED
from device_c import Program, environment
from device_commands import checked
from device_rules import description, features, losses, run_graph, scores, stored
from device_swift import checks_program, device_program, library, linked
from models import tiny
from safetensors.numpy import load_file, save_file

import adabet_onnx
from adabet_onnx import Choices, Packing, apply_delta, make_artifacts, make_device, open_model, select
from adabet_onnx.device.scoring import score_package

pytestmark = [pytest.mark.slow, pytest.mark.swift, pytest.mark.usefixtures("checked_here")]

DEMO = Path(adabet_onnx.__file__).parent / "demo"
RESNET = SHARED / "models" / "resnet20_cifar10_bn.onnx"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with both programs, built without a warning."""
    folder = tmp_path_factory.mktemp("swift")
    library(folder)
    device_program(folder)
    checks_program(folder)
    return folder


@pytest.fixture(scope="module")
def demo(built, tmp_path_factory):
    """A package of the demo's model, with batch statistics that move, and its data in files."""
    folder = tmp_path_factory.mktemp("demo")
    model = open_model(DEMO / "digits.onnx")
    selection = select(model, layers=["block3.conv2", "block3.bn2", "block4.conv1", "head"])
    choices = Choices(optimizer="adamw", batch_norm="batch")
    make_artifacts(model, selection, folder / "artifacts", backend="portable", choices=choices, check=False)
    make_device(folder / "artifacts", folder / "device")
    with np.load(DEMO / "digits_shifted.npz") as data:
        for name, images, labels in (("", "x_train", "y_train"), ("held_", "x_test", "y_test")):
            (data[images].transpose(0, 3, 1, 2)[:300] / 255).astype("<f4").tofile(folder / f"{name}x")
            data[labels][:300].astype("<i8").tofile(folder / f"{name}y")
    return Program(built / "adabet-device", folder / "device")


def place(program: Program, name: str) -> Path:
    return program.package.parent / name


def data(program: Program, part: str = "") -> tuple[np.ndarray, np.ndarray]:
    shape = description(program.package)["inputs"][0]["shape"][1:]
    x = np.fromfile(place(program, f"{part}x"), "<f4").reshape(-1, *shape)
    return x, np.fromfile(place(program, f"{part}y"), "<i8")


def asked(program: Program, *words: object) -> list[str]:
    """The output of tests/device_sources/checks.swift."""
    return checked(program.path.with_name("checks"), *words, env=environment()).stdout.splitlines()


@pytest.fixture(scope="module")
def trained(demo):
    """Two epochs with all output files; returns the printed lines."""
    files = {name: place(demo, name) for name in ("x", "y", "held_x", "held_y", "progress", "delta", "selected")}
    before = {path.name: path.read_bytes() for path in demo.package.iterdir()}
    printed = demo.run("fit", **files, epochs=2, batch=16, rate=0.005, seed=3)
    assert before == {path.name: path.read_bytes() for path in demo.package.iterdir()}
    return printed


def resnet(program: Path, folder: Path, shared: Path) -> Program:
    model = open_model(shared / "models" / RESNET.name)
    selection = select(model, strategy="last", rho=0.1)
    make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    make_device(folder / "artifacts", folder / "device")
    rng = np.random.default_rng(0)
    rng.standard_normal((60, 3, 32, 32)).astype("<f4").tofile(folder / "x")
    rng.integers(0, 10, 60).astype("<i8").tofile(folder / "y")
    return Program(program, folder / "device")


@pytest.mark.parametrize("which", ["demo", "resnet20"])
def test_twenty_losses_are_those_of_python(which, built, demo, shared, tmp_path):
    job = demo if which == "demo" else resnet(built / "adabet-device", tmp_path, shared)
    x, y = data(job)
    batch = 8 if which == "resnet20" else 16
    expected = list(itertools.islice(losses(job.package, x, y, batch=batch, seed=7, rate=1e-3), 20))
    options = {"x": place(job, "x"), "y": place(job, "y"), "batch": batch, "seed": 7, "rate": 1e-3, "epochs": 3}
    command = job.command("fit", **options, stop=20)
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.stderr.startswith("cancelled: training was stopped in epoch ")
    found = [float(line) for line in done.stdout.splitlines() if not line.startswith("epoch")]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
    assert len(set(found)) == 20


def test_scores_are_those_of_the_rule(demo):
    x, _ = data(demo)
    for samples in (300, 20):  # as many as the package says; fewer than a subset has
        x[:samples].tofile(place(demo, "scored"))
        printed = [line.split(" ", 1) for line in demo.run("score", x=place(demo, "scored"))]
        assert printed.pop() == ["choice", description(demo.package)["entries"][0]["name"]]
        found = {name: float(score) for score, name in printed}
        assert found == scores(demo.package, x[:samples])
        assert found == score_package(demo.package, {"input": x[:samples]}, threads=1)
        assert len(set(found.values())) > 5


@pytest.fixture
def changed(demo, tmp_path):
    """The demo's package, with changes of device.json."""

    def change(**changes: object) -> Program:
        shutil.copytree(demo.package, tmp_path / "device", dirs_exist_ok=True)
        (tmp_path / "device" / "device.json").write_text(json.dumps(description(demo.package) | changes))
        return replace(demo, package=tmp_path / "device")

    return change


def test_graphs_of_one_sample_predict_the_same(demo, tmp_path):
    make_device(demo.package.parent / "artifacts", tmp_path / "device", packing=Packing(profile="mobile"))
    for program, name in ((demo, "many"), (replace(demo, package=tmp_path / "device"), "one")):
        program.run("predict", x=place(demo, "held_x"), out=tmp_path / name)
    found, expected = (np.fromfile(tmp_path / name, "<f4") for name in ("one", "many"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.size == 3000


@pytest.mark.parametrize("bgr", [False, True])
def test_raw_numbers_are_preprocessed(demo, tmp_path, bgr):
    model = open_model(tiny.conv_net())
    make_artifacts(model, select(model, strategy="head"), tmp_path / "a", backend="portable", check=False)
    made = replace(demo, package=tmp_path / "device")
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
    found, expected = (np.fromfile(tmp_path / name, "<f4") for name in ("found", "expected"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_delta_gives_the_same_accuracy_in_python(demo, trained):
    delta, entry = load_file(place(demo, "delta")), description(demo.package)["entries"][0]
    kept = [tensor for tensor in entry["tensors"] if tensor["kind"] in ("parameter", "statistic")]
    assert list(delta) == [tensor["name"] for tensor in kept]
    start = stored(entry, (demo.package / entry["state"]).read_bytes(), ("parameter", "statistic"))
    for name, array in delta.items():
        assert array.shape == start[name].shape
        assert not np.array_equal(array, start[name])
    x, y = data(demo, "held_")
    feeds = features(demo.package, x) | {tensor["input"]: delta[tensor["name"]] for tensor in kept}
    found = run_graph(demo.package / entry["evaluation"], feeds | {entry["names"]["labels"]: y})
    right = int((found[entry["names"]["logits"]].argmax(1) == y).sum())
    loss, accuracy = re.fullmatch(r"epoch 2 loss \S+ held-out loss (\S+) accuracy (\S+)", trained[-1]).groups()
    assert float(accuracy) == right / len(y)
    assert 0.3 < right / len(y) < 1
    np.testing.assert_allclose(float(loss), float(found[entry["names"]["loss"]]), rtol=TOLERANCE)


def values(model: Path) -> dict[str, np.ndarray]:
    return {stored.name: onnx.numpy_helper.to_array(stored) for stored in onnx.load(model).graph.initializer}


def test_the_delta_goes_into_the_artifacts(demo, trained, tmp_path):
    assert apply_delta(demo.package, place(demo, "delta"), tmp_path / "selected") == "selected"
    assert (tmp_path / "selected").read_bytes() == place(demo, "selected").read_bytes()
    assert apply_delta(demo.package.parent / "artifacts", place(demo, "delta"), tmp_path / "adapted.onnx") == "model"
    x, y = data(demo, "held_")
    answers = run_graph(tmp_path / "adapted.onnx", {"input": x})["logits"].argmax(1)
    assert f" accuracy {np.mean(answers == y):.17g}" in trained[-1]
    before, after = (values(path) for path in (DEMO / "digits.onnx", tmp_path / "adapted.onnx"))
    changed = {name for name, array in before.items() if not np.array_equal(array, after[name])}
    assert changed == set(load_file(place(demo, "delta")))


@pytest.mark.usefixtures("trained")
def test_the_file_alone_makes_the_model_personal(demo, tmp_path):
    entry = description(demo.package)["entries"][0]
    x, _ = data(demo, "held_")
    ordinary = run_graph(demo.package / entry["model"], {"input": x})["logits"]
    shutil.copytree(demo.package, tmp_path / "device")
    shutil.copy(place(demo, "selected"), tmp_path / "device" / entry["selected"])
    personal = run_graph(tmp_path / "device" / entry["model"], {"input": x})["logits"]
    assert np.abs(personal - ordinary).max() > 0.1
    for options, expected in (({"from": place(demo, "delta")}, personal), ({}, ordinary)):
        for package in (demo.package, tmp_path / "device"):  # a personal file is not damage
            replace(demo, package=package).run("predict", x=place(demo, "held_x"), out=tmp_path / "logits", **options)
            found = np.fromfile(tmp_path / "logits", "<f4").reshape(expected.shape)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            assert np.array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.usefixtures("trained")
def test_what_is_saved_from_progress_is_what_training_saved(demo, tmp_path):
    demo.run("save", **{"from": place(demo, "progress")}, delta=tmp_path / "delta", selected=tmp_path / "selected")
    for name in ("delta", "selected"):
        assert (tmp_path / name).read_bytes() == place(demo, name).read_bytes()


def test_a_kill_costs_an_epoch_at_most(demo, trained, tmp_path):
    options = {"x": place(demo, "x"), "y": place(demo, "y"), "batch": 16, "rate": 0.005, "seed": 3, "epochs": 2}
    command = demo.command("fit", **options, progress=tmp_path / "progress")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        for line in process.stdout:
            if line.startswith("epoch 1"):
                break
        assert len([process.stdout.readline() for _ in range(5)]) == 5
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = demo.run("fit", **options, progress=tmp_path / "progress", delta=tmp_path / "delta")
    assert [line for line in again if not line.startswith("epoch")] == [
        line for line in trained[len(trained) // 2 :] if not line.startswith("epoch")
    ]
    for name in ("progress", "delta"):
        assert (tmp_path / name).read_bytes() == place(demo, name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "progress"]
    line = demo.fails("fit", **options | {"seed": 4}, progress=tmp_path / "progress")
    assert "belongs to another training run: seed 3, " in line


def test_a_full_disk_is_an_error_that_leaves_nothing(demo, tmp_path):
    command = demo.command("fit", x=place(demo, "x"), y=place(demo, "y"), epochs=1, progress=tmp_path / "p")
    with limited_files(50_000):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), restore_signals=False, check=False
        )
    assert done.stderr == f"storage: {tmp_path / 'p'} cannot be written: File too large\n"
    assert not list(tmp_path.iterdir())


def test_a_lack_of_memory_is_an_error(demo, tmp_path):
    samples = 200_000  # the files are memory-mapped; the features are in memory
    for name, width in (("x", 4 * 256), ("y", 8)):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, samples * width)
    command = demo.command("fit", x=tmp_path / "x", y=tmp_path / "y", progress=tmp_path / "p")
    most = 1 << 30
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most))  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, preexec_fn=limit)
    kept = samples * description(demo.package)["entries"][0]["boundary"][0]["bytes"]
    assert kept > most
    expected = f"the features of {samples} samples ({kept} bytes): take fewer"
    assert done.stderr == f"no memory: there is not enough memory for {expected}\n"
    assert not (tmp_path / "p").exists()


def wrong_files(demo: Program, folder: Path) -> dict[str, tuple[str, dict[str, object], str]]:
    """Command, options and message for mistakes of users and senders."""
    x, y = place(demo, "x"), place(demo, "y")
    (folder / "short").write_bytes(x.read_bytes()[:-4])
    labels = np.fromfile(y, "<i8")
    labels[7] = 10
    labels.tofile(folder / "labels")
    labels[:-1].tofile(folder / "fewer")
    np.full(300 * 256, np.nan, "<f4").tofile(folder / "nan")
    (folder / "few").write_bytes(x.read_bytes()[: 7 * 1024])
    delta = load_file(place(demo, "delta"))
    names = {"format": "adabet-onnx/delta", "version": "1", "model_sha256": "0" * 64, "entry": "layers", "sha256": ""}
    save_file(delta, folder / "other", names)
    (folder / "cut").write_bytes(place(demo, "delta").read_bytes()[:-1])
    damaged = bytearray(place(demo, "delta").read_bytes())
    damaged[-9] ^= 1
    (folder / "damaged").write_bytes(damaged)
    return {
        "a sample cut": ("score", {"x": folder / "short"}, "wrong shape: data: 'input' .* expected a multiple of that"),
        "few samples": ("score", {"x": folder / "few"}, "too few: there are 7 samples; scoring needs at least 8"),
        "a label": ("fit", {"x": x, "y": folder / "labels"}, "wrong label: data: label 7 is 10; expected 0 to 9"),
        "labels": ("fit", {"x": x, "y": folder / "fewer"}, "wrong shape: .* labels for 299 samples, but 300 samples"),
        "no labels": ("fit", {"x": x}, "usage: data: the array for 'labels' is missing"),
        "NaN": ("fit", {"x": folder / "nan", "y": y}, "not finite: the loss is -?nan in step 1: use a learning rate"),
        "NaN scored": ("score", {"x": folder / "nan"}, "not finite: the activation of layer 'stem.conv' is not finite"),
        "a rate": ("fit", {"x": x, "y": y, "rate": "1e30"}, "not finite: the loss is .* in step 2: .* below"),
        "a batch": ("fit", {"x": x, "y": y, "batch": 0}, "usage: a batch size of 0 and 5 epochs; expected at least 1"),
        "memory": (
            "score",
            {"x": x, "memory": 1000},
            "no memory: .* trained in 1000 bytes .*: the smallest needs",
        ),
        "another model": ("save", {"from": folder / "other"}, "wrong model: .*: 'model_sha256' is 0+; expected 5321"),
        "cut short": (
            "save",
            {"from": folder / "cut"},
            "wrong file: .*cut: '.*' has no valid dtype, shape",
        ),
        "damaged": ("save", {"from": folder / "damaged"}, "wrong hash: .*damaged: its data has the SHA-256"),
        "an entry": ("fit", {"x": x, "y": y, "entry": "x"}, "usage: there is no entry 'x'; the package has 'layers'"),
    }


@pytest.mark.usefixtures("trained")
def test_refusals_say_what_was_wrong(demo, tmp_path):
    for what, (command, options, pattern) in wrong_files(demo, tmp_path).items():
        assert re.search(pattern, demo.fails(command, **options)), what


def test_a_newer_runtime_is_asked_for(changed):
    line = changed(oldest_onnxruntime="1.999").fails("show")
    assert re.fullmatch(r"runtime: this is ONNX Runtime 1\.\S+; the package needs 1\.999 or newer", line)


def test_pausing_cancelling_and_going_on(demo):
    lines = asked(demo, "pause", demo.package, place(demo, "x"), place(demo, "y"))
    assert len(lines) == 9
    assert all(line.startswith("holds: ") for line in lines), lines


def test_two_thousand_steps_take_no_more_memory_than_twenty(demo):
    lines = asked(demo, "steps", demo.package, place(demo, "x"), place(demo, "y"), 2000)
    (first, before), (last, after) = (map(int, line.split()) for line in lines[:2])
    assert (first, last) == (20, 2000)
    assert after - before < 8 << 20


HARNESS = """
let words = CommandLine.arguments.dropFirst().map { URL(fileURLWithPath: $0) }
let device = try await opened(words[0])
let pixels = try Data(contentsOf: words[1]), labels = try Data(contentsOf: words[2]).map { Int($0) }
let size = pixels.count / labels.count
let pictures: [[UInt8]] = (0..<labels.count).map { place in
    pixels[place * size..<(place + 1) * size].flatMap { [$0, $0, $0, 255] }
}
let data = try samples(device, pictures, labels)
let model = try await personalised(device, data, in: words[3], memory: 1 << 30, gate: PauseGate())
let found = try await kept(model, data, delta: words[3].appendingPathComponent("delta"))
print(found.map { String($0) }.joined(separator: " "))
"""


def test_what_the_page_says_runs(demo, built, changed, tmp_path):
    blocks = re.findall(r"```swift\n(.*?)```", (ROOT / "docs" / "app-ios.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "main.swift").write_text("\n".join([*blocks, HARNESS]))
    program = linked(built, "page", tmp_path / "main.swift")
    rule = {"scale": 1 / 255, "mean": [0], "std": [1], "channel_axis": 1, "bgr": False, "data": "integer"}
    package = changed(preprocessing=rule).package
    x, y = data(demo)
    (x * 255).round().astype("u1").tofile(tmp_path / "x")
    y.astype("u1").tofile(tmp_path / "y")
    out = tmp_path / "out"
    out.mkdir()
    lines = checked(program, package, tmp_path / "x", tmp_path / "y", out, env=environment()).stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [f"epoch {epoch}" for epoch in range(1, 6)]
    entry, delta = description(package)["entries"][0], load_file(out / "delta")
    kept = [tensor for tensor in entry["tensors"] if tensor["kind"] in ("parameter", "statistic")]
    feeds = {"input": x} | {tensor["input"]: delta[tensor["name"]] for tensor in kept}
    expected = run_graph(package / entry["prediction"], feeds)["logits"].argmax(1)
    assert [int(word) for word in lines[-1].split()] == expected.tolist()
    assert np.mean(expected == y) > 0.5
