"""device.json: valid files are read, damaged ones rejected with a message; the schema and the reader agree."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from device_packages import MODEL, description, write_package
from jsonschema import Draft202012Validator
from models import tiny

from adabet_onnx import (
    Packing,
    RecordError,
    Trainer,
    UsageError,
    make_artifacts,
    make_device,
    open_model,
    select,
)
from adabet_onnx.device.consistent import check_consistent
from adabet_onnx.device.description import file_path, is_device, load_device, verify_files
from adabet_onnx.device.description_reader import read_device
from adabet_onnx.device.parts import OPTIMIZER

SCHEMA = json.loads((ROOT / "docs" / "schemas" / "device.schema.json").read_text())
WRONG: tuple[Any, ...] = (None, True, "", "../x", -1, 0.5, 2**53, [], [3], {}, [None], [[]], "NaN")
DAMAGED = 100


@pytest.fixture
def package(tmp_path) -> Path:
    return write_package(tmp_path / "device")


def edited(folder: Path, edit: Any) -> None:
    path = folder / "device.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(RecordError) as error:
        load_device(folder)
    said = str(error.value)
    assert all(word in said for word in words), said
    return said


def refusal(function: Callable[..., object], *arguments: object) -> str | None:
    """The error message of a function for its arguments."""
    try:
        function(*arguments)
    except RecordError as error:
        return str(error)
    return None


# --- valid files -----------------------------------------------------------------------------------------------------


def test_a_package_is_read(package):
    device = load_device(package)
    assert is_device(package)
    assert (device.folder, device.model_sha256, device.oldest_onnxruntime) == (package, MODEL, "1.17")
    assert device.inputs[0].shape == ("N", 6)
    assert device.outputs[0].role == "logits"
    assert (device.labels.classes, device.labels.ignore, device.class_names) == (3, -100, ("ant", "bee", "cat"))
    assert device.preprocessing is not None
    assert (device.preprocessing.scale, device.preprocessing.std) == (0.5, (1.0, 2.5))
    assert (device.training.learning_rate, device.training.batch_size) == (0.001, 8)
    assert device.scoring is not None
    assert [layer.size for layer in device.scoring.layers] == [4, 16]
    entry = device.entry("last")
    assert entry.memory == ((1, 1000), (8, 4001), (32, 15000))
    assert entry.names.learning_rate == "rate"
    assert [tensor.name for tensor in entry.personal] == ["fc.weight", "fc.bias", "bn.mean"]
    assert entry.tensors[0].channels is not None
    assert entry.tensors[0].channels.indices == (0, 3)
    assert entry.tensors[-1].kind == OPTIMIZER
    assert entry.boundary[1].input == "x"
    assert (entry.frozen_multiply_adds, entry.step_multiply_adds) == (24, 48)
    assert "digits" in repr(device)
    with pytest.raises(UsageError, match="has no entry 'first': choose one of 'last'"):
        device.entry("first")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(profile="webgpu"),
        lambda c: c.update(class_names=None, preprocessing=None, scoring=None, weights=None),
        lambda c: c["entries"][0].update(frozen=None, boundary=c["entries"][0]["boundary"][1:]),
        lambda c: c["entries"][0].update(class_axis=None),
        lambda c: c["entries"][0].update(model=None),
        lambda c: c.update(forward_batch=1, loss="mse"),
        lambda c: c["labels"].update(classes=None, ignore=None),
        lambda c: c["outputs"][0].update(shape=[2, "N", "4*N"], role=None),
        lambda c: c["inputs"].append({"name": "rate", "dtype": "float32", "shape": []}),
        lambda c: c["entries"][0]["tensors"][1].update(channels=None),
        lambda c: c["entries"].append({**c["entries"][0], "name": "again"}),
    ],
)
def test_what_else_is_right(tmp_path, change):
    folder = write_package(tmp_path / "device", change)
    load_device(folder)
    assert Draft202012Validator(SCHEMA).is_valid(json.loads((folder / "device.json").read_text()))


def test_files_are_verified_where_they_are_used(package):
    device = load_device(package, verify=False)
    verify_files(device)
    (package / "frozen.onnx").write_bytes(b"another")
    load_device(package, verify=False)
    assert file_path(device, "step.onnx") == package / "step.onnx"
    with pytest.raises(RecordError, match=r"frozen\.onnx has 7 bytes, expected 50"):
        file_path(device, "frozen.onnx")


def test_a_personal_model_is_one_of_the_package(package):
    """The file it reads is rewritten; its size stays."""
    (package / "selected.bin").write_bytes(b"\x01" * 192)
    load_device(package)
    (package / "selected.bin").write_bytes(b"\x01" * 191)
    refused(package, "selected.bin has 191 bytes, expected 192")
    (package / "selected.bin").write_bytes(b"\x01" * 192)
    (package / "state.bin").write_bytes(b"\x01" * 192)
    refused(package, "state.bin was changed")


@pytest.mark.parametrize("packing", [Packing(), Packing(scoring=None, profile="mobile")])
def test_what_is_written_is_read(tmp_path, packing, checked_here):
    """By the package's own writer, after a training that searched its rate."""
    model, rng = open_model(tiny.conv_net()), np.random.default_rng(0)
    x = rng.standard_normal((40, *model.inputs[0].shape[1:])).astype(np.float32)
    make_artifacts(model, select(model, strategy="head"), tmp_path / "artifacts", check=False)
    trainer = Trainer(tmp_path / "artifacts")
    trainer.fit((x, rng.integers(0, 3, 40)), epochs=1)
    content = make_device(tmp_path / "artifacts", tmp_path / "device", packing=packing)
    device = load_device(tmp_path / "device")
    assert trainer.rates is not None
    assert device.training.learning_rate == trainer.rates.rate
    assert device.model_sha256 == model.sha256
    assert device.profile == packing.profile
    assert (device.scoring is None) == (packing.scoring is None)
    assert [entry.layers for entry in device.entries] == [("fc",)]
    assert Draft202012Validator(SCHEMA).is_valid(content)


