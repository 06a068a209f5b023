"""Integers in range, the line that reports how data was interpreted, and the same interpretation in every command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import inputs, tiny
from PIL import Image

from adabet_onnx import (
    DataError,
    Trainer,
    UsageError,
    export_model,
    make_artifacts,
    open_model,
    score,
    select,
    stability,
)
from adabet_onnx.adapting import Adapting
from adabet_onnx.cli.main import main
from adabet_onnx.cost.measure import Cost
from adabet_onnx.data.data import Data
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.interpretation import resize_step
from adabet_onnx.data.preprocess import NONE
from adabet_onnx.data.ranges import check_range
from adabet_onnx.data.source import open_data
from adabet_onnx.model.open import Tensor
from adabet_onnx.outcome import summary
from adabet_onnx.pipeline import adapt
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.options import Choosing
from adabet_onnx.study.compare import compare
from adabet_onnx.study.plan import Plan
from adabet_onnx.study.repeats import Repeats
from adabet_onnx.study.stability_record import load_stability
from adabet_onnx.training.evaluation import evaluate, predict
from adabet_onnx.training.settings import Settings

MOVED = "60 samples of 20 x 6 -> 6 x 20: axes moved (layout NTC)"

# --- integers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "numbers", "dtype", "accepted"),
    [
        ("uint8", [0, 255], "int64", True),
        ("uint8", [0, 256], "int64", False),
        ("uint8", [-1, 0], "int16", False),
        ("uint8", [0, 1], "bool", True),
        ("int8", [-128, 127], "int32", True),
        ("int8", [0, 128], "uint8", False),
        ("int8", [-129, 0], "int16", False),
        ("int32", [2**31 - 1, -(2**31)], "int64", True),
        ("int32", [2**31, 0], "int64", False),
        ("int64", [0, 2**63 - 1], "uint64", True),
        ("int64", [0, 2**63], "uint64", False),
        ("bool", [0, 1], "int64", True),
        ("bool", [0, 2], "uint8", False),
        ("bool", [-1, 0], "int8", False),
        ("uint8", [0.0, 1.0], "float32", False),
        ("int64", [0.0, 1.0], "float64", False),
        ("bool", [0.0, 1.0], "float32", False),
    ],
)
def test_integers_in_and_out_of_range(kind, numbers, dtype, accepted):
    data = np.array(numbers, dtype)
    spec = Tensor("x", kind, ("N", 2))
    if accepted:
        check_range(data, spec, "the data")
        model = open_model(inputs.flat(2, kind=kind))
        (array,) = Feeder(model, NONE).feeds(open_data(data[None], model).train, np.array([0])).values()
        assert array.dtype == kind
        assert array.tolist() == [[bool(n) if kind == "bool" else n for n in numbers]]
        return
    words = f"but the data is {dtype}" if dtype.startswith("float") else rf"goes from {min(numbers)} to {max(numbers)}"
    with pytest.raises(DataError, match=rf"input 'x' takes {kind}.*{words}"):
        check_range(data, spec, "the data")


def test_integers_out_of_range_are_found_before_anything_is_trained(tmp_path, checked_here):
    """In the last sample of many, before an earlier training's checkpoint is replaced."""
    model = open_model(inputs.flat(2, 3, kind="uint8"))
    data = np.random.default_rng(0).integers(0, 256, (5000, 2, 3))
    labels = np.arange(5000) % 2
    scores = score(model, data[:64], scoring=Scoring(samples=32, subsets=2))
    make_artifacts(model, select(scores, strategy="all"), tmp_path / "a", backend="portable", check=False)
    data[-1] = 300
    trainer = Trainer(tmp_path / "a")
    with pytest.raises(DataError, match=r"uint8, from 0 to 255.*to 300"):
        trainer.fit((data, labels), epochs=1)
    assert not (tmp_path / "a" / "training").exists()
    for command in (
        lambda: score(model, data, scoring=Scoring(samples=32, subsets=2)),
        lambda: evaluate(model, open_data((data, labels), model).train, preprocessing=NONE),
        lambda: predict(model, data, preprocessing=NONE),
    ):
        with pytest.raises(DataError, match="to 300"):
            command()


def test_token_ids_that_an_embedding_does_not_have():
    model = open_model(inputs.embedded(11, 5))
    data = np.full((40, 5), 10)
    predict(model, data, preprocessing=NONE)
    data[3, 2] = 11
    with pytest.raises(DataError, match=r"input 'x' takes ids of the 11 rows of 'table\.weight'.*from 10 to 11"):
        predict(model, data, preprocessing=NONE)
    data[3, 2] = -1
    with pytest.raises(DataError, match=r"from 0 to 10, but the data goes from -1 to 10"):
        predict(model, data, preprocessing=NONE)


