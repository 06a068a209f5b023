"""Data in .npz files: names of arrays, splits and labels."""

from __future__ import annotations

import numpy as np
import pytest
from data_models import CLASSES, taking

from adabet_onnx.data.source import open_data
from adabet_onnx.errors import DataError


def test_npz_with_x_and_y(tmp_path, photos):
    np.savez(tmp_path / "a.npz", x=photos, y=np.arange(10, dtype=np.uint8) % 4, classes=CLASSES, other=np.zeros(3))
    splits = open_data(str(tmp_path / "a.npz"), taking(3, 8, 6))
    assert splits.test is None
    assert splits.for_evaluation is splits.train
    assert len(splits.train) == 10
    assert splits.train.labels.dtype == np.int64
    assert splits.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert splits.train.classes == CLASSES
    assert str(tmp_path / "a.npz") in splits.train.name


def test_npz_with_train_and_test(tmp_path, photos):
    np.savez(tmp_path / "a.npz", x_train=photos[:7], y_train=[[0]] * 7, x_test=photos[7:], y_test=[1, 2, 3])
    splits = open_data(tmp_path / "a.npz", taking(3, 8, 6))
    assert (len(splits.train), len(splits.test)) == (7, 3)
    assert splits.train.labels.shape == (7,), "labels (N, 1) are one per sample"
    assert splits.for_evaluation is splits.test
    np.testing.assert_array_equal(splits.test.rows.fetch(np.array([2, 0]))[""], photos[[9, 7]])


def test_npz_without_labels_scores_but_does_not_train(tmp_path, photos):
    np.savez(tmp_path / "a.npz", x=photos)
    train = open_data(tmp_path / "a.npz", taking(3, 8, 6)).train
    assert train.labels is None
    with pytest.raises(DataError, match=r"a\.npz has no labels, which training needs"):
        train.need_labels("training")


def test_float_labels_are_targets(tmp_path, photos):
    np.savez(tmp_path / "a.npz", x=photos, y=np.linspace(0, 1, 20).reshape(10, 2))
    labels = open_data(tmp_path / "a.npz", taking(3, 8, 6)).train.labels
    assert (labels.dtype, labels.shape) == (np.float32, (10, 2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.zeros((4, 3))}, "neither x nor x_train, nor the model's inputs input; it holds data"),
        ({"x": np.zeros(4)}, "x must have a sample axis"),
        ({"x": np.zeros((0, 3))}, "x has no samples"),
        ({"x": np.array([["a"], ["b"]])}, "x must hold numbers"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(5, int)}, "y has 5 labels for 4 samples"),
        ({"x": np.zeros((4, 3)), "y": np.int64(3)}, "y has a single label for 4 samples"),
        ({"x": np.zeros((4, 3)), "y": np.array(list("abcd"))}, "y must be integers"),
        ({"x": np.zeros((4, 3)), "classes": np.zeros((2, 2))}, "classes must be a list of names"),
        ({"x_train": np.zeros((4, 3)), "x_test": np.zeros((4, 5))}, "x_train and x_test have different shapes"),
    ],
)
def test_npz_that_does_not_hold_together(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        open_data(tmp_path / "a.npz", taking(3))
    assert "a.npz" in str(caught.value)
