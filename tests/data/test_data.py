"""Data in every accepted form, and the arithmetic and layout between it and the model's input."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import inputs, tiny
from onnx import helper
from PIL import Image

from adabet_onnx import Trainer, export_model, make_artifacts, open_model, score, select
from adabet_onnx.data.arithmetic import integer_data, prepared_inputs
from adabet_onnx.data.axes import decide_axes
from adabet_onnx.data.data import Data
from adabet_onnx.data.dataset import ArrayRows, Dataset, split_off
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.images import ImageRows
from adabet_onnx.data.labels import align_classes
from adabet_onnx.data.preprocess import IMAGENET, UNIT, Arithmetic, Preprocessing, preprocessing_from_json
from adabet_onnx.data.source import open_data, open_inputs
from adabet_onnx.errors import DataError, RecordError, UsageError
from adabet_onnx.model.open import Model, Tensor
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.record import Selection
from adabet_onnx.training.settings import Settings

CLASSES = ["cat", "dog", "eel", "fox"]


def taking(*shape: int, metadata: dict[str, str] | None = None) -> Model:
    """A model that takes samples of this shape: Flatten - Gemm."""
    weight = np.ones((2, int(np.prod(shape))), np.float32)
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"], transB=1),
    ]
    proto = tiny.build(nodes, {"fc.weight": weight}, input_shape=("N", *shape), output_shape=("N", 2))
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    return open_model(proto)


def two_inputs() -> Model:
    """A model of inputs a (N, 4) and b (N, 4): (a + b) W."""
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in "ab"]
    out = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["logits"]),
    ]
    weight = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    graph = helper.make_graph(nodes, "two", infos, [out], [weight])
    return open_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def fed(
    model: Model,
    data: object,
    preprocessing: Arithmetic | None = None,
    *,
    layout: object = None,
    allow_resize: bool = False,
) -> np.ndarray:
    """The training data as fed to the model's only input."""
    train = open_data(Data(data, layout=layout, allow_resize=allow_resize), model).train
    (array,) = Feeder(model, preprocessing or Arithmetic()).feeds(train, np.arange(len(train))).values()
    return array


@pytest.fixture
def images(rng) -> np.ndarray:
    """Ten uint8 images (N, H, W, C) of 8 x 6 pixels, no two extents alike."""
    return rng.integers(0, 256, (10, 8, 6, 3), dtype=np.uint8)


# --- .npz ------------------------------------------------------------------------------------------------------------


def test_npz_with_x_and_y(tmp_path, images):
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(10, dtype=np.uint8) % 4, classes=CLASSES, other=np.zeros(3))
    splits = open_data(str(tmp_path / "a.npz"), taking(3, 8, 6))
    assert splits.test is None
    assert splits.for_evaluation is splits.train
    assert len(splits.train) == 10
    assert splits.train.labels.dtype == np.int64
    assert splits.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert splits.train.classes == CLASSES
    assert str(tmp_path / "a.npz") in splits.train.name


def test_npz_with_train_and_test(tmp_path, images):
    np.savez(tmp_path / "a.npz", x_train=images[:7], y_train=[[0]] * 7, x_test=images[7:], y_test=[1, 2, 3])
    splits = open_data(tmp_path / "a.npz", taking(3, 8, 6))
    assert (len(splits.train), len(splits.test)) == (7, 3)
    assert splits.train.labels.shape == (7,), "labels (N, 1) are one per sample"
    assert splits.for_evaluation is splits.test
    np.testing.assert_array_equal(splits.test.rows.fetch(np.array([2, 0]))[""], images[[9, 7]])


def test_npz_without_labels_scores_but_does_not_train(tmp_path, images):
    np.savez(tmp_path / "a.npz", x=images)
    train = open_data(tmp_path / "a.npz", taking(3, 8, 6)).train
    assert train.labels is None
    with pytest.raises(DataError, match=r"a\.npz has no labels, which training needs"):
        train.need_labels("training")


def test_float_labels_are_targets(tmp_path, images):
    np.savez(tmp_path / "a.npz", x=images, y=np.linspace(0, 1, 20).reshape(10, 2))
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


