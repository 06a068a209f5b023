"""Fisher information, against torch's gradients of the activations."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from adabet_onnx import DataError, open_model
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.study.fisher import fisher_information


@pytest.fixture
def small(torch_oracle):
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    module[1].running_mean.uniform_(-0.2, 0.2)
    module[1].running_var.uniform_(0.5, 2)
    return module.eval()


def exported(module, tmp_path):
    path = tmp_path / "small.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's older exporter prints many warnings
        _export(module, path)
    return path


def _export(module, path):
    import torch

    torch.onnx.export(
        module, (torch.zeros(2, 3, 8, 8),), str(path), dynamo=False, opset_version=17, input_names=["x"],
        dynamic_axes={"x": {0: "N"}}, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip


def test_it_is_what_torch_gives(small, tmp_path, rng):
    import torch

    model = open_model(exported(small, tmp_path))
    x = rng.standard_normal((10, 3, 8, 8)).astype(np.float32)
    y = rng.integers(0, 4, 10)
    found = fisher_information(
        model, {"x_train": x, "y_train": y, "x_test": x, "y_test": y}, samples=10, preprocessing=Arithmetic()
    )
    activations = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        activations.append(output)

    layers = [module for module in small if not isinstance(module, torch.nn.ReLU | torch.nn.Flatten)]
    for module in layers:
        if next(module.parameters(), None) is not None:
            module.register_forward_hook(keep)
    small.double()
    order = torch.from_numpy(x).double()
    torch.nn.functional.cross_entropy(small(order), torch.from_numpy(y)).backward()
    expected = [((a * a.grad) ** 2).mean().item() / 2 for a in activations]
    assert list(found) == [layer.name for layer in model.layers]
    np.testing.assert_allclose(list(found.values()), expected, rtol=2e-4)


def test_it_needs_labels(small, tmp_path, rng):
    model = open_model(exported(small, tmp_path))
    with pytest.raises(DataError, match="label"):
        fisher_information(model, {"x": rng.standard_normal((8, 3, 8, 8)).astype(np.float32)})
