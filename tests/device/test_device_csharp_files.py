"""What only samples/csharp is tested with of files: personal models in folders of their own, and foreign deltas."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from device_csharp import Compiled, Program, compile_all
from device_languages import demo_program
from device_programs import trained
from device_rules import description, run_graph
from safetensors.numpy import load_file, save_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def csharp(tmp_path_factory) -> Compiled:
    return compile_all(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The program with the demo's package, trained."""
    with demo_program("csharp", tmp_path_factory.getbasetemp()) as program:
        trained(program)
        yield program


def test_the_personal_model_is_one_by_itself(demo, tmp_path):
    entry = description(demo.package)["entries"][0]
    options = {"x": demo.place("x"), "y": demo.place("y"), "epochs": 2, "batch": 16, "rate": 0.005, "seed": 3}
    demo.run("fit", **options, delta=tmp_path / "delta", model=tmp_path / "model")
    assert (tmp_path / "delta").read_bytes() == demo.place("delta").read_bytes()
    x, _ = demo.data("held_")
    ordinary = run_graph(demo.package / entry["model"], {"input": x})["logits"]
    personal = run_graph(tmp_path / "model" / entry["model"], {"input": x})["logits"]
    assert np.abs(personal - ordinary).max() > 0.1
    for options, expected in (({"from": demo.place("delta")}, personal), ({}, ordinary)):
        demo.run("predict", x=demo.place("held_x"), out=tmp_path / "logits", **options)
        found = np.fromfile(tmp_path / "logits", "<f4").reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert np.array_equal(found.argmax(1), expected.argmax(1))


def test_a_delta_of_an_entry_that_is_not_there_is_refused(demo, tmp_path):
    shutil.copytree(demo.package, tmp_path / "device")
    content = description(demo.package)
    content["entries"][0]["name"] = "other"
    (tmp_path / "device" / "device.json").write_text(json.dumps(content))
    line = demo.of(tmp_path / "device").fails("save", **{"from": demo.place("delta")})
    assert line == 'WrongModel: delta is for the entry "layers", which the package does not have.'


def test_a_delta_in_another_order_is_the_same(demo, tmp_path):
    """The library safetensors writes tensors in an order of its own."""
    whole, tensors = demo.place("delta").read_bytes(), load_file(demo.place("delta"))
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
    whole, metadata = demo.place("delta").read_bytes(), {}
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    body = whole[8 + int.from_bytes(whole[:8], "little") :]
    metadata = header["__metadata__"]

    def write(name: str, content: dict[str, object], data: bytes = body) -> None:
        text = json.dumps(content).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data)

    first, *_ = [name for name in header if name != "__metadata__"]
    save_file(load_file(demo.place("delta")), folder / "of another model", metadata | {"model_sha256": "0" * 64})
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


def test_foreign_cut_and_altered_deltas_are_refused(csharp, demo, tmp_path):
    expected = wrong_deltas(demo, tmp_path)
    given = "".join(f"{tmp_path / name}\n" for name in expected) + f"{demo.place('delta')}\n"
    *lines, last = csharp.cases("delta", demo.package, given=given)
    assert last == "none\t0\t0"
    for (name, pattern), line in zip(expected.items(), lines, strict=True):
        assert re.match(pattern, line), (name, line)
