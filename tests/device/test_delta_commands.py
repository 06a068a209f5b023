"""The commands for deltas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import command_of
from deltas import trained

from adabet_onnx import make_device

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
