"""Advice on a new export is specific to the framework that the file comes from."""

from __future__ import annotations

import onnx
import pytest
from models import tiny
from models.folded import folded
from models.tiny import node, normal

from adabet_onnx import ModelError, open_model
from adabet_onnx.model.producer import framework

PRODUCERS = {"pytorch": "torch", "tf2onnx": "Keras", "jax2onnx": "jax", "": "", "someone's own": ""}
OWN = {"torch": ("torch.onnx", "TrainingMode", "batch_first=True"), "Keras": ("Keras",)}  # words of their advice only


def made_by(proto: onnx.ModelProto, producer: str) -> onnx.ModelProto:
    proto.producer_name = producer
    return proto


def random() -> onnx.ModelProto:
    nodes = [
        node("RandomNormalLike", ["input"], ["noise"], "/noise"),
        node("Add", ["input", "noise"], ["x"], "/add"),
        node("MatMul", ["x", "fc.weight"], ["logits"], "/fc"),
    ]
    return tiny.build(nodes, {"fc.weight": normal(6, 3)}, input_shape=("N", 6))


def time_major() -> onnx.ModelProto:
    nodes = [node("MatMul", ["input", "fc.weight"], ["logits"], "/fc")]
    shape = (20, "batch")
    return tiny.build(nodes, {"fc.weight": normal(6, 3)}, input_shape=(*shape, 6), output_shape=(*shape, 3))


def said(proto: onnx.ModelProto) -> str:
    """The notes or the error of opening a model."""
    try:
        return " ".join(open_model(proto).notes)
    except ModelError as error:
        return str(error)


@pytest.mark.parametrize("producer", PRODUCERS)
def test_no_advice_is_for_another_framework(producer):
    meant = PRODUCERS[producer]
    texts = [(said(made_by(folded(opset), producer)), "they were folded") for opset in (11, 17)]
    texts.append((said(made_by(random(), producer)), "generates random numbers"))
    texts.append((said(made_by(time_major(), producer)), "the batch must be the first dimension"))
    for text, words in texts:
        assert words in text
        for whose, advice in OWN.items():
            assert any(word in text for word in advice) == (whose == meant), text


def test_a_keras_file_with_folded_normalisations_is_sent_to_the_converter_that_keeps_them():
    assert "converters/from_keras.py: tf2onnx alone folds them" in said(made_by(folded(17), "tf2onnx"))


@pytest.mark.parametrize(
    ("producer", "name"), [("pytorch", "pytorch"), ("TF2ONNX", "keras"), ("skl2onnx", "scikit-learn"), (None, "")]
)
def test_framework(producer, name):
    assert framework(producer) == name
