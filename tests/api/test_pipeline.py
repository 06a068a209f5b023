"""The main job as one call: its files, what --resume accepts, and what may fail without losing the result."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from models import tiny

from adabet_onnx import ModelError, RecordError, UsageError, measuring
from adabet_onnx.adapting import Adapting
from adabet_onnx.data.preprocess import Preprocessing
from adabet_onnx.outcome import save_summary
from adabet_onnx.pipeline import adapt
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.options import Choosing
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.settings import Settings

HOW = Adapting(scoring=Scoring(samples=32, subsets=2), settings=Settings(epochs=1), check=False)


@pytest.fixture
def data(rng):
    x, y = rng.standard_normal((48, 3, 8, 8)).astype(np.float32), np.arange(48) % 3
    return {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}


@pytest.fixture
def model(tmp_path):
    onnx.save(tiny.conv_net(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.slow
def test_it_measures_and_sums_up(model, data, tmp_path):
    outcome = adapt(model, data, tmp_path / "out", num_classes=3, adapting=HOW)
    assert outcome.selection.layers[-1] == "fc", "a new head is always trained"
    assert set(outcome.costs) == {"selection", "all", "inference"}
    assert all(cost.seconds > 0 and cost.memory_bytes > 0 for cost in outcome.costs.values())
    assert outcome.evaluated_on == "8 test samples"
    sizes = {p.name: p.size for layer in outcome.model.layers for p in layer.parameters}
    trained = sum(sizes[name] for name in outcome.selection.parameters)
    assert outcome.trainable_share == pytest.approx(trained / sum(sizes.values()))
    save_summary(outcome)
    summary = json.loads((tmp_path / "out" / "run.json").read_text())
    assert summary["after"]["samples"] == 8
    assert summary["costs"]["all"]["memory_bytes"] == outcome.costs["all"].memory_bytes


@pytest.mark.slow
def test_resume_goes_on_only_with_the_same_model_and_options(model, data, tmp_path):
    how = replace(HOW, measure=False)
    folder = tmp_path / "out"
    first = adapt(model, data, folder, num_classes=3, adapting=how)
    again = adapt(model, data, folder, num_classes=3, adapting=how, resume=True)
    assert again.metrics == first.metrics
    assert again.after == first.after
    for other in (
        {"choosing": Choosing(strategy="last")},
        {"choosing": Choosing(rho=0.5)},
        {"choices": Choices(optimizer="sgd")},
        {"backend": "ort"},
        {"preprocessing": Preprocessing(scale=0.5)},
    ):
        with pytest.raises(UsageError, match="other options"):
            adapt(model, data, folder, num_classes=3, adapting=replace(how, **other), resume=True)
    with pytest.raises(RecordError, match="not this model with this head"):
        adapt(tiny.conv_net(seed=5), data, folder, num_classes=3, adapting=how, resume=True)


@pytest.mark.slow
def test_a_measurement_that_fails_does_not_lose_the_adapted_model(model, data, tmp_path, monkeypatch):
    """Training all layers may be impossible even if the selected ones can be trained."""
    make = measuring.make_artifacts

    def refuse_all(model, selection, *arguments, **settings):
        if selection.strategy == "all":
            raise ModelError("a node has no gradient")
        return make(model, selection, *arguments, **settings)

    monkeypatch.setattr(measuring, "make_artifacts", refuse_all)
    outcome = adapt(model, data, tmp_path / "out", adapting=HOW)
    assert set(outcome.costs) == {"selection", "inference"}
    assert outcome.not_measured == "a node has no gradient"
    assert (tmp_path / "out" / "adapted.onnx").is_file()
