"""Pictures for inputs of every order and type: arrays, files, their orientation, and automatic resizing."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from models import inputs, tiny
from PIL import Image

from adabet_onnx import DataError, UsageError, open_model
from adabet_onnx.data.axes import AmbiguousAxesError
from adabet_onnx.data.data import Data
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.images import ImageRows
from adabet_onnx.data.pictures import ImageLayout, Picture, as_picture, resizing_doubt
from adabet_onnx.data.preprocess import NONE, UNIT, Preprocessing
from adabet_onnx.data.reading import parse_layout
from adabet_onnx.data.source import open_data, open_inputs
from adabet_onnx.model.open import Model
from adabet_onnx.training.evaluation import predict

ORIENTATION = 0x0112
# The displayed picture for the eight values of the EXIF tag.
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def taken(
    model: Model, data: object, layout: object = None, *, allow_resize: bool = False, used: object = NONE
) -> tuple[np.ndarray, str]:
    """The array fed to the model's only input, and the line that reports it."""
    train = open_data(Data(data, layout=layout, allow_resize=allow_resize), model).train
    feeder = Feeder(model, used)
    (array,) = feeder.feeds(train, np.arange(len(train))).values()
    return array, feeder.describe(train)


@pytest.fixture
def pixels(rng) -> np.ndarray:
    """Five uint8 images of 10 x 8 with four channels, (N, H, W, C)."""
    return rng.integers(0, 256, (5, 10, 8, 4), dtype=np.uint8)


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "uint8", "int32", "int64"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_in_either_order_for_inputs_in_either_order(pixels, kind, channels):
    images = pixels[..., :channels]
    stored = {"NHWC": images, "NCHW": images.transpose(0, 3, 1, 2)}
    if channels == 1:
        stored["NHW"] = images[..., 0]
    for takes, (order, data) in itertools.product(("NHWC", "NCHW"), stored.items()):
        expected = stored[takes].astype(kind)
        model = open_model(inputs.flat(*expected.shape[1:], kind=kind))
        for layout in (None, order):
            array, line = taken(model, data, layout)
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
            assert ("axes moved" in line) == (order != takes and channels > 1)


def test_int8_pixels(pixels):
    shifted = (pixels[..., :3].astype(np.int16) - 128).astype(np.int8)
    model = open_model(inputs.flat(3, 10, 8, kind="int8"))
    np.testing.assert_array_equal(taken(model, shifted)[0], shifted.transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match=r"int8, from -128 to 127, but the data \(uint8\) goes from \d+ to 25\d"):
        taken(model, pixels[..., :3])


def test_colour_and_size_change_for_integer_inputs_as_for_floats(pixels):
    for kind, data in itertools.product(("float32", "uint8"), (pixels[..., 0], pixels[..., :3], pixels)):
        grey = data.shape == (5, 10, 8)
        for takes in ((3, 16, 12), (16, 12, 3), (1, 5, 4)):
            array, line = taken(open_model(inputs.flat(*takes, kind=kind)), data)
            mode = "L" if takes[0] == 1 else "RGB"
            expected = []
            for image in data:
                picture = Image.fromarray(image if grey or image.shape[2] == 3 else image[..., :3]).convert(mode)
                size = (12, 16) if mode == "RGB" else (4, 5)
                expected.append(np.asarray(picture.resize(size, Image.Resampling.BILINEAR)))
            stack = np.stack(expected).reshape(5, size[1], size[0], -1)
            stack = stack if takes[2] == 3 else stack.transpose(0, 3, 1, 2)
            np.testing.assert_allclose(array.astype(int), stack, atol=1)  # luma is rounded in another place
            assert ("enlarged" if mode == "RGB" else "shrunk 2.0x") in line
            assert ("channels repeated" in line) == (grey and mode == "RGB")
            assert ("made grey" in line) == (not grey and mode == "L")
            assert ("transparency dropped" in line) == (data.shape[-1] == 4 and mode == "RGB")


