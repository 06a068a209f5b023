"""From a Hugging Face folder: architectures with random weights, and the README's chain."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from converter_runs import convert, need, run, run_chain, values
from converter_sources import TRANSFORMERS
from models import tiny

from adabet_onnx import make_artifacts, open_model, select
from adabet_onnx.cli.main import main
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.training.evaluation import predict

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture(scope="module")
def python():
    return need("torch", "onnxscript", "transformers")


@pytest.fixture(scope="module")
def converted(python, tmp_path_factory):
    """Models with random weights, written by save_pretrained and converted, with the messages."""
    folder = tmp_path_factory.mktemp("transformers")
    run(python, "-c", TRANSFORMERS, cwd=folder, torch=True)
    (folder / "empty").mkdir()
    about = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.25], "rescale_factor": 1 / 255}
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(about))
    many = {name: [name] for name in ("roberta", "distilbert", "gpt2", "vit")}
    many |= {"bert": ["bert", "--length", "12"], "empty": ["empty"], "long": ["bert", "--length", "41"]}
    runs = ([*arguments, "-o", f"{name}.onnx"] for name, arguments in many.items())
    return folder, dict(zip(many, convert(python, "from_transformers", *runs, cwd=folder), strict=True))


def test_chain(python, converted, rng):
    folder, _ = converted
    x = rng.integers(1, 100, (64, 16))
    x[:, 10:] *= rng.integers(0, 2, (64, 1))  # some texts end early: 0 is BERT's padding
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 3, 64))
    run_chain(python, "Transformers", folder)
    assert [spec.name for spec in open_model(folder / "model.onnx").inputs] == ["input_ids"]


def test_all_inputs_come_from_an_npz(converted, rng, tmp_path, monkeypatch):
    """As the README of the converters describes for models with a mask input."""
    folder, _ = converted
    shape = (64, 12)
    arrays = {"input_ids": rng.integers(1, 100, shape), "attention_mask": rng.integers(0, 2, shape)}
    arrays["token_type_ids"] = rng.integers(0, 2, shape)
    arrays["attention_mask"][:, 0] = 1
    np.savez(tmp_path / "data.npz", **arrays, y=rng.integers(0, 3, 64))
    model = open_model(folder / "bert.onnx")
    monkeypatch.setattr(sys, "argv", ["x", "evaluate", str(folder / "bert.onnx"), str(tmp_path / "data.npz"), "-q"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    rows = predict(model, tmp_path / "data.npz", preprocessing=Arithmetic())
    expected = tiny.run(onnx.load(folder / "bert.onnx"), *(arrays[spec.name] for spec in model.inputs))
    np.testing.assert_allclose([row["logits"] for row in rows], expected, atol=1e-5)


def test_the_frozen_part_reaches_the_head(converted, tmp_path):
    """transformers 5 reads the mask by indices over the whole batch."""
    folder, _ = converted
    for name in ("bert", "roberta", "distilbert"):
        model = open_model(folder / f"{name}.onnx")
        manifest = make_artifacts(model, select(model, strategy="head"), tmp_path / name, backend="portable")
        assert all(len(entry["shape"]) == 2 for entry in manifest.content["boundary"]), name
        assert manifest.notes == []


@pytest.mark.parametrize(
    ("name", "inputs", "layers"),
    [
        (
            "bert",
            ["input_ids", "attention_mask", "token_type_ids"],
            ["bert.encoder.layer.1.attention.self.query", "classifier"],
        ),
        (
            "roberta",
            ["input_ids", "attention_mask"],
            ["roberta.encoder.layer.0.output.LayerNorm", "classifier.out_proj"],
        ),
        ("distilbert", ["input_ids", "attention_mask"], ["distilbert.transformer.layer.1.ffn.lin2", "pre_classifier"]),
        ("gpt2", ["input_ids", "attention_mask"], ["transformer.h.1.attn.c_attn", "transformer.ln_f"]),
        ("vit", ["pixel_values"], ["classifier"]),
    ],
)
def test_architectures_open_with_their_names(converted, name, inputs, layers):
    folder, found = converted
    assert found[name][0] == 0, found[name]
    model = open_model(folder / f"{name}.onnx")
    assert [spec.name for spec in model.inputs] == inputs
    assert set(layers) <= {layer.name for layer in model.layers}
    assert not [tensor for tensor in values(onnx.load(folder / f"{name}.onnx")) if tensor.startswith("onnx::MatMul")]


def test_what_the_folder_says_of_images_and_classes(converted):
    folder, _ = converted
    model = open_model(folder / "vit.onnx")
    assert model.metadata("classes") == ["cat", "dog"]
    assert model.metadata("preprocessing")["mean"] == [0.4, 0.5, 0.6]
    assert json.loads(model.graph.metadata_props["std"]) == [0.2, 0.2, 0.25]
    assert open_model(folder / "bert.onnx").metadata("classes") is None  # LABEL_0 is not a name


@pytest.mark.parametrize(
    ("name", "code", "message"), [("empty", 2, "has no config.json"), ("long", 1, "more than the 40 tokens")]
)
def test_what_is_refused(converted, name, code, message):
    folder, found = converted
    assert found[name][0] == code, found[name]
    assert message in found[name][1]
    assert not list(folder.glob(f"*{name}.onnx*"))
