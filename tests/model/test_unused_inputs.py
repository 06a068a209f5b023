"""Inputs that no node reads: they need no data, are reported, and stay in the adapted model at their positions."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from models import tiny
from onnx import TensorProto, helper

from adabet_onnx import Trainer, export_model, make_artifacts, open_model, score, select
from adabet_onnx.data.source import open_data
from adabet_onnx.model.unused_inputs import restore_unused_inputs, unused_inputs
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.decisions import decisions

EXTRAS = {
    "per_sample": (TensorProto.FLOAT, ["N", 4]),
    "scalar": (TensorProto.FLOAT, []),
    "open": (TensorProto.INT64, ["a", "b"]),
    "text": (TensorProto.STRING, [1]),
    "other_batch": (TensorProto.FLOAT, [7, 4]),
}


def with_extra(name: str, at: int) -> onnx.ModelProto:
    """A convolutional network with one more input, first or last, which no node reads."""
    proto = tiny.conv_net()
    inputs = list(proto.graph.input)
    inputs.insert(at, helper.make_tensor_value_info(name, *EXTRAS[name]))
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("name", EXTRAS)
def test_it_opens_and_says_so(name, at):
    model = open_model(with_extra(name, at))
    assert [spec.name for spec in model.inputs] == ["input"]
    assert unused_inputs(model.graph) == [name]
    (said,) = [str(decision) for decision in decisions(model) if "unused" in decision.taken_for]
    assert said.startswith(f"input {name}: unused (the logits do not depend on it")
    again = model.proto()
    restore_unused_inputs(again)
    assert again.graph.input[at] == with_extra(name, at).graph.input[at], "name, type and shape"
    assert [value.name for value in again.graph.input].index("input") == 1 - at


@pytest.mark.parametrize("at", [0, 1])
def test_the_adapted_model_has_the_same_signature(at, rng, tmp_path):
    onnx.save(with_extra("per_sample", at), tmp_path / "model.onnx")
    x, y = rng.standard_normal((40, 3, 8, 8)).astype(np.float32), np.arange(40) % 4
    np.savez(tmp_path / "data.npz", x=x, y=y)
    model = open_model(tmp_path / "model.onnx")
    selection = select(
        score(model, tmp_path / "data.npz", scoring=Scoring(samples=32, subset_size=16, subsets=2)), strategy="last"
    )
    make_artifacts(model, selection, tmp_path / "artifacts", check=False)
    export_model(tmp_path / "artifacts", tmp_path / "untrained.onnx")
    Trainer(tmp_path / "artifacts").fit(tmp_path / "data.npz", epochs=1)
    export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx")
    feeds = {"input": x[:5], "per_sample": np.zeros((5, 4), np.float32)}
    found = {}
    for name in ("model", "untrained", "adapted"):
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        assert [value.name for value in session.get_inputs()] == ["input", "per_sample"][:: 1 if at else -1]
        found[name] = session.run(None, feeds)[0]
    np.testing.assert_allclose(found["untrained"], found["model"], atol=1e-6)
    assert np.abs(found["adapted"] - found["model"]).max() > 1e-4
    again = open_model(tmp_path / "adapted.onnx")
    assert unused_inputs(again.graph) == ["per_sample"]
    np.testing.assert_allclose(tiny.run(again.proto(), x[:5]), found["adapted"], atol=1e-6)


def test_data_may_hold_the_unused_input_too(rng, tmp_path):
    x = rng.standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", input=x, per_sample=np.zeros((8, 4), np.float32), y=np.arange(8) % 4)
    splits = open_data(tmp_path / "data.npz", open_model(with_extra("per_sample", 1)))
    np.testing.assert_array_equal(splits.train.rows.fetch(np.arange(8))["input"], x)


@pytest.mark.parametrize("entry", ["x", {"at": -1, "value": {"name": "a"}}, {"at": 0, "value": {"name": 3}}, {"at": 0}])
def test_metadata_of_another_form_is_not_heeded(entry):
    proto = tiny.conv_net()
    proto.metadata_props.add(key="adabet_onnx.unused_inputs", value=json.dumps([entry]))
    assert unused_inputs(open_model(proto).graph) == []
    restore_unused_inputs(proto)
    assert proto.graph == tiny.conv_net().graph
