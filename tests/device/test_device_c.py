"""samples/c and samples/cpp against Python: the same losses, scores, predictions; deltas, kills and full disks."""

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
import onnx
import pytest
from bad_inputs import limited_files
from conftest import SHARED, missing
from device_c import CPP, WARNINGS, C, Program, build, environment
from device_commands import checked, runtime_library
from device_rules import Random, description, features, losses, run_graph, scores, shuffled, stored
from models import tiny
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import adabet_onnx
from adabet_onnx import Choices, Packing, apply_delta, make_artifacts, make_device, open_model, select

ENDLESS = 1_000_000
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

DEMO = Path(adabet_onnx.__file__).parent / "demo"
RESNET = SHARED / "models" / "resnet20_cifar10_bn.onnx"
TOLERANCE = 1e-5
KEPT = ("parameter", "statistic")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, built without a warning."""
    folder = build(C, tmp_path_factory.mktemp("c"), f"-DCMAKE_C_FLAGS=-O2 {WARNINGS}", "-DBUILD_SHARED_LIBS=ON")
    return folder / "adabet-device"


@pytest.fixture(scope="module")
def demo(program, tmp_path_factory):
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
    return Program(program, folder / "device")


def place(program: Program, name: str) -> Path:
    return program.package.parent / name


def data(program: Program, part: str = "") -> tuple[np.ndarray, np.ndarray]:
    shape = description(program.package)["inputs"][0]["shape"][1:]
    x = np.fromfile(place(program, f"{part}x"), "<f4").reshape(-1, *shape)
    return x, np.fromfile(place(program, f"{part}y"), "<i8")


@pytest.fixture(scope="module")
def trained(demo):
    """Two epochs with all output files; returns the printed lines."""
    files = {name: place(demo, name) for name in ("x", "y", "held_x", "held_y", "progress", "delta", "selected")}
    before = {path.name: path.read_bytes() for path in demo.package.iterdir()}
    printed = demo.run("fit", **files, epochs=2, batch=16, rate=0.005, seed=3)
    assert before == {path.name: path.read_bytes() for path in demo.package.iterdir()}
    return printed


def resnet(program: Path, folder: Path) -> Program:
    if not RESNET.is_file():
        missing("the shared models are not there")
    model = open_model(RESNET)
    make_artifacts(
        model, select(model, strategy="last", rho=0.1), folder / "artifacts", backend="portable", check=False
    )
    make_device(folder / "artifacts", folder / "device")
    rng = np.random.default_rng(0)
    rng.standard_normal((60, 3, 32, 32)).astype("<f4").tofile(folder / "x")
    rng.integers(0, 10, 60).astype("<i8").tofile(folder / "y")
    return Program(program, folder / "device")


@pytest.mark.parametrize("which", ["demo", "resnet20"])
def test_twenty_losses_are_those_of_python(which, demo, program, tmp_path):
    job = demo if which == "demo" else resnet(program, tmp_path)
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
        assert len(set(found.values())) > 5


def test_too_little_memory_names_what_the_smallest_needs(demo):
    pairs = dict(description(demo.package)["entries"][0]["memory"])
    for batch, needs in ((8, pairs[8]), (9, pairs[32]), (48, -(-pairs[32] * 48 // 32))):
        line = demo.fails("score", x=place(demo, "x"), memory=needs - 1, batch=batch)
        assert line.endswith(f"at a batch size of {batch}: the smallest needs {needs}")
        assert demo.run("score", x=place(demo, "x"), memory=needs, batch=batch)[-1].startswith("choice ")


@pytest.fixture
def changed(demo, tmp_path):
    """The demo's package, with changes of device.json."""

    def change(**changes: object) -> Program:
        shutil.copytree(demo.package, tmp_path / "device", dirs_exist_ok=True)
        (tmp_path / "device" / "device.json").write_text(json.dumps(description(demo.package) | changes))
        return replace(demo, package=tmp_path / "device")

    return change