@pytest.mark.parametrize(
    ("have", "layout", "picture"),
    [
        ((10, 8), None, Picture((0, 1), (10, 8), 1)),
        ((10, 8, 3), None, Picture((0, 1, 2), (10, 8), 3)),
        ((4, 10, 8), None, Picture((1, 2, 0), (10, 8), 4)),
        ((10, 8), "NWH", Picture((1, 0), (8, 10), 1)),
        ((10, 3, 8), "NHCW", Picture((0, 2, 1), (10, 8), 3)),
        ((3, 10, 3), "NCHW", Picture((1, 2, 0), (10, 3), 3)),
        ((10,), None, None),
        ((10, 8, 5), None, None),
        ((10, 3, 8), None, None),
        ((2, 10, 8, 3), None, None),
        ((10, 8), "NTC", None),
        ((10, 8, 3), "NHW", None),
        ((3, 10, 8), "NHWC", None),
    ],
)
def test_samples_that_are_pictures_and_samples_that_are_none(have, layout, picture):
    assert as_picture(have, None if layout is None else parse_layout(layout)[1]) == picture


@pytest.mark.parametrize("have", [(3, 10, 3), (1, 10, 3), (4, 4, 1)])
def test_samples_whose_channels_could_be_first_or_last(have):
    with pytest.raises(AmbiguousAxesError):
        as_picture(have, None)
    with pytest.raises(DataError, match=r"several ways: give a layout .*`Data\(\.\.\., layout="):
        taken(open_model(inputs.flat(3, 32, 32)), np.zeros((5, *have), np.uint8))


@pytest.mark.parametrize(
    ("dtype", "have", "want", "accepted"),
    [
        ("uint8", (28, 28), (32, 32), True),
        ("uint8", (28, 28), (224, 224), True),
        ("uint8", (8, 8), (64, 64), True),
        ("uint8", (7, 8), (32, 32), False),  # grey pictures are larger
        ("uint8", (7, 7, 3), (14, 14), True),  # an axis of channels tells that they are pictures
        ("uint8", (28, 28), (225, 225), False),  # more than eight times
        ("uint8", (800, 800, 3), (100, 100), True),
        ("uint8", (808, 808, 3), (100, 100), False),
        ("uint8", (20, 40), (40, 40), True),
        ("uint8", (20, 41), (40, 40), False),  # one side more than twice as much as the other
        ("float32", (28, 28), (32, 32), False),
        ("float32", (28, 28, 3), (32, 32), False),
        ("int64", (28, 28), (32, 32), False),
        ("bool", (28, 28), (32, 32), False),
    ],
)
def test_what_is_resized_unasked(dtype, have, want, accepted):
    picture = as_picture(have, None)
    doubt = resizing_doubt(picture, ImageLayout(want, 3, True), np.dtype(dtype))
    assert (doubt is None) == accepted
    if dtype != "bool":
        model, data = open_model(inputs.flat(3, *want)), np.ones((2, *have), dtype)
        if not accepted:
            with pytest.raises(
                DataError, match=rf"resized to {want[0]} x {want[1]}.*{doubt}.*layout=.*allow_resize=True"
            ):
                taken(model, data)
        assert taken(model, data, allow_resize=not accepted)[0].shape == (2, 3, *want)


def test_floats_that_are_hardly_pictures():
    """(N, 7, 3) would be grey pictures of 7 x 3."""
    model, data = open_model(inputs.flat(3, 32, 32)), np.zeros((200, 7, 3), np.float32)
    with pytest.raises(
        DataError, match=r"shape \(7, 3\) \(float32\) would be grey images of 7 x 3.*probably not intended: float32"
    ):
        taken(model, data)
    array, line = taken(model, data, allow_resize=True)
    assert array.shape == (200, 3, 32, 32)
    assert line == (
        "200 grey images of 7 x 3 -> 3 x 32 x 32: channels repeated, height enlarged 4.6x and width enlarged 10.7x"
    )


