"""samples/android's library and samples/java against Python: losses, scores, deltas; kills, full disks, errors."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import limited_files
from conftest import ROOT, SHARED, missing
from device_jvm import Jvm, Program, Runner, compiled
from device_rules import description, features, losses, run_graph, scores, shuffled, stored
from models import masks, tiny
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import adabet_onnx
from adabet_onnx import Choices, Packing, make_artifacts, make_device, open_model, select

ENDLESS = 1_000_000
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

DEMO = Path(adabet_onnx.__file__).parent / "demo"
RESNET = SHARED / "models" / "resnet20_cifar10_bn.onnx"
TOLERANCE = 1e-5
KEPT = ("parameter", "statistic")


@pytest.fixture(scope="module")
def jvm() -> Jvm:
    return compiled()


@pytest.fixture(scope="module")
def runner(jvm):
    made = Runner(jvm)
    yield made
    made.close()


@pytest.fixture(scope="module")
def demo(jvm, runner, tmp_path_factory) -> Program:
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
    return Program(jvm, runner, folder / "device")


def place(program: Program, name: str) -> Path:
    return program.package.parent / name


def data(program: Program, part: str = "") -> tuple[np.ndarray, np.ndarray]:
    shape = description(program.package)["inputs"][0]["shape"][1:]
    x = np.fromfile(place(program, f"{part}x"), "<f4").reshape(-1, *shape)
    return x, np.fromfile(place(program, f"{part}y"), "<i8")


@pytest.fixture(scope="module")
def trained(demo) -> list[str]:
    """Two epochs with all output files; returns the printed lines."""
    files = {name: place(demo, name) for name in ("x", "y", "held_x", "held_y", "progress", "delta", "selected")}
    before = {path.name: path.read_bytes() for path in demo.package.iterdir()}
    printed = demo.run("fit", **files, epochs=2, batch=16, rate=0.005, seed=3)
    assert before == {path.name: path.read_bytes() for path in demo.package.iterdir()}
    return printed


def resnet(demo: Program, folder: Path) -> Program:
    if not RESNET.is_file():
        missing("the shared models are not there")
    model = open_model(RESNET)
    selection = select(model, strategy="last", rho=0.1)
    make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    make_device(folder / "artifacts", folder / "device")
    rng = np.random.default_rng(0)
    rng.standard_normal((60, 3, 32, 32)).astype("<f4").tofile(folder / "x")
    rng.integers(0, 10, 60).astype("<i8").tofile(folder / "y")
    return replace(demo, package=folder / "device")


@pytest.mark.parametrize("which", ["demo", "resnet20"])
def test_twenty_losses_are_those_of_python(which, demo, runner, tmp_path):
    job = demo if which == "demo" else resnet(demo, tmp_path)
    x, y = data(job)
    batch = 8 if which == "resnet20" else 16
    expected = list(itertools.islice(losses(job.package, x, y, batch=batch, seed=7, rate=1e-3), 20))
    options = {"x": place(job, "x"), "y": place(job, "y"), "batch": batch, "seed": 7, "rate": 1e-3, "epochs": 3}
    words = [job.package, "fit", *itertools.chain(*((f"--{name}", value) for name, value in options.items()))]
    status, printed = runner.job("main", *words, "--stop", 20)
    assert (status, printed[-1]) == (1, "cancelled: training was stopped after step 20")
    found = [float(line) for line in printed[:-1] if not line.startswith("epoch")]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
    assert len(set(found)) == 20


def test_what_is_shown_is_what_device_json_says(demo):
    content = description(demo.package)
    expected = [f"model {content['model']}"]
    for what, ports in (("input", content["inputs"]), ("output", content["outputs"])):
        expected += [f"{what} {p['name']} {p['dtype']} [{', '.join(map(str, p['shape']))}]" for p in ports]
    expected.append(f"labels labels {content['labels']['dtype']} [N]")
    [entry] = content["entries"]
    sizes = f"{entry['trained']} numbers, {entry['selected_bytes']} bytes to send, {dict(entry['memory'])[8]} bytes"
    expected.append(f"entry {entry['name']}: {len(entry['layers'])} layers, {sizes} of memory at a batch size of 8")
    printed = demo.run("show")
    assert re.fullmatch(r"onnxruntime 1\.\d+\.\d+", printed.pop(1))
    assert printed == expected + [f"  {layer}" for layer in entry["layers"]]


def test_first_betti_numbers_are_those_of_ripser(runner):
    file = ROOT / "tests" / "device_sources" / "betti-1000.bin"
    status, printed = runner.job("betti", file)
    content, at, expected = file.read_bytes(), 8, []
    while at < len(content):
        points, width = np.frombuffer(content, "<u2", 2, at).tolist()
        expected.append(int.from_bytes(content[at + 4 : at + 8], "little"))
        at += 8 + points * (points - 1) // 2 * width
    assert (status, len(expected)) == (0, 1000)
    assert [int(line) for line in printed] == expected


def test_the_menu(runner):
    file = ROOT / "tests" / "device_sources" / "menu-50.json"
    status, printed = runner.job("menu", file)
    cases = json.loads(file.read_text())["cases"]
    assert (status, len(cases)) == (0, 50)
    for case, line in zip(cases, printed, strict=True):
        said = line.split("\t")
        if case["chosen"] is None:
            assert said[0] == "no memory"
            assert said[1].endswith(f"at a batch size of {case['batch']}: the smallest needs {case['smallest']}")
        else:
            assert said[:2] == ["chosen", case["chosen"]], case["name"]


def test_random_numbers_are_the_documented_ones(runner):
    status, printed = runner.job("random")
    assert status == 0
    assert printed == ["2049673234", "658261152", "3573920880", "3099447095", str(shuffled(50, 2**32 - 1, 9))]


def test_scores_are_those_of_the_rule(demo):
    x, _ = data(demo)
    for samples in (300, 20):  # as many as the package says; fewer than a subset has
        x[:samples].tofile(place(demo, "scored"))
        printed = [line.split(" ", 1) for line in demo.run("score", x=place(demo, "scored"))]
        assert printed.pop() == ["choice", description(demo.package)["entries"][0]["name"]]
        found = {name: float(score) for score, name in printed}
        assert found == scores(demo.package, x[:samples])
        assert len(set(found.values())) > 5


def test_graphs_of_one_sample_predict_the_same(demo, tmp_path):
    make_device(demo.package.parent / "artifacts", tmp_path / "device", packing=Packing(profile="mobile"))
    for program, name in ((demo, "many"), (replace(demo, package=tmp_path / "device"), "one")):
        program.run("predict", x=place(demo, "held_x"), out=tmp_path / name)
    found, expected = (np.fromfile(tmp_path / name, "<f4") for name in ("one", "many"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.size == 3000


def test_raw_numbers_are_preprocessed(demo, tmp_path):
    model = open_model(tiny.conv_net())
    make_artifacts(model, select(model, strategy="head"), tmp_path / "a", backend="portable", check=False)
    content = make_device(tmp_path / "a", tmp_path / "device")
    made = replace(demo, package=tmp_path / "device")
    raw = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8)).astype("<f4")
    raw.tofile(tmp_path / "raw")
    for bgr in (False, True):
        rule = {"scale": 1 / 255, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "bgr": bgr, "channel_axis": 1}
        (made.package / "device.json").write_text(json.dumps(content | {"preprocessing": rule}))
        one = raw[:, ::-1] if bgr else raw
        fed = (one / 255 - np.reshape(rule["mean"], (3, 1, 1))) / np.reshape(rule["std"], (3, 1, 1))
        fed.astype("<f4").tofile(tmp_path / "fed")
        made.run("predict", x=tmp_path / "raw", raw="yes", out=tmp_path / "found")
        made.run("predict", x=tmp_path / "fed", out=tmp_path / "expected")
        made.run("predict", x=tmp_path / "raw", out=tmp_path / "other")
        found, expected, other = (np.fromfile(tmp_path / name, "<f4") for name in ("found", "expected", "other"))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(other - expected).max() > 0.1


def test_a_delta_gives_the_same_accuracy_in_python(demo, trained):
    delta, entry = load_file(place(demo, "delta")), description(demo.package)["entries"][0]
    kept = [tensor for tensor in entry["tensors"] if tensor["kind"] in KEPT]
    assert list(delta) == [tensor["name"] for tensor in kept]
    start = stored(entry, (demo.package / entry["state"]).read_bytes(), KEPT)
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
    assert adabet_onnx.load_delta(place(demo, "delta")).model_sha256 == description(demo.package)["model_sha256"]


@pytest.mark.usefixtures("trained")
def test_only_selected_tensors_changed(demo):
    entry, selected = description(demo.package)["entries"][0], place(demo, "selected").read_bytes()
    initial, end = (demo.package / entry["state"]).read_bytes(), 0
    assert len(selected) == len(initial) == entry["selected_bytes"]
    for tensor in entry["tensors"]:
        if tensor["kind"] in KEPT:
            here = slice(tensor["offset"], tensor["offset"] + tensor["bytes"])
            assert not any(selected[end : here.start]), "between tensors there are zeros"
            assert selected[here] != initial[here], tensor["name"]
            end = here.stop
    assert not any(selected[end:])


@pytest.mark.usefixtures("trained")
def test_the_file_alone_makes_the_model_personal(demo, tmp_path):
    entry = description(demo.package)["entries"][0]
    x, _ = data(demo, "held_")
    ordinary = run_graph(demo.package / entry["model"], {"input": x})["logits"]
    shutil.copytree(demo.package, tmp_path / "device")
    shutil.copy(place(demo, "selected"), tmp_path / "device" / entry["selected"])
    personal = run_graph(tmp_path / "device" / entry["model"], {"input": x})["logits"]
    assert np.abs(personal - ordinary).max() > 0.1
    assert replace(demo, package=tmp_path / "device").run("show") == demo.run("show"), "it still is a whole package"
    for options, expected in (({"from": place(demo, "delta")}, personal), ({}, ordinary)):
        demo.run("predict", x=place(demo, "held_x"), out=tmp_path / "logits", **options)
        found = np.fromfile(tmp_path / "logits", "<f4").reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert np.array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.usefixtures("trained")
def test_what_is_saved_from_progress_is_what_training_saved(demo, tmp_path):
    demo.run("save", **{"from": place(demo, "progress")}, delta=tmp_path / "delta", selected=tmp_path / "selected")
    for name in ("delta", "selected"):
        assert (tmp_path / name).read_bytes() == place(demo, name).read_bytes()


def test_a_kill_costs_an_epoch_at_most(demo, tmp_path):
    options = {"x": place(demo, "x"), "y": place(demo, "y"), "batch": 16, "rate": 0.005, "seed": 3}
    command = demo.alone("fit", **options, epochs=ENDLESS, progress=tmp_path / "progress")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=demo.jvm.environment()) as process:
        for line in process.stdout:
            if line.startswith("epoch 1"):
                break
        assert len([process.stdout.readline() for _ in range(5)]) == 5
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    with safe_open(tmp_path / "progress", "numpy") as file:
        whole = int(file.metadata()["epoch"])
    assert whole >= 1
    options["epochs"] = whole + 1
    again = demo.run("fit", **options, progress=tmp_path / "progress", delta=tmp_path / "delta")
    straight = demo.run("fit", **options, progress=tmp_path / "straight", delta=tmp_path / "straight.delta")
    steps = [[line for line in lines if not line.startswith("epoch")] for lines in (again, straight)]
    assert steps[0] == steps[1][-len(steps[0]) :]
    assert len(steps[1]) == (whole + 1) * len(steps[0]), "one epoch was left"
    for name, other in (("progress", "straight"), ("delta", "straight.delta")):
        assert (tmp_path / name).read_bytes() == (tmp_path / other).read_bytes()
    assert not [
        path for path in tmp_path.iterdir() if path.name not in ("progress", "delta", "straight", "straight.delta")
    ]
    line = demo.fails("fit", **options | {"seed": 4}, progress=tmp_path / "progress")
    assert "belongs to another training run: seed 3, " in line


def test_a_full_disk_is_an_error_that_leaves_nothing(demo, tmp_path):
    command = demo.alone("fit", x=place(demo, "x"), y=place(demo, "y"), epochs=1, progress=tmp_path / "p")
    with limited_files(50_000):
        done = subprocess.run(
            command, capture_output=True, text=True, env=demo.jvm.environment(), restore_signals=False, check=False
        )
    assert done.stderr == f"storage: {tmp_path / 'p'} cannot be written: File too large\n"
    assert not list(tmp_path.iterdir())


def test_a_lack_of_memory_is_an_error_that_leaves_nothing(demo, tmp_path):
    options = {"x": place(demo, "x"), "y": place(demo, "y"), "epochs": 1, "progress": tmp_path / "p"}
    words = demo.alone("fit", **options)
    words.insert(1, "-XX:MaxDirectMemorySize=64k")
    done = subprocess.run(words, capture_output=True, text=True, env=demo.jvm.environment(), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no memory: there is not enough memory for the trained values: use a smaller batch")
    assert not list(tmp_path.iterdir())


OTHERS = {
    "regression": (tiny.mlp, (3,), "mse"),
    "masks": (lambda: masks.per_pixel(1, turned=False), (masks.SIDE, masks.SIDE), "cross-entropy"),
    "turned": (lambda: masks.per_pixel(-1, turned=True), (masks.SIDE, masks.SIDE), "cross-entropy"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_packages(kind, demo, tmp_path):
    """Labels that are numbers; a label for each pixel, some of them ignored."""
    made, label_shape, loss = OTHERS[kind]
    model, rng = open_model(made()), np.random.default_rng(0)
    selection, choices = select(model, strategy="all"), Choices(loss=loss)
    make_artifacts(model, selection, tmp_path / "a", backend="portable", choices=choices, check=False)
    content = make_device(tmp_path / "a", tmp_path / "device", packing=Packing(scoring=None))
    x = rng.standard_normal((40, *model.inputs[0].shape[1:])).astype("<f4")
    y = rng.integers(0, 3, (40, *label_shape))
    if kind != "regression":
        y[rng.random(y.shape) < 0.2] = -100
    y = y.astype(content["labels"]["dtype"])
    files = {name: tmp_path / name for name in ("x", "y", "held_x", "held_y")}
    for name, array in zip(files, (x[:30], y[:30], x[30:], y[30:]), strict=True):
        array.tofile(files[name])
    program = replace(demo, package=tmp_path / "device")
    *printed, last = program.run("fit", **files, epochs=1, batch=8, rate=1e-3, seed=7, selected=tmp_path / "s")
    expected = list(itertools.islice(losses(program.package, x[:30], y[:30], batch=8, seed=7, rate=1e-3), 4))
    np.testing.assert_allclose([float(line) for line in printed], expected, rtol=TOLERANCE, atol=TOLERANCE)
    [entry] = content["entries"]
    values = stored(entry, (tmp_path / "s").read_bytes(), KEPT)
    feeds = features(program.package, x[30:]) | {
        tensor["input"]: values[tensor["name"]] for tensor in entry["tensors"] if tensor["kind"] in KEPT
    }
    axis, accuracy = entry["class_axis"], re.search(r"accuracy (\S+)", last)
    if axis is None:
        assert accuracy is None
        return
    found = run_graph(program.package / entry["evaluation"], feeds | {entry["names"]["labels"]: y[30:]})
    counted, right = y[30:] != -100, found[entry["names"]["logits"]].argmax(axis) == y[30:]
    assert float(accuracy[1]) == right[counted].sum() / counted.sum()


def wrong_files(demo: Program, folder: Path) -> dict[str, tuple[str, dict[str, object], str]]:
    """Command, options and message for mistakes of users and senders."""
    x, y = place(demo, "x"), place(demo, "y")
    (folder / "short").write_bytes(x.read_bytes()[:-4])
    labels = np.fromfile(y, "<i8")
    labels[7] = 10
    labels.tofile(folder / "labels")
    labels[:-1].tofile(folder / "fewer")
    np.full(300 * 256, np.nan, "<f4").tofile(folder / "nan")
    delta = load_file(place(demo, "delta"))
    about = {"format": "adabet-onnx/delta", "version": "1", "model_sha256": "0" * 64, "entry": "layers", "sha256": ""}
    save_file(delta, folder / "other", about)
    about["model_sha256"] = description(demo.package)["model_sha256"]
    save_file(delta, folder / "unknown", about | {"entry": "none"})
    save_file(delta, folder / "unsigned", about)
    (folder / "cut").write_bytes(place(demo, "delta").read_bytes()[:-1])
    (folder / "header").write_bytes(place(demo, "delta").read_bytes()[:100])
    damaged = bytearray(place(demo, "delta").read_bytes())
    damaged[-9] ^= 1
    (folder / "damaged").write_bytes(damaged)
    no_class = "wrong label: data: label 7 is 10; expected 0 to 9"
    no_place = "wrong file: .*cut is wrong: '.*' has no valid dtype, shape and offsets"
    return {
        "a sample cut": ("score", {"x": folder / "short"}, "wrong shape: data: 'input' has .* expected a multiple"),
        "a label": ("fit", {"x": x, "y": folder / "labels"}, no_class),
        "labels": ("fit", {"x": x, "y": folder / "fewer"}, "wrong shape: .* labels for 299 samples, but 300 samples"),
        "no labels": ("fit", {"x": x}, "usage: data: there are no labels"),
        "no batch": ("fit", {"x": x, "y": y, "batch": 0}, "usage: a batch size of 0 and 5 epochs"),
        "NaN": ("fit", {"x": folder / "nan", "y": y}, "not finite: the loss is NaN in step 1: use a learning rate"),
        "NaN scored": ("score", {"x": folder / "nan"}, "not finite: the activation of layer 'stem.conv' is not finite"),
        "a rate": ("fit", {"x": x, "y": y, "rate": "1e30"}, "not finite: the loss is .* in step 2: .* below"),
        "an entry": ("fit", {"x": x, "y": y, "entry": "no"}, "usage: there is no entry 'no'; the package has 'layers'"),
        "another model": ("save", {"from": folder / "other"}, "wrong model: .*: 'model_sha256' is 0+; expected 5321"),
        "another entry": ("save", {"from": folder / "unknown"}, "wrong model: .* is for the entry 'none', which"),
        "no hash": ("save", {"from": folder / "unsigned"}, "wrong hash: .*unsigned: its data has the SHA-256"),
        "cut short": ("save", {"from": folder / "cut"}, no_place),
        "cut shorter": (
            "save",
            {"from": folder / "header"},
            "wrong file: .*header is not a safetensors file: 100 bytes",
        ),
        "damaged": ("save", {"from": folder / "damaged"}, "wrong hash: .*damaged: its data has the SHA-256"),
        "nothing": ("save", {"from": folder / "none"}, "wrong file: .*none cannot be read: No such file"),
        "a folder": ("save", {"from": folder}, "wrong file: .* is not a file"),
        "nowhere": ("save", {"from": place(demo, "delta"), "delta": "/nowhere/d"}, "storage: /nowhere/d cannot be"),
        "an option": ("save", {"form": 1}, "usage: --form is not an option"),
    }


@pytest.mark.usefixtures("trained")
def test_refusals_say_what_was_wrong(demo, tmp_path):
    for what, (command, options, pattern) in wrong_files(demo, tmp_path).items():
        line = demo.fails(command, **options)
        assert re.match(pattern, line), (what, line)
    few = tmp_path / "few"
    few.write_bytes(place(demo, "x").read_bytes()[: 7 * 1024])
    assert demo.fails("score", x=few) == "too few: there are 7 samples; scoring needs at least 8"


def test_a_newer_runtime_is_asked_for(demo, tmp_path):
    shutil.copytree(demo.package, tmp_path / "device")
    content = json.dumps(description(demo.package) | {"oldest_onnxruntime": "1.999"})
    (tmp_path / "device" / "device.json").write_text(content)
    line = replace(demo, package=tmp_path / "device").fails("show")
    assert re.fullmatch(r"runtime: this is ONNX Runtime 1\.\S+; the package needs 1\.999 or newer", line)