# --- the line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "kind", "data", "layout", "line"),
    [
        ((3, 32, 32), "float32", np.zeros((1000, 28, 28), "u1"), None,
         "1,000 grey images of 28 x 28 -> 3 x 32 x 32: channels repeated, enlarged 1.1x"),
        ((6, 128), "float32", np.zeros((400, 128, 6)), None,
         "400 samples of 128 x 6 -> 6 x 128: axes moved (layout NTC)"),
        ((8,), "float32", np.zeros((300, 8)), None, "300 samples of 8"),
        ((8,), "float32", np.zeros((1, 8)), None, "1 sample of 8"),
        ((1,), "float32", np.zeros((40,)), None, "40 samples of one number -> 1"),
        ((1, 28), "float32", np.zeros((40, 28)), None, "40 samples of 28 -> 1 x 28"),
        ((6, 6), "float32", np.zeros((40, 6, 6)), None,
         "40 samples of 6 x 6: as it is, though its axes would fit in another order too (a layout says which)"),
        ((6, 6), "float32", np.zeros((40, 6, 6)), "NTC:NTC", "40 samples of 6 x 6: as it is (layout NTC:NTC)"),
        ((6, 6), "float32", np.zeros((40, 6, 6)), "NTC:NCT", "40 samples of 6 x 6: axes moved (layout NTC:NCT)"),
        ((3, 8, 8), "float32", np.zeros((40, 3, 8, 8)), None, "40 samples of 3 x 8 x 8"),
        ((3, 8, 8), "uint8", np.zeros((40, 3, 8, 8), "u1"), None, "40 RGB images of 8 x 8"),
        ((8, 8, 3), "uint8", np.zeros((40, 3, 8, 8), "u1"), None,
         "40 RGB images of 8 x 8 -> 8 x 8 x 3: axes moved (layout NCHW)"),
        ((1, 28, 28), "float32", np.zeros((40, 28, 28), "u1"), None, "40 grey images of 28 x 28 -> 1 x 28 x 28"),
        ((3, 16, 16), "float32", np.zeros((40, 32, 32, 4), "u1"), None,
         "40 RGBA images of 32 x 32 -> 3 x 16 x 16: transparency dropped, axes moved (layout NHWC), shrunk 2.0x"),
        ((1, 28, 28), "float32", np.zeros((40, 784)), "N(HW)",
         "40 samples of 784 -> 1 x 28 x 28: reshaped (layout N(HW):NCHW)"),
    ],
)  # fmt: skip
def test_lines(takes, kind, data, layout, line):
    model = open_model(inputs.flat(*takes, kind=kind))
    train = open_data(Data(data, layout=layout), model).train
    assert Feeder(model, NONE).describe(train) == line


@pytest.mark.parametrize(
    ("have", "want", "step"),
    [
        ((28, 28), (28, 28), ""),
        ((28, 28), (32, 32), "enlarged 1.1x"),
        ((64, 64), (32, 32), "shrunk 2.0x"),
        ((32, 16), (32, 32), "height kept and width enlarged 2.0x"),
        ((64, 16), (32, 32), "height shrunk 2.0x and width enlarged 2.0x"),
    ],
)
def test_sizes_in_words(have, want, step):
    assert resize_step(have, want) == step


# --- every command interprets data the same way------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """model.onnx (6, 20), and the same samples, labelled by its predictions, as (N, C, T) and as (N, T, C)."""
    folder = tmp_path_factory.mktemp("series")
    x = np.random.default_rng(0).standard_normal((60, 6, 20)).astype(np.float32)
    middle = np.median(np.diff(tiny.run(inputs.convolution(6, 20), x)))
    proto = inputs.convolution(6, 20, bias=(middle, 0))
    onnx.save(proto, folder / "model.onnx")
    y = tiny.run(proto, x).argmax(1)
    assert np.bincount(y).tolist() == [30, 30]
    np.savez(folder / "nct.npz", x=x, y=y)
    np.savez(folder / "ntc.npz", x=x.transpose(0, 2, 1), y=y)
    test = {"x_test": x[40:], "y_test": y[40:]}
    np.savez(folder / "nct2.npz", x_train=x[:40], y_train=y[:40], **test)
    test["x_test"] = x[40:].transpose(0, 2, 1)
    np.savez(folder / "ntc2.npz", x_train=x[:40].transpose(0, 2, 1), y_train=y[:40], **test)
    return folder


