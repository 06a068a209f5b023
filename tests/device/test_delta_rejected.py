"""Deltas that are damaged, or do not fit what they are applied to, are rejected."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltas import SHAPES, personal, trained
from device_packages import MODEL
from models import tiny

from adabet_onnx import (
    OutputError,
    RecordError,
    UsageError,
    apply_delta,
    export_model,
    load_delta,
    make_artifacts,
    open_model,
    save_delta,
    select,
)
from adabet_onnx.device.delta import write_delta
from adabet_onnx.device.description import load_device

pytestmark = pytest.mark.usefixtures("checked_here")


def test_the_bytes_of_the_file_of_a_package(written_package, tmp_path):
    made = personal(tmp_path / "p.safetensors")
    apply_delta(written_package, tmp_path / "p.safetensors", tmp_path / "selected.bin")
    written = (tmp_path / "selected.bin").read_bytes()
    expected = b"".join(array.tobytes().ljust(64, b"\0") for array in made.tensors.values())
    assert written == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "cd" * 32}, ["another model", "cd" * 32, MODEL]),
        ({"entry": "first"}, ["entry 'first'", "'last'", "Apply it to the artifacts or package that it was trained"]),
        ({"entry": "first", "model": "cd" * 32}, ["another model", "cd" * 32, MODEL]),
        ({"shapes": {**SHAPES, "fc.bias": (6,)}}, ["'fc.bias'", "[6]", "[5]"]),
        ({"shapes": {**SHAPES, "fc.weight": (4, 2)}}, ["'fc.weight'", "[4, 2]", "[2, 4]"]),
        ({"shapes": {**SHAPES, "more": (1,)}}, ["'more'", "not trained"]),
        ({"shapes": {"fc.weight": (2, 4), "fc.bias": (5,)}}, ["lacks 1 tensor", "'bn.mean'"]),
        ({"shapes": {}}, ["lacks 3 tensors", "'fc.weight'"]),
    ],
)
def test_what_does_not_fit_a_package_is_refused(written_package, tmp_path, given, words):
    personal(tmp_path / "p.safetensors", **given)
    with pytest.raises(RecordError) as error:
        apply_delta(written_package, tmp_path / "p.safetensors", tmp_path / "out.bin")
    assert all(word in str(error.value) for word in [*words, "p.safetensors"])
    assert not (tmp_path / "out.bin").exists()


def test_what_does_not_fit_artifacts_is_refused(trained_artifacts, delta_file, tmp_path):
    found = load_delta(delta_file)
    for changed, word in (
        ({"model": MODEL, "shapes": SHAPES}, "another model"),
        ({"model": found.model_sha256, "shapes": {"nothing": (2,)}}, "'nothing', which is not trained in"),
    ):
        personal(tmp_path / "p.safetensors", **changed)
        with pytest.raises(RecordError, match=word):
            apply_delta(trained_artifacts, tmp_path / "p.safetensors", tmp_path / "out.onnx")
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


def test_files_that_are_not_there(tmp_path, trained_artifacts):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RecordError, match="does not exist or is not a file"):
            load_delta(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=r"neither an artifact folder .* nor a device package"):
        apply_delta(tmp_path / "empty", personal(tmp_path / "p"), tmp_path / "out")
    with pytest.raises(RecordError, match="not an artifact folder"):
        save_delta(tmp_path / "empty", tmp_path / "out")


def test_a_byte_that_changed_anywhere_is_seen(delta_file):
    """In the numbers always; in the header, unless the name of the entry or of a tensor changed."""
    whole, rng = delta_file.read_bytes(), np.random.default_rng(7)
    (length,) = struct.unpack("<Q", whole[:8])
    seen = 0
    for case in range(100):
        at = int(rng.integers(8 + length, len(whole)) if case % 2 else rng.integers(8 + length))
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << int(rng.integers(8))
        delta_file.write_bytes(spoilt)
        seen += refused(delta_file) is not None
        assert case % 2 == 0 or "was altered" in str(refused(delta_file)), at
    for at in rng.integers(0, len(whole), 30):
        delta_file.write_bytes(whole[:at])
        assert refused(delta_file) is not None
    assert seen > 60


def refused(path: Path) -> str | None:
    try:
        load_delta(path)
    except RecordError as error:
        return str(error)
    return None


def test_what_cannot_be_saved(trained_artifacts, tmp_path):
    make_artifacts(open_model(tiny.conv_net()), select(open_model(tiny.conv_net()), strategy="head"), tmp_path / "new")
    with pytest.raises(UsageError, match="has not been trained"):
        save_delta(tmp_path / "new", tmp_path / "p.safetensors")
    with pytest.raises(OutputError, match="does not exist"):
        save_delta(trained_artifacts, tmp_path / "no" / "p.safetensors")
    with pytest.raises(RecordError, match="'w' has 1 number that are not finite"):
        write_delta(tmp_path / "p", {"w": np.array([np.nan], np.float32)}, model_sha256=MODEL, entry="last")
    assert not (tmp_path / "p").exists()


def test_nothing_that_is_read_is_written_over(trained_artifacts, written_package, delta_file, tmp_path):
    made = personal(tmp_path / "p.safetensors")
    for name in ("device.json", "state.bin", "weights.bin"):
        with pytest.raises(UsageError, match="which is also an input"):
            apply_delta(written_package, made, written_package / name)
    with pytest.raises(UsageError, match="which is also an input"):
        apply_delta(written_package, made, made.path)
    with pytest.raises(UsageError, match="which is also an input"):
        apply_delta(trained_artifacts, delta_file, trained_artifacts / "manifest.json")
    load_device(written_package)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "metrics.jsonl", "training/last.ckpt"])
def test_a_folder_keeps_its_own_files(trained_artifacts, delta_file, name):
    before = (trained_artifacts / name).read_bytes()
    for write in (save_delta, export_model, lambda folder, path: apply_delta(folder, delta_file, path)):
        with pytest.raises(UsageError, match=f"the output is .*{name}, which is also an input"):
            write(trained_artifacts, trained_artifacts / name)
    assert (trained_artifacts / name).read_bytes() == before


def test_what_was_put_into_a_folder_can_be_written_anew(tmp_path):
    folder = trained(tmp_path / "artifacts")
    for _ in range(2):
        made = save_delta(folder, folder / "mine.safetensors")
        assert apply_delta(folder, made, folder / "mine.onnx") == "model"
