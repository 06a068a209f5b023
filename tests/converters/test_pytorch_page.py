"""The page "From PyTorch": its blocks run, and the parameters come back to the network."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import onnx
from command_line import command_of
from conftest import ROOT
from converter_runs import need
from documented_blocks import commands_of, page
from models import tiny

from adabet_onnx import open_model

DEMO = ROOT / "adabet_onnx" / "demo"
PAGE = "docs/" + "pytorch.md"


def test_blocks_run_in_order(tmp_path, monkeypatch, capfd, checked_here):
    need("torch", "onnxscript")
    import torch

    shutil.copy(DEMO / "digits_shifted.npz", tmp_path / "new_domain.npz")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    adabet, namespace = command_of(monkeypatch, capfd), {"__name__": "page"}
    blocks = page(PAGE)
    assert [block.language for block in blocks] == ["python", "sh", "python", "sh", "sh", "python", "python"]
    for block in blocks:
        if block.language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracing exporter is said to be deprecated
                exec(compile(block.text, PAGE, "exec"), namespace)
            continue
        for _, *words in commands_of(block):
            added = ["--epochs", "1", "--no-measure"] if words[0] == "run" else []
            adabet(*words, *added)
    for name in ("net.onnx", "newer.onnx"):
        assert [layer.name for layer in open_model(name).layers] == ["0", "1", "4", "5", "9"]
    net = namespace["net"]
    with np.load("new_domain.npz") as archive:
        images = np.moveaxis(archive["x_test"][:8], 3, 1).astype(np.float32) / 255
    with torch.no_grad():
        logits = net(torch.from_numpy(images)).numpy()
    expected = tiny.run(onnx.load("adapted/adapted.onnx"), images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