# --- layout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16, np.int32])
def test_channels_last_data_for_a_channels_first_model(images, dtype):
    result = fed(taking(3, 8, 6), images.astype(dtype))
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, images.transpose(0, 3, 1, 2).astype(np.float32))


def test_channels_first_data_for_a_channels_last_model(images):
    np.testing.assert_array_equal(fed(taking(8, 6, 3), images.transpose(0, 3, 1, 2)), images.astype(np.float32))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["NHWC", "NCHW"])
def test_data_laid_out_as_the_model_wants_is_fed_as_it_is(images, order):
    laid_out = images.transpose(order)
    np.testing.assert_array_equal(fed(taking(*laid_out.shape[1:]), laid_out), laid_out.astype(np.float32))


def test_images_three_pixels_wide_are_read_as_the_model_takes_them(rng):
    """(N, 3, 4, 3) could be either; since it equals the model's shape, it is used unchanged."""
    images = rng.integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fed(taking(3, 4, 3), images), images.astype(np.float32))


def test_greyscale_without_a_channel_axis(images):
    grey = images[..., 0]
    np.testing.assert_array_equal(fed(taking(1, 8, 6), grey), grey[:, None].astype(np.float32))
    np.testing.assert_array_equal(fed(taking(8, 6, 1), grey), grey[..., None].astype(np.float32))


def test_greyscale_is_repeated_for_a_colour_model(images):
    grey = images[..., :1]
    np.testing.assert_array_equal(fed(taking(3, 8, 6), grey), np.repeat(grey, 3, 3).transpose(0, 3, 1, 2))


def test_colour_becomes_luma_for_a_greyscale_model(images):
    luma = images.astype(np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(fed(taking(1, 8, 6), images)[:, 0], luma, atol=0.51)  # rounded, as Pillow does
    np.testing.assert_allclose(fed(taking(1, 8, 6), images / 255)[:, 0], luma / 255, atol=1e-6)


def test_alpha_is_dropped_for_a_colour_model(images):
    with_alpha = np.concatenate([images, np.full_like(images[..., :1], 7)], 3)
    np.testing.assert_array_equal(fed(taking(3, 8, 6), with_alpha), images.transpose(0, 3, 1, 2))


def test_resizing_is_pillows_bilinear(images):
    result = fed(taking(3, 4, 5), images)
    expected = [np.asarray(Image.fromarray(image).resize((5, 4), Image.Resampling.BILINEAR)) for image in images]
    np.testing.assert_array_equal(result, np.stack(expected).transpose(0, 3, 1, 2).astype(np.float32))


def test_floats_are_resized_without_rounding():
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 1, 16).repeat(8, 2)
    result = fed(taking(1, 8, 8), ramp, allow_resize=True)
    assert np.ptp(result[0, 0, 0]) > 0.8
    assert len(np.unique(result)) == 8, "eight steps, not rounded to 0 and 1"


def test_flat_samples_are_reshaped_where_their_order_is_given(rng):
    flat = rng.random((5, 12), dtype=np.float32)
    with pytest.raises(DataError, match=r"not reshaped automatically.*layout='N\(.*\):N"):
        fed(taking(2, 6), flat)
    np.testing.assert_array_equal(fed(taking(2, 6), flat, layout="N(CT):NCT"), flat.reshape(5, 2, 6))
    np.testing.assert_array_equal(fed(taking(2, 6), flat, layout="N(TC):NCT"), flat.reshape(5, 6, 2).swapaxes(1, 2))


@pytest.mark.parametrize(
    ("takes", "shape"),
    [((3, 8, 8), (5, 2, 8, 8)), ((3, 8, 8), (5, 192)), ((3, 8, 8), (5, 3, 0, 8)), ((7,), (5, 8)), ((2, 6), (5, 13))],
)
def test_a_shape_that_cannot_be_fed_is_named(takes, shape):
    with pytest.raises(DataError, match=r"shape|takes"):
        fed(taking(*takes), np.zeros(shape, np.float32))


