"""samples/csharp against Python: the same losses, scores, predictions; deltas, kills and full disks."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_inputs import limited_files
from conftest import ROOT, SHARED, missing
from device_csharp import (
    CSHARP,
    Compiled,
    Program,
    compile_all,
    compiled,
    description,
    features,
    losses,
    run_graph,
    stored,
)
from models import tiny
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import squareform

import adabet_onnx
from adabet_onnx import Choices, Packing, apply_delta, make_artifacts, make_device, open_model, select
from adabet_onnx.device.random import Random, shuffle
from adabet_onnx.device.scoring import score_package
from adabet_onnx.scoring.betti import Loops

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

DEMO = Path(adabet_onnx.__file__).parent / "demo"
RESNET = SHARED / "models" / "resnet20_cifar10_bn.onnx"
BETTI, MENU = (ROOT / "tests" / "device" / name for name in ("betti-1000.bin", "menu-50.json"))
TOLERANCE = 1e-5
KEPT = ("parameter", "statistic")


@pytest.fixture(scope="module")
def csharp(tmp_path_factory) -> Compiled:
    return compile_all(tmp_path_factory.mktemp("csharp"))


@pytest.fixture(scope="module")
def demo(csharp, tmp_path_factory):
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
    return Program(csharp, folder / "device")


def place(program: Program, name: str) -> Path:
    return program.package.parent / name


def data(program: Program, part: str = "") -> tuple[np.ndarray, np.ndarray]:
    shape = description(program.package)["inputs"][0]["shape"][1:]
    x = np.fromfile(place(program, f"{part}x"), "<f4").reshape(-1, *shape)
    return x, np.fromfile(place(program, f"{part}y"), "<i8")


@pytest.fixture(scope="module")
def trained(demo):
    """Two epochs with everything that can be written; what was printed."""
    files = {
        name: place(demo, name) for name in ("x", "y", "held_x", "held_y", "progress", "delta", "selected", "model")
    }
    before = {path.name: path.read_bytes() for path in demo.package.iterdir()}
    printed = demo.run("fit", **files, epochs=2, batch=16, rate=0.005, seed=3)
    assert before == {path.name: path.read_bytes() for path in demo.package.iterdir()}
    return printed


def resnet(csharp: Compiled, folder: Path) -> Program:
    if not RESNET.is_file():
        missing("the shared models are not there")
    model = open_model(RESNET)
    selection = select(model, strategy="last", rho=0.1)
    make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    make_device(folder / "artifacts", folder / "device")
    rng = np.random.default_rng(0)
    rng.standard_normal((60, 3, 32, 32)).astype("<f4").tofile(folder / "x")
    rng.integers(0, 10, 60).astype("<i8").tofile(folder / "y")
    return Program(csharp, folder / "device")


@pytest.mark.parametrize("which", ["demo", "resnet20"])
def test_twenty_losses_are_those_of_python(which, demo, csharp, tmp_path):
    job = demo if which == "demo" else resnet(csharp, tmp_path)
    x, y = data(job)
    batch = 8 if which == "resnet20" else 16
    expected = list(itertools.islice(losses(job.package, x, y, batch=batch, seed=7, rate=1e-3), 20))
    options = {"x": place(job, "x"), "y": place(job, "y"), "batch": batch, "seed": 7, "rate": 1e-3, "epochs": 3}
    command = job.command("fit", **options, stop=20)
    done = subprocess.run(command, capture_output=True, text=True, env=csharp.environment, check=False)
    assert done.stderr.startswith("Cancelled: ")
    found = [float(line) for line in done.stdout.splitlines() if not line.startswith("epoch")]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
    assert len(set(found)) == 20


def test_scores_are_those_of_the_rule(demo):
    x, _ = data(demo)
    for samples in (300, 20):  # more than the package says; fewer than a subset has
        x[:samples].tofile(place(demo, "scored"))
        printed = [line.split(" ", 1) for line in demo.run("score", x=place(demo, "scored"))]
        assert printed.pop() == ["choice", description(demo.package)["entries"][0]["name"]]
        found = {name: float(score) for score, name in printed}
        assert found == score_package(demo.package, {"input": x[:samples]}, threads=1)
        assert len(set(found.values())) > 5


def test_first_betti_numbers_are_those_of_ripser(csharp, rng, tmp_path):
    content, at, subsets, numbers, counts = BETTI.read_bytes(), 8, b"", [], []
    for _ in range(1000):
        points, width, number = struct.unpack_from("<HHI", content, at)
        lengths = np.frombuffer(content, f"<f{width}", points * (points - 1) // 2, at + 8)
        at += 8 + lengths.nbytes
        chosen = [rng.permutation(points)[: max(1, points // 2)] for _ in range(8)]
        chosen += [rng.integers(0, points, len(chosen[0])) for _ in range(2)]  # with points given twice
        subsets += struct.pack("<II", len(chosen), len(chosen[0])) + np.stack(chosen).astype("<u4").tobytes()
        numbers.append(str(number))
        distance = squareform(lengths.astype(float)) if points > 1 else np.zeros((1, 1))
        counts.append(" ".join(map(str, Loops(distance).count(chosen))))
    assert at == len(content)
    (tmp_path / "subsets").write_bytes(subsets)
    assert csharp.cases("betti", BETTI, tmp_path / "subsets") == [*numbers, "", *counts]


def test_the_menu(csharp):
    found = csharp.cases("menu", MENU)
    cases = json.loads(MENU.read_text())["cases"]
    assert len(cases) == 50
    for case, line in zip(cases, found, strict=True):
        least, said = line.split(" ", 1)
        assert int(least) == case["smallest"], case["name"]
        if case["chosen"] is None:
            assert said.startswith("OutOfMemory: ")
            assert f"the smallest needs {case['smallest']}." in said
        else:
            assert said == case["chosen"], case["name"]


def test_random_numbers_are_the_documented_ones(csharp):
    again = Random(12345, 0)
    expected = [
        [2049673234, 658261152, 3573920880, 3099447095],
        shuffle(1000, 2**32 - 7, 3),
        shuffle(7, 5, 1),
        *(again.subset(100, 30) for _ in range(3)),
    ]
    assert csharp.cases("random") == [" ".join(map(str, numbers)) for numbers in expected]


def shown(shape: list[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def test_names_types_shapes_and_their_order_are_those_of_the_file(csharp, demo):
    content = description(demo.package)
    [entry] = content["entries"]
    lines = [line.split("\t") for line in csharp.cases("ports", demo.package)]
    own = [["input", v["name"], v["dtype"], shown(v["shape"])] for v in content["inputs"]]
    own += [["labels", content["labels"]["dtype"], shown(content["labels"]["shape"])]]
    own += [["boundary", v["name"], v["dtype"], shown(v["shape"])] for v in entry["boundary"]]
    own += [[t["kind"], t["name"], t["dtype"], shown(t["shape"]), str(t["offset"])] for t in entry["tensors"]]
    assert lines[: len(own)] == own
    inputs = [[v["name"], v["dtype"], shown(v["shape"])] for v in content["inputs"]]
    boundary = [[v["name"], v["dtype"], shown(v["shape"])] for v in entry["boundary"]]
    names, labels = entry["names"], own[len(inputs)][1:]
    sides = {
        side: [[t[side], t["dtype"], shown(t["shape"])] for t in entry["tensors"] if kinds or t["kind"] in KEPT]
        for side, kinds in (("input", True), ("output", True))
    }
    kept = sides["input"][: sum(t["kind"] in KEPT for t in entry["tensors"])]
    numbers = [[names["learning_rate"], "float32", "[]"], [names["step"], "int64", "[]"]]
    ends = [[names["loss"], "float32", "[]"], [names["logits"], "float32", shown(entry["logits_shape"])]]
    graphs = {
        entry["frozen"]: (inputs, [b for b, v in zip(boundary, entry["boundary"], strict=True) if v["input"] is None]),
        entry["step"]: ([*boundary, [names["labels"], *labels], *sides["input"], *numbers], [*ends, *sides["output"]]),
        entry["evaluation"]: ([*boundary, [names["labels"], *labels], *kept], ends),
        entry["prediction"]: ([*inputs, *kept], None),
    }
    for file, expected in graphs.items():
        for side, ports in zip(("in", "out"), expected, strict=True):
            found = [line[2:] for line in lines if line[:2] == [file, side]]
            assert ports is None or found == [port for port in ports if port in found or side == "out"], (file, side)
            assert found


def test_what_holds_when_it_is_cancelled_paused_and_so_on(csharp, demo, tmp_path):
    shutil.copy(place(demo, "x"), tmp_path / "x")
    printed = csharp.cases("behaviour", demo.package, place(demo, "x"), place(demo, "y"), tmp_path)
    assert len(printed) == 13
    assert "memory stays flat" in printed
    assert not list(tmp_path.glob("*.partial"))


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


def test_the_delta_goes_into_the_artifacts_and_changes_what_was_selected(demo, trained, tmp_path):
    assert apply_delta(demo.package, place(demo, "delta"), tmp_path / "selected") == "selected"
    assert (tmp_path / "selected").read_bytes() == place(demo, "selected").read_bytes()
    assert apply_delta(demo.package.parent / "artifacts", place(demo, "delta"), tmp_path / "adapted.onnx") == "model"
    x, y = data(demo, "held_")
    answers = run_graph(tmp_path / "adapted.onnx", {"input": x})["logits"].argmax(1)
    assert float(trained[-1].split(" accuracy ")[1]) == np.mean(answers == y)
    models = [onnx.load(path) for path in (DEMO / "digits.onnx", tmp_path / "adapted.onnx")]
    values = [{v.name: onnx.numpy_helper.to_array(v) for v in model.graph.initializer} for model in models]
    changed = {name for name, array in values[0].items() if not np.array_equal(array, values[1][name])}
    assert changed == set(load_file(place(demo, "delta")))


@pytest.mark.usefixtures("trained")
def test_the_personal_model_is_one_by_itself(demo, tmp_path):
    entry = description(demo.package)["entries"][0]
    x, _ = data(demo, "held_")
    ordinary = run_graph(demo.package / entry["model"], {"input": x})["logits"]
    personal = run_graph(place(demo, "model") / entry["model"], {"input": x})["logits"]
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
    shutil.copytree(demo.package, tmp_path / "device")
    content = description(demo.package)
    content["entries"][0]["name"] = "other"
    (tmp_path / "device" / "device.json").write_text(json.dumps(content))
    line = Program(demo.compiled, tmp_path / "device").fails("save", **{"from": place(demo, "delta")})
    assert line == 'WrongModel: delta is of the entry "layers", which the package does not have.'


def test_a_kill_costs_an_epoch_at_most(demo, trained, tmp_path):
    options = {"x": place(demo, "x"), "y": place(demo, "y"), "batch": 16, "rate": 0.005, "seed": 3, "epochs": 2}
    command = demo.command("fit", **options, progress=tmp_path / "progress")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=demo.compiled.environment) as process:
        for line in process.stdout:
            if line.startswith("epoch 1"):
                break
        assert len([process.stdout.readline() for _ in range(5)]) == 5
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    os.link(tmp_path / "progress", kept := tmp_path.parent / f"{tmp_path.name}-kept")
    first = kept.read_bytes()
    again = demo.run("fit", **options, progress=tmp_path / "progress", delta=tmp_path / "delta")
    assert kept.read_bytes() == first, "progress must be renamed, not written over"
    assert [line for line in again if not line.startswith("epoch")] == [
        line for line in trained[len(trained) // 2 :] if not line.startswith("epoch")
    ]
    for name in ("progress", "delta"):
        assert (tmp_path / name).read_bytes() == place(demo, name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "progress"]
    line = demo.fails("fit", **options | {"seed": 4}, progress=tmp_path / "progress")
    assert "is of another training: seed 3, " in line


def test_a_full_disk_is_an_error_that_leaves_what_was_there(demo, tmp_path):
    command = demo.command("fit", x=place(demo, "x"), y=place(demo, "y"), epochs=1, progress=tmp_path / "p")
    environment = {**demo.compiled.environment, "MONO_ENV_OPTIONS": "--gc-params=nursery-size=4m"}
    for _ in range(2):
        with limited_files(50_000):
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, restore_signals=False, check=False
            )
        assert done.stderr.startswith(f"Storage: {tmp_path / 'p'} cannot be written: "), done.stderr
        assert done.stderr.endswith("Make room, or take another place.\n")
        assert not list(tmp_path.iterdir())


def test_graphs_of_one_sample_predict_the_same(demo, tmp_path):
    make_device(demo.package.parent / "artifacts", tmp_path / "device", packing=Packing(profile="mobile"))
    for package, name in ((demo.package, "many"), (tmp_path / "device", "one")):
        Program(demo.compiled, package).run("predict", x=place(demo, "held_x"), out=tmp_path / name)
    found, expected = (np.fromfile(tmp_path / name, "<f4") for name in ("one", "many"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.size == 3000


@pytest.mark.parametrize("bgr", [False, True])
def test_raw_numbers_are_preprocessed(csharp, tmp_path, bgr):
    model = open_model(tiny.conv_net())
    make_artifacts(model, select(model, strategy="head"), tmp_path / "a", backend="portable", check=False)
    made = Program(csharp, tmp_path / "device")
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


def wrong_deltas(demo: Program, folder: Path) -> dict[str, str]:
    """Files that are no delta of this entry, and what must be said of each."""
    whole, metadata = place(demo, "delta").read_bytes(), {}
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    body = whole[8 + int.from_bytes(whole[:8], "little") :]
    metadata = header["__metadata__"]

    def write(name: str, content: dict[str, object], data: bytes = body) -> None:
        text = json.dumps(content).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data)

    first, *_ = [name for name in header if name != "__metadata__"]
    save_file(load_file(place(demo, "delta")), folder / "of another model", metadata | {"model_sha256": "0" * 64})
    write("of another entry", header | {"__metadata__": metadata | {"entry": "other"}})
    write("of another format", header | {"__metadata__": metadata | {"format": "onnx"}})
    write("of another version", header | {"__metadata__": metadata | {"version": "2"}})
    write("without metadata", {name: value for name, value in header.items() if name != "__metadata__"})
    write("of other numbers", header, body[:-4] + bytes(4))
    write("of another name", {name if name != first else "other": value for name, value in header.items()})
    write("of another shape", header | {first: {**header[first], "shape": [*header[first]["shape"], 1]}})
    write("of halves", header | {first: {**header[first], "dtype": "F16"}})
    write("with a gap", header | {first: {**header[first], "data_offsets": [4, header[first]["data_offsets"][1]]}})
    write("with huge offsets", header | {first: {**header[first], "data_offsets": [0, 1 << 60]}})
    write("longer", header, body + bytes(64))
    (folder / "cut").write_bytes(whole[:-1])
    (folder / "empty").write_bytes(b"")
    (folder / "of a huge header").write_bytes(b"\xff" * 7 + b"\x7f" + whole[8:])
    (folder / "no JSON").write_bytes(whole[:8] + b"x" + whole[9:])
    broken = body[:-4] + np.float32(np.nan).tobytes()
    write("not finite", header | {"__metadata__": metadata | {"sha256": hashlib.sha256(broken).hexdigest()}}, broken)
    return {
        "of another model": r"WrongModel\t.*model_sha256 \"0+\", expected \"",
        "of another entry": r"WrongModel\t.*entry \"other\", expected \"layers\"",
        "of another format": r"WrongFile\t.*format \"onnx\"",
        "of another version": r"WrongFile\t.*version \"2\"",
        "without metadata": r"WrongFile\t.*format null",
        "of other numbers": r"WrongHash\t.*SHA-256 [0-9a-f]{64}, expected \"[0-9a-f]{64}\"",
        "of another name": rf"WrongShape\t.*no tensor \"{re.escape(first)}\"",
        "of another shape": r"WrongShape\t.*, 1\] of \d+ bytes, expected F32 \[",
        "of halves": r"WrongShape\t.* as F16 ",
        "with a gap": r"WrongFile\t.*expected it to begin at 0",
        "with huge offsets": r"WrongFile\t.*data_offsets",
        "longer": r"WrongFile\t.*the end of the file",
        "cut": r"WrongFile\t.*the end of the file",
        "empty": r"WrongFile\t.*0 bytes",
        "of a huge header": r"WrongFile\t.*header",
        "no JSON": r"WrongFile\t.*no valid JSON",
        "not finite": r"NotFinite\t",
        "nowhere": r"WrongFile\tnowhere cannot be read",
    }


@pytest.mark.usefixtures("trained")
def test_foreign_cut_and_altered_deltas_are_refused(csharp, demo, tmp_path):
    expected = wrong_deltas(demo, tmp_path)
    given = "".join(f"{tmp_path / name}\n" for name in expected) + f"{place(demo, 'delta')}\n"
    *lines, last = csharp.cases("delta", demo.package, given=given)
    assert last == "none\t0\t0"
    for (name, pattern), line in zip(expected.items(), lines, strict=True):
        assert re.match(pattern, line), (name, line)


def test_a_runtime_that_is_missing_is_an_error(demo, tmp_path):
    for path in (*demo.compiled.folder.glob("*.dll"), *demo.compiled.folder.glob("*.exe")):
        shutil.copy(path, tmp_path)
    line = Program(Compiled(tmp_path), demo.package).fails("show")
    assert line.startswith("Runtime: ONNX Runtime's native library cannot be used: ")


def test_a_wrong_command_line_is_told(demo):
    assert demo.fails("fit", y="nothing").startswith("usage: --")
    assert demo.fails("show", nothing=1) == "usage: --nothing is no option."
    assert demo.fails("sing") == "usage: sing is no command."
    assert demo.fails("predict", x=place(demo, "x")).startswith("usage: --out must be there")


def test_every_public_name_is_documented(csharp, tmp_path):
    sources = list((CSHARP / "Adabet.Device").glob("*.cs"))
    made = tmp_path / "Adabet.Device.dll"
    words = (f"-doc:{tmp_path / 'doc.xml'}", "-nowarn:1573")  # some parameters need no words
    compiled("library", made, sources, csharp.folder / "Microsoft.ML.OnnxRuntime.dll", more=words)
    assert "Adabet.Device.Training.FitAsync" in (tmp_path / "doc.xml").read_text()
    assert "Console." not in "".join(path.read_text() for path in sources), "a library prints nothing"
