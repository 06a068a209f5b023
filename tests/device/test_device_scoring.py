"""Scores by the rule of device packages, against an independent implementation with ripser."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from device_packages import FEATURES, LAYERS, POINTS, SAMPLES, SEED, SIZE, SUBSETS, scoring_graph, write_package
from models import tiny

from adabet_onnx import (
    DataError,
    DeviceScoring,
    Packing,
    RecordError,
    UsageError,
    make_artifacts,
    make_device,
    open_model,
    score,
    select,
)
from adabet_onnx.device.random import RandomNumbers
from adabet_onnx.device.scoring import score_package
from adabet_onnx.scoring.betti import loops_by_ripser
from adabet_onnx.scoring.options import Scoring


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((count, FEATURES)).astype(np.float32)


@pytest.fixture
def package(tmp_path) -> Path:
    return write_package(tmp_path / "device")


def by_hand(x: np.ndarray) -> dict[str, float]:
    """The literal rule: one sample at a time, distances by math.dist, bars by ripser."""
    session = onnxruntime.InferenceSession(scoring_graph().SerializeToString(), providers=["CPUExecutionProvider"])
    n = min(SAMPLES, len(x))
    rows = [session.run(["one", "two"], {"x": x[i : i + 1]}) for i in range(n)]
    random, subsets = RandomNumbers(SEED, 0), [list(range(n))]
    if n > POINTS:
        subsets = [random.subset(n, POINTS) for _ in range(SUBSETS)]
    found = {}
    for place, (layer, size) in enumerate(zip(LAYERS, (SIZE, 4 * SIZE), strict=True)):
        points = [row[place].ravel().tolist() for row in rows]
        distance = np.array([[math.dist(a, b) for b in points] for a in points]).astype(np.float32)
        counts = [loops_by_ripser(distance[np.ix_(subset, subset)]) for subset in subsets]
        found[layer] = sum(counts) / len(counts) / (len(subsets[0]) * size)
    return found


@pytest.mark.parametrize("count", [8, POINTS, POINTS + 1, SAMPLES, SAMPLES + 10])
def test_scores_are_those_of_the_rule_done_by_hand(package, count):
    x = samples(count)
    found = score_package(package, {"x": x})
    assert found == by_hand(x)
    assert list(found) == list(LAYERS)
    assert count <= POINTS or all(value > 0 for value in found.values())


def test_samples_beyond_those_that_are_taken_do_not_count(package):
    x = samples(SAMPLES + 10)
    assert score_package(package, {"x": x}) == score_package(package, {"x": x[:SAMPLES]})
    changed = np.concatenate([x[: SAMPLES - 1], -x[SAMPLES - 1 :]])
    assert score_package(package, {"x": changed}) != score_package(package, {"x": x})


def test_what_cannot_be_scored(package, tmp_path):
    with pytest.raises(DataError, match="at least 8 samples, found 7"):
        score_package(package, {"x": samples(7)})
    with pytest.raises(UsageError, match="input 'x' is not among the samples"):
        score_package(package, {"y": samples(8)})
    x = samples(8)
    x[3, 0] = np.inf
    with pytest.raises(DataError, match="layer 'conv' is NaN or infinite for sample 3"):
        score_package(package, {"x": x})
    plain = write_package(tmp_path / "plain", lambda content: content.update(scoring=None))
    with pytest.raises(UsageError, match="no scoring graph"):
        score_package(plain, {"x": samples(8)})
    wide = write_package(tmp_path / "wide", lambda content: content["scoring"]["layers"][1].update(numbers=5))
    with pytest.raises(DataError, match="layer 'fc' gave 4 numbers for a sample, expected 5"):
        score_package(wide, {"x": samples(8)})
    (package / "probes.onnx").write_bytes((package / "probes.onnx").read_bytes()[:-1])
    with pytest.raises(RecordError, match=r"probes\.onnx has \d+ bytes"):
        score_package(package, {"x": samples(8)})


def test_layers_are_scored_as_score_does(tmp_path):
    """If no sketch is smaller than its activation, and all samples are the points of one number."""
    rng = np.random.default_rng(0)
    model = open_model(tiny.conv_net())
    x = rng.standard_normal((32, *model.inputs[0].shape[1:])).astype(np.float32)
    make_artifacts(model, select(model, strategy="head"), tmp_path / "artifacts", check=False)
    how = DeviceScoring(samples=32, subset_size=32, subsets=1, sketch=1 << 20)
    make_device(tmp_path / "artifacts", tmp_path / "device", packing=Packing(scoring=how))
    found = score_package(tmp_path / "device", {model.inputs[0].name: x})
    exact = score(model, x, scoring=Scoring(samples=32, subset_size=32, subsets=1, sketch="off", order="sequential"))
    assert found == pytest.approx({layer.name: layer.b1_hat for layer in exact.layers})
    assert len(set(found.values())) > 2
