"""The loss, its axis and the labels that count, detected from the model's Softmax or Sigmoid and the labels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command, command_of
from models import masks
from models.tiny import normal

from adabet_onnx import DataError, ModelError, RecordError, Trainer, UsageError, make_artifacts, open_model
from adabet_onnx.adapting import Adapting
from adabet_onnx.data.labels import fit_labels
from adabet_onnx.data.preprocess import NONE
from adabet_onnx.data.source import open_data
from adabet_onnx.model.head import new_head
from adabet_onnx.model.logits_axes import softmax_axis
from adabet_onnx.model.open import Model
from adabet_onnx.outcome import Outcome
from adabet_onnx.pipeline import adapt
from adabet_onnx.selection.options import Choosing
from adabet_onnx.selection.record import Selection
from adabet_onnx.study.fisher import fisher_information
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.trainability.decisions import decisions
from adabet_onnx.trainability.preflight import check_model
from adabet_onnx.training.evaluation import evaluate
from adabet_onnx.training.learning_check import evaluated_at_chance
from adabet_onnx.training.manifest import load_manifest
from adabet_onnx.training.settings import Settings

COUNT = 6


@pytest.fixture
def adabet(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return command_of(monkeypatch, capfd)


def everything(model: Model) -> Selection:
    names = [parameter.name for layer in model.layers for parameter in layer.parameters]
    return Selection(model.sha256, "layers", tuple(layer.name for layer in model.layers), tuple(names))


def pictures(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((COUNT, 3, masks.SIDE, masks.SIDE)).astype(np.float32)
    return x, rng.integers(0, masks.CLASSES, (COUNT, masks.SIDE, masks.SIDE))


def cross_entropy(x: np.ndarray, labels: np.ndarray) -> float:
    """Over the pixels whose label is a class, from its definition."""
    scores = masks.scores(x)
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    counts = (labels >= 0) & (labels < masks.CLASSES)
    chosen = np.take_along_axis(p, np.where(counts, labels, 0)[..., None], -1)[..., 0]
    return float(-np.log(chosen[counts]).mean())


# --- the axis of the classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "turned", "expected"), [(3, True, 3), (-1, True, 3), (1, False, 1)])
def test_the_softmax_tells_the_axis_of_the_classes(
    axis: int, turned: bool, expected: int, tmp_path: Path, checked_here: None
) -> None:
    model = open_model(masks.per_pixel(axis, turned=turned))
    assert softmax_axis(model) == expected
    [said] = [decision for decision in decisions(model) if decision.about == "class axis"]
    assert said.taken_for == str(expected)
    assert "Softmax" in said.because
    assert not check_model(model).untrainable
    x, y = pictures()
    found = evaluate(model, open_data((x, y), model).train, preprocessing=NONE)
    assert found["loss"] == pytest.approx(cross_entropy(x, y), rel=1e-5)
    assert found["accuracy"] == pytest.approx((masks.scores(x).argmax(-1) == y).mean())
    manifest = make_artifacts(model, everything(model), tmp_path / "a", backend="portable")
    assert manifest.class_axis == expected
    rows = Trainer(tmp_path / "a").fit(
        (x, y), epochs=1, batch_size=COUNT, preprocessing=NONE, settings=Settings(validation=0)
    )
    assert rows[1]["train_loss"] == pytest.approx(cross_entropy(x, y), rel=1e-5)
    assert fisher_information(model, (x, y), preprocessing=NONE)["score"] > 0


def test_what_is_given_counts_and_nothing_is_told_without_a_softmax() -> None:
    model = open_model(masks.per_pixel(3, turned=True))
    assert Choices(class_axis=1).for_model(model).class_axis == 1
    assert Choices().for_model(model).class_axis == 3
    assert Choices(loss="mse").for_model(model).class_axis is None
    assert softmax_axis(open_model(masks.per_pixel(3, turned=True, softmax=False))) is None


@pytest.mark.parametrize("append", [False, True])
def test_a_new_head_keeps_the_axis_that_its_softmax_told(append: bool, tmp_path: Path) -> None:
    made = new_head(open_model(masks.per_pixel(-1, turned=True)), 5, append=append)
    again = open_model(made.proto())
    assert softmax_axis(again) == 3
    manifest = make_artifacts(again, everything(again), tmp_path / "a", backend="portable", check=False)
    assert manifest.class_axis == 3
    assert manifest.logits_shape == ("N", masks.SIDE, masks.SIDE, 5)


# logits (N, steps, C), or (N, C): the argument, and the manifest's value for other runtimes
@pytest.mark.parametrize(
    ("steps", "classes", "given", "axis"), [(5, 3, None, 2), (5, 3, -2, 1), (3, 3, None, 2), (None, 3, None, 1)]
)
def test_the_manifest_says_which_axis_holds_the_classes(
    steps: int | None, classes: int, given: int | None, axis: int, tmp_path: Path
) -> None:
    shape = ("N", 4) if steps is None else ("N", steps, 4)
    nodes = [masks.node("MatMul", ["input", "head.weight"], ["logits"], "head")]
    proto = masks.build(nodes, {"head.weight": normal(4, classes, scale=1)}, input_shape=shape)
    model = open_model(proto)
    made = make_artifacts(
        model, everything(model), tmp_path / "a", backend="portable", check=False, choices=Choices(class_axis=given)
    )
    content = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert (content["class_axis"], content["class_axis_given"]) == (axis, given is not None)
    assert content["num_outputs"] == made.logits_shape[axis]
    assert Choices.from_manifest(content) == Choices(class_axis=given).for_model(model)
    assert made.given_axis == (None if given is None else axis)
    x = normal(8, *shape[1:], scale=1)
    y = np.zeros((8, *(extent for i, extent in enumerate(made.logits_shape) if i not in (0, axis))), np.int64)
    fit = Trainer(tmp_path / "a").fit
    if steps == classes:  # labels fit both axes: the missing one is requested
        with pytest.raises(DataError, match="`class_axis=1` or `class_axis=2`"):
            fit((x, y), epochs=1, settings=Settings(validation=0))
    else:
        assert fit((x, y), epochs=1, settings=Settings(validation=0))[1]["train_loss"] > 0


def test_a_manifest_of_an_older_release_has_the_usual_axis(tmp_path: Path) -> None:
    model = open_model(masks.per_pixel(1, turned=False, softmax=False))
    make_artifacts(model, everything(model), tmp_path / "a", backend="portable", check=False)
    path = tmp_path / "a" / "manifest.json"
    content = json.loads(path.read_text())
    del content["class_axis_given"]
    path.write_text(json.dumps(content | {"class_axis": None}))
    manifest = load_manifest(tmp_path / "a")
    assert (manifest.class_axis, manifest.given_axis) == (1, None)
    path.write_text(json.dumps(content | {"class_axis_given": 1}))
    with pytest.raises(RecordError, match="class_axis_given"):
        load_manifest(tmp_path / "a")


def test_ignored_labels_reach_the_last_figures(tmp_path: Path, checked_here: None) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3, masks.SIDE, masks.SIDE)).astype(np.float32)
    y = rng.integers(0, masks.CLASSES, (40, masks.SIDE, masks.SIDE))
    y[rng.random(y.shape) < 0.2] = 255
    data = {"x_train": x[:20], "y_train": y[:20], "x_test": x[20:], "y_test": y[20:]}
    model = open_model(masks.per_pixel(3, turned=True))
    how = Adapting(
        choosing=Choosing(strategy="head"),
        choices=Choices(ignore_label=255),
        settings=Settings(epochs=1, learning_rate=1e-9),
        measure=False,
    )
    found = adapt(model, data, tmp_path / "a", adapting=how)
    known = y[20:][y[20:] != 255]
    share = np.bincount(known).max() / known.size
    [said] = found.warnings
    assert f"on {known.size} labels" in said
    assert f"right on {share:.1%}" in said
    dataset = open_data(data, model).for_evaluation
    with pytest.raises(DataError, match="`ignore_label=255`"):
        evaluated_at_chance(model, dataset, 0.3, Choices(class_axis=3))


@pytest.mark.slow
def test_stability_takes_the_label_to_ignore_that_it_asks_for(tmp_path: Path, adabet: Command) -> None:
    onnx.save(masks.per_pixel(3, turned=True), tmp_path / "m.onnx")
    x, y = pictures()
    y[:, 0] = 255
    np.savez(tmp_path / "d.npz", x=np.tile(x, (6, 1, 1, 1)), y=np.tile(y, (6, 1, 1)))
    command = ["stability", str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), "--subset-size", "8", "--subsets", "2"]
    command += ["--samples", "16", "--seeds", "1"]
    out = adabet(*command).out
    option = re.search(r"--ignore-label \d+", " ".join(out.split()))
    assert option is not None, out
    assert "Fisher information is left out" in " ".join(out.split())
    again = adabet(*command, *option[0].split(), "--class-axis", "3").out
    assert "left out" not in again
    assert "fisher" in again


# --- one output ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_output_leads_to_another_loss_before_anything_is_written(
    sigmoid: bool, tmp_path: Path, adabet: Command
) -> None:
    onnx.save(masks.one_number(sigmoid=sigmoid), tmp_path / "m.onnx")
    x = normal(64, 5, scale=1)
    np.savez(tmp_path / "d.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    model, data, folder = (str(tmp_path / name) for name in ("m.onnx", "d.npz", "out"))
    said = " ".join(adabet("check", model, code=1).err.split())
    assert "--loss bce-with-logits for labels 0 and 1" in said
    assert ("Sigmoid" in said) == sigmoid
    assert "--loss bce-with-logits" in adabet("run", model, data, "-o", folder, code=1).err
    assert not (tmp_path / "out").exists()
    opened = open_model(model)
    with pytest.raises(ModelError, match="`loss='bce-with-logits'`"):
        make_artifacts(opened, everything(opened), tmp_path / "a")
    assert not (tmp_path / "a").exists()

    adabet("check", model, "--loss", "bce-with-logits")
    options = ["--loss", "bce-with-logits", "--epochs", "2", "--no-measure", "--no-check", "--samples", "32"]
    adabet("run", model, data, "-o", folder, *options)


# --- ignored labels -------------------------------------------------------------------------------------------------


def test_a_label_of_255_leads_to_ignore_label(tmp_path: Path, checked_here: None) -> None:
    model = open_model(masks.per_pixel(1, turned=False))
    x, y = pictures()
    y[:, 0], y[1, 2:] = 255, 255
    with pytest.raises(DataError, match=r"0 to 255.*3 outputs.*Only 255 \(\d+\.\d% of them\).*`ignore_label=255`"):
        evaluate(model, open_data((x, y), model).train, preprocessing=NONE)
    made = make_artifacts(
        model, everything(model), tmp_path / "a", backend="portable", choices=Choices(ignore_label=255)
    )
    assert made.ignore_label == 255
    rows = Trainer(tmp_path / "a").fit(
        (x, y), epochs=1, batch_size=COUNT, preprocessing=NONE, settings=Settings(validation=0)
    )
    assert rows[1]["train_loss"] == pytest.approx(cross_entropy(x, y), rel=1e-5)
    found = evaluate(model, open_data((x, y), model).train, preprocessing=NONE, choices=Choices(ignore_label=255))
    assert found["loss"] == pytest.approx(cross_entropy(x, y), rel=1e-5)
    assert found["accuracy"] == pytest.approx((masks.scores(x).argmax(-1) == y)[y != 255].mean())


def test_masks_of_uint8_from_the_command_line(tmp_path: Path, adabet: Command) -> None:
    onnx.save(masks.per_pixel(1, turned=False), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3, masks.SIDE, masks.SIDE)).astype(np.float32)
    y = masks.scores(x).argmax(-1).astype(np.uint8)
    y[:, :2] = 255
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    call = ["run", str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), "-o", str(tmp_path / "out")]
    options = ["--epochs", "1", "--no-measure", "--samples", "32", "--rho", "1", "--no-check"]
    assert "--ignore-label 255" in adabet(*call, *options, code=1).err
    assert not (tmp_path / "out").exists()
    made = adabet(*call, *options, "--ignore-label", "255", "--json")
    assert json.loads(made.out)["before"]["accuracy"] == 1
    evaluated = ["evaluate", tmp_path / "out" / "artifacts", tmp_path / "d.npz", "--json"]
    assert json.loads(adabet(*evaluated).out)["accuracy"] > 0.9
    evaluated[1] = tmp_path / "m.onnx"
    assert json.loads(adabet(*evaluated, "--ignore-label", "255").out)["accuracy"] == 1


def test_a_label_to_ignore_among_classes_in_another_order() -> None:
    x, y = pictures()
    y[0] = 255
    names = np.array(["a", "b", "c"])
    model = open_model(masks.per_pixel(1, turned=False))
    model.graph.metadata_props["adabet_onnx.classes"] = json.dumps(["b", "c", "a"])
    data = open_data({"x": x, "y": y, "classes": names}, model).train
    found = evaluate(model, data, preprocessing=NONE, choices=Choices(ignore_label=255))
    moved = np.where(y == 255, 255, np.array([2, 0, 1])[np.where(y == 255, 0, y)])
    assert found["loss"] == pytest.approx(cross_entropy(x, moved), rel=1e-5)


def test_other_labels_out_of_range_lead_elsewhere() -> None:
    shape = ("N", 3, 2, 2)
    for labels, words in (
        ([[[0, 1], [2, 4]]], r"`ignore_label=4`.*Otherwise give the model a head of 5"),
        ([[[0, 1], [2, 3]]], r"a head of 4 outputs"),
        ([[[0, 1], [5, 4]]], r"a head of 6 outputs"),
        ([[[-1, 1], [2, 0]]], r"`ignore_label=-1`"),
        ([[[1, 2], [3, 3]]], r"subtract 1"),
    ):
        with pytest.raises(DataError, match=words):
            fit_labels(np.array(labels), "cross-entropy", shape, "the data")
    with pytest.raises(DataError, match="a head of 256"):
        fit_labels(np.array([0, 255]), "cross-entropy", ("N", 3), "the data")
    with pytest.raises(DataError, match=r"one label per sample.*Leave out samples"):
        fit_labels(np.array([0, 255]), "cross-entropy", ("N", 3), "the data", ignore=255)
    with pytest.raises(UsageError, match="label to ignore"):
        Choices(loss="mse", ignore_label=255)


def test_ignored_labels_in_a_whole_run(tmp_path: Path) -> None:
    x, y = pictures()
    y[:, :2] = 255
    x, y = np.concatenate([x] * 6), np.concatenate([y] * 6)

    def adapted(resume: bool) -> Outcome:
        return adapt(
            open_model(masks.per_pixel(3, turned=True)),
            (x, y),
            tmp_path / "o",
            resume=resume,
            adapting=Adapting(
                choices=Choices(ignore_label=255),
                settings=Settings(epochs=1),
                measure=False,
                check=False,
                choosing=Choosing(rho=1.0),
            ),
        )

    outcome = adapted(resume=False)
    assert outcome.before["loss"] == pytest.approx(cross_entropy(x, y), rel=1e-5)
    assert adapted(resume=True).after == outcome.after
