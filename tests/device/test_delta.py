"""Deltas: they hold the trained values, give the exported model when applied, and are rejected if they do not fit."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from bad_inputs import needs_training
from command_line import command_of
from device_packages import MODEL, write_package
from models import tiny
from safetensors import safe_open

from adabet_onnx import (
    OutputError,
    RecordError,
    Settings,
    Trainer,
    UsageError,
    apply_delta,
    export_model,
    load_delta,
    make_artifacts,
    make_device,
    open_model,
    save_delta,
    select,
)
from adabet_onnx.device.delta import write_delta
from adabet_onnx.device.deltas import compare_deltas
from adabet_onnx.device.description import load_device
from adabet_onnx.selection.options import Choosing

pytestmark = pytest.mark.usefixtures("checked_here")
SHAPES = {"fc.weight": (2, 4), "fc.bias": (5,), "bn.mean": (3,)}


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = open_model(tiny.conv_net()).inputs[0].shape[1:]
    return rng.standard_normal((count, *shape)).astype(np.float32), rng.integers(0, 3, count)


def trained(folder: Path, *, seed: int = 0, channels: bool = False, **options: Any) -> Path:
    model = open_model(tiny.conv_net())
    selection = select(model, strategy="all")
    if channels:
        from adabet_onnx import Scoring, score

        scores = score(model, data()[0], scoring=Scoring(samples=32, subset_size=16, subsets=2, channels=True))
        selection = select(scores, strategy="adabet", rho=1.0, choosing=Choosing(channel_rho=0.5))
    make_artifacts(model, selection, folder, check=False, **options)
    Trainer(folder).fit(data(), settings=Settings(epochs=2, learning_rate=1e-2, seed=seed))
    return folder


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("delta") / "artifacts")


@pytest.fixture
def delta(artifacts, tmp_path) -> Path:
    path = tmp_path / "personal.safetensors"
    save_delta(artifacts, path)
    return path


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_file_is_that_of_the_format(artifacts, delta):
    """Read by the stock package and byte by byte."""
    manifest = json.loads((artifacts / "manifest.json").read_text())
    names = [entry["name"] for entry in manifest["parameters"]]
    names += [entry["name"] for entry in manifest["state"] if entry.get("moves")]
    tensors = safetensors.numpy.load_file(delta)
    assert set(tensors) == set(names)
    raw = delta.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert (8 + length) % 64 == 0
    header = json.loads(raw[8 : 8 + length])
    assert list(header) == ["__metadata__", *names]
    about = header.pop("__metadata__")
    ends = [entry["data_offsets"] for entry in header.values()]
    assert ends[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))
    assert 8 + length + ends[-1][1] == len(raw)
    assert about == {
        "format": "adabet-onnx/delta",
        "version": "1",
        "model_sha256": manifest["model_sha256"],
        "entry": "all",
        "sha256": hashlib.sha256(raw[8 + length :]).hexdigest(),
    }
    with safe_open(str(artifacts / "training" / "last.ckpt"), framework="numpy") as checkpoint:
        for name in names:
            assert np.array_equal(tensors[name], checkpoint.get_tensor(name))


def test_what_was_saved_is_read(artifacts, delta, tmp_path):
    found = load_delta(delta)
    assert (found.path, found.entry) == (delta, "all")
    assert "personal.safetensors" in repr(found)
    save_delta(artifacts, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == delta.read_bytes()


def test_any_valid_file_is_read(delta, tmp_path):
    """The stock package orders tensors by name, and pads to 8 bytes."""
    tensors = safetensors.numpy.load_file(delta)
    with safe_open(str(delta), framework="numpy") as file:
        about = dict(file.metadata())
    stock = safetensors.numpy.save(tensors, metadata=about)
    (length,) = struct.unpack("<Q", stock[:8])
    about["sha256"] = hashlib.sha256(stock[8 + length :]).hexdigest()
    other = tmp_path / "stock.safetensors"
    safetensors.numpy.save_file(tensors, other, metadata=about)
    found, expected = load_delta(other), load_delta(delta)
    assert {name: array.tobytes() for name, array in found.tensors.items()} == {
        name: array.tobytes() for name, array in expected.tensors.items()
    }


# --- applied ---------------------------------------------------------------------------------------------------------


def test_applied_to_artifacts_it_is_the_exported_model(artifacts, delta, tmp_path):
    export_model(artifacts, tmp_path / "exported.onnx")
    assert apply_delta(artifacts, delta, tmp_path / "adapted.onnx") == "model"
    assert (tmp_path / "adapted.onnx").read_bytes() == (tmp_path / "exported.onnx").read_bytes()


def test_applied_to_artifacts_that_were_not_trained_it_computes_the_same(artifacts, delta, tmp_path):
    untrained = tmp_path / "untrained"
    make_artifacts(open_model(tiny.conv_net()), select(open_model(tiny.conv_net()), strategy="all"), untrained)
    apply_delta(untrained, load_delta(delta), tmp_path / "adapted.onnx")
    export_model(artifacts, tmp_path / "exported.onnx")
    export_model(untrained, tmp_path / "initial.onnx")
    logits = [outputs(tmp_path / f"{name}.onnx") for name in ("adapted", "exported", "initial")]
    assert np.array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])


def test_the_best_checkpoint_counts(tmp_path):
    folder, other = trained(tmp_path / "artifacts"), trained(tmp_path / "other", seed=1)
    last, best = (save_delta(place, tmp_path / f"{place.name}.safetensors") for place in (folder, other))
    assert last.sha256 != best.sha256
    (folder / "training" / "best.ckpt").write_bytes((other / "training" / "last.ckpt").read_bytes())
    assert save_delta(folder, tmp_path / "later.safetensors").sha256 == best.sha256


def outputs(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: data()[0]})[0])


def test_parts_of_tensors(tmp_path):
    """If only some channels are trained, the delta has only those, and the model keeps the others."""
    folder = trained(tmp_path / "artifacts", channels=True)
    found = save_delta(folder, tmp_path / "personal.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    parts = {entry["name"]: entry for entry in manifest["parameters"] if entry.get("channels")}
    assert parts
    apply_delta(folder, tmp_path / "personal.safetensors", tmp_path / "adapted.onnx")
    export_model(folder, tmp_path / "exported.onnx")
    assert np.array_equal(outputs(tmp_path / "adapted.onnx"), outputs(tmp_path / "exported.onnx"))
    adapted, original = (
        {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
        for path in (tmp_path / "adapted.onnx", folder / manifest["files"]["model"])
    )
    for name, entry in parts.items():
        axis, indices = entry["channels"]["axis"], entry["channels"]["indices"]
        assert np.array_equal(np.take(adapted[name], indices, axis), found.tensors[name])
        assert np.array_equal(np.delete(adapted[name], indices, axis), np.delete(original[name], indices, axis))


@needs_training
def test_of_the_other_backend(tmp_path):
    folder = trained(tmp_path / "artifacts", backend="ort")
    save_delta(folder, tmp_path / "personal.safetensors")
    apply_delta(folder, tmp_path / "personal.safetensors", tmp_path / "adapted.onnx")
    export_model(folder, tmp_path / "exported.onnx")
    assert np.array_equal(outputs(tmp_path / "adapted.onnx"), outputs(tmp_path / "exported.onnx"))
    made = load_delta(tmp_path / "personal.safetensors")
    portable = tmp_path / "portable"
    make_artifacts(open_model(tiny.conv_net()), select(open_model(tiny.conv_net()), strategy="all"), portable)
    apply_delta(portable, made, tmp_path / "other.onnx")
    assert np.array_equal(outputs(tmp_path / "other.onnx"), outputs(tmp_path / "exported.onnx"))


@pytest.mark.parametrize("channels", [False, True])
def test_applied_to_a_package_it_is_the_personal_model(tmp_path, channels):
    """The package starts with the model's own values; with the file replaced, it is the trained model."""
    folder = trained(tmp_path / "artifacts", channels=channels)
    save_delta(folder, tmp_path / "personal.safetensors")
    export_model(folder, tmp_path / "exported.onnx")
    package = tmp_path / "device"
    make_device(folder, package, start="initial")
    before = outputs(package / "device.onnx")
    assert apply_delta(package, tmp_path / "personal.safetensors", package / "selected.bin") == "selected"
    assert (package / "selected.bin").read_bytes() != (package / "state.bin").read_bytes()
    np.testing.assert_allclose(outputs(package / "device.onnx"), outputs(tmp_path / "exported.onnx"), atol=1e-5)
    assert not np.allclose(before, outputs(package / "device.onnx"))
    load_device(package)
    make_device(folder, tmp_path / "trained")
    assert (package / "selected.bin").read_bytes() == (tmp_path / "trained" / "selected.bin").read_bytes()


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path) -> Path:
    return write_package(tmp_path / "device")