def test_the_choice_is_the_worth_then_the_need_then_the_order(demo, changed):
    [entry] = description(demo.package)["entries"]
    head, more = ["head"], ["head", "block4.conv1", "no such layer"]
    entries = [("a", head, 100), ("b", more, 200), ("c", more, 150), ("d", more, 150), ("e", head, 90)]
    menu = changed(entries=[entry | {"name": n, "layers": names, "memory": [[8, b]]} for n, names, b in entries])
    for memory, expected in ((1000, "c"), (150, "c"), (149, "e"), (90, "e")):
        assert menu.run("score", x=place(demo, "x"), batch=4, memory=memory)[-1] == f"choice {expected}"
    assert menu.fails("score", x=place(demo, "x"), batch=16, memory=179).endswith("the smallest needs 180")


def test_graphs_of_one_sample_predict_the_same(demo, tmp_path):
    make_device(demo.package.parent / "artifacts", tmp_path / "device", packing=Packing(profile="mobile"))
    for program, name in ((demo, "many"), (replace(demo, package=tmp_path / "device"), "one")):
        program.run("predict", x=place(demo, "held_x"), out=tmp_path / name)
    found, expected = (np.fromfile(tmp_path / name, "<f4") for name in ("one", "many"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.size == 3000


@pytest.mark.parametrize("bgr", [False, True])
def test_raw_numbers_are_preprocessed(demo, program, tmp_path, bgr):
    make_artifacts(
        model := open_model(tiny.conv_net()),
        select(model, strategy="head"),
        tmp_path / "a",
        backend="portable",
        check=False,
    )
    made = Program(program, tmp_path / "device")
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
    made.run("predict", x=tmp_path / "raw", out=tmp_path / "other")
    assert np.abs(np.fromfile(tmp_path / "other", "<f4") - expected).max() > 0.1


def test_the_first_random_numbers_are_the_documented_ones():
    random = Random(0, 1)
    assert [random.next() for _ in range(4)] == [2049673234, 658261152, 3573920880, 3099447095]
    assert sorted(shuffled(50, 1, 2)) == list(range(50)) != shuffled(50, 1, 2)


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


def test_the_delta_goes_into_the_artifacts(demo, trained, tmp_path):
    assert apply_delta(demo.package, place(demo, "delta"), tmp_path / "selected") == "selected"
    assert (tmp_path / "selected").read_bytes() == place(demo, "selected").read_bytes()
    assert apply_delta(demo.package.parent / "artifacts", place(demo, "delta"), tmp_path / "adapted.onnx") == "model"
    x, y = data(demo, "held_")
    answers = run_graph(tmp_path / "adapted.onnx", {"input": x})["logits"].argmax(1)
    assert f" accuracy {np.mean(answers == y):.17g}" in trained[-1]
    before, after = (onnx.load(path).graph.initializer for path in (DEMO / "digits.onnx", tmp_path / "adapted.onnx"))
    values = [{tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph} for graph in (before, after)]
    changed = {name for name, array in values[0].items() if not np.array_equal(array, values[1][name])}
    assert changed == set(load_file(place(demo, "delta")))


@pytest.mark.usefixtures("trained")
def test_the_file_alone_makes_the_model_personal(demo, tmp_path):
    content = description(demo.package)
    entry = content["entries"][0]
    x, _ = data(demo, "held_")
    ordinary = run_graph(demo.package / entry["model"], {"input": x})["logits"]
    shutil.copytree(demo.package, tmp_path / "device")
    shutil.copy(place(demo, "selected"), tmp_path / "device" / entry["selected"])
    personal = run_graph(tmp_path / "device" / entry["model"], {"input": x})["logits"]
    assert np.abs(personal - ordinary).max() > 0.1
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
    command = demo.command("fit", **options, epochs=ENDLESS, progress=tmp_path / "progress")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
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
    command = demo.command("fit", x=place(demo, "x"), y=place(demo, "y"), epochs=1, progress=tmp_path / "p")
    with limited_files(50_000):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), restore_signals=False, check=False
        )
    assert done.stderr == f"storage: {tmp_path / 'p'} cannot be written: File too large\n"
    assert not list(tmp_path.iterdir())


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
    metadata = {
        "format": "adabet-onnx/delta",
        "version": "1",
        "model_sha256": "0" * 64,
        "entry": "layers",
        "sha256": "",
    }
    save_file(delta, folder / "other", metadata)
    (folder / "cut").write_bytes(place(demo, "delta").read_bytes()[:-1])
    damaged = bytearray(place(demo, "delta").read_bytes())
    damaged[-9] ^= 1
    (folder / "damaged").write_bytes(damaged)
    return {
        "a sample cut": (
            "score",
            {"x": folder / "short"},
            "wrong shape: data: 'input' has .* expected a multiple of that",
        ),
        "a label": ("fit", {"x": x, "y": folder / "labels"}, "wrong label: data: label 7 is 10; expected 0 to 9"),
        "labels": ("fit", {"x": x, "y": folder / "fewer"}, "wrong shape: .* labels for 299 samples, but 300 samples"),
        "no labels": ("fit", {"x": x}, "usage: data: the array for 'labels' is missing"),
        "NaN": ("fit", {"x": folder / "nan", "y": y}, "not finite: the loss is -?nan in step 1: use a learning rate"),
        "NaN scored": ("score", {"x": folder / "nan"}, "not finite: the activation of layer 'stem.conv' is not finite"),
        "a rate": ("fit", {"x": x, "y": y, "rate": "1e30"}, "not finite: the loss is .* in step 2: .* below"),
        "another model": ("save", {"from": folder / "other"}, "wrong model: .*: 'model_sha256' is 0+; expected 5321"),
        "cut short": (
            "save",
            {"from": folder / "cut"},
            "wrong file: .*cut: '.*' has no valid dtype, shape",
        ),
        "damaged": ("save", {"from": folder / "damaged"}, "wrong hash: .*damaged: its data has the SHA-256"),
        "no runtime": ("show", {"onnxruntime": "/nowhere.so"}, "runtime: ONNX Runtime cannot be loaded: /nowhere.so"),
    }


