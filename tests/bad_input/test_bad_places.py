"""Paths that cannot be written, in this process and in a separate one (see bad_inputs.py)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from bad_inputs import FAILURE, USAGE, check, listing, needs_training, process, trained

LONG = "x" * 300


linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc, in which not even root can make files, is Linux's")


@pytest.mark.parametrize(
    "command",
    [
        "score model.onnx data.npz --samples 32 --subsets 2 -o OUT",
        "select scores.json -o OUT",
        "surgery model.onnx --outputs gram -o OUT",
        "new-head model.onnx --num-classes 3 -o OUT",
        pytest.param("export artifacts -o OUT", marks=needs_training),
        "score model.onnx data.npz --samples 32 --subsets 2 -o fine.json --plot OUT",
    ],
    ids=["score", "select", "surgery", "new-head", "export", "plot"],
)
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("missing/out.png", "the folder missing does not exist"),
        ("model.onnx/out.png", "model.onnx is not a folder"),
        ("folder.png", "it is a folder"),
        (f"{LONG}.png", "too long"),
        pytest.param("/proc/out.png", "cannot write", marks=linux),
    ],
    ids=["no folder", "file as folder", "is a folder", "long name", "proc"],
)
def test_a_file_that_cannot_be_written(command, output, reason, refused):
    Path("folder.png").mkdir()
    refused(command.replace("OUT", output), FAILURE, output, reason, "Choose another output path")


@pytest.mark.parametrize("command", ["artifacts model.onnx selection.json", "run model.onnx data.npz"])
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("scores.json", ("scores.json", "not a folder")),
        ("scores.json/deep/er", ("scores.json", "ot a")),
        (LONG, ("too long",)),
        pytest.param("/proc/out", ("/proc/out",), marks=linux),
    ],
    ids=["file", "below a file", "long name", "proc"],
)
def test_a_folder_that_cannot_be_written(command, output, words, refused):
    refused(f"{command} -o {output}", FAILURE, *words, "Choose another output path")


def test_a_folder_with_other_files_is_not_replaced(refused):
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_bytes(b"meow")
    refused("artifacts model.onnx selection.json -o photos", FAILURE, "photos", "other files", "new folder")


posix = pytest.mark.skipif(os.name != "posix", reason="file-size limits are of POSIX systems")


@posix
@pytest.mark.parametrize(
    ("command", "limit"),
    [
        ("score model.onnx data.npz --samples 32 --subsets 2 -o out.json", 500),
        ("select scores.json -o out.json", 300),
        ("surgery model.onnx --outputs gram -o out.onnx", 2_000),
        ("new-head model.onnx --num-classes 3 -o out.onnx", 2_000),
        ("export artifacts -o out.onnx", 2_000),
        ("artifacts model.onnx selection.json -o out --no-check", 400),
        ("artifacts model.onnx selection.json -o out --no-check", 9_000),
        pytest.param("artifacts model.onnx selection.json -o out --no-check --backend ort", 400, marks=needs_training),
        pytest.param(
            "artifacts model.onnx selection.json -o out --no-check --backend ort", 9_000, marks=needs_training
        ),
        pytest.param("artifacts model.onnx selection.json -o a/b/out --frozen checkpoint", 2_400, marks=needs_training),
        pytest.param("artifacts model.onnx selection.json -o out --ort-format", 9_800, marks=needs_training),
        ("run model.onnx data.npz -o out --samples 32 --subsets 2", 500),
    ],
)
def test_file_size_limit(command, limit, refused):
    if command.startswith("run"):
        Path("out").mkdir()  # the user's own folder is kept
    said = "cannot write out" if " out" in command else "cannot write"
    refused(command, FAILURE, said, "free some space", file_size_limit=limit)


@posix
def test_file_size_limit_of_a_plot(refused):
    command = "score model.onnx data.npz --samples 32 --subsets 2 -o out.json --plot out.png"
    refused(command, FAILURE, "cannot write out.png", "File too large", leaves=["out.json"], file_size_limit=5_000)
    assert json.loads(Path("out.json").read_text())["layers"], "the scores were complete before: they stay"


@posix
def test_file_size_limit_of_a_checkpoint(work, refused):
    trained(work)
    said = "last.ckpt: File too large"
    refused("train artifacts data.npz --lr 0.001", FAILURE, said, "free some space", file_size_limit=1_000)


@posix
def test_a_failed_export_leaves_the_earlier_file(refused):
    Path("out.onnx").write_bytes(b"earlier")
    refused("export artifacts -o out.onnx", FAILURE, "out.onnx", "File too large", file_size_limit=2_000)


@pytest.mark.slow
@posix
def test_file_size_limit_of_a_real_process(work):
    before = listing(work)
    command = "score model.onnx data.npz --samples 32 --subsets 2 -o out.json"
    check(process(work, *command.split(), limit=500), FAILURE, "cannot write out.json: File too large")
    assert listing(work) == before


@pytest.mark.slow
def test_real_processes(work):
    """The same in a separate interpreter, with its own stdout and stderr."""
    before = listing(work)
    check(process(work, "inspect", "nothing.onnx"), USAGE, "nothing.onnx", "does not exist")
    check(
        process(work, "score", "model.onnx", "model.onnx", "-o", "out.json"), FAILURE, "model.onnx", "neither an .npz"
    )
    assert listing(work) == before