def personal(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES, *, model: str = MODEL, entry: str = "last"):
    rng = np.random.default_rng(5)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return write_delta(path, tensors, model_sha256=model, entry=entry)


def test_the_bytes_of_the_file_of_a_package(package, tmp_path):
    made = personal(tmp_path / "p.safetensors")
    apply_delta(package, tmp_path / "p.safetensors", tmp_path / "selected.bin")
    written = (tmp_path / "selected.bin").read_bytes()
    expected = b"".join(array.tobytes().ljust(64, b"\0") for array in made.tensors.values())
    assert written == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "cd" * 32}, ["another model", "cd" * 32, MODEL]),
        ({"entry": "first"}, ["entry 'first'", "'last'"]),
        ({"shapes": {**SHAPES, "fc.bias": (6,)}}, ["'fc.bias'", "[6]", "[5]"]),
        ({"shapes": {**SHAPES, "fc.weight": (4, 2)}}, ["'fc.weight'", "[4, 2]", "[2, 4]"]),
        ({"shapes": {**SHAPES, "more": (1,)}}, ["'more'", "not trained"]),
        ({"shapes": {"fc.weight": (2, 4), "fc.bias": (5,)}}, ["lacks 1 tensor", "'bn.mean'"]),
        ({"shapes": {}}, ["lacks 3 tensors", "'fc.weight'"]),
    ],
)
def test_what_does_not_fit_a_package_is_refused(package, tmp_path, given, words):
    personal(tmp_path / "p.safetensors", **given)
    with pytest.raises(RecordError) as error:
        apply_delta(package, tmp_path / "p.safetensors", tmp_path / "out.bin")
    assert all(word in str(error.value) for word in [*words, "p.safetensors"])
    assert not (tmp_path / "out.bin").exists()


