"""A crash inside a native library ends as an error: exit code 1, a message that says where, nothing half written.

The commands run as a user's do, with a native function that really kills its process: a sitecustomize in PYTHONPATH
replaces a function of onnx or onnxruntime by it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from conftest import ROOT
from models import tiny

from adabet_onnx import isolation

SEGFAULT = "ctypes.string_at(0)"
ABORT = "os.abort()"
NO_MEMORY = "os.kill(os.getpid(), 9)"
WAIT = "open('pid', 'w').write(str(os.getpid())); time.sleep(100)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="commands are watched on Linux only"),
]


@pytest.fixture
def command(tmp_path: Path):
    """Start a command in a folder with model and data, with a replaced native function."""
    onnx.save(tiny.conv_net(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).random((40, 3, 8, 8), np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    site = tmp_path / "site"
    site.mkdir()

    def start(*arguments: str, function: str, does: str, **environment: str) -> subprocess.Popen[str]:
        module = function.rpartition(".")[0]
        code = (
            f"import ctypes, os, signal, time\nimport {module}\ndef other(*a, **b):\n    {does}\n{function} = other\n"
        )
        code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background has it ignored
        (site / "sitecustomize.py").write_text(code)
        paths = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-m", "adabet_onnx", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | environment,
        )

    return start


@pytest.mark.parametrize(
    ("arguments", "function", "does", "message"),
    [
        (
            ["check", "model.onnx"],
            "onnx.shape_inference.infer_shapes",
            SEGFAULT,
            "(signal 11, segmentation fault) while opening model.onnx: onnx infers shapes. ",
        ),
        (
            ["import", "model.onnx", "-o", "fixed.onnx"],
            "onnx.checker.check_model",
            ABORT,
            "(signal 6, aborted) while opening model.onnx: onnx checks it. ",
        ),
        (
            ["score", "model.onnx", "data.npz", "-o", "scores.json", "--samples", "32"],
            "onnxruntime.InferenceSession",
            SEGFAULT,
            " loads model.onnx with probes. ",
        ),
        (
            ["run", "model.onnx", "data.npz", "-o", "adapted"],
            "onnx.shape_inference.infer_shapes",
            NO_MEMORY,
            "killed (signal 9) while opening model.onnx: onnx infers shapes, as the system does when memory runs out.",
        ),
    ],
    ids=["check", "import", "score", "run"],
)
def test_a_crash_is_an_error(command, tmp_path, arguments, function, does, message):
    before = sorted(path.name for path in tmp_path.iterdir())
    process = command(*arguments, function=function, does=does)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_debugger_gets_the_crash_itself(command):
    process = command("check", "model.onnx", function="onnx.checker.check_model", does=ABORT, ADABET_DEBUG="1")
    assert process.wait(120) == -signal.SIGABRT
    process.communicate()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_signal_to_the_command_reaches_the_work(command, tmp_path, number, code):
    process = command("check", "model.onnx", function="onnx.checker.check_model", does=WAIT)
    deadline = time.monotonic() + 120
    while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    work = psutil.Process(int((tmp_path / "pid").read_text()))
    assert work.ppid() == process.pid
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert err.strip().startswith("Interrupted.") if number == signal.SIGINT else err == ""
    work.wait(10)


def test_notes_lie_in_each_other_and_are_taken_back(monkeypatch):
    note = bytearray(2000)
    monkeypatch.setattr(isolation, "_note", note)

    def read() -> str:
        return bytes(note).split(b"\0")[0].decode()

    with isolation.during("opening a.onnx"):
        with isolation.during("onnx checks it"):
            assert read() == "opening a.onnx: onnx checks it"
        assert read() == "opening a.onnx"
        with pytest.raises(ValueError), isolation.during("onnx infers shapes"):
            raise ValueError
        assert read() == "opening a.onnx"
        with isolation.during("x" * 3000):
            assert len(read()) == 1999
    assert read() == ""


def test_what_is_no_fault_is_not_explained():
    assert isolation.explain(signal.SIGTERM, "waiting") is None