def test_pixels_that_fit_turned_or_resized_are_asked_about(rng):
    """640 x 480 for an input of 480 x 640: swapped axes, or rotated pictures."""
    data = rng.integers(0, 256, (2, 24, 32), dtype=np.uint8)
    model = open_model(inputs.flat(1, 32, 24))
    with pytest.raises(DataError, match="several ways"):
        taken(model, data)
    np.testing.assert_array_equal(taken(model, data, "NWH")[0][:, 0], data.swapaxes(1, 2))
    array, line = taken(model, data, "NHW")
    assert array.shape == (2, 1, 32, 24)
    assert line.endswith("height enlarged 1.3x and width shrunk 1.3x")
    turned = taken(model, data.astype(np.float32))
    np.testing.assert_array_equal(turned[0][:, 0], data.swapaxes(1, 2))
    assert "axes moved" in turned[1], "floats are never resized unasked, so only one way is left"


def test_channels_that_cannot_be_made():
    with pytest.raises(DataError, match=r"images have 3 channels, but .* takes 4 .*\(10, 8, 3\)"):
        taken(open_model(inputs.flat(4, 10, 8)), np.zeros((2, 10, 8, 3), np.uint8))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "uint8", "int32"])
@pytest.mark.parametrize("takes", [(3, 6, 4), (6, 4, 3), (1, 6, 4), (6, 4, 4)])
def test_files_for_inputs_of_every_kind(tmp_path, rng, kind, takes):
    stored = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png")
    model = open_model(inputs.flat(*takes, kind=kind))
    dataset, names = open_inputs(tmp_path / "a.png", model)
    assert names == [str(tmp_path / "a.png")]
    channels = takes[2] if takes[0] == 6 else takes[0]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    expected = np.asarray(Image.fromarray(stored).convert(mode)).reshape(6, 4, channels)
    feeder = Feeder(model, Preprocessing(preset="none").resolve(model, integer_data=True))
    (array,) = feeder.feeds(dataset, np.array([0])).values()
    assert array.dtype == kind
    np.testing.assert_array_equal(array[0], expected if takes[0] == 6 else expected.transpose(2, 0, 1))
    extents = " x ".join(map(str, takes))
    colour = {1: "grey", 3: "RGB", 4: "RGBA"}[channels]
    assert feeder.describe(dataset) == f"1 image file -> {extents}: {colour}, upright by EXIF, resized"


def test_files_for_an_int8_input_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"takes int8, from -128 to 127, and pixels go from 0 to 255.*Give an \.npz"):
        open_inputs(tmp_path / "a.png", open_model(inputs.flat(3, 8, 8, kind="int8")))


def test_a_layout_for_files_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    model = open_model(inputs.flat(3, 8, 8))
    for opening in (open_data, open_inputs):
        with pytest.raises(UsageError, match="rows, columns and channels are known: leave out `layout`"):
            opening(Data(tmp_path, "NHWC"), model)
        opening(Data(tmp_path, allow_resize=True), model)


def test_a_preset_for_integers_is_refused_not_ignored(pixels):
    model = open_model(inputs.flat(10, 8, 3, kind="uint8"))
    for options in ({"preset": "unit"}, {"preset": "imagenet"}, {"scale": 0.5}, {"mean": (1.0,)}):
        with pytest.raises(UsageError, match=r"takes integers \(input 'x' uint8\).*Leave out"):
            Preprocessing(**options).resolve(model, integer_data=True)
    with pytest.raises(UsageError, match="takes integers"):
        Feeder(model, UNIT)
    for preset in ("auto", "none"):
        assert Preprocessing(preset=preset).resolve(model, integer_data=True).is_identity
    assert Preprocessing(preset="unit").resolve(open_model(inputs.flat(10, 8, 3)), integer_data=True) == UNIT


# --- orientation -----------------------------------------------------------------------------------------------------


def save(path: Path, image: Image.Image, orientation: object, **options: object) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif, **options)
    return path


