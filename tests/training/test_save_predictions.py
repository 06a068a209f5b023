"""Predictions in files: they hold the model's outputs, and are written completely or not at all."""

from __future__ import annotations

import csv
import gc
import io
import json
import weakref

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import tiny
from models.tiny import node, normal
from PIL import Image

from adabet_onnx import (
    Adapting,
    Choices,
    Data,
    DataError,
    OutputError,
    Settings,
    UsageError,
    adapt,
    evaluate,
    make_artifacts,
    predict,
    select,
    write_predictions,
)
from adabet_onnx.training import evaluation_pass
from adabet_onnx.training import logits as logits_module
from adabet_onnx.training.logits import batch_for

rng = np.random.default_rng(0)
X, Y = rng.random((150, 3, 8, 8)).astype(np.float32), np.arange(150) % 4
CLASSES = ["ant, black", 'the "bee"', "cat\nand dog", "дог"]
KINDS = (".csv", ".jsonl", ".npz")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny.conv_net(), "m.onnx")
    np.savez("d.npz", x=X, y=Y, classes=CLASSES)
    return tmp_path


def logits_of(x=X, path="m.onnx"):
    return tiny.run(onnx.load(path), x)


def read(path):
    """Rows of a file, each a dict."""
    if path.endswith(".csv"):
        with open(path, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    if path.endswith(".jsonl"):
        with open(path, encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    classes = arrays.pop("classes", None)
    count = len(arrays["input"])
    rows = [{name: array[i] for name, array in arrays.items()} for i in range(count)]
    for row in rows if classes is not None else ():
        for key in {"label", "predicted"} & set(row) if np.ndim(rows[0]["predicted"]) == 0 else ():
            row[f"{key}_name"] = classes[row[key]]
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_of_classes(here, kind):
    found = write_predictions("m.onnx", "d.npz", f"p{kind}")
    assert found == evaluate("m.onnx", "d.npz")
    logits, rows = logits_of(), read(f"p{kind}")
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert [str(row["input"]) for row in rows] == [str(i) for i in range(150)]
    assert [int(row["label"]) for row in rows] == Y.tolist()
    assert [row["label_name"] for row in rows] == [CLASSES[i] for i in Y]
    best = logits.argmax(-1)
    assert [int(row["predicted"]) for row in rows] == best.tolist()
    assert [row["predicted_name"] for row in rows] == [CLASSES[i] for i in best]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares.max(-1), rtol=1e-5)
    right = [row["correct"] in (True, "true") for row in rows]
    assert right == (best == Y).tolist()
    assert np.mean(right) == found["accuracy"]
    if kind == ".csv":
        assert {row["correct"] for row in rows} == {"true", "false"}
    else:
        np.testing.assert_allclose([row["logits"] for row in rows], logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_names_and_without_labels(here, kind):
    np.savez("plain.npz", x=X)
    rows = predict("m.onnx", "plain.npz", save_predictions=f"p{kind}")
    assert [row["class"] for row in rows] == logits_of().argmax(-1).tolist()
    assert rows == predict("m.onnx", "plain.npz")
    found = read(f"p{kind}")
    assert [int(row["predicted"]) for row in found] == [row["class"] for row in rows]
    assert not {"label", "label_name", "correct"} & set(found[0])
    if kind != ".npz":
        assert {row["predicted_name"] for row in found} == {"" if kind == ".csv" else None}


def test_files_are_called_by_their_names(here):
    for part in ("train", "test"):
        for name, value in (("ant", 10), ("bee, small", 200)):
            (here / "photos" / part / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full((8, 8, 3), value + i, np.uint8)).save(
                    here / "photos" / part / name / f"{i}.png"
                )
    write_predictions("m.onnx", "photos", "p.csv", preset="unit")
    rows = read("p.csv")
    expected = [f"photos/test/{name}/{i}.png" for name in ("ant", "bee, small") for i in range(3)]
    assert [row["input"] for row in rows] == expected
    assert [row["label"] for row in rows] == ["0"] * 3 + ["1"] * 3
    predict("m.onnx", "photos", preset="unit", save_predictions="q.jsonl")
    assert {row["input"] for row in read("q.jsonl")} > set(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_of_several_labels(here, kind):
    targets = rng.integers(0, 2, (150, 4))
    data = {"x": X, "y": targets.astype(np.float32), "classes": ["a", "b", "c", "d"]}
    found = write_predictions("m.onnx", data, f"p{kind}", choices=Choices(loss="bce-with-logits"))
    logits, rows = logits_of(), read(f"p{kind}")
    on, shares = logits > 0, 1 / (1 + np.exp(-logits))

    def values(key):
        if kind == ".csv":
            return np.array([[float(row[f"{key}_{name}"]) for name in "abcd"] for row in rows])
        return np.array([row[key] for row in rows])

    np.testing.assert_array_equal(values("label"), targets)
    np.testing.assert_array_equal(values("predicted"), on)
    np.testing.assert_allclose(values("probability"), shares, rtol=1e-5)
    right = [row["correct"] in (True, "true") for row in rows]
    assert right == (on == targets).all(-1).tolist()
    assert np.mean(right) == found["exact_match"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_of_numbers(here, kind, outputs):
    onnx.save(tiny.mlp(classes=outputs), "numbers.onnx")
    x, y = rng.random((70, 10)).astype(np.float32), rng.random((70, outputs)).astype(np.float32)
    found = write_predictions("numbers.onnx", (x, y), f"p{kind}", choices=Choices(loss="mse"))
    rows, wanted = read(f"p{kind}"), logits_of(x, "numbers.onnx")
    for key, array in (("label", y), ("predicted", wanted)):
        if kind == ".csv":
            names = [key] if outputs == 1 else [f"{key}_{i}" for i in range(outputs)]
            values = [[float(row[name]) for name in names] for row in rows]
        else:
            values = [row[key] for row in rows]
        np.testing.assert_allclose(np.reshape(values, array.shape), array, rtol=1e-5, atol=1e-6)
    assert found["mae"] == pytest.approx(np.abs(wanted - y).mean(), rel=1e-5)
    assert found["accuracy"] is None
    assert "correct" not in rows[0]


def pixels(path):
    """Three classes for each of 8 x 8 pixels."""
    nodes = [node("Conv", ["input", "w"], ["logits"], "conv")]
    onnx.save(tiny.build(nodes, {"w": normal(3, 3, 1, 1)}, input_shape=("N", 3, 8, 8)), path)


def test_per_pixel(here):
    pixels("dense.onnx")
    y = rng.integers(0, 3, (150, 8, 8))
    y[rng.random(y.shape) < 0.2] = -100
    found = write_predictions("dense.onnx", (X, y), "p.npz")
    logits = logits_of(path="dense.onnx")
    with np.load("p.npz") as archive:
        np.testing.assert_allclose(archive["logits"], logits, atol=1e-6)
        np.testing.assert_array_equal(archive["predicted"], logits.argmax(1))
        np.testing.assert_array_equal(archive["label"], y)
        np.testing.assert_array_equal(archive["correct"], logits.argmax(1) == y)
        assert archive["predicted"].dtype == np.int8
        assert archive["correct"].sum() / (y != -100).sum() == pytest.approx(found["accuracy"])
    assert found["mean_iou"] is not None
    assert "iou" in found["per_class"][0]
    for name in ("p.csv", "p.jsonl"):
        with pytest.raises(UsageError, match="per pixel or token"):
            write_predictions("dense.onnx", (X, y), name)
        with pytest.raises(UsageError, match="per pixel or token"):
            predict("dense.onnx", (X, None), save_predictions=name)
        assert not (here / name).exists()
    predict("dense.onnx", (X, None), save_predictions="q.npz")
    with np.load("q.npz") as archive:
        np.testing.assert_array_equal(archive["predicted"], logits.argmax(1))


@pytest.mark.slow
def test_dense_figures_keep_no_logits(here, monkeypatch):
    """The logits of one batch at a time: when the next is made, nothing holds the last."""
    pixels("dense.onnx")
    y = rng.integers(0, 3, (150, 8, 8))
    expected = evaluate("dense.onnx", (X, y))
    alive: list[weakref.ref] = []
    most = 0
    run = logits_module._run

    def noted(session, feeds, name):
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        found = run(session, feeds, name)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(logits_module, "_run", noted)
    monkeypatch.setattr(evaluation_pass, "batch_for", lambda sample: 2)
    again = evaluate("dense.onnx", (X, y))
    assert len(alive) > 70
    assert most <= 3  # of the first batch: together, and each of its ends alone
    assert again.pop("loss") == pytest.approx(expected.pop("loss"))
    assert again == expected


def test_a_batch_of_large_logits_is_small():
    assert batch_for(np.zeros((1, 1000), np.float32)) == 64
    assert batch_for(np.zeros((1, 21, 512, 512), np.float32)) == 2


def test_of_an_artifact_folder_with_its_loss(here):
    onnx.save(tiny.mlp(classes=2), "numbers.onnx")
    make_artifacts(
        "numbers.onnx", select("numbers.onnx", strategy="head"), "out", choices=Choices(loss="mse"), check=False
    )
    x = rng.random((9, 10)).astype(np.float32)
    predict("out", (x, None), save_predictions="p.csv")
    rows = read("p.csv")
    assert list(rows[0]) == ["input", "predicted_0", "predicted_1"]
    expected = logits_of(x, "numbers.onnx")
    np.testing.assert_allclose([[float(row[f"predicted_{i}"]) for i in (0, 1)] for row in rows], expected, atol=1e-5)


def test_run_writes_the_final_ones(here):
    np.savez("split.npz", x_train=X[:100], y_train=Y[:100], x_test=X[100:], y_test=Y[100:])
    how = Adapting(settings=Settings(epochs=1), measure=False, check=False, save_predictions="out/p.csv")
    outcome = adapt("m.onnx", "split.npz", "out", adapting=how)
    rows = read("out/p.csv")
    assert len(rows) == 50
    best = logits_of(X[100:], "out/adapted.onnx").argmax(-1)
    assert [int(row["predicted"]) for row in rows] == best.tolist()
    assert np.mean([row["correct"] == "true" for row in rows]) == outcome.after["accuracy"]


def test_what_is_refused_before_anything_long(here):
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.npz"):
        Adapting(save_predictions="p.txt")
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.npz"):
        write_predictions("m.onnx", "d.npz", "p.parquet")
    with pytest.raises(OutputError, match="does not exist"):
        predict("m.onnx", "d.npz", save_predictions="nowhere/p.csv")
    how = Adapting(settings=Settings(epochs=1), measure=False, check=False)
    with pytest.raises(OutputError, match="does not exist"):
        adapt("m.onnx", "d.npz", "out", adapting=Adapting(settings=how.settings, save_predictions="nowhere/p.csv"))
    pixels("dense.onnx")
    given = Adapting(settings=how.settings, save_predictions="p.csv")
    with pytest.raises(UsageError, match="per pixel or token"):
        adapt("dense.onnx", (X, rng.integers(0, 3, (150, 8, 8))), "dense", adapting=given)
    assert not (here / "dense").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_or_not_at_all(here, kind):
    """A failure half-way leaves the old file; success replaces it."""
    (here / f"p{kind}").write_text("before")
    bad = X.copy()
    bad[140, 0, 0, 0] = np.nan
    with pytest.raises(DataError):
        write_predictions("m.onnx", (bad, Y), f"p{kind}")
    assert (here / f"p{kind}").read_text() == "before"
    assert not list(here.glob(".*.part"))
    write_predictions("m.onnx", (X, Y), f"p{kind}")
    assert len(read(f"p{kind}")) == 150


def test_the_commands(here, monkeypatch, capfd):
    command = command_of(monkeypatch, capfd)
    out = command("evaluate", "m.onnx", "d.npz", "--save-predictions", "p.csv").out
    assert "predictions: p.csv" in out
    assert "balanced accuracy" in out
    assert "ant, black" not in out
    assert len(read("p.csv")) == 150
    table = command("evaluate", "m.onnx", "d.npz", "--per-class").out
    assert "ant, black" in table
    assert "precision" in table
    rows = json.loads(command("predict", "m.onnx", "d.npz", "--save-predictions", "q.npz", "--json").out)
    with np.load("q.npz") as archive:
        np.testing.assert_allclose(archive["logits"], [row["logits"] for row in rows], rtol=1e-6)
    options = ["--epochs", "1", "--no-measure", "--no-check", "--save-predictions", "out/r.jsonl"]
    assert "predictions: out/r.jsonl" in command("run", "m.onnx", "d.npz", "-o", "out", *options).out
    assert [row["label"] for row in read("out/r.jsonl")] == Y.tolist()
    for words in (
        ("evaluate", "m.onnx", "d.npz"),
        ("predict", "m.onnx", "d.npz"),
        ("run", "m.onnx", "d.npz", "-o", "o"),
    ):
        said = command(*words, "--save-predictions", "p.xlsx", code=2).err
        assert ".csv, .jsonl, .npz" in said


def test_a_csv_is_that_of_the_module(here):
    """Quotes, commas, line breaks and other alphabets survive."""
    write_predictions("m.onnx", "d.npz", "p.csv")
    with open("p.csv", "rb") as stream:
        text = stream.read().decode("utf-8")
    again = io.StringIO()
    csv.writer(again, lineterminator="\n").writerows(csv.reader(io.StringIO(text, newline="")))
    assert again.getvalue() == text


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "m.onnx", "d.npz", "--save-predictions", "d.npz"],
        ["evaluate", "m.onnx", "d.npz", "--save-predictions", "link.npz"],
        ["predict", "m.onnx", "d.npz", "--save-predictions", "./d.npz"],
        ["run", "m.onnx", "d.npz", "-o", "run", "--save-predictions", "d.npz"],
        ["score", "m.onnx", "d.npz", "-o", "d.npz"],
        ["score", "m.onnx", "d.npz", "-o", "m.onnx"],
        ["score", "m.onnx", "d.npz", "-o", "s.json", "--plot", "d.npz"],
        ["run", "m.onnx", "folder", "-o", "folder"],
    ],
)
def test_what_is_read_is_not_written_over(words, here, monkeypatch, capfd):
    (here / "link.npz").symlink_to("d.npz")
    (here / "folder").mkdir()
    np.save(here / "folder" / "x.npy", X)
    np.save(here / "folder" / "y.npy", Y)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    result = command_of(monkeypatch, capfd)(*words, code=2)
    assert "which is also an input and would be overwritten" in result.err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_what_is_read_is_not_written_over_from_python(here):
    before = (here / "d.npz").read_bytes()
    for call in (
        lambda: write_predictions("m.onnx", "d.npz", "d.npz"),
        lambda: write_predictions("m.onnx", Data("d.npz"), here / "d.npz"),
        lambda: predict("m.onnx", "d.npz", save_predictions="d.npz"),
        lambda: adapt("m.onnx", "d.npz", "run", adapting=Adapting(save_predictions="d.npz")),
    ):
        with pytest.raises(
            UsageError, match=r"d.npz, which is also an input and would be overwritten. Give another output path"
        ):
            call()
    assert (here / "d.npz").read_bytes() == before
    assert not (here / "run").exists()


def test_outputs_with_the_same_name_have_a_column_each(here):
    targets = (rng.random((150, 4)) < 0.5).astype(np.float32)
    np.savez("bce.npz", x=X, y=targets, classes=["a", "a", "b", "c"])
    write_predictions("m.onnx", "bce.npz", "p.csv", choices=Choices(loss="bce-with-logits"))
    rows = read("p.csv")
    found = np.array([[float(row[f"label_{i}"]) for i in range(4)] for row in rows])
    np.testing.assert_array_equal(found, targets)
