"""`evaluate` names a likely reason for a low accuracy, and only where there is one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import tiny

from adabet_onnx import Adapting, Settings, adapt, evaluate, new_head, save_model

X = np.random.default_rng(0).random((40, 10)).astype(np.float32)


@pytest.fixture
def adabet(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny.mlp(classes=8), "m.onnx")
    np.savez("few.npz", x=X, y=np.arange(40) % 4)
    np.savez("most.npz", x=X, y=np.arange(40) % 5)
    return command_of(monkeypatch, capfd)


def test_few_of_the_classes_have_labels(adabet):
    assert evaluate("m.onnx", "most.npz")["hint"] is None
    hint = evaluate("m.onnx", "few.npz")["hint"]
    assert "labels of 4 of the model's 8 classes occur" in hint
    said = adabet("evaluate", "m.onnx", "few.npz", "--save-predictions", "p.csv").out
    assert "hint: labels of 4 of the model's 8 classes occur" in said
    assert "adabet-onnx run" in said
    assert "--num-classes" in said
    assert "hint" not in adabet("evaluate", "m.onnx", "most.npz").out


def test_a_new_head_is_untrained_until_it_is_trained(adabet):
    save_model(new_head("m.onnx", 4), "m4.onnx")
    assert "hint: the head is new and untrained" in adabet("evaluate", "m4.onnx", "few.npz").out
    adapt("m4.onnx", "few.npz", "out", adapting=Adapting(settings=Settings(epochs=1), measure=False, check=False))
    assert evaluate("out/adapted.onnx", "few.npz")["hint"] is None
    assert evaluate("out/artifacts", "few.npz")["hint"] is None


def test_numbers_get_no_hint(adabet):
    assert evaluate("m.onnx", (X, np.zeros((40, 8), np.float32)), loss="mse")["hint"] is None