def read(path: Path, height: int, width: int, channels: int = 3) -> np.ndarray:
    return ImageRows((path,), (height, width), channels).fetch(np.array([0]))[""][0]


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_files_are_turned_upright(tmp_path, rng, orientation, suffix):
    stored = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(stored), orientation, **options)
    shown = SHOWN[orientation](stored)
    np.testing.assert_array_equal(read(path, *shown.shape[:2]), shown)


@pytest.mark.parametrize("orientation", SHOWN)
def test_a_phones_jpeg(tmp_path, orientation):
    """Four quarters of one brightness each, which survive compression."""
    quarters = np.array([[0, 80], [160, 240]], np.uint8).repeat(16, 0).repeat(8, 1)
    path = save(tmp_path / "a.jpg", Image.fromarray(quarters).convert("RGB"), orientation)
    shown = SHOWN[orientation](quarters)
    found = read(path, *shown.shape, channels=1)[..., 0].astype(int)
    assert np.abs(found - shown).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_files_of_every_mode_are_turned(tmp_path, rng, mode, orientation):
    grey = (rng.integers(0, 2, (6, 4)) * 255).astype(np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    assert image.mode == mode
    path = save(tmp_path / "a.png", image, orientation)
    shown = SHOWN[orientation](grey)
    np.testing.assert_array_equal(read(path, *shown.shape, channels=1)[..., 0], shown)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_the_first_picture_of_an_animation_is_turned(tmp_path, rng, suffix):
    frames = [Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)) for _ in range(2)]
    path = save(tmp_path / f"a.{suffix}", frames[0], 6, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(path) as opened:
        assert opened.n_frames == 2
    np.testing.assert_array_equal(read(path, 4, 6), SHOWN[6](np.asarray(frames[0])))


@pytest.mark.parametrize(
    "block", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00", b"no"]
)
def test_a_file_with_a_damaged_entry_stays_as_it_is_stored(tmp_path, rng, block):
    stored = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=block)
    np.testing.assert_array_equal(read(tmp_path / "a.png", 6, 4), stored)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_changes_nothing(tmp_path, rng, orientation):
    stored = rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(stored), orientation)
    np.testing.assert_array_equal(read(path, 6, 4), stored)


def test_the_same_scene_is_of_the_same_class_however_it_is_stored(tmp_path):
    """A picture with a bright top, as phones store it: always the result of onnxruntime for the upright picture."""
    scene = np.zeros((64, 48, 3), np.uint8)
    scene[:32] = 255
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the rotation that undoes each
    for orientation, undone in back.items():
        save(tmp_path / f"{orientation}.jpg", Image.fromarray(np.ascontiguousarray(SHOWN[undone](scene))), orientation)
    model = inputs.bright_above()
    small = np.asarray(Image.fromarray(scene).resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
    (expected,) = tiny.run(model, (small / 255).astype(np.float32))
    rows = predict(open_model(model), tmp_path, preprocessing=UNIT)
    assert len(rows) == 8
    for row in rows:
        assert row["class"] == 0, row["input"]
        np.testing.assert_allclose(row["logits"], expected, atol=0.05)


@pytest.mark.parametrize(
    "shape", [(1, 8, 12, 3), (8, 12, 3, 1), (1, 3, 8, 12), (3, 1, 8, 12), (1, 8, 1, 12), (8, 12, 1, 1)]
)
def test_pictures_with_axes_of_one_are_those_without(pixels, rng, shape):
    model = open_model(inputs.convolution(3, 16, 24))
    images = rng.integers(0, 256, (4, *shape)).astype(np.uint8)
    plain = images.reshape(4, *(extent for extent in shape if extent != 1))
    found, expected = (Feeder(model, NONE).feeds(open_data(x, model).train, np.arange(4))["x"] for x in (images, plain))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(20, 16, 3), (1, 20, 16, 3), (20, 16, 3, 1)])
def test_turned_pictures_with_axes_of_one_are_asked_about_too(rng, shape):
    model = open_model(inputs.convolution(3, 16, 20))
    with pytest.raises(DataError, match="its axes fit in several ways"):
        Feeder(model, NONE).describe(open_data(rng.integers(0, 256, (4, *shape)).astype(np.uint8), model).train)
