"""Networks that take blue, green, red: pictures and arrays are red, green, blue, and are reordered for the input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import inputs, tiny
from models.tiny import node, normal
from PIL import Image

from adabet_onnx import RecordError, UsageError, open_model
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.preprocess import Arithmetic, Preprocessing, preprocessing_from_json
from adabet_onnx.data.source import open_data

SIDE = 8
MEAN = (103.939, 116.779, 123.68)


def colours(*, last: bool = False) -> onnx.ModelProto:
    """A small classifier of pictures, (N, 3, 8, 8) or (N, 8, 8, 3)."""
    nodes = [node("Transpose", ["input"], ["x"], "turned", perm=[0, 3, 1, 2])] if last else []
    nodes += [
        node("Conv", ["x" if last else "input", "c.weight", "c.bias"], ["c"], "c"),
        node("Relu", ["c"], ["r"], "relu"),
        node("GlobalAveragePool", ["r"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "fc"),
    ]
    values = {
        "c.weight": normal(8, 3, 3, 3),
        "c.bias": normal(8),
        "fc.weight": normal(8, 2),
        "fc.bias": normal(2),
    }
    shape = ("N", SIDE, SIDE, 3) if last else ("N", 3, SIDE, SIDE)
    return tiny.build(nodes, values, input_shape=shape, output_shape=("N", 2))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("last", [False, True])
def test_the_colours_change_places_before_the_arithmetic(last: bool, pixels: np.ndarray) -> None:
    model = open_model(colours(last=last))
    used = Preprocessing(scale=1.0, mean=MEAN, std=(2.0,), bgr=True).resolve(model, integer_data=True)
    data = open_data(pixels, model).train
    [fed] = Feeder(model, used).feeds(data, np.arange(5)).values()
    expected = (pixels[:5, ..., [2, 1, 0]].astype(np.float32) - np.array(MEAN, np.float32)) / 2
    np.testing.assert_allclose(fed, expected if last else expected.transpose(0, 3, 1, 2), rtol=1e-6)
    assert "blue, green, red" in Feeder(model, used).describe(data)
    assert "blue" not in Feeder(model, Preprocessing(preset="unit").resolve(model, integer_data=True)).describe(data)


def test_the_usual_mean_of_a_colour_stays_that_of_the_colour(pixels: np.ndarray) -> None:
    model = open_model(colours())
    data = open_data(pixels, model).train
    plain, swapped = (
        Feeder(model, Preprocessing(preset="imagenet", bgr=bgr).resolve(model, integer_data=True)).feeds(
            data, np.arange(4)
        )["input"]
        for bgr in (False, True)
    )
    np.testing.assert_array_equal(swapped, plain[:, ::-1])


def test_an_input_of_integers(pixels: np.ndarray) -> None:
    model = open_model(inputs.flat(3, SIDE, SIDE, kind="uint8"))
    used = Preprocessing(bgr=True).resolve(model, integer_data=True)
    [found] = Feeder(model, used).feeds(open_data(pixels, model).train, np.arange(3)).values()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels[:3, ..., [2, 1, 0]].transpose(0, 3, 1, 2))


def test_models_that_take_no_colours_are_refused() -> None:
    for proto in (inputs.flat(12), tiny_grey()):
        with pytest.raises(UsageError, match=r"no images of three channels.*Leave out `bgr`"):
            Preprocessing(preset="none", bgr=True).resolve(open_model(proto), integer_data=True)


def tiny_grey() -> onnx.ModelProto:
    nodes = [node("Conv", ["input", "w"], ["c"], "c"), node("Flatten", ["c"], ["logits"], "f")]
    return tiny.build(nodes, {"w": normal(1, 1, 7, 7)}, input_shape=("N", 1, 8, 8), output_shape=("N", 4))


def test_it_is_stored_only_where_it_holds_and_damage_is_seen() -> None:
    used = Arithmetic(1 / 255, bgr=True)
    assert preprocessing_from_json(used.to_json(), "here") == used
    assert "bgr" not in Arithmetic(1 / 255).to_json()
    with pytest.raises(RecordError, match=r"here.*bgr.*'yes'"):
        preprocessing_from_json({**used.to_json(), "bgr": "yes"}, "here")


def test_from_the_command_line_to_the_exported_model(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    adabet = command_of(monkeypatch, capfd)
    onnx.save(colours(), tmp_path / "m.onnx")
    labels = (pixels[..., 0].mean((1, 2)) > pixels[..., 2].mean((1, 2))).astype(np.int64)
    np.savez(tmp_path / "d.npz", x=pixels, y=labels)
    model, data, scored, chosen, made = (tmp_path / name for name in ("m.onnx", "d.npz", "s.json", "c.json", "a"))
    settings = ["--scale", "1", "--mean", "103.939,116.779,123.68", "--std", "1", "--bgr"]
    assert "blue, green, red" in adabet("score", model, data, "-o", scored, "--samples", "32", *settings).out
    adabet("select", scored, "-o", chosen, "--rho", "1")
    adabet("artifacts", model, chosen, "-o", made, "--no-check")
    stored = json.loads((made / "manifest.json").read_text())["preprocessing"]
    assert stored == {"scale": 1.0, "mean": list(MEAN), "std": [1.0], "data": "integer", "bgr": True}
    adabet("train", made, data, "--epochs", "1")
    adapted = tmp_path / "adapted.onnx"
    adabet("export", made, "-o", adapted)
    found = [row["logits"] for row in json.loads(adabet("predict", adapted, data, "--json").out)]
    fed = pixels[..., [2, 1, 0]].astype(np.float32) - np.array(MEAN, np.float32)
    expected = tiny.run(onnx.load(adapted), fed.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    turned = [row["logits"] for row in json.loads(adabet("predict", adapted, data, "--json", "--rgb").out)]
    assert not np.allclose(turned, found)


def test_pictures_from_files(tmp_path: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), (250, 100, 10)).save(tmp_path / "red.png")
    model = open_model(colours())
    used = Preprocessing(preset="none", bgr=True).resolve(model, integer_data=True)
    [fed] = Feeder(model, used).feeds(open_data(tmp_path, model).train, np.arange(1)).values()
    assert fed[0, :, 0, 0].tolist() == [10, 100, 250]