# --- the schema ------------------------------------------------------------------------------------------------------


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


def mutants(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a description with one entry missing, or something else in its place."""
    if isinstance(value, dict):
        for key in value:
            if key == "something new":
                continue
            yield f"{key} missing", {other: item for other, item in value.items() if other != key}
            yield from ((f"{key}.{what}", {**value, key: inner}) for what, inner in mutants(value[key]))
            yield from ((f"{key}={wrong!r}", {**value, key: copy.deepcopy(wrong)}) for wrong in WRONG)
    elif isinstance(value, list):
        for place, item in enumerate(value[:2]):
            rest = value[:place], value[place + 1 :]
            yield from ((f"{place}.{what}", [*rest[0], inner, *rest[1]]) for what, inner in mutants(item))
            yield from ((f"{place}={wrong!r}", [*rest[0], copy.deepcopy(wrong), *rest[1]]) for wrong in WRONG)


@pytest.mark.slow
def test_schema_and_reader_refuse_the_same(package):
    """Each entry by itself: relations between entries are not part of the schema, and tested separately."""
    content = json.loads((package / "device.json").read_text())
    validator, path = Draft202012Validator(SCHEMA), package / "device.json"
    assert validator.is_valid(content)
    seen = {True: 0, False: 0}
    for what, mutant in mutants(content):
        if what in ("format missing", "version missing") or what.startswith(("format=", "version=")):
            continue  # read_record's, below
        right = validator.is_valid(mutant)
        seen[right] += 1
        said = refusal(read_device, package, mutant, path)
        assert (said is None) == right, f"{what}: the schema says {right}, the reader {said}"
        if said is None:
            said = refusal(check_consistent, read_device(package, mutant, path), path)
        assert said is None or str(path) in said, what
    assert seen[False] > 1500
    assert seen[True] > 100


# --- invalid files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(format="adabet-onnx/scores"), ["'adabet-onnx/device'", "'adabet-onnx/scores'"]),
        (lambda c: c.update(version=2), ["version 2"]),
        (lambda c: c.update(version=True), ["version True"]),
        (lambda c: c["files"].append(c["files"][0]), ["'files'", "twice"]),
        (lambda c: c["files"][0].update(name="../../etc/passwd"), ["'name'", "without folders"]),
        (lambda c: c["files"][0].update(name="a\\b"), ["without folders"]),
        (lambda c: c["files"][0].update(name=".."), ["without folders"]),
        (lambda c: c["files"][0].update(sha256="0" * 64), ["was changed", "0" * 64]),
        (lambda c: c["files"][0].update(bytes=51), ["has 50 bytes, expected 51"]),
        (lambda c: c.update(weights="more.bin"), ["'weights' is 'more.bin'", "'files'"]),
        (lambda c: c["entries"][0].update(step="stop.onnx"), ["entry 'last'", "'step' is 'stop.onnx'"]),
        (lambda c: c["scoring"].update(file="stop.onnx"), ["'scoring'", "stop.onnx"]),
        (lambda c: c["entries"][0].update(frozen=None), ["'frozen' is None", "1 of 'boundary'"]),
        (lambda c: c["entries"][0]["boundary"].pop(0), ["'frozen'", "0 of 'boundary'"]),
        (lambda c: c["entries"][0]["boundary"][0].update(bytes=17), ["'kept'", "17", "16"]),
        (lambda c: c["entries"][0]["boundary"][1].update(input="z"), ["'z'", "none of the model's inputs"]),
        (lambda c: c["entries"][0]["tensors"][1].update(offset=0), ["'fc.bias'", "within the previous tensor"]),
        (lambda c: c["entries"][0]["tensors"][1].update(offset=66), ["multiple of 64", "66"]),
        (lambda c: c["entries"][0]["tensors"][1].update(bytes=24), ["'fc.bias'", "24", "20"]),
        (lambda c: c["files"][8].update(bytes=191), ["'selected_bytes' is 192", "'selected.bin', has 191"]),
        (lambda c: c["entries"][0].update(state="step.onnx"), ["'selected_bytes' is 192", "'step.onnx', has 50"]),
        (lambda c: c["entries"][0]["tensors"][3].update(shape=[2**52, 2**52]), ["'fc.weight/m'", "'bytes'"]),
        (lambda c: c["entries"][0]["tensors"].reverse(), ["parameters"]),
        (lambda c: c["entries"][0]["tensors"][1].update(name="fc.weight"), ["'fc.weight' occurs twice"]),
        (lambda c: c["entries"][0]["tensors"][0]["channels"].update(indices=[3, 0]), ["'fc.weight'", "ascending"]),
        (lambda c: c["entries"][0]["tensors"][0]["channels"].update(axis=5), ["axis 5"]),
        (lambda c: c["entries"][0].update(selected_bytes=191), ["'selected_bytes'", "191", "192"]),
        (lambda c: c["entries"][0].update(trained=14), ["'trained' is 14", "13"]),
        (lambda c: c["entries"][0].update(class_axis=2), ["'class_axis' is 2", "2 axes"]),
        (lambda c: c["entries"][0].update(memory=[[8, 1], [8, 2]]), ["'memory'", "ascend"]),
        (lambda c: c["entries"].append(c["entries"][0]), ["'entries'", "'last' occurs twice"]),
        (lambda c: c.update(class_names=["ant"]), ["1 names", "3 classes"]),
        (lambda c: c["preprocessing"].update(mean=[1, 2, 3]), ["'preprocessing'", "3 numbers", "2"]),
    ],
)
def test_what_does_not_fit_is_refused(package, edit, words):
    edited(package, edit)
    refused(package, "device.json" if "expected 51" not in words[0] and "was changed" not in words else "", *words)


def test_other_files_are_refused(tmp_path, package):
    refused(tmp_path, "is not a device package", "device.json")
    path = package / "device.json"
    whole = path.read_bytes()
    for content in (b"", b"[]", b"\xff\xfe\x00", whole[:-2], b"[" * 100_000, whole.replace(b"0.001", b"NaN")):
        path.write_bytes(content)
        refused(package, "device.json")
    path.write_bytes(whole)
    load_device(package)


def test_links_may_not_lead_out_of_the_folder(tmp_path, package):
    (package / "step.onnx").rename(package / "inside.onnx")
    (package / "step.onnx").symlink_to("inside.onnx")
    load_device(package)
    (package / "inside.onnx").rename(tmp_path / "outside.onnx")
    (package / "step.onnx").unlink()
    (package / "step.onnx").symlink_to(tmp_path / "outside.onnx")
    refused(package, "step.onnx", "is a link to")
    (package / "step.onnx").unlink()
    refused(package, "step.onnx", "is missing, expected a file of 50 bytes")
    (package / "step.onnx").mkdir()
    refused(package, "step.onnx", "is missing")


def test_damaged_packages_are_refused(package):
    """A changed byte, or a truncated or extended file, anywhere in any file, always gives an error message.

    A changed byte of device.json may leave it valid if it is in a text for people: then it is read.
    """
    rng, names = np.random.default_rng(3), sorted(path.name for path in package.iterdir())
    harmless = 0
    for case in range(DAMAGED):
        path = package / (names[case % len(names)] if case % 2 else "device.json")
        whole = path.read_bytes()
        spoilt, at = bytearray(whole), int(rng.integers(len(whole)))
        if case % 3 == 0:
            del spoilt[at:]
        elif case % 3 == 1:
            spoilt[at] ^= 1 << int(rng.integers(8))
        else:
            spoilt[at:at] = rng.bytes(5)
        path.write_bytes(spoilt)
        said = refusal(load_device, package)
        if said is None:
            assert path.name in ("device.json", "selected.bin"), case
            harmless += 1
        else:
            assert str(package if path.name == "device.json" else path) in said, (case, said)
        path.write_bytes(whole)
    load_device(package)
    assert harmless < DAMAGED // 5


def test_the_description_in_the_tests_is_not_the_schema():
    """Without files it is not valid, so the tests' changes matter."""
    assert not Draft202012Validator(SCHEMA).is_valid(description())
