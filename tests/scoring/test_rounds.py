"""How many subsets of a group are used by default."""

from __future__ import annotations

import numpy as np
import pytest
from models import tiny

from adabet_onnx import Repeats, Scoring, open_model, score, stability
from adabet_onnx.scoring import rounds
from adabet_onnx.scoring.groups import SamplePlan
from adabet_onnx.scoring.rounds import betti_numbers_of_layers, settled

SIZES = {"a": 10, "b": 10, "c": 10}


@pytest.fixture
def model():
    return open_model(tiny.conv_net())


@pytest.fixture
def images(rng):
    return rng.standard_normal((300, 3, 8, 8)).astype(np.float32)


def around(mean: float, count: int, by: float = 1.0) -> np.ndarray:
    """Numbers with approximately this mean and standard deviation."""
    return mean + by * np.resize([-1, 1], count)


def test_a_gap_of_two_errors_of_drawing_is_settled():
    """0.2 is two errors of 100 numbers that are 1 off their mean."""
    for count, groups, expected in [(64, 1, False), (98, 1, False), (104, 1, True), (64, 2, True), (48, 2, False)]:
        betti = {"a": around(20.2, count), "b": np.full(count, 20)}
        assert settled(betti, SIZES, groups) is expected, (count, groups)


def test_the_gap_is_in_b1_hat_and_its_error_that_of_the_difference(rng):
    common = rng.integers(0, 50, 64)
    assert settled({"a": common + 1, "b": common}, SIZES)  # fully firm, though both vary
    assert not settled({"a": common + 1, "b": rng.permutation(common)}, SIZES)
    assert not settled({"a": around(20, 64, 9), "b": around(40, 64)}, {"a": 5, "b": 10})
    assert settled({"a": around(20, 64, 9), "b": around(40, 64)}, {"a": 10, "b": 10})


def test_half_of_the_gaps_are_enough_and_equal_layers_need_no_more():
    near, far = around(20.01, 64), np.full(64, 20)
    assert settled({"a": near, "b": far, "c": around(90, 64)}, SIZES)
    assert not settled({"a": near, "b": far, "c": around(20.02, 64, -1)}, SIZES)
    assert settled({"a": near, "b": near}, SIZES)
    assert settled({"a": near}, SIZES)


def test_settled_gaps_have_the_sign_that_all_subsets_give(rng):
    """Layers whose true means are known: hardly any settled gap has the wrong sign."""
    wrong = right = 0
    for _ in range(2000):
        gap = rng.uniform(0, 1)
        low, high = rng.poisson(5, 64), rng.poisson(5 + gap, 64)
        if settled({"a": low, "b": high}, SIZES):
            wrong += bool(low.mean() > high.mean())
            right += bool(low.mean() < high.mean())
    assert right > 500
    assert wrong < 0.05 * right


def test_rounds_double_and_go_on_where_they_were(model, images):
    chosen = score(model, images)
    taken = chosen.settings["subsets_per_group"]
    assert taken in (64, 128, 256, 512, 1024)
    assert {len(layer.b1) for layer in chosen.layers} == {taken}
    for number in (64, taken):
        asked = score(model, images, scoring=Scoring(subsets=number))
        assert [layer.b1 for layer in asked.layers] == [layer.b1[:number] for layer in chosen.layers]
    assert score(model, images) == chosen


def test_rounds_end_when_settled_or_at_the_most(rng):
    points = rng.standard_normal((128, 3))
    same = np.linalg.norm(points[:, None] - points[None], axis=2)
    other = rng.standard_normal((128, 3))
    alike = np.linalg.norm(other[:, None] - other[None], axis=2)
    line = np.abs(points[:, :1] - points[:, 0])
    plan = SamplePlan(32, 128, 1, None)

    def taken(far: np.ndarray, sizes: dict[str, int]) -> int:
        found = betti_numbers_of_layers([("a", same), ("b", far)], sizes, plan, np.random.default_rng(0))
        return len(found["a"])

    assert taken(line, {"a": 10, "b": 10}) == 64
    means = [
        np.mean(betti_numbers_of_layers([("a", each)], SIZES, SamplePlan(32, 128, 1, 4000), rng)["a"])
        for each in (same, alike)
    ]
    equal = {"a": round(1e6 * means[0]), "b": round(1e6 * means[1])}  # so that b1_hat is nearly the same
    assert taken(alike, equal) == 1024


def test_a_small_group_has_few_subsets(model, images):
    for samples, subsets in ((33, 33), (32, 1)):
        scores = score(model, images, scoring=Scoring(samples=samples))
        assert scores.settings["subsets_per_group"] == subsets
        assert {len(layer.b1) for layer in scores.layers} == {subsets}


def test_every_group_takes_as_many_as_the_first(model, images, monkeypatch):
    seen = []

    def at_256(betti, sizes, groups):
        seen.append((len(betti["conv1"]), groups))
        return len(betti["conv1"]) == 256

    monkeypatch.setattr(rounds, "settled", at_256)
    scores = score(model, images, scoring=Scoring(samples=256))
    assert scores.settings["subsets_per_group"] == 256
    assert {len(layer.b1) for layer in scores.layers} == {2 * 256}
    assert seen == [(64, 2), (128, 2), (256, 2)]


def test_channels_are_scored_on_the_subsets_of_the_layers(model, images):
    chosen = score(model, images, scoring=Scoring(samples=64, channels=True))
    number = chosen.settings["subsets_per_group"]
    asked = score(model, images, scoring=Scoring(samples=64, channels=True, subsets=number))
    assert chosen == asked


def test_stability_takes_rounds_as_well(model, images, monkeypatch):
    monkeypatch.setattr(rounds, "FIRST", 4)
    monkeypatch.setattr(rounds, "MOST", 8)
    asked_for: list[int] = []
    monkeypatch.setattr(rounds, "settled", lambda betti, *_: bool(asked_for.append(len(betti))))
    quick = {"points": 16, "max_samples": 32, "groups": 2, "seeds": 1, "fisher": False}
    chosen = stability(model, images, repeats=Repeats(**quick))
    assert len(asked_for) == 1  # by the first group of 32 samples; one of 16 has a single subset
    asked = stability(model, images, repeats=Repeats(**quick, subsets=8))
    assert chosen.agreements == asked.agreements
    assert chosen.agreements != stability(model, images, repeats=Repeats(**quick, subsets=4)).agreements
