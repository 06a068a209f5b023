"""Recurrent networks as PyTorch exports them: training steps against torch autograd on the module itself."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from models.recurrent import as_onnx

from adabet_onnx import Choices, ModelError, check_model, make_artifacts, open_model
from adabet_onnx.selection.record import Selection

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_gradients_equal_torch(name, tmp_path, torch_oracle):
    import torch
    from models import architectures

    model = open_model(onnx.load_from_string(architectures.export(name)))
    kind = name.upper()
    assert [layer.op_type for layer in model.layers] == [kind, kind, "Gemm"]
    assert all(layer.portable.trainable for layer in check_model(model).layers)
    chosen = tuple(parameter.name for layer in model.layers for parameter in layer.parameters)
    selection = Selection(model.sha256, "all", tuple(layer.name for layer in model.layers), chosen)
    made = make_artifacts(model, selection, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd"))
    assert made.content["opset"] == 17
    assert made.content["oldest_onnxruntime"] == "1.17"
    session = made.session(made.initial, threads=1)

    module = copy.deepcopy(architectures.module(name)[0]).double()
    feeds = architectures.feeds(name, batch=4, seed=1)
    labels = np.random.default_rng(0).integers(0, 5, 4)
    logits = module(torch.from_numpy(feeds["input"]).double())
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    ours, found = session.gradients(feeds, labels)
    assert ours == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(found, logits.detach().numpy(), rtol=1e-4, atol=1e-5)
    gradients = {key: value.grad.numpy() for key, value in module.named_parameters()}
    for i, layer in enumerate(model.layers[:2]):
        expected = as_onnx(kind, gradients, i)
        assert len(layer.parameters) == 3
        for parameter in layer.parameters:
            wanted = expected[parameter.position]
            error = np.abs(session.gradient(parameter.name) - wanted).max() / np.abs(wanted).max()
            assert error <= 1e-4, f"{parameter.name}: {error:.1e}"


@pytest.mark.parametrize(
    ("name", "trains"), [("lstm", False), ("gru_bidirectional", False), ("gru", True), ("rnn", True)]
)
def test_onnxruntime_training_cannot_load_recurrent_layers_even_frozen(name, trains, tmp_path, torch_oracle, training):
    """It cannot load a graph with such a layer, even if only the head is trained."""
    from models import architectures

    model = open_model(onnx.load_from_string(architectures.export(name)))
    head = model.layers[-1]
    verdict = check_model(model).layers[-1].ort
    assert verdict.trainable == trains
    selection = Selection(model.sha256, "head", (head.name,), tuple(p.name for p in head.parameters))
    if trains:
        assert make_artifacts(model, selection, tmp_path / "a", backend="ort").backend == "ort"
        return
    assert "in both directions" in verdict.reason
    with pytest.raises(ModelError, match="Use the portable backend"):
        make_artifacts(model, selection, tmp_path / "a", backend="ort")
    assert not list(tmp_path.iterdir())
