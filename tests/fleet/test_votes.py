"""Clients vote on the layers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fleet_clients import dataset, pictures
from models import tiny

from adabet_onnx import DataError, Scoring, open_model, score, select
from adabet_onnx.fleet.checks import MOST_SAMPLES
from adabet_onnx.fleet.messages import Vote
from adabet_onnx.fleet.votes import cast_vote, count
from adabet_onnx.kendall import kendall_w, midranks

pytestmark = pytest.mark.usefixtures("checked_here")


def test_agreement_of_rankings():
    """Kendall's own example of three judges and six things: W = 0.1619 (Rank Correlation Methods, ch. 6)."""
    judged = np.array([[5, 4, 1, 6, 3, 2], [2, 3, 1, 5, 6, 4], [4, 1, 6, 3, 2, 5]], float)
    sums = judged.sum(0)
    textbook = 12 * ((sums - sums.mean()) ** 2).sum() / (3**2 * (6**3 - 6))
    assert kendall_w(judged) == pytest.approx(textbook)
    assert textbook == pytest.approx(0.1619, abs=1e-4)
    assert kendall_w(judged[[0, 0, 0]]) == pytest.approx(1)
    assert kendall_w(judged, [1, 1e-12, 1e-12]) == pytest.approx(1)
    assert kendall_w(judged[:1]) is None
    assert midranks([5, 7, 5, 9]).tolist() == [3.5, 2, 3.5, 1]
    ties = np.array([midranks(row) for row in ([1, 1, 2, 3], [1, 2, 2, 3], [3, 3, 3, 1])])
    sums, groups = ties.sum(0), [2**3 - 2, 2**3 - 2, 3**3 - 3]
    corrected = 12 * ((sums - sums.mean()) ** 2).sum() / (9 * (4**3 - 4) - 3 * sum(groups))
    assert kendall_w(ties) == pytest.approx(corrected)


@pytest.fixture(scope="module")
def voted() -> tuple[Any, list[Vote]]:
    model = open_model(tiny.conv_net())
    scoring = Scoring(samples=32, subset_size=16, subsets=8)
    sizes = (40, 60, 10)
    return model, [cast_vote(at, model, dataset(size, at), scoring) for at, size in enumerate(sizes)]


def test_votes_say_what_scores_say(voted):
    model, votes = voted
    found = score(model, pictures(60, 1), scoring=Scoring(samples=32, subset_size=16, subsets=8))
    assert votes[1].b1_hat == {layer.name: layer.b1_hat for layer in found.layers}
    assert votes[1].shift == {layer.name: layer.shift for layer in found.layers}
    assert votes[1].ranks == dict(zip(votes[1].b1_hat, midranks(list(votes[1].b1_hat.values())), strict=True))
    assert votes[2].note == "it has 10 samples, and scoring needs 16"
    assert not votes[2].ranks


def test_votes_are_weighted_by_samples(voted):
    model, votes = voted
    poll = count(votes, model)
    assert (poll.voters, poll.abstained, poll.dropped) == ((0, 1), (2,), ())
    for layer in poll.layers:
        expected = (40 * votes[0].ranks[layer.name] + 60 * votes[1].ranks[layer.name]) / 100
        assert layer.rank == pytest.approx(expected)
    assert poll.agreement is not None
    assert 0 <= poll.agreement <= 1
    best = min(poll.layers, key=lambda layer: layer.rank).name
    assert select(model, values=poll.values, strategy="fleet", rho=0.01).layers == (best,)
    assert count(list(reversed(votes)), model) == poll


def test_votes_that_do_not_count(voted):
    model, votes = voted
    good = votes[0]
    names = list(good.ranks)
    bad = [
        replace(good, client=3, model_sha256="ab" * 32),
        replace(good, client=4, samples=math.nan),
        replace(good, client=5, samples=True),
        replace(good, client=6, samples=MOST_SAMPLES * 10),
        replace(good, client=7, ranks={names[0]: 1.0}),
        replace(good, client=8, b1_hat={**good.b1_hat, names[0]: math.inf}),
        replace(good, client=9, ranks=dict.fromkeys(names, 1.0)),
        replace(good, client=10, ranks={**good.ranks, names[0]: 1000.0}),
        good,
    ]
    poll = count([good, *bad], model)
    assert poll.voters == (0,)
    assert {each.client for each in poll.dropped} == {0, *range(3, 11)}
    assert all("\n" not in each.why for each in poll.dropped)
    with pytest.raises(DataError, match="all abstained because they have too few samples"):
        count([votes[2]], model)
