"""Stored cosines and sines of positions are not layers; two learned scales of the same form are."""

from __future__ import annotations

import pytest
from models.rotary import turned

from adabet_onnx import open_model
from adabet_onnx.trainability.decisions import decisions


@pytest.mark.parametrize("form", ["halves", "pairs"])
@pytest.mark.parametrize("size", [1.0, 1.2])
def test_tables_are_no_layers(form, size):
    model = open_model(turned(form=form, size=size))
    parameters = [parameter.name for layer in model.layers for parameter in layer.parameters]
    assert parameters == ["q.weight", "gamma", "fc.weight"]
    assert model.frozen == ()
    said = [str(decision) for decision in decisions(model)]
    assert any("cosines and sines of positions: cos, sin, not a layer" in line for line in said)


@pytest.mark.parametrize("form", ["halves", "pairs"])
def test_learned_scales_are_layers(form):
    model = open_model(turned(form=form, learned=True))
    parameters = {parameter.name for layer in model.layers for parameter in layer.parameters}
    assert parameters == {"q.weight", "cos", "sin", "gamma", "fc.weight"}
    assert not any("cosines and sines" in str(decision) for decision in decisions(model))
