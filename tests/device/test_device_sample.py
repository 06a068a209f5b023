"""The sample in Python: the trained package becomes a personal model, and damaged ones are rejected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT
from models import tiny

from adabet_onnx import Packing, make_artifacts, make_device, open_model, select

SCRIPT = ROOT / "samples" / "python" / "train.py"
pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture
def package(tmp_path) -> Path:
    model = open_model(tiny.conv_net())
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    x = rng.standard_normal((40, *model.inputs[0].shape[1:])).astype(np.float32) + y.reshape(-1, 1, 1, 1)
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), y=y)
    make_artifacts(model, select(model, strategy="all"), tmp_path / "artifacts", check=False)
    make_device(tmp_path / "artifacts", tmp_path / "device", packing=Packing(scoring=None))
    return tmp_path / "device"


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert code == 0 or "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.slow
def test_a_personal_model(package):
    data, before = package.with_name("data.npz"), (package / "selected.bin").read_bytes()
    losses = [float(line) for line in run(package, data, package / "selected.bin").split()]
    assert len(losses) == 20
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert (package / "selected.bin").read_bytes() != before
    assert [path.name for path in package.iterdir() if path.suffix == ".part"] == []
    arrays = np.load(data)
    session = onnxruntime.InferenceSession(str(package / "device.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {session.get_inputs()[0].name: arrays["x"]})
    (package / "selected.bin").write_bytes(before)
    session = onnxruntime.InferenceSession(str(package / "device.onnx"), providers=["CPUExecutionProvider"])
    (initial,) = session.run(["logits"], {session.get_inputs()[0].name: arrays["x"]})
    assert loss(logits, arrays["y"]) < loss(initial, arrays["y"])
    assert run(package, data, package.with_name("again.bin")) == "".join(f"{value}\n" for value in losses)


def loss(logits: np.ndarray, labels: np.ndarray) -> float:
    exact = logits.astype(np.float64)
    return float(np.mean(np.log(np.exp(exact).sum(1)) - exact[np.arange(len(labels)), labels]))


@pytest.mark.slow
def test_damaged_packages_are_refused(package):
    data, out = package.with_name("data.npz"), package.with_name("out.bin")
    for name in ("step.onnx", "state.bin"):
        path = package / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert f"{name}: expected {len(whole)} bytes, found {len(whole) - 1}" in run(package, data, out, code=1)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert f"{name}: expected the SHA-256 " in run(package, data, out, code=1)
        path.write_bytes(whole)
    path = package / "device.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    assert "found adabet-onnx/device 2" in run(package, data, out, code=1)
    assert not out.exists()