def test_scores_and_stability_are_those_of_the_data_in_order(series, tmp_path):
    model = open_model(series / "model.onnx")
    first, last = (
        score(model, series / f"{order}.npz", scoring=Scoring(samples=32, subsets=4)) for order in ("nct", "ntc")
    )
    assert first.layers == last.layers
    assert first.settings["data"] == "60 samples of 6 x 20"
    assert last.settings["data"] == MOVED
    told = score(model, Data(series / "ntc.npz", layout="NTC"), scoring=Scoring(samples=32, subsets=4, channels=True))
    assert [layer.b1 for layer in told.layers] == [layer.b1 for layer in first.layers]
    assert any(layer.channels for layer in told.layers)
    with pytest.raises(DataError, match="does not convert one to the other"):
        score(model, Data(series / "ntc.npz", layout="NCT"), scoring=Scoring(samples=32, subsets=4))
    found = [
        stability(model, series / f"{order}.npz", repeats=Repeats(points=16, subsets=2, seeds=1))
        for order in ("nct", "ntc")
    ]
    assert found[0].agreements == found[1].agreements
    assert found[1].data == MOVED
    found[1].save(tmp_path / "stability.json")
    assert load_stability(tmp_path / "stability.json") == found[1]


def test_evaluation_and_prediction(series):
    model = open_model(series / "model.onnx")
    rows = {}
    for order, line in (("nct", "60 samples of 6 x 20"), ("ntc", MOVED)):
        data = open_data(series / f"{order}.npz", model).train
        result = evaluate(model, data, preprocessing=NONE)
        assert (result["accuracy"], result["data"]) == (1.0, line)
        rows[order] = predict(model, series / f"{order}.npz", preprocessing=NONE)
        assert [row["class"] for row in rows[order]] == data.labels.tolist()
        assert {row["data"] for row in rows[order]} == {line}
    assert [row["logits"] for row in rows["nct"]] == [row["logits"] for row in rows["ntc"]]
    again = predict(model, Data(series / "ntc.npz", layout="NTC"), preprocessing=NONE)
    assert [row["logits"] for row in again] == [row["logits"] for row in rows["nct"]]


@pytest.mark.parametrize("backend", ["portable", "ort"])
def test_training(series, tmp_path, backend, request):
    if backend == "ort":
        request.getfixturevalue("training")
    model = open_model(series / "model.onnx")
    selection = select(score(model, series / "nct.npz", scoring=Scoring(samples=32, subsets=2)), strategy="all")
    make_artifacts(model, selection, tmp_path / "a", backend=backend, check=False)
    rows, exported = {}, {}
    for order in ("nct", "ntc"):
        trainer = Trainer(tmp_path / "a")
        assert trainer.data is None
        rows[order] = trainer.fit(series / f"{order}.npz", epochs=2, learning_rate=1e-4)
        exported[order] = export_model(tmp_path / "a", tmp_path / f"{order}.onnx", check=False).SerializeToString()
    assert trainer.data == MOVED
    for first, last in zip(*rows.values(), strict=True):
        assert (first["train_loss"], first["eval_loss"]) == (last["train_loss"], last["eval_loss"])
    assert exported["nct"] == exported["ntc"]
    assert rows["ntc"][-1]["eval_accuracy"] == 1.0
    with pytest.raises(DataError, match=r"interpreted differently \(60 samples of 6 x 20\)"):
        trainer.fit(series / "nct.npz", resume=True)
    trainer.fit(series / "ntc.npz", resume=True)


def test_the_whole_job(series, tmp_path, checked_here):
    outcomes = [
        adapt(
            series / "model.onnx",
            Data(series / f"{order}2.npz", layout=layout),
            tmp_path / order,
            adapting=Adapting(
                scoring=Scoring(samples=32, subsets=2), settings=Settings(epochs=1, learning_rate=1e-4), measure=False
            ),
        )
        for order, layout in (("nct", None), ("ntc", "NTC"))
    ]
    assert [outcome.before["accuracy"] for outcome in outcomes] == [1.0, 1.0]
    assert outcomes[0].metrics[1]["train_loss"] == outcomes[1].metrics[1]["train_loss"]
    moved = "40 samples of 20 x 6 -> 6 x 20: axes moved (layout NTC)"
    assert summary(outcomes[1])["data"] == moved
    assert outcomes[1].after["data"] == moved.replace("40", "20")
    with pytest.raises(UsageError, match="made with other options"):
        adapt(
            series / "model.onnx",
            series / "nct2.npz",
            tmp_path / "ntc",
            resume=True,
            adapting=Adapting(settings=Settings(epochs=1, learning_rate=1e-4), measure=False),
        )


