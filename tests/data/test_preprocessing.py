"""Preprocessing: where it comes from, what it computes, and where it is recorded."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from data_models import CLASSES, fed, taking
from models import tiny

from adabet_onnx import export_model, make_artifacts, open_model, score, select
from adabet_onnx.data.arithmetic import integer_data
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.data.labels import align_classes
from adabet_onnx.data.preprocess import Arithmetic, Preprocessing, preprocessing_from_json
from adabet_onnx.data.source import open_data
from adabet_onnx.errors import DataError, RecordError, UsageError
from adabet_onnx.model.open import Tensor
from adabet_onnx.scoring.options import Scoring

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
METADATA = {"mean": json.dumps(MEAN), "std": json.dumps(STD)}


@pytest.mark.parametrize("shape", [(3, 8, 6), (8, 6, 3)], ids=["NCHW", "NHWC"])
def test_the_arithmetic_is_that_of_the_formula(photos, shape):
    used = Arithmetic(scale=1 / 255, mean=MEAN, std=STD)
    result = fed(taking(*shape), photos, used)
    by_hand = np.stack([(photos[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)], 3)
    expected = by_hand.transpose(0, 3, 1, 2) if shape[0] == 3 else by_hand
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_one_number_is_for_all_channels(photos):
    result = fed(taking(3, 8, 6), photos, Arithmetic(scale=2.0, mean=(4.0,), std=(0.5,)))
    np.testing.assert_allclose(result, (photos.transpose(0, 3, 1, 2) * 2.0 - 4.0) / 0.5)


def test_the_data_itself_is_not_changed(rng):
    data = rng.random((5, 4), dtype=np.float32)
    before = data.copy()
    fed(taking(4), data, Arithmetic(scale=3.0, mean=(1.0,), std=(2.0,)))
    np.testing.assert_array_equal(data, before)


def test_a_number_per_channel_needs_as_many_channels(photos):
    with pytest.raises(UsageError, match="3 numbers for mean, but the data has 1 channels"):
        fed(taking(1, 8, 6), photos, Arithmetic(mean=MEAN))
    with pytest.raises(UsageError, match="2 numbers for std"):
        fed(taking(4), np.zeros((2, 4)), Arithmetic(std=(1.0, 2.0)))


@pytest.mark.parametrize(
    "numbers",
    [
        {"std": (0.0,)},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"mean": (float("inf"),)},
        {"mean": ()},
        {"std": (1.0, float("nan"), 1.0)},
    ],
)
def test_impossible_numbers_are_usage_errors(numbers):
    with pytest.raises(UsageError, match="preprocessing"):
        Arithmetic(**numbers)


def test_presets():
    model = taking(3, 8, 6)
    assert Preprocessing(preset="unit").resolve(model, integer_data=True) == Arithmetic(scale=1 / 255)
    imagenet = Preprocessing(preset="imagenet").resolve(model, integer_data=True)
    assert (imagenet.scale, imagenet.mean, imagenet.std) == (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert Preprocessing(preset="none").resolve(model, integer_data=True).is_identity
    with pytest.raises(UsageError, match="unknown preset 'zscore'"):
        Preprocessing(preset="zscore").resolve(model, integer_data=True)


def test_auto_takes_mean_and_std_from_the_models_metadata():
    chosen = Preprocessing().resolve(taking(3, 8, 6, metadata=METADATA), integer_data=True)
    assert (chosen.scale, chosen.mean, chosen.std) == (1 / 255, MEAN, STD)


def test_auto_refuses_images_where_the_model_says_nothing():
    with pytest.raises(UsageError, match=r"`preset='unit'`.*imagenet.*`preprocessing=Preprocessing\(scale="):
        Preprocessing().resolve(taking(3, 8, 6), integer_data=True)


@pytest.mark.parametrize("damaged", ["[0.5, 0.5", "[]", '["a"]', "0.5", "null"])
def test_auto_asks_where_the_metadata_is_damaged(damaged):
    with pytest.raises(UsageError, match="preset='unit'"):
        Preprocessing().resolve(taking(3, 8, 6, metadata={"mean": damaged, "std": "[1, 1, 1]"}), integer_data=True)


def test_float_data_is_fed_as_it_is_unless_told():
    model = taking(3, 8, 6, metadata=METADATA)
    assert Preprocessing().resolve(model, integer_data=False).is_identity
    assert Preprocessing(preset="unit").resolve(model, integer_data=False).scale == 1 / 255


def test_preprocessing_is_for_one_kind_of_data():
    """Preprocessing stored for floats is not applied to images, and vice versa."""
    model = taking(3, 8, 6, metadata=METADATA)
    for_floats = Preprocessing(scale=1 / 255, mean=(0.5,)).resolve(model, integer_data=False)
    assert Preprocessing().resolve(model, integer_data=False, stored=for_floats) == for_floats
    assert Preprocessing().resolve(model, integer_data=True, stored=for_floats) == Preprocessing().resolve(
        model, integer_data=True
    )
    for_images = Preprocessing(preset="unit").resolve(model, integer_data=True)
    assert Preprocessing().resolve(model, integer_data=True, stored=for_images) == for_images
    assert Preprocessing().resolve(model, integer_data=False, stored=for_images).is_identity


def test_images_of_any_integer_type_are_images(photos):
    model = taking(3, 8, 6, metadata=METADATA)
    for dtype in (np.int32, np.int64, np.uint16):
        train = open_data(photos.astype(dtype), model).train
        assert Preprocessing().resolve(model, integer_data=integer_data(model, train)).mean == MEAN
    tokens = dataclasses.replace(model, inputs=(Tensor("input", "int64", ("N", 7)),))
    assert Preprocessing().resolve(tokens, integer_data=True).is_identity, (
        "tokens are not images: there is nothing to ask"
    )


def test_labels_follow_the_names_of_classes():
    data = Dataset(ArrayRows({"": np.zeros((3, 2))}), np.array([0, 1, 1]), ["dog", "eel"], "the data")
    aligned = align_classes(data, ["cat", "dog", "eel"], strict=True)
    assert aligned.labels.tolist() == [1, 2, 2]
    assert aligned.classes == ["cat", "dog", "eel"]
    assert align_classes(data, None, strict=True) is data
    assert align_classes(data, ["cat", "dog"]) is data, "another task"
    with pytest.raises(DataError, match="class 'eel'"):
        align_classes(data, ["cat", "dog"], strict=True)


def test_mappings_may_name_classes(photos):
    labels = np.arange(len(photos)) % 2
    for given in ({"x": photos, "y": labels}, {"x_train": photos, "y_train": labels}):
        assert open_data({**given, "classes": ["a", "b"]}, taking(3, 8, 6)).train.classes == ["a", "b"]


def test_by_hand_replaces_parts_of_a_preset():
    model = taking(3, 8, 6, metadata=METADATA)
    chosen = Preprocessing(scale=0.5).resolve(model, integer_data=True)
    assert (chosen.scale, chosen.mean, chosen.std) == (0.5, (0.0,), (1.0,)), "all by hand: the metadata is not mixed in"
    chosen = Preprocessing(preset="imagenet", mean=(0.5,)).resolve(model, integer_data=True)
    assert (chosen.scale, chosen.mean, chosen.std) == (1 / 255, (0.5,), (0.229, 0.224, 0.225))


IMAGES = [
    ({"mean": 0.5}, None),
    ({"std": 0.25}, None),
    ({"mean": MEAN, "std": STD}, None),
    ({"mean": -1, "std": 1}, None),
    ({"mean": MEAN, "std": STD, "scale": 1}, (1, MEAN, STD)),
    ({"mean": MEAN, "std": STD, "preset": "unit"}, (1 / 255, MEAN, STD)),
    ({"mean": MEAN, "std": STD, "preset": "none"}, (1, MEAN, STD)),
    ({"mean": 127.5, "std": 127.5}, (1, (127.5,), (127.5,))),
    ({"mean": (103.9, 116.8, 123.7), "std": 1}, (1, (103.9, 116.8, 123.7), (1,))),
    ({"mean": 0, "std": 1}, (1, (0,), (1,))),
]


@pytest.mark.parametrize(("given", "expected"), IMAGES)
def test_small_means_and_deviations_of_images_need_a_scale(given, expected):
    """The usual numbers of frameworks belong to x/255; for floats there is no such doubt."""
    model = taking(3, 8, 6)
    if expected is None:
        with pytest.raises(UsageError, match=r"Give `preset='unit'` too .*, or `scale=1` if"):
            Preprocessing(**given).resolve(model, integer_data=True)
        expected = (1.0, Preprocessing(**given).mean or (0.0,), Preprocessing(**given).std or (1.0,))
        found = Preprocessing(**given).resolve(model, integer_data=False)
    else:
        found = Preprocessing(**given).resolve(model, integer_data=True)
    assert (found.scale, tuple(found.mean), tuple(found.std)) == expected


def test_json_and_back():
    used = Arithmetic(scale=1 / 255, mean=MEAN, std=STD)
    assert preprocessing_from_json(json.loads(json.dumps(used.to_json())), "x") == used
    for damaged in (None, [], {}, {"scale": "a", "mean": [0], "std": [1]}, {"scale": 1, "mean": [0], "std": [0]}):
        with pytest.raises(RecordError, match=r"x\.json: the preprocessing entry is damaged"):
            preprocessing_from_json(damaged, "x.json")


def test_preprocessing_and_classes_travel_to_the_exported_model(tmp_path, rng, training):
    proto = tiny.conv_net()
    for key, value in METADATA.items():
        proto.metadata_props.add(key=key, value=value)
    model = open_model(proto)
    data = tmp_path / "data.npz"
    x = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(data, x=x, y=np.arange(40) % 4, classes=CLASSES)
    used = Arithmetic(scale=1 / 255, mean=MEAN, std=STD)

    scores = score(model, data, scoring=Scoring(samples=32, subsets=2))
    assert scores.preprocessing == used.to_json()
    assert scores.classes == CLASSES
    scores.save(tmp_path / "scores.json")
    selection = select(tmp_path / "scores.json", strategy="head")
    assert selection.preprocessing == used.to_json()
    assert selection.classes == CLASSES
    selection.save(tmp_path / "selection.json")
    manifest = make_artifacts(model, tmp_path / "selection.json", tmp_path / "artifacts", check=False)
    assert manifest.preprocessing == used
    assert manifest.classes == CLASSES
    exported = export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx", check=False)
    found = {entry.key: entry.value for entry in exported.metadata_props}
    assert json.loads(found["adabet_onnx.classes"]) == CLASSES

    again = open_model(tmp_path / "adapted.onnx")
    assert Preprocessing().resolve(again, integer_data=True) == used
    assert again.metadata("classes") == CLASSES


def test_preprocessing_by_hand_outlives_the_models_own(tmp_path, rng, training):
    proto = tiny.conv_net()
    for key, value in METADATA.items():
        proto.metadata_props.add(key=key, value=value)
    used = Arithmetic(scale=1 / 127.5, mean=(1.0,), std=(1.0,))
    x = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    scores = score(open_model(proto), x, preprocessing=used, scoring=Scoring(samples=32, subsets=2))
    make_artifacts(open_model(proto), select(scores, strategy="head"), tmp_path / "artifacts", check=False)
    export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx", check=False)
    assert Preprocessing().resolve(open_model(tmp_path / "adapted.onnx"), integer_data=True) == used
