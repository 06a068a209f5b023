"""How work grows with the number of layers: no command may read all layers for each layer."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from models import tiny
from models.deep import residual

from adabet_onnx import open_model
from adabet_onnx.cost.predict import Predictor
from adabet_onnx.model.open import Model
from adabet_onnx.report import predicted
from adabet_onnx.report.inputs import ReportInputs
from adabet_onnx.trainability.decisions import decisions
from adabet_onnx.trainability.preflight import check_model


def calls(work: Callable[[Model], object], proto: onnx.ModelProto) -> int:
    """The number of function calls of a piece of work on a model."""
    model = open_model(proto)
    profile = cProfile.Profile()
    profile.runcall(work, model)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("work", [check_model, lambda model: list(decisions(model))], ids=["check", "decisions"])
def test_calls_grow_as_the_layers_do(work: Callable[[Model], object]) -> None:
    proto = residual(2)
    calls(work, proto)  # imports, caches
    few, some, many = (calls(work, residual(blocks)) for blocks in (8, 16, 32))
    assert (many - some) / (some - few) < 2.1  # twice as many layers more


def test_a_report_predicts_layers_from_the_first_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(tiny.conv_net(seed=3))
    head = [parameter.name for parameter in model.head.parameters]
    predictor = Predictor(model, batch_size=32)
    alone = {
        layer.name: predictor.training([*(p.name for p in layer.parameters), *head]).memory_bytes
        for layer in model.layers
    }
    found = ReportInputs(Path(), model=model)
    predicted.predict_costs(found)
    assert found.reach == alone

    monkeypatch.setattr(predicted, "_MOST_PREDICTED", 2)
    fewer = ReportInputs(Path(), model=model)
    predicted.predict_costs(fewer)
    ends = (model.layers[0].name, model.layers[-1].name)
    assert len(model.layers) > 2
    assert fewer.reach == {name: alone[name] for name in ends}