def test_what_does_not_fit_artifacts_is_refused(artifacts, delta, tmp_path):
    found = load_delta(delta)
    for changed, word in (
        ({"model": MODEL, "shapes": SHAPES}, "another model"),
        ({"model": found.model_sha256, "shapes": {"nothing": (2,)}}, "'nothing', which is not trained in"),
    ):
        personal(tmp_path / "p.safetensors", **changed)
        with pytest.raises(RecordError, match=word):
            apply_delta(artifacts, tmp_path / "p.safetensors", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def file_of(header: Any, numbers: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


def with_about(numbers: bytes = bytes(8), entry: Any = None, **about: str) -> bytes:
    known = {"format": "adabet-onnx/delta", "version": "1", "model_sha256": MODEL, "entry": "last"}
    known["sha256"] = hashlib.sha256(numbers).hexdigest()
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} if entry is None else entry
    return file_of({"__metadata__": {**known, **about}, "w": tensor}, numbers)


def numbers(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a safetensors file, or was cut short"),
    "seven bytes": (bytes(7), "not a safetensors file"),
    "no header": (struct.pack("<Q", 0), "not a valid safetensors file"),
    "absurd header": (file_of({}, b"", length=2**63), f"{2**63} bytes"),
    "header beyond the file": (file_of({}, b"", length=3), "cut short"),
    "header of 101 MB": (struct.pack("<Q", 101_000_000) + bytes(2000), "101000000 bytes"),
    "header is no JSON": (file_of(b"{]      ", b""), "not a valid safetensors file"),
    "header is no text": (file_of(b"\xff\xfe    ", b""), "not a valid safetensors file"),
    "header is a list": (file_of([], b""), "not a valid safetensors file"),
    "nested header": (file_of(b"[" * 10_000, b""), "not a valid safetensors file"),
    "tensor beyond the end": (with_about(numbers(1)), "not a valid safetensors file"),
    "more bytes than tensors": (with_about(numbers(1, 2, 3)), "not a valid safetensors file"),
    "other dtype": (with_about(entry={"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}), "'w' is F64"),
    "unknown dtype": (with_about(entry={"dtype": "F9", "shape": [1], "data_offsets": [0, 8]}), "not a valid"),
    "shape and bytes differ": (with_about(entry={"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), "not a valid"),
    "absurd shape": (with_about(entry={"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 8]}), "not a va"),
    "turned offsets": (with_about(entry={"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}), "not a valid"),
    "no metadata": (file_of({"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, b""), "found None"),
    "progress": (with_about(format="adabet-onnx/progress"), "'adabet-onnx/progress'"),
    "newer": (with_about(version="2"), "version '2'"),
    "no hash of a model": (with_about(model_sha256="abc"), "'model_sha256'"),
    "no hash": (with_about(sha256=""), "'sha256'"),
    "no entry": (with_about(**{}).replace(b'"entry"', b'"entri"'), "choice of layers"),
    "altered": (with_about(sha256="0" * 64), "was altered"),
    "not a number": (with_about(numbers(1, np.nan)), "'w' has 1 number that are not finite, the first at 1"),
    "infinite": (with_about(numbers(np.inf, -np.inf)), "'w' has 2 numbers that are not finite, the first at 0"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(tmp_path, what):
    content, said = HOSTILE[what]
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(RecordError) as error:
        load_delta(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_files_that_are_not_there(tmp_path, artifacts):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RecordError, match="does not exist or is not a file"):
            load_delta(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=r"neither an artifact folder .* nor a device package"):
        apply_delta(tmp_path / "empty", personal(tmp_path / "p"), tmp_path / "out")
    with pytest.raises(RecordError, match="not an artifact folder"):
        save_delta(tmp_path / "empty", tmp_path / "out")


def test_a_byte_that_changed_anywhere_is_seen(delta):
    """In the numbers always; in the header, unless the name of the entry or of a tensor changed."""
    whole, rng = delta.read_bytes(), np.random.default_rng(7)
    (length,) = struct.unpack("<Q", whole[:8])
    seen = 0
    for case in range(100):
        at = int(rng.integers(8 + length, len(whole)) if case % 2 else rng.integers(8 + length))
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << int(rng.integers(8))
        delta.write_bytes(spoilt)
        seen += refused(delta) is not None
        assert case % 2 == 0 or "was altered" in str(refused(delta)), at
    for at in rng.integers(0, len(whole), 30):
        delta.write_bytes(whole[:at])
        assert refused(delta) is not None
    assert seen > 60


def refused(path: Path) -> str | None:
    try:
        load_delta(path)
    except RecordError as error:
        return str(error)
    return None


def test_what_cannot_be_saved(artifacts, tmp_path):
    make_artifacts(open_model(tiny.conv_net()), select(open_model(tiny.conv_net()), strategy="head"), tmp_path / "new")
    with pytest.raises(UsageError, match="has not been trained"):
        save_delta(tmp_path / "new", tmp_path / "p.safetensors")
    with pytest.raises(OutputError, match="does not exist"):
        save_delta(artifacts, tmp_path / "no" / "p.safetensors")
    with pytest.raises(RecordError, match="'w' has 1 number that are not finite"):
        write_delta(tmp_path / "p", {"w": np.array([np.nan], np.float32)}, model_sha256=MODEL, entry="last")
    assert not (tmp_path / "p").exists()


def test_nothing_that_is_read_is_written_over(artifacts, package, delta, tmp_path):
    made = personal(tmp_path / "p.safetensors")
    for name in ("device.json", "state.bin", "weights.bin"):
        with pytest.raises(UsageError, match="which is also an input"):
            apply_delta(package, made, package / name)
    with pytest.raises(UsageError, match="which is also an input"):
        apply_delta(package, made, made.path)
    with pytest.raises(UsageError, match="which is also an input"):
        apply_delta(artifacts, delta, artifacts / "manifest.json")
    load_device(package)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "metrics.jsonl", "training/last.ckpt"])
def test_a_folder_keeps_its_own_files(artifacts, delta, name):
    before = (artifacts / name).read_bytes()
    for write in (save_delta, export_model, lambda folder, path: apply_delta(folder, delta, path)):
        with pytest.raises(UsageError, match=f"the output is .*{name}, which is also an input"):
            write(artifacts, artifacts / name)
    assert (artifacts / name).read_bytes() == before


def test_what_was_put_into_a_folder_can_be_written_anew(tmp_path):
    folder = trained(tmp_path / "artifacts")
    for _ in range(2):
        made = save_delta(folder, folder / "mine.safetensors")
        assert apply_delta(folder, made, folder / "mine.onnx") == "model"


# --- differences -----------------------------------------------------------------------------------------------------


def test_how_far_two_are_apart(tmp_path):
    one = {
        "same": np.ones(3),
        "zero": np.zeros(2),
        "shape": np.ones(2),
        "a": np.ones(1),
        "w": np.array([3, 4]),
    }
    other = {"w": np.array([3, 5]), "zero": np.ones(2), "same": np.ones(3), "shape": np.ones(4), "b": np.ones(1)}
    first, second = (
        write_delta(tmp_path / name, floats(tensors), model_sha256=MODEL, entry=name)
        for name, tensors in (("a", one), ("b", other))
    )
    found = compare_deltas(first, second)
    assert (found.same_model, found.same_entry) == (True, False)
    assert (found.only_first, found.only_second) == (("a",), ("b",))
    assert {apart.name: (apart.distance, apart.relative) for apart in found.tensors} == {
        "same": (0.0, 0.0),
        "zero": (pytest.approx(2**0.5), None),
        "shape": (None, None),
        "w": (1.0, 0.2),
    }


def floats(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float32) for name, array in tensors.items()}


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def adabet(monkeypatch, capfd) -> Callable[..., Any]:
    return command_of(monkeypatch, capfd)


def test_the_commands(artifacts, tmp_path, monkeypatch, adabet):
    monkeypatch.chdir(tmp_path)
    assert "numbers in" in adabet("delta", "save", artifacts, "-o", "p.safetensors").out
    shown = adabet("delta", "show", "p.safetensors").out
    assert "SHA-256: correct" in shown
    assert "entry: all" in shown
    assert "adapted model" in adabet("delta", "apply", artifacts, "p.safetensors", "-o", "adapted.onnx").out
    adabet("export", artifacts, "-o", "exported.onnx", "-q")
    assert Path("adapted.onnx").read_bytes() == Path("exported.onnx").read_bytes()
    make_device(artifacts, "device", start="initial")
    assert "trained values" in adabet("delta", "apply", "device", "p.safetensors", "-o", "selected.bin").out
    trained(tmp_path / "other", seed=1)
    adabet("delta", "save", "other", "-o", "q.safetensors")
    apart = adabet("delta", "diff", "p.safetensors", "q.safetensors").out
    assert apart.count("of its norm") == shown.count("[")
    raw = bytearray(Path("p.safetensors").read_bytes())
    raw[-3] ^= 8
    Path("p.safetensors").write_bytes(raw)
    assert "WRONG" in adabet("delta", "show", "p.safetensors").out
    assert "was altered" in adabet("delta", "diff", "p.safetensors", "q.safetensors", code=1).err
    assert "was altered" in adabet("delta", "apply", "device", "p.safetensors", "-o", "s.bin", code=1).err
    assert not Path("s.bin").exists()
