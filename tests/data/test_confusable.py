"""Splits, names and classes that could be confused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_models import taking
from models import inputs, tiny
from PIL import Image

from adabet_onnx import Trainer, make_artifacts, open_model
from adabet_onnx.data.arithmetic import integer_data, prepared_inputs
from adabet_onnx.data.axes import decide_axes
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.labels import align_classes
from adabet_onnx.data.preprocess import IMAGENET, UNIT, Preprocessing
from adabet_onnx.data.source import open_data, open_inputs
from adabet_onnx.errors import DataError, UsageError
from adabet_onnx.selection.record import Selection
from adabet_onnx.training.settings import Settings


def as_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "parts.npz", **arrays)
    return path / "parts.npz"


@pytest.mark.parametrize("stored", [True, False])
def test_a_test_part_beside_x_is_kept_apart(tmp_path, rng, stored):
    x, y = rng.random((5, 4), np.float32), np.arange(5)
    arrays = {"x": x, "y": y, "x_test": x[:2] + 1, "y_test": y[:2]}
    splits = open_data(as_npz(tmp_path, **arrays) if stored else arrays, taking(4))
    assert splits.test is not None
    assert len(splits.train) == 5
    np.testing.assert_array_equal(splits.test.rows.fetch(np.arange(2))[""], x[:2] + 1)


@pytest.mark.parametrize("stored", [True, False])
def test_parts_of_which_one_has_integers_are_refused(tmp_path, photos, stored):
    arrays = {"x_train": photos, "x_test": photos.astype(np.float32)}
    with pytest.raises(DataError, match="uint8 in the training part and float32 in the test part"):
        open_data(as_npz(tmp_path, **arrays) if stored else arrays, taking(3, 8, 8))


@pytest.mark.parametrize("stored", [True, False])
def test_an_input_called_y_is_no_label(tmp_path, rng, stored):
    arrays = {"x": rng.random((5, 4), np.float32), "y": rng.random((5, 2), np.float32)}
    model = open_model(inputs.named(x=(4,), y=(2,)))
    dataset = open_data(as_npz(tmp_path, **arrays) if stored else arrays, model).train
    np.testing.assert_array_equal(dataset.rows.fetch(np.arange(5))["y"], arrays["y"])
    with pytest.raises(DataError, match="are called labels"):
        dataset.need_labels("training")
    arrays["labels"] = np.arange(5)
    dataset = open_data(as_npz(tmp_path, **arrays) if stored else arrays, model).train
    np.testing.assert_array_equal(dataset.labels, np.arange(5))


def test_labels_of_any_shape_follow_the_names_of_classes(rng):
    y = np.array([[0, -100], [1, 2]])
    dataset = Dataset(ArrayRows({"": rng.random((2, 4))}), y, ["b", "c", "a"])
    np.testing.assert_array_equal(align_classes(dataset, ["a", "b", "c"]).labels, [[1, -100], [2, 0]])


@pytest.mark.parametrize("y", [np.array([0, 2]), np.array([-1, 0]), np.eye(2), np.eye(2, dtype=np.int64)])
def test_labels_that_names_in_another_order_leave_open_are_refused(rng, y):
    dataset = Dataset(ArrayRows({"": rng.random((2, 4))}), y, ["b", "a"])
    with pytest.raises(DataError, match="in another order"):
        align_classes(dataset, ["a", "b"])
    assert align_classes(dataset, ["b", "a"]) is dataset


def test_preprocessing_is_for_the_pictures_beside_other_numbers(photos, rng):
    model = open_model(inputs.named(image=(3, 8, 6), table=(5,)))
    table = rng.random((4, 5), np.float32)
    data = open_data({"image": photos[:4], "table": table}, model).train
    assert integer_data(model, data)
    with pytest.raises(UsageError, match="does not specify how its images are preprocessed"):
        Preprocessing().resolve(model, integer_data=True)
    feeder = Feeder(model, Preprocessing(preset="imagenet").resolve(model, integer_data=True))
    found = feeder.feeds(data, np.arange(4))
    expected = (photos[:4] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found["image"], expected.transpose(0, 3, 1, 2), atol=1e-5)
    np.testing.assert_array_equal(found["table"], table)
    assert feeder.describe(data).endswith("; scale, mean and std are for image")


@pytest.mark.parametrize(
    ("shapes", "kinds", "prepared", "integer"),
    [
        ({"a": (3, 8, 8), "b": (5,)}, "uf", ("a",), True),
        ({"a": (3, 8, 8), "b": (5,)}, "uu", ("a",), True),
        ({"a": (3, 8, 8), "b": (5,)}, "fu", ("a",), False),
        ({"a": (3, 8, 8), "b": (1, 8, 8)}, "fu", ("b",), True),
        ({"a": (3, 8, 8), "b": (1, 8, 8)}, "uu", ("a", "b"), True),
        ({"a": (7,), "b": (5,)}, "fu", ("b",), True),
        ({"a": (7,), "b": (5,)}, "ff", ("a", "b"), False),
        ({"a": (7,), "b": (5,)}, "bf", ("a", "b"), False),
    ],
)
def test_which_inputs_preprocessing_is_for(shapes, kinds, prepared, integer):
    model = open_model(inputs.named(**shapes))
    types = {"u": np.uint8, "f": np.float32, "b": np.bool_}
    arrays = {name: np.zeros((2, *shapes[name]), types[kind]) for name, kind in zip(shapes, kinds, strict=True)}
    data = open_data(arrays, model).train
    assert prepared_inputs(model, data.rows.forms) == prepared
    assert integer_data(model, data) is integer


@pytest.mark.parametrize(
    ("kind", "low", "high", "accepted"),
    [("uint16", 0, 255, True), ("uint16", 0, 256, False), ("int8", -1, 100, False), ("int64", 0, 65535, False)],
)
def test_integers_that_are_divided_by_255_are_pixels(kind, low, high, accepted):
    x = np.zeros((3, 3, 8, 8), kind)
    x[-1, 0, 0, :2] = low, high
    model = taking(3, 8, 8)
    data = open_data(x, model).train
    for preset in ("unit", "imagenet"):
        feeder = Feeder(model, Preprocessing(preset=preset).resolve(model, integer_data=True))
        for look in (partial(feeder.describe, data), partial(feeder.feeds, data, np.arange(3))):
            if accepted:
                look()
                continue
            with pytest.raises(DataError, match=f"from {low} to {high}, but would be divided by 255"):
                look()
    scaled = Preprocessing(scale=1 / 65535).resolve(model, integer_data=True)
    np.testing.assert_allclose(
        Feeder(model, scaled).feeds(data, np.arange(3))[model.inputs[0].name], x / 65535, atol=1e-7
    )


@pytest.mark.parametrize("numbers", [np.linspace(0, 1, 64, dtype=np.float32), np.arange(64, dtype=np.int32) * 9999])
def test_files_whose_white_is_unknown_are_refused(tmp_path, numbers):
    Image.fromarray(numbers.reshape(8, 8)).save(tmp_path / "a.tif")
    dataset, _ = open_inputs(tmp_path / "a.tif", taking(3, 8, 8))
    with pytest.raises(DataError, match=r"a\.tif cannot be used: .* which number is white is not known"):
        dataset.rows.fetch(np.arange(1))


@pytest.mark.parametrize("changed", ["samples", "preprocessing"])
def test_a_training_is_not_resumed_with_other_samples(tmp_path, rng, changed):
    model = open_model(inputs.convolution(3, 8, 8))
    names = tuple(parameter.name for layer in model.layers for parameter in layer.parameters)
    selection = Selection(model.sha256, "all", tuple(layer.name for layer in model.layers), names)
    make_artifacts(model, selection, tmp_path / "a", check=False)
    x, y = rng.integers(0, 256, (20, 3, 8, 8)).astype(np.uint8), rng.integers(0, 2, 20)
    Trainer(tmp_path / "a").fit((x, y), epochs=1, preprocessing=UNIT, settings=Settings(schedule="constant"))
    other = {"data": (255 - x, y)} if changed == "samples" else {"preprocessing": IMAGENET}
    again = {"data": (x, y), "preprocessing": UNIT, "epochs": 2, "resume": True}
    with pytest.raises(DataError, match="the model inputs made from its samples differ"):
        Trainer(tmp_path / "a").fit(**again | other)
    assert len(Trainer(tmp_path / "a").fit(**again)) == 3


@pytest.mark.parametrize(
    ("want", "channels", "remark"),
    [
        ((3, 3, 8, 8), 0, True),
        ((3, 4, 8, 8), 0, False),
        ((8, 8, 8, 3), 3, False),
        ((9, 9), 1, True),
        ((9, 9), None, True),
        ((1, 9, 9), 0, False),
        ((1, 9, 9), None, False),
        ((3, 3, 8), None, False),
    ],
)
def test_samples_that_may_lie_otherwise_in_the_same_shape(want, channels, remark):
    axes = decide_axes(want, want, None, channels)
    assert axes is not None
    assert axes.square is remark


def test_a_number_per_feature_of_a_table(rng):
    model = open_model(tiny.mlp(features=5))
    x, mean, std = rng.random((4, 5), np.float32), (1.0, 2.0, 3.0, 4.0, 5.0), (0.5, 1.0, 2.0, 3.0, 4.0)
    feeder = Feeder(model, Preprocessing(mean=mean, std=std).resolve(model, integer_data=False))
    (found,) = feeder.feeds(open_data(x, model).train, np.arange(4)).values()
    np.testing.assert_allclose(found, (x - np.array(mean)) / np.array(std), rtol=1e-5)
    feeder = Feeder(model, Preprocessing(mean=(1.0, 2.0, 3.0)).resolve(model, integer_data=False))
    with pytest.raises(UsageError, match="3 numbers for mean, but the data has 5 channels"):
        feeder.feeds(open_data(x, model).train, np.arange(4))
