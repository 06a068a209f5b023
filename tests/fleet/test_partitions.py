"""How data is distributed among simulated clients."""

from __future__ import annotations

import numpy as np
import pytest

from adabet_onnx import DataError, UsageError
from adabet_onnx.fleet.partitions import parse_partition

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.3", "dirichlet:0.01", "by-class:2", "by-class:5"])
def test_every_sample_has_one_client_and_every_client_a_sample(how):
    labels = np.random.default_rng(1).integers(0, 5, 300)
    parts = parse_partition(how).rows(labels, 300, 20, seed=3)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(300))
    assert min(map(len, parts)) >= 1
    again = parse_partition(how).rows(labels, 300, 20, seed=3)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    other = parse_partition(how).rows(labels, 300, 20, seed=4)
    assert any(len(one) != len(two) or (one != two).any() for one, two in zip(parts, other, strict=True))


def test_what_partitions_are_like():
    labels = np.repeat(np.arange(10), 100)

    def spread(how: str) -> float:
        """Mean share of a client's most frequent class."""
        parts = parse_partition(how).rows(labels, 1000, 20, seed=0)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert spread("iid") < spread("dirichlet:1") < spread("dirichlet:0.1")
    for part in parse_partition("by-class:2").rows(labels, 1000, 20, seed=0):
        assert len(np.unique(labels[part])) == 2
    assert {len(part) for part in parse_partition("iid").rows(None, 1000, 20, seed=0)} == {50}


@pytest.mark.parametrize(
    "text",
    ["", "idd", "iid:2", "dirichlet", "dirichlet:0", "dirichlet:nan", "dirichlet:x", "by-class:0", "by-class:1.5"],
)
def test_partitions_that_are_none(text):
    with pytest.raises(UsageError, match="use iid, dirichlet"):
        parse_partition(text)


def test_what_cannot_be_shared_out():
    labels = np.arange(10)
    with pytest.raises(DataError, match="3 samples cannot be distributed among 4 clients"):
        parse_partition("iid").rows(None, 3, 4, 0)
    for labelled in (None, labels.astype(float), labels.reshape(5, 2)):
        with pytest.raises(DataError, match="does not have one class for each sample"):
            parse_partition("dirichlet:1").rows(labelled, 5, 2, 0)
    for how in ("by-class:11", "by-class:2"):
        with pytest.raises(UsageError, match="every class must have a client"):
            parse_partition(how).rows(labels, 10, 4, 0)