def test_a_comparison(series, tmp_path, monkeypatch):
    """A layout also applies where strategies are trained, and on the old domain."""
    monkeypatch.setattr("adabet_onnx.study.runner.measure_training", lambda *given, **choices: Cost(1 << 20, 0.01))
    plan = Plan(("head",), seeds=1, epochs=1, rates=(1e-4,), scoring=Scoring(samples=32, subsets=2))
    data, old = series / "ntc2.npz", series / "ntc.npz"
    found = compare(series / "model.onnx", Data(data, layout="NTC"), tmp_path, plan, old_domain=Data(old, layout="NTC"))
    assert found.data == "40 samples of 20 x 6 -> 6 x 20: axes moved (layout NTC)"
    assert found.before == found.source_before == 1.0
    assert [result.accuracy for result in found.results] == [1.0]
    with pytest.raises(DataError, match="does not convert one to the other"):
        compare(series / "model.onnx", Data(data, layout="NCT"), tmp_path, plan)


def test_commands_say_what_data_was_taken_for(series, tmp_path, monkeypatch, capsys, checked_here):
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "ntc.npz"):
        Path(name).write_bytes((series / name).read_bytes())

    def run(command: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *command.split()])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert left.value.code == code, err
        return out if code == 0 else err

    quick = "--samples 32 --subsets 2"
    line = f"data: {MOVED}\n"
    assert run(f"score model.onnx ntc.npz -o scores.json {quick}").startswith(line)
    assert json.loads(Path("scores.json").read_text())["settings"]["data"] == MOVED
    assert run(f"run model.onnx ntc.npz -o out {quick} --epochs 1 --lr 1e-4 --no-measure --no-check").startswith(line)
    assert json.loads(Path("out/run.json").read_text())["data"] == MOVED
    assert run("train out/artifacts ntc.npz --epochs 1 --lr 1e-4").startswith(line)
    for model in ("model.onnx", "out/artifacts"):
        assert run(f"evaluate {model} ntc.npz").startswith(f"{line}accuracy 100.0%")
        assert json.loads(run(f"evaluate {model} ntc.npz --json"))["data"] == MOVED
        assert run(f"predict {model} ntc.npz").startswith(f"{line}0  ")
        rows = json.loads(run(f"predict {model} ntc.npz --json"))
        assert len(rows) == 60
        assert {row["data"] for row in rows} == {MOVED}
    for command in ("score model.onnx ntc.npz -o s.json", "evaluate model.onnx ntc.npz", "predict model.onnx ntc.npz"):
        assert "--layout" in run(f"{command} --layout NCT", 1)
        assert "not a layout" in run(f"{command} --layout TC", 2)
        assert "names 3 axes" in run(f"{command} --layout NHWC", 2)
    assert "--layout" in run("train out/artifacts ntc.npz --layout x=NCT", 1)
    assert "input 'z'" in run("run model.onnx ntc.npz -o other --layout z=NTC", 2)
    assert not Path("other").exists()


def test_a_model_that_prepares_its_images_itself(tmp_path, rng, checked_here):
    """uint8, NHWC, preprocessing in the graph: a folder of photographs, and arrays in either order."""
    weight = np.concatenate([np.ones((1, 192)), -np.ones((1, 192))]).astype(np.float32) / 192
    model = open_model(inputs.flat(8, 8, 3, kind="uint8", weight=weight))
    for label, name in enumerate(("bright", "dark")):
        for index in range(20):
            path = tmp_path / "photos" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shade = rng.integers(0, 100, (20, 24, 3)) + 150 * (1 - label)
            Image.fromarray(shade.astype(np.uint8)).save(path)
    outcome = adapt(
        model,
        tmp_path / "photos",
        tmp_path / "out",
        adapting=Adapting(
            scoring=Scoring(samples=32, subsets=2),
            settings=Settings(epochs=1),
            measure=False,
            choosing=Choosing(strategy="all"),
        ),
    )
    assert outcome.data == "32 image files -> 8 x 8 x 3: RGB, upright by EXIF, resized"
    assert outcome.scores.preprocessing["scale"] == 1
    pixels = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    expected = (pixels.reshape(8, -1) / 192).sum(1)
    for data in (pixels, pixels.transpose(0, 3, 1, 2)):
        logits = [row["logits"][0] for row in predict(model, data, preprocessing=NONE)]
        np.testing.assert_allclose(logits, expected, rtol=1e-4)
