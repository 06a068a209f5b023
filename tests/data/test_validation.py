"""Samples that are set apart for validation."""

from __future__ import annotations

import numpy as np

from adabet_onnx.data.dataset import ArrayRows, Dataset, split_off


def numbered(count: int) -> Dataset:
    return Dataset(ArrayRows({"": np.arange(count).reshape(-1, 1)}), np.arange(count))


def members(dataset: Dataset) -> list[int]:
    values = dataset.rows.fetch(np.arange(len(dataset)))[""][:, 0].tolist()
    assert dataset.labels.tolist() == values, "labels go with their rows"
    return values


def test_validation_is_a_seeded_disjoint_share():
    training, held = split_off(numbered(50), 0.2, seed=0)
    assert (len(training), len(held)) == (40, 10)
    assert sorted(members(training) + members(held)) == list(range(50))
    assert members(held) == members(split_off(numbered(50), 0.2, seed=0)[1])
    assert members(held) != members(split_off(numbered(50), 0.2, seed=1)[1])


def test_no_validation_where_the_share_is_less_than_a_sample():
    data = numbered(4)
    assert split_off(data, 0.1, seed=0) == (data, None)
    assert split_off(data, 0.0, seed=0) == (data, None)


def test_validation_never_takes_every_sample():
    training, held = split_off(numbered(10), 0.99, seed=0)
    assert (len(training), len(held)) == (1, 9)
    training, held = split_off(numbered(1), 0.99, seed=0)
    assert len(training) == 1
    assert held is None


def test_a_subset_of_a_subset():
    assert members(numbered(10).subset([9, 3, 5]).subset([2, 0])) == [5, 9]