def test_nan_in_the_data_is_refused():
    data = np.zeros((5, 4), np.float32)
    data[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        fed(taking(4), data)


def test_numbers_beyond_float32_are_refused_without_a_warning():
    with pytest.raises(DataError, match="NaN or infinite"):
        fed(taking(4), np.full((5, 4), 1e300))
    with pytest.raises(DataError, match="NaN or infinite"):
        fed(taking(4), np.full((5, 4), 255, np.uint8), Arithmetic(scale=1e38))


# --- folders of images -----------------------------------------------------------------------------------------------


def paint(path: Path, colour: object, mode: str = "RGB", size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Class folders cat (5 images) and dog (5), the shade of image i being 10 i and 100 + 10 i."""
    for label, name in enumerate(["cat", "dog"]):
        for index in range(5):
            paint(tmp_path / name / f"{index}.png", (100 * label + 10 * index,) * 3)
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    paint(tmp_path / ".cache" / "hidden.png", (255, 255, 255))
    return tmp_path


def shades(dataset: Dataset) -> list[int]:
    return [int(v) for v in dataset.rows.fetch(np.arange(len(dataset)))[""][:, 0, 0, 0]]


def test_class_folders_are_labels_in_order_of_name(folder):
    splits = open_data(folder, taking(3, 8, 6))
    assert splits.train.classes == ["cat", "dog"]
    both = shades(splits.train) + shades(splits.test)
    assert sorted(both) == [0, 10, 20, 30, 40, 100, 110, 120, 130, 140]
    for part in (splits.train, splits.test):
        assert [shade >= 100 for shade in shades(part)] == part.labels.astype(bool).tolist()


def test_a_fifth_of_an_unsplit_folder_is_always_the_same_test_data(folder):
    model = taking(3, 8, 6)
    first, again = open_data(folder, model), open_data(folder, model)
    assert (len(first.train), len(first.test)) == (8, 2)
    assert shades(first.test) == shades(again.test)
    assert not set(shades(first.test)) & set(shades(first.train))


def test_train_and_test_folders_are_kept_apart(tmp_path):
    for part, label, name in [("train", 0, "a"), ("train", 1, "b"), ("train", 2, "c"), ("test", 2, "c")]:
        paint(tmp_path / part / name / "1.png", (label, label, label))
    splits = open_data(tmp_path, taking(3, 8, 6))
    assert splits.train.labels.tolist() == [0, 1, 2]
    assert splits.test.labels.tolist() == [2], "numbered by train's classes, not by test's own"
    assert splits.test.classes == ["a", "b", "c"]


def test_a_test_class_that_train_lacks_is_refused(tmp_path):
    paint(tmp_path / "train" / "a" / "1.png", (0, 0, 0))
    paint(tmp_path / "test" / "z" / "1.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"class 'z', which .*train does not have"):
        open_data(tmp_path, taking(3, 8, 6))


def test_train_without_test_has_no_test_data(tmp_path):
    paint(tmp_path / "train" / "a" / "1.png", (0, 0, 0))
    assert open_data(tmp_path, taking(3, 8, 6)).test is None


def test_images_are_read_when_fetched_and_only_those(folder):
    (folder / "cat" / "1.png").write_bytes(b"no image at all")
    splits = open_data(folder, taking(3, 8, 6))
    places = [(part.rows, index) for part in (splits.train, splits.test) for index in range(len(part))]
    ((rows, at),) = [(rows, index) for rows, index in places if rows.paths[index] == folder / "cat" / "1.png"]
    with pytest.raises(DataError, match=r"cat.1\.png cannot be read as an image.*Remove or replace it"):
        rows.fetch(np.array([at]))
    good = [(others, index) for others, index in places if (others, index) != (rows, at)]
    assert len(good) == 9
    for others, index in good:
        assert others.fetch(np.array([index]))[""].shape == (1, 8, 6, 3)


def test_a_cut_short_image_is_named(tmp_path, rng):
    path = tmp_path / "a" / "photo.jpg"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"photo\.jpg cannot be read as an image"):
        ImageRows((path,), (8, 6), 3).fetch(np.array([0]))


def test_files_of_every_mode_become_what_the_model_takes(tmp_path):
    palette = Image.new("P", (6, 8), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.info["transparency"] = b"\xff\x80"
    palette.save(tmp_path / "palette.png")
    paint(tmp_path / "rgba.png", (200, 100, 50, 10), "RGBA")
    paint(tmp_path / "grey.png", 120, "L")
    paint(tmp_path / "black_white.png", 1, "1")
    Image.fromarray(np.full((8, 6), 120 * 257, np.uint16)).save(tmp_path / "grey16.png")
    names = ["palette", "rgba", "grey", "black_white", "grey16"]
    rows = ImageRows(tuple(tmp_path / f"{name}.png" for name in names), (8, 6), 3)
    pixels = rows.fetch(np.arange(5))[""][:, 0, 0]
    assert pixels.tolist() == [[200, 100, 50], [200, 100, 50], [120] * 3, [255] * 3, [120] * 3]
    luma = ImageRows(rows.paths, (8, 6), 1).fetch(np.arange(5))[""]
    assert luma.shape == (5, 8, 6, 1)
    assert luma[:, 0, 0, 0].tolist() == [124, 124, 120, 255, 120]


def test_images_of_different_sizes_are_resized_to_the_models(tmp_path):
    for index, size in enumerate([(3, 5), (20, 10), (6, 8)]):
        paint(tmp_path / "a" / f"{index}.png", (9, 9, 9), size=size)
    rows = ImageRows(tuple(sorted((tmp_path / "a").iterdir())), (8, 6), 3)
    assert rows.fetch(np.arange(3))[""].shape == (3, 8, 6, 3)
    assert rows.forms[""].dtype == np.uint8


def test_a_folder_of_images_alone_is_data_without_labels(tmp_path):
    for index in range(3):
        paint(tmp_path / f"{index}.png", (10 * index,) * 3)
    splits = open_data(tmp_path, taking(3, 8, 6))
    assert (len(splits.train), splits.train.labels, splits.test) == (3, None, None)
    assert shades(splits.train) == [0, 10, 20]


@pytest.mark.parametrize("layout", ["empty", "classes without images"])
def test_a_folder_without_class_folders_of_images_says_what_was_expected(tmp_path, layout):
    if layout == "classes without images":
        (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"no images.*one folder per class"):
        open_data(tmp_path, taking(3, 8, 6))


def test_a_folder_for_a_model_that_takes_no_images(folder):
    with pytest.raises(DataError, match=r"does not take images; give an \.npz"):
        open_data(folder, taking(10))


def test_inputs_to_predict_are_an_image_or_all_below_a_folder(folder):
    model = taking(3, 8, 6)
    dataset, names = open_inputs(folder / "dog" / "0.png", model)
    assert names == [str(folder / "dog" / "0.png")]
    assert shades(dataset) == [100]
    dataset, names = open_inputs(folder / "dog", model)
    assert [Path(name).name for name in names] == [f"{index}.png" for index in range(5)]
    assert dataset.labels is None


# --- the API's sources -----------------------------------------------------------------------------------------------


def test_arrays_pairs_and_mappings(images):
    model, labels = taking(3, 8, 6), np.arange(10) % 2
    plain = open_data(images, model)
    assert plain.train.labels is None
    assert open_data((images, labels), model).train.labels.tolist() == labels.tolist()
    assert open_data({"x": images, "y": labels}, model).train.labels.tolist() == labels.tolist()
    split = open_data({"x_train": images[:6], "y_train": labels[:6], "x_test": images[6:], "y_test": labels[6:]}, model)
    assert (len(split.train), len(split.test)) == (6, 4)
    assert split.test.labels.tolist() == labels[6:].tolist()


def test_batches_are_joined_in_order_with_their_labels(images):
    model, labels = taking(3, 8, 6), np.arange(10)
    unlabelled = open_data([images[:4], images[4:8], images[8:]], model).train
    np.testing.assert_array_equal(unlabelled.rows.fetch(np.arange(10))[""], images)
    assert unlabelled.labels is None
    labelled = open_data([(images[:4], labels[:4]), (images[4:], labels[4:])], model).train
    assert labelled.labels.tolist() == list(range(10))


def test_a_limit_stops_reading_batches(images):
    read = []

    def batches():
        for start in range(0, 10, 2):
            read.append(start)
            yield images[start : start + 2]

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


def test_a_used_up_generator_is_explained(images):
    batches = (images[start : start + 5] for start in (0, 5))
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
        (np.zeros((3, 4)), "has 2 inputs"),
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


# --- preprocessing ---------------------------------------------------------------------------------------------------

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
METADATA = {"mean": json.dumps(MEAN), "std": json.dumps(STD)}


@pytest.mark.parametrize("shape", [(3, 8, 6), (8, 6, 3)], ids=["NCHW", "NHWC"])
def test_the_arithmetic_is_that_of_the_formula(images, shape):
    used = Arithmetic(scale=1 / 255, mean=MEAN, std=STD)
    result = fed(taking(*shape), images, used)
    by_hand = np.stack([(images[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)], 3)
    expected = by_hand.transpose(0, 3, 1, 2) if shape[0] == 3 else by_hand
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_one_number_is_for_all_channels(images):
    result = fed(taking(3, 8, 6), images, Arithmetic(scale=2.0, mean=(4.0,), std=(0.5,)))
    np.testing.assert_allclose(result, (images.transpose(0, 3, 1, 2) * 2.0 - 4.0) / 0.5)


def test_the_data_itself_is_not_changed(rng):
    data = rng.random((5, 4), dtype=np.float32)
    before = data.copy()
    fed(taking(4), data, Arithmetic(scale=3.0, mean=(1.0,), std=(2.0,)))
    np.testing.assert_array_equal(data, before)


def test_a_number_per_channel_needs_as_many_channels(images):
    with pytest.raises(UsageError, match="3 numbers for mean, but the data has 1 channels"):
        fed(taking(1, 8, 6), images, Arithmetic(mean=MEAN))
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


def test_images_of_any_integer_type_are_images(images):
    model = taking(3, 8, 6, metadata=METADATA)
    for dtype in (np.int32, np.int64, np.uint16):
        train = open_data(images.astype(dtype), model).train
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


def test_mappings_may_name_classes(images):
    labels = np.arange(len(images)) % 2
    for given in ({"x": images, "y": labels}, {"x_train": images, "y_train": labels}):
        assert open_data({**given, "classes": ["a", "b"]}, taking(3, 8, 6)).train.classes == ["a", "b"]


def test_by_hand_replaces_parts_of_a_preset():
    model = taking(3, 8, 6, metadata=METADATA)
    chosen = Preprocessing(scale=0.5).resolve(model, integer_data=True)
    assert (chosen.scale, chosen.mean, chosen.std) == (0.5, (0.0,), (1.0,)), "all by hand: the metadata is not mixed in"
    chosen = Preprocessing(preset="imagenet", mean=(0.5,)).resolve(model, integer_data=True)
    assert (chosen.scale, chosen.mean, chosen.std) == (1 / 255, (0.5,), (0.229, 0.224, 0.225))


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


# --- validation ------------------------------------------------------------------------------------------------------


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


# --- parts, names and classes that could be confused -----------------------------------------------------------------


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
def test_parts_of_which_one_has_integers_are_refused(tmp_path, images, stored):
    arrays = {"x_train": images, "x_test": images.astype(np.float32)}
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


def test_preprocessing_is_for_the_pictures_beside_other_numbers(images, rng):
    model = open_model(inputs.named(image=(3, 8, 6), table=(5,)))
    table = rng.random((4, 5), np.float32)
    data = open_data({"image": images[:4], "table": table}, model).train
    assert integer_data(model, data)
    with pytest.raises(UsageError, match="does not specify how its images are preprocessed"):
        Preprocessing().resolve(model, integer_data=True)
    feeder = Feeder(model, Preprocessing(preset="imagenet").resolve(model, integer_data=True))
    found = feeder.feeds(data, np.arange(4))
    expected = (images[:4] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
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
