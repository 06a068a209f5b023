"""From PyTorch: batch normalisations and names are kept, by either exporter, and the README's chain."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import onnx
import pytest
from conftest import ROOT
from converter_runs import convert, need, operators, run_chain, values

from adabet_onnx import open_model

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture(scope="module")
def python():
    return need("torch", "onnxscript", "safetensors")


@pytest.fixture
def files(python, tmp_path):
    """A user's folder: net.py and the weights of a briefly trained network."""
    import torch
    from models.torch_nets import Net

    shutil.copy(ROOT / "tests" / "models" / "torch_nets.py", tmp_path / "net.py")
    torch.manual_seed(0)
    net = Net()
    for index, block in enumerate(net.blocks):  # statistics as after training; equal scales and biases stay equal
        torch.nn.init.normal_(block[1].running_mean, std=0.1)
        torch.nn.init.uniform_(block[1].running_var, 0.5 + index, 1.5 + index)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    return tmp_path, net.eval()


def test_chain(python, files, rng):
    folder, net = files
    x = rng.integers(0, 256, (96, 3, 16, 16), np.uint8)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 4, 96))
    run_chain(python, "PyTorch", folder)
    model = onnx.load(folder / "model.onnx")
    assert operators(folder / "model.onnx").count("BatchNormalization") == 3
    kept = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    assert kept <= set(values(model))  # equal ones are not merged
    names = [layer.name for layer in open_model(folder / "model.onnx").layers]
    assert names == ["stem", *(f"blocks.{i}.{j}" for i in range(3) for j in (0, 1)), "fc"]


def test_programs_of_torch_export(python, files):
    import torch

    folder, net = files
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        batch = ({0: torch.export.Dim("N")},)
        example = (torch.zeros(2, 3, 16, 16),)
        torch.export.save(torch.export.export(net, example, dynamic_shapes=batch), folder / "dynamic.pt2")
        torch.export.save(torch.export.export(net.train(), example), folder / "training.pt2")
    done, refused = convert(
        python,
        "from_torch",
        ["dynamic.pt2", "-o", "dynamic.onnx"],
        ["training.pt2", "-o", "training.onnx"],
        cwd=folder,
    )
    assert done[0] == 0, done
    assert operators(folder / "dynamic.onnx").count("BatchNormalization") == 3
    kept = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    assert kept <= set(values(onnx.load(folder / "dynamic.onnx")))
    assert "blocks.1.1" in [layer.name for layer in open_model(folder / "dynamic.onnx").layers]
    assert refused[0] == 1
    assert "exported in training mode" in refused[1]
    assert not (folder / "training.onnx").exists()


def test_tokens_several_outputs_and_weights_in_a_checkpoint(python, files):
    import torch
    from models.torch_nets import Encoder
    from safetensors.torch import save_file

    folder, net = files
    encoder = Encoder()
    save_file(encoder.state_dict(), folder / "encoder.safetensors")
    arguments = ["net.py:Encoder", "--weights", "encoder.safetensors", "--input", "tokens=7:int64:50", "-o", "e.onnx"]
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"model": state, "epoch": 3}, folder / "checkpoint.pth")
    refused, *done = convert(
        python,
        "from_torch",
        arguments,
        [*arguments, "--take", "logits"],
        ["net:Net", "--weights", "checkpoint.pth", "--input", "3,16,16", "-o", "c.onnx"],
        cwd=folder,
    )
    assert refused[0] == 1
    assert "choose with --take: logits, hidden" in refused[1]
    assert [code for code, _ in done] == [0, 0], done
    found = values(onnx.load(folder / "e.onnx"))
    for name in encoder.state_dict():
        assert name in found
    assert "using its entry 'model'" in done[1][1]
    np.testing.assert_array_equal(values(onnx.load(folder / "c.onnx"))["fc.bias"], net.fc.bias.detach().numpy())


def test_what_is_refused(python, files):
    import torch

    folder, net = files
    torch.save(net, folder / "whole.pt")
    cases = [
        (["net.py:Net", "--weights", "whole.pt", "--input", "3,16,16"], 1, "save model.state_dict()"),
        (
            ["net.py:Net", "--arg", "classes=5", "--weights", "weights.pt", "--input", "3,16,16"],
            1,
            "fc.bias ((4,) for (5,))",
        ),
        (["net.py:Branching", "--input", "4"], 1, "differs from the source's"),
        (["net.py:Nothing", "--input", "4"], 1, "has no Nothing"),
        (["net.py:Net", "--input", "0,3"], 2, "write one sample's shape"),
    ]
    found = convert(python, "from_torch", *([*case[0], "-o", "model.onnx"] for case in cases), cwd=folder)
    for (_, code, message), (left, said) in zip(cases, found, strict=True):
        assert left == code, said
        assert message in said
    assert not list(folder.glob("*.onnx"))
    assert not list(folder.glob(".*"))
