"""The commands for deltas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from command_line import command_of
from deltas import trained
from models import tiny

from adabet_onnx import Packing, Trainer, make_artifacts, make_device, make_menu, open_model, select

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture
def adabet(monkeypatch, capfd) -> Callable[..., Any]:
    return command_of(monkeypatch, capfd)


def test_the_commands(trained_artifacts, tmp_path, monkeypatch, adabet):
    monkeypatch.chdir(tmp_path)
    assert "numbers in" in adabet("delta", "save", trained_artifacts, "-o", "p.safetensors").out
    shown = adabet("delta", "show", "p.safetensors").out
    assert "SHA-256: correct" in shown
    assert "entry: all" in shown
    assert "adapted model" in adabet("delta", "apply", trained_artifacts, "p.safetensors", "-o", "adapted.onnx").out
    adabet("export", trained_artifacts, "-o", "exported.onnx", "-q")
    assert Path("adapted.onnx").read_bytes() == Path("exported.onnx").read_bytes()
    make_device(trained_artifacts, "device", start="initial")
    applied = adabet("delta", "apply", "device", "p.safetensors", "-o", "mine.bin").out
    assert "the trained values of all, in the form of selected.bin: in its place, device.onnx is the" in applied
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


def test_the_file_of_a_menu_that_a_delta_replaces(tmp_path, monkeypatch, adabet):
    """Each choice of a menu has its own; with it in place, the personal model computes what the exported one does."""
    monkeypatch.chdir(tmp_path)
    model, rng = open_model(tiny.mlp()), np.random.default_rng(0)
    data = rng.standard_normal((48, 10)).astype(np.float32), rng.integers(0, 3, 48)
    make_artifacts(model, select(model, strategy="head"), "artifacts", check=False)
    Trainer("artifacts").fit(data, epochs=1, learning_rate=0.1)
    adabet("delta", "save", "artifacts", "-o", "p.safetensors")
    make_menu(model, "menu", entries=2, packing=Packing(scoring=None), check=False)
    command = ["delta", "apply", "menu", "p.safetensors", "-o", "menu/head.selected.bin"]
    assert "in its place, head.device.onnx is the personal model" in adabet(*command).out
    assert json.loads(adabet(*command, "--json").out)["replaces"] == "head.selected.bin"
    adabet("export", "artifacts", "-o", "exported.onnx", "-q")
    found, expected = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": data[0]})[0]
        for path in ("menu/head.device.onnx", "exported.onnx")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert adabet("delta", "apply", "artifacts", "p.safetensors", "-o", "a.onnx", "--json").out.count("null") == 1