@pytest.mark.usefixtures("trained")
def test_refusals_say_what_was_wrong(demo, tmp_path):
    for what, (command, options, pattern) in wrong_files(demo, tmp_path).items():
        assert re.search(pattern, demo.fails(command, **options)), what
    few = tmp_path / "few"
    few.write_bytes(place(demo, "x").read_bytes()[: 7 * 1024])
    assert demo.fails("score", x=few) == "too few: there are 7 samples; scoring needs at least 8"


def test_a_newer_runtime_is_asked_for(changed):
    line = changed(oldest_onnxruntime="1.999").fails("show")
    assert re.fullmatch(r"runtime: this is ONNX Runtime 1\.\S+; the package needs 1\.999 or newer", line)


def test_the_cpp_header_does_the_same(demo, tmp_path):
    folder = build(CPP, tmp_path / "b", f"-DCMAKE_CXX_FLAGS={WARNINGS}")
    command = [folder / "example", demo.package, place(demo, "x"), place(demo, "y"), tmp_path / "delta"]
    printed = checked(*command, env=environment()).stdout.splitlines()
    expected = demo.run("fit", x=place(demo, "x"), y=place(demo, "y"), epochs=2, delta=tmp_path / "expected")
    assert printed[:2] == [line.replace(" loss", ": loss") for line in expected if line.startswith("epoch")]
    assert re.fullmatch(r"right [1-9]\d+ of 300", printed[2])
    assert (tmp_path / "delta").read_bytes() == (tmp_path / "expected").read_bytes()


def test_installed_it_is_found_by_pkg_config_and_can_be_linked(demo, tmp_path):
    if shutil.which("pkg-config") is None:
        missing("there is no pkg-config")
    library = tmp_path / "libonnxruntime.so.1"
    library.symlink_to(runtime_library())
    build(C, tmp_path / "b", f"-DONNXRUNTIME_LIBRARY={library}", f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'usr'}")
    checked("cmake", "--install", tmp_path / "b")
    environment_of = {**environment(), "PKG_CONFIG_PATH": str(next(tmp_path.glob("usr/lib*/**/pkgconfig")))}
    words = checked("pkg-config", "--cflags", "--libs", "adabet", env=environment_of).stdout.split()
    source = tmp_path / "main.c"
    source.write_text(
        "#include <adabet.h>\n#include <stdio.h>\nint main(void) { return puts(adabet_code_name(ADABET_OK)) < 0; }"
    )
    checked("gcc", source, "-o", tmp_path / "main", *words, "-Wl,--unresolved-symbols=ignore-in-shared-libs")
    program = Program(tmp_path / "b" / "adabet-device", demo.package)
    paths = {**environment(), "LD_LIBRARY_PATH": str(tmp_path), "ADABET_ONNXRUNTIME": "/nowhere.so"}
    assert "entry layers: 4 layers" in checked(*program.command("show"), env=paths).stdout
