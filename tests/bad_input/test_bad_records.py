"""Bad scores, selections, manifests and artifact folders (see bad_inputs.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs import (
    ARTIFACTS,
    FAILURE,
    RANDOM,
    SELECT,
    TRAIN,
    USAGE,
    Case,
    Result,
    X,
    Y,
    cases,
    cut,
    empty_folder,
    entry,
    message,
    needs_training,
    trained,
    write,
)

from adabet_onnx.cli.main import main


@cases(
    Case("scores cut", SELECT, FAILURE, ("scores.json", "not valid JSON", "adabet-onnx score"), cut("scores.json")),
    Case("scores empty", SELECT, FAILURE, ("scores.json", "not valid JSON"), write("scores.json", b"")),
    Case("scores binary", SELECT, FAILURE, ("scores.json", "not valid JSON"), write("scores.json", RANDOM)),
    Case("scores nan", SELECT, FAILURE, ("scores.json", "NaN"), entry("scores.json", points=float("nan"))),
    Case(
        "scores huge", SELECT, FAILURE, ("scores.json", "'points' is too large"), entry("scores.json", points=10**400)
    ),
    Case(
        "selection as scores",
        "select selection.json -o out.json",
        FAILURE,
        ("'adabet-onnx/scores'", "'adabet-onnx/selection'"),
    ),
    Case("scores newer", SELECT, FAILURE, ("version 9", "Update"), entry("scores.json", version=9)),
    Case("scores without layers", SELECT, FAILURE, ("scores.json", "layers"), entry("scores.json", layers=[])),
    Case("a list", SELECT, FAILURE, ("scores.json", "found None"), write("scores.json", b"[1, 2]")),
)
def test_scores_files(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


@cases(
    Case("cut", ARTIFACTS, FAILURE, ("selection.json", "not valid JSON"), cut("selection.json")),
    Case("newer", ARTIFACTS, FAILURE, ("selection.json", "version 2"), entry("selection.json", version=2)),
    Case("other format", "artifacts model.onnx scores.json -o out", FAILURE, ("scores.json", "'adabet-onnx/scores'")),
    Case(
        "other model",
        "artifacts other.onnx selection.json -o out",
        FAILURE,
        ("another model", "other.onnx", "again"),
    ),
    Case("unknown layer", ARTIFACTS, USAGE, ("'nine'", "inspect"), entry("selection.json", layers=["nine"])),
    Case("unknown parameter", ARTIFACTS, USAGE, ("'w'",), entry("selection.json", parameters=["fc.weight", "w"])),
    Case("nothing selected", ARTIFACTS, USAGE, ("empty",), entry("selection.json", layers=[], parameters=[])),
)
def test_selection_files(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


WRONG: tuple[Any, ...] = (None, True, "x", -1.5, [], [3], [{}], {"a": 1})


def spoilt_entries(content: dict[str, Any], values: Sequence[Any] = WRONG) -> list[tuple[str, dict[str, Any]]]:
    """The content with every entry (and every entry of objects in it) missing or of another type."""
    spoilt = []
    for key, value in content.items():
        spoilt.append((f"{key} missing", {k: v for k, v in content.items() if k != key}))
        for wrong in values:
            spoilt.append((f"{key}={wrong!r}", {**content, key: wrong}))
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        if isinstance(inner, dict):
            for what, changed_inner in spoilt_entries(inner, WRONG[1:3]):
                put = [changed_inner, *value[1:]] if isinstance(value, list) else changed_inner
                spoilt.append((f"{key}.{what}", {**content, key: put}))
    return spoilt


def assert_no_fault(
    arguments: str, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> int:
    """Run a command for every damaged version of a file: it works or is rejected with a message; count rejections."""
    original = json.loads(Path(name).read_text())
    refusals = 0
    for what, content in spoilt_entries(original):
        Path(name).write_text(json.dumps(content))
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *arguments.split()])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        if left.value.code != 0:
            said = message(Result(left.value.code, out, err))
            assert "bug in adabet-onnx" not in said, f"{what}: {said}"
            refusals += 1
    Path(name).write_text(json.dumps(original))
    return refusals


@pytest.mark.slow
def test_scores_with_any_entry_spoilt(work, monkeypatch, capfd):
    assert assert_no_fault(f"{SELECT} -q", "scores.json", monkeypatch, capfd) > 70


@pytest.mark.slow
def test_selection_with_any_entry_spoilt(work, monkeypatch, capfd):
    command = "artifacts model.onnx selection.json -o out --no-check -q"
    assert assert_no_fault(command, "selection.json", monkeypatch, capfd) > 70


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "export artifacts -o out.onnx -q",
        "train artifacts data.npz --epochs 1 -q",
        pytest.param("export ort -o out.onnx -q", marks=needs_training),
    ],
)
def test_manifest_with_any_entry_spoilt(command, work, monkeypatch, capfd):
    assert assert_no_fault(command, f"{command.split()[1]}/manifest.json", monkeypatch, capfd) > 120


def flip(name: str) -> Callable[[], Any]:
    def spoil() -> None:
        content = bytearray(Path(name).read_bytes())
        content[len(content) // 2] ^= 0x40
        Path(name).write_bytes(bytes(content))

    return spoil


MANIFEST = "artifacts/manifest.json"


@cases(
    Case("missing folder", "train nowhere data.npz", USAGE, ("nowhere", "does not exist")),
    Case("file as folder", "train model.onnx data.npz", USAGE, ("model.onnx", "is a file")),
    Case(
        "no manifest",
        "train photos data.npz",
        FAILURE,
        ("photos", "manifest.json", "artifacts makes one"),
        empty_folder,
    ),
    Case("export without manifest", "export photos -o o.onnx", FAILURE, ("photos", "manifest.json"), empty_folder),
    Case("evaluate without manifest", "evaluate photos data.npz", FAILURE, ("photos", "manifest.json"), empty_folder),
    Case("manifest cut", "export artifacts -o o.onnx", FAILURE, ("manifest.json", "not valid JSON"), cut(MANIFEST)),
    Case(
        "manifest newer",
        "export artifacts -o o.onnx",
        FAILURE,
        ("manifest.json", "version 7"),
        entry(MANIFEST, version=7),
    ),
    Case(
        "other backend",
        "export artifacts -o o.onnx",
        FAILURE,
        ("'tflite'", "ort, portable"),
        entry(MANIFEST, backend="tflite"),
    ),
    Case(
        "model changed",
        "train artifacts data.npz",
        FAILURE,
        ("step.onnx", "changed", "again"),
        flip("artifacts/step.onnx"),
    ),
    Case(
        "checkpoint cut",
        "export artifacts -o o.onnx",
        FAILURE,
        ("state.bin", "cut short", "again"),
        cut("artifacts/state.bin"),
    ),
    Case(
        "file missing",
        "export artifacts -o o.onnx",
        FAILURE,
        ("eval.onnx", "not in the folder"),
        lambda: Path("artifacts/eval.onnx").unlink(),
    ),
    Case(
        "files elsewhere",
        "export artifacts -o o.onnx",
        FAILURE,
        ("as model", "not in the folder"),
        lambda: point_manifest_outside(),
    ),
)
def test_artifact_folders(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


def point_manifest_outside() -> None:
    value = json.loads(Path(MANIFEST).read_text())
    value["files"]["model"] = "../model.onnx"
    Path(MANIFEST).write_text(json.dumps(value))


LAST = "artifacts/training/last.ckpt"


@pytest.mark.parametrize("spoil", [cut(LAST), write(LAST, b""), write(LAST, RANDOM)], ids=["cut", "empty", "random"])
@pytest.mark.parametrize("command", ["train artifacts data.npz --resume", "export artifacts -o o.onnx"])
def test_a_damaged_training_checkpoint(command, spoil, work, refused):
    trained(work)
    spoil()
    refused(command, FAILURE, LAST, "without --resume")


def test_resuming_with_other_settings_or_data(refused, work):
    trained(work)
    np.savez("bad.npz", x=X, y=Y[::-1])
    refused("train artifacts data.npz --resume --batch-size 5", USAGE, "--batch-size 32, not 5", "--resume")
    refused(f"{TRAIN} --resume", FAILURE, "bad.npz", "not the data", "--resume")
