"""Classifiers of texts from transformers, whose masks are index arithmetic over the whole batch."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from uncut import Uncut, assert_equal_training

from adabet_onnx import Choices, make_artifacts, open_model
from adabet_onnx.cost.graphs import selection_with

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

TOKENS, WIDTH = 9, 16
EXPORTS = [("torchscript", False), ("dynamo", False), ("dynamo", True)]


def network(attention: str) -> Any:
    """A BERT of tokens alone, which masks the padding (0) itself."""
    import torch

    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=TOKENS,
        num_labels=3,
        attn_implementation=attention,
    )

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = transformers.BertForSequenceClassification(config)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.m(input_ids=input_ids, attention_mask=(input_ids != 0).long()).logits

    torch.manual_seed(0)
    made = Classifier().eval()
    with torch.no_grad():
        for name, value in made.named_parameters():  # exporters store equal vectors once
            value.normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.3)
    return made


def exported(made: Any, exporter: str, ids: np.ndarray, *, optimize: bool) -> onnx.ModelProto:
    """The network as ONNX."""
    import torch

    given = (torch.from_numpy(ids[:2]),)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            buffer = io.BytesIO()
            axes = {"input_ids": {0: "N"}, "logits": {0: "N"}}
            names = {"input_names": ["input_ids"], "output_names": ["logits"], "dynamic_axes": axes}
            torch.onnx.export(made, given, buffer, dynamo=False, opset_version=17, do_constant_folding=False, **names)
            return onnx.load_from_string(buffer.getvalue())
        shapes = ({0: torch.export.Dim("N")},)
        program = torch.onnx.export(
            made, given, dynamo=True, optimize=optimize, dynamic_shapes=shapes, opset_version=18, verbose=False
        )
        return program.model_proto


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("exporter", "optimize"), EXPORTS)
def test_frozen_up_to_the_trained_layers(attention, exporter, optimize, rng, tmp_path, torch_oracle):
    """As torch computes it, and as the uncut graph does."""
    import torch

    ids = rng.integers(1, 50, (6, TOKENS))
    ids[:, 4:] *= rng.integers(0, 2, (6, 1))
    made = network(attention)
    model = open_model(exported(made, exporter, ids, optimize=optimize))
    layers = {"head": (model.head.name,), "last": tuple(layer.name for layer in model.layers[-5:])}
    labels = rng.integers(0, 3, 6)
    loss = torch.nn.functional.cross_entropy(made(torch.from_numpy(ids)), torch.from_numpy(labels))
    loss.backward()
    expected = {name: value.grad.numpy() for name, value in made.named_parameters() if value.grad is not None}
    for what, names in layers.items():
        parameters = [each.name for layer in model.layers if layer.name in names for each in layer.parameters]
        selection, choices = selection_with(model, parameters, names), Choices(optimizer="sgd")
        manifest = make_artifacts(model, selection, tmp_path / what, backend="portable", choices=choices)
        assert manifest.notes == []
        if what == "head":
            assert [entry["shape"] for entry in manifest.content["boundary"]] == [["N", WIDTH]]
            assert len(onnx.load(tmp_path / what / "step.onnx", load_external_data=False).graph.node) < 80
        session = manifest.session(manifest.initial, threads=1)
        ours, _ = session.gradients({model.inputs[0].name: ids}, labels)
        assert ours == pytest.approx(loss.item(), rel=1e-4)
        compared = [name for name in parameters if name in expected and name.endswith("bias")]
        assert compared
        for name in compared:
            size = np.abs(expected[name]).max()
            np.testing.assert_allclose(session.gradient(name), expected[name], rtol=1e-3, atol=1e-4 * max(size, 1e-3))
        assert_equal_training(Uncut(model, selection, choices), manifest, {model.inputs[0].name: ids}, 5)
