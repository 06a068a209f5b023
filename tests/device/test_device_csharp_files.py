"""samples/csharp and its files: deltas for Python, progress, kills, full disks, and foreign deltas."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_inputs import limited_files
from device_csharp import DEMO, KEPT, Compiled, Program, compile_all, data, demo_program, place
from device_rules import description, features, run_graph, stored
from safetensors.numpy import load_file, save_file

from adabet_onnx import apply_delta

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def csharp(tmp_path_factory) -> Compiled:
    return compile_all(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def demo(csharp, tmp_path_factory):
    return demo_program(csharp, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def trained(demo):
    """Two epochs with all output files; returns the printed lines."""
    files = {
        name: place(demo, name) for name in ("x", "y", "held_x", "held_y", "progress", "delta", "selected", "model")
    }
    before = {path.name: path.read_bytes() for path in demo.package.iterdir()}
    printed = demo.run("fit", **files, epochs=2, batch=16, rate=0.005, seed=3)
    assert before == {path.name: path.read_bytes() for path in demo.package.iterdir()}
    return printed


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
    shutil.copytree(demo.package, tmp_path / "device")
    shutil.copy(place(demo, "selected"), tmp_path / "device" / entry["selected"])  # a package may be made personal
    made = Program(demo.compiled, tmp_path / "device")
    made.run("predict", x=place(demo, "held_x"), out=tmp_path / "initial")
    demo.run("predict", x=place(demo, "held_x"), out=tmp_path / "logits")
    assert (tmp_path / "initial").read_bytes() == (tmp_path / "logits").read_bytes(), "it begins with the state"
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
    assert line == 'WrongModel: delta is for the entry "layers", which the package does not have.'


def test_a_kill_costs_an_epoch_at_most(demo, tmp_path):
    options = {"x": place(demo, "x"), "y": place(demo, "y"), "batch": 16, "rate": 0.005, "seed": 3}
    command = demo.command("fit", **options, epochs=10_000, progress=tmp_path / "progress")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=demo.compiled.environment) as process:
        for line in process.stdout:
            if line.startswith("epoch 1"):
                break
        assert len([process.stdout.readline() for _ in range(5)]) == 5
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    os.link(tmp_path / "progress", kept := tmp_path.parent / f"{tmp_path.name}-kept")
    first = kept.read_bytes()
    whole = int(json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])["__metadata__"]["epoch"])
    again = demo.run("fit", **options, epochs=whole + 1, progress=tmp_path / "progress", delta=tmp_path / "delta")
    assert kept.read_bytes() == first, "progress must be renamed, not written over"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "progress"]
    (other := tmp_path / "other").mkdir()
    through = demo.run("fit", **options, epochs=whole + 1, progress=other / "progress", delta=other / "delta")
    assert again == through[-len(again) :]
    assert len(again) == len(through) / (whole + 1) == 20
    for name in ("progress", "delta"):
        assert (tmp_path / name).read_bytes() == (other / name).read_bytes()
    line = demo.fails("fit", **options | {"seed": 4}, progress=tmp_path / "progress")
    assert "belongs to another training run: seed 3, " in line


def test_a_full_disk_is_an_error_that_leaves_what_was_there(demo, tmp_path):
    command = demo.command("fit", x=place(demo, "x"), y=place(demo, "y"), epochs=1, progress=tmp_path / "p")
    environment = {**demo.compiled.environment, "MONO_ENV_OPTIONS": "--gc-params=nursery-size=4m"}
    for _ in range(2):
        with limited_files(50_000):
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, restore_signals=False, check=False
            )
        assert done.stderr.startswith(f"Storage: {tmp_path / 'p'} cannot be written: "), done.stderr
        assert done.stderr.endswith("Free some space, or choose another path.\n")
        assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("trained")
def test_a_delta_in_another_order_is_the_same(demo, tmp_path):
    """The library safetensors writes tensors in an order of its own."""
    whole, tensors = place(demo, "delta").read_bytes(), load_file(place(demo, "delta"))
    metadata = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    for _ in range(2):  # first to see which bytes it writes
        save_file(tensors, tmp_path / "other", metadata)
        written = (tmp_path / "other").read_bytes()
        body = written[8 + int.from_bytes(written[:8], "little") :]
        metadata["sha256"] = hashlib.sha256(body).hexdigest()
    assert body != whole[-len(body) :]
    demo.run("save", **{"from": tmp_path / "other"}, delta=tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == whole


def wrong_deltas(demo: Program, folder: Path) -> dict[str, str]:
    """Files that are not a delta of this entry, and the expected message for each."""
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
        "no JSON": r"WrongFile\t.*not valid JSON",
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
