"""Data that the Python API accepts: arrays, lists, tables, loaders and callables."""

from __future__ import annotations

import numpy as np
import pytest
from data_models import taking, two_inputs

from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.data.source import open_data
from adabet_onnx.errors import DataError, UsageError


def test_arrays_pairs_and_mappings(photos):
    model, labels = taking(3, 8, 6), np.arange(10) % 2
    plain = open_data(photos, model)
    assert plain.train.labels is None
    assert open_data((photos, labels), model).train.labels.tolist() == labels.tolist()
    assert open_data({"x": photos, "y": labels}, model).train.labels.tolist() == labels.tolist()
    split = open_data({"x_train": photos[:6], "y_train": labels[:6], "x_test": photos[6:], "y_test": labels[6:]}, model)
    assert (len(split.train), len(split.test)) == (6, 4)
    assert split.test.labels.tolist() == labels[6:].tolist()


def test_batches_are_joined_in_order_with_their_labels(photos):
    model, labels = taking(3, 8, 6), np.arange(10)
    unlabelled = open_data([photos[:4], photos[4:8], photos[8:]], model).train
    np.testing.assert_array_equal(unlabelled.rows.fetch(np.arange(10))[""], photos)
    assert unlabelled.labels is None
    labelled = open_data([(photos[:4], labels[:4]), (photos[4:], labels[4:])], model).train
    assert labelled.labels.tolist() == list(range(10))


def test_a_limit_stops_reading_batches(photos):
    read = []

    def batches():
        for start in range(0, 10, 2):
            read.append(start)
            yield photos[start : start + 2]

    assert len(open_data(batches(), taking(3, 8, 6), limit=3).train) == 4
    assert read == [0, 2]


@pytest.mark.parametrize("which", [0, 1])
def test_batches_of_which_one_has_integers_are_refused(rng, which):
    batches = [(rng.random((2, 4)), np.zeros(2, int)), (rng.random((2, 4)), np.zeros(2, int))]
    x, y = batches[1]
    batches[1] = (x.astype(np.uint8), y) if which == 0 else (x, y.astype(float))
    with pytest.raises(DataError, match=r"batch 1 .* the first one"):
        open_data(batches, taking(4))


def test_labels_beyond_class_indices_are_refused(rng):
    with pytest.raises(DataError, match="not a class index"):
        open_data((rng.random((2, 4)), np.array([2**64 - 100, 1], np.uint64)), taking(4))


def test_names_as_labels_are_explained(rng):
    with pytest.raises(DataError, match=r"numpy\.unique"):
        open_data((rng.random((2, 4)), np.array(["cat", "dog"])), taking(4))


def test_batches_of_named_inputs(rng):
    model = two_inputs()
    batches = [{"a": rng.random((3, 4), np.float32), "b": rng.random((3, 4), np.float32)} for _ in range(2)]
    train = open_data(batches, model).train
    feeds = Feeder(model, Arithmetic()).feeds(train, np.array([4, 0]))
    assert set(feeds) == {"a", "b"}
    np.testing.assert_array_equal(feeds["b"], np.stack([batches[1]["b"][1], batches[0]["b"][0]]))
    labelled = open_data([(batch, [0, 1, 0]) for batch in batches], model).train
    assert labelled.labels.tolist() == [0, 1, 0, 0, 1, 0]


def test_a_mapping_of_named_inputs_is_data_of_one_piece(rng):
    model = two_inputs()
    train = open_data({"a": np.zeros((3, 4)), "b": np.ones((3, 4))}, model).train
    assert Feeder(model, Arithmetic()).feeds(train, np.arange(3))["b"].tolist() == np.ones((3, 4)).tolist()


def test_a_used_up_generator_is_explained(photos):
    batches = (photos[start : start + 5] for start in (0, 5))
    assert len(open_data(batches, taking(3, 8, 6)).train) == 10
    with pytest.raises(DataError, match=r"no batches. Was it an exhausted iterator"):
        open_data(batches, taking(3, 8, 6))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([np.zeros((2, 4)), (np.zeros((2, 4)), [0, 1])], "some batches have labels and some have none"),
        ([np.zeros((2, 4)), np.zeros((2, 5))], "do not fit together"),
        ([{"a": np.zeros((2, 4))}, {"b": np.zeros((2, 4))}], r"batch 1 has inputs \['b'\], the first one had \['a'\]"),
        ([(np.zeros((2, 4)), [0, 1, 2])], "3 labels for 2 samples"),
        ([(np.zeros((2, 4)), [0, 1]), (np.zeros((2, 4)), np.zeros((2, 3), int))], "do not fit together"),
        ([{}], "number of samples"),
        (["text"], "number"),
        ([[[1.0, 2.0], [3.0]]], "arrays of numbers"),
        ([None], "number"),
    ],
)
def test_batches_that_do_not_fit_together(batches, message):
    with pytest.raises(DataError, match=message):
        open_data(batches, taking(4))


def test_named_inputs_that_the_model_does_not_have():
    model = two_inputs()
    for data, message in [
        (np.zeros((3, 4)), "has 2 inputs .* or an .npz file with arrays of these names"),
        ({"a": np.zeros((3, 4)), "c": np.zeros((3, 4))}, r"the data has inputs \['a', 'c'\].*has \['a', 'b'\]"),
    ]:
        with pytest.raises(DataError, match=message):
            Feeder(model, Arithmetic()).feeds(open_data(data, model).train, np.arange(1))


def test_what_is_no_data_is_a_usage_error():
    for nonsense in (5, None, 3.5):
        with pytest.raises(UsageError, match="expected a path, arrays or batches"):
            open_data(nonsense, taking(4))
    with pytest.raises(UsageError, match="does not exist"):
        open_data("nowhere.npz", taking(4))
