"""Folders of images, one per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_models import taking
from PIL import Image

from adabet_onnx.data.dataset import Dataset
from adabet_onnx.data.images import ImageRows
from adabet_onnx.data.source import open_data, open_inputs
from adabet_onnx.errors import DataError


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
