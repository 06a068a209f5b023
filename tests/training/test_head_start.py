"""A new head fitted before the first epoch: the values, the samples, and the messages."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import TRAINING
from models import tiny
from models.linear_heads import HEADS, REFUSED, inputs, network
from onnx import numpy_helper

from adabet_onnx import (
    Choices,
    Choosing,
    Preprocessing,
    Settings,
    Trainer,
    evaluate,
    export_model,
    make_artifacts,
    new_head,
    open_model,
    select,
)
from adabet_onnx.data.dataset import split_rows
from adabet_onnx.errors import DataError, ModelError, UsageError
from adabet_onnx.training import head_rows, head_start

STILL = 1e-20  # a rate at which nothing changes
ORT = pytest.mark.skipif(not TRAINING, reason="onnxruntime-training exists for Python 3.10 to 3.12 only")
BOTH = "gemm", "matmul and add", "3 x 3, strides, pooled"
DENSE = "pixels", "tokens"  # the ort backend takes one label per sample


def _made(name, folder, classes=3, **what):
    """Artifacts for the new head of a network."""
    model = new_head(network(name), classes)
    backend, loss = what.pop("backend", "portable"), what.pop("loss", "cross-entropy")
    choices = Choices(loss=loss, **what)
    make_artifacts(
        model, select(model, strategy="head"), folder / "artifacts", choices=choices, backend=backend, check=False
    )
    return Trainer(folder / "artifacts")


def _still(epochs=1, **what):
    return Settings(epochs=epochs, learning_rate=STILL, **{"validation": 0.0, "head_init": "fitted", **what})


def _run(proto, x):
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


def _design(proto, names, x):
    """The design matrix of the logits: the logits per unit of each parameter, in the order of the names."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    shapes = {name: numpy_helper.to_array(tensors[name]).shape for name in names}

    def logits(values):
        for name, value in values.items():
            tensors[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
        return _run(proto, x).astype(np.float64).reshape(-1)

    zero = {name: np.zeros(shape) for name, shape in shapes.items()}
    assert not logits(zero).any()
    columns = []
    for name, shape in shapes.items():
        for place in np.ndindex(*shape):
            one = np.zeros(shape)
            one[place] = 1
            columns.append(logits(zero | {name: one}))
    return np.stack(columns, 1), [int(np.prod(shape)) for shape in shapes.values()]


def _direct(design, sizes, targets, strength):
    """The parameters with the least penalised squares."""
    count = sizes[0]
    supports = design[:, count:] != 0 if len(sizes) > 1 else None
    variances = []
    for column in design[:, :count].T:
        if supports is None:
            rows = (design[:, :count] != 0)[column != 0].any(1)
            variances.append((column[column != 0] ** 2).sum())
            continue
        rows = supports[:, np.argmax([(column[support] != 0).sum() for support in supports.T])]
        variances.append(rows.sum() * column[rows].var())
    penalty = np.zeros(design.shape[1])
    penalty[:count] = strength * np.mean(variances)
    return np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ targets.reshape(-1).astype(np.float64))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_numbers_are_fitted_as_a_direct_solution_of_all_parameters(tmp_path, name):
    """The design is measured as the effect of each parameter on the logits of the exported model."""
    trainer = _made(name, tmp_path, loss="mse")
    shape = tuple(3 if extent == 4 else extent for extent in HEADS[name][3])
    x = inputs(name, 40)
    y = np.random.default_rng(2).normal(1, 1, (40, *shape)).astype(np.float32)
    trainer.fit((x, y), settings=_still())
    start = trainer.head_start
    assert (start.how, start.note, start.scale) == ("ridge", None, 1.0)
    proto = export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx")
    names = sorted(HEADS[name][2], reverse=True)  # the weight first
    names = [next(n for n in trainer.manifest.parameters if n.split("/")[0] == part) for part in names]
    design, sizes = _design(proto, names, x)
    expected = design @ _direct(design, sizes, y, start.strength)
    np.testing.assert_allclose(_run(proto, x).reshape(-1), expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "portable") for name in BOTH + DENSE),
        *(pytest.param(name, "ort", marks=ORT) for name in BOTH),
    ],
)
def test_classes_are_found_with_both_backends(tmp_path, name, backend):
    trainer = _made(name, tmp_path, backend=backend)
    x, places = inputs(name, 90), int(np.prod(HEADS[name][3])) // 4
    truth = _run(new_head(network(name), 3, seed=5).proto(), x)
    axis = 1 if name != "tokens" else 2
    y = truth.argmax(axis)
    rows = trainer.fit((x, y), settings=_still(validation=0.2))
    start = trainer.head_start
    assert start.rows == 72 * places
    assert start.how == "logistic"
    assert start.accuracy > 0.6
    assert rows[0]["eval_accuracy"] > 0.6
    logits = _run(export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx"), x)
    assert (logits.argmax(axis) == y).mean() > 0.7


def test_both_backends_start_alike(tmp_path, training):
    x = inputs("gemm", 60)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    found = {}
    for backend in ("portable", "ort"):
        trainer = _made("gemm", tmp_path / backend, backend=backend)
        trainer.fit((x, y), settings=_still())
        found[backend] = _run(export_model(tmp_path / backend / "artifacts", tmp_path / f"{backend}.onnx"), x)
    np.testing.assert_allclose(found["portable"], found["ort"], atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_keeps_its_random_head_and_says_why(tmp_path, name):
    classes = 3
    model = new_head(network(name), classes, keep_tail=True)
    make_artifacts(model, select(model, strategy="head"), tmp_path / "artifacts", loss="mse", check=False)
    trainer = Trainer(tmp_path / "artifacts")
    shape = tuple(classes if extent == 4 else extent for extent in REFUSED[name][3])
    data = inputs(name, 20), np.zeros((20, *shape), np.float32)
    with pytest.raises(UsageError, match="head_init='fitted'"):
        trainer.fit(data, settings=_still())
    trainer.fit(data, settings=_still(head_init="auto"))
    assert trainer.head_start.how is None
    assert trainer.head_start.note
    before = dict(trainer.manifest.read_checkpoint(trainer.manifest.initial, "x")[0])
    after = trainer.manifest.read_checkpoint(tmp_path / "artifacts" / "training" / "last.ckpt", "x")[0]
    for parameter in trainer.manifest.parameters:
        np.testing.assert_allclose(after[parameter], before[parameter], atol=1e-12)


def test_a_head_that_is_not_new_or_not_trained_is_left_alone(tmp_path):
    x, y = inputs("gemm", 30), np.arange(30) % 4
    old = open_model(network("gemm"))
    make_artifacts(old, select(old, strategy="head"), tmp_path / "old", check=False)
    trainer = Trainer(tmp_path / "old")
    trainer.fit((x, y), settings=_still(head_init="auto"))
    assert trainer.head_start is None
    with pytest.raises(UsageError, match="not marked as new"):
        trainer.fit((x, y), settings=_still())
    model = new_head(network("gemm"), 4)
    make_artifacts(
        model, select(model, choosing=Choosing(strategy="first", head="never")), tmp_path / "body", check=False
    )
    with pytest.raises(UsageError, match="does not train the head"):
        Trainer(tmp_path / "body").fit((x, y), settings=_still())


def test_random_is_random(tmp_path):
    trainer = _made("gemm", tmp_path)
    trainer.fit((inputs("gemm", 30), np.arange(30) % 3), settings=_still(head_init="random"))
    assert trainer.head_start is None
    before = trainer.manifest.read_checkpoint(trainer.manifest.initial, "x")[0]
    after = trainer.manifest.read_checkpoint(trainer.folder / "training" / "last.ckpt", "x")[0]
    np.testing.assert_allclose(after["w"], before["w"])


def test_samples_held_out_have_no_part_in_it(tmp_path):
    x = inputs("gemm", 50)
    y = np.arange(50) % 3
    trainer = _made("gemm", tmp_path)
    trainer.fit((x, y), settings=_still(validation=0.2))
    first = trainer.manifest.read_checkpoint(trainer.folder / "training" / "last.ckpt", "x")[0]["w"]
    from adabet_onnx.data.dataset import split_rows

    _, held = split_rows(50, 0.2, 0)
    other = x.copy()
    other[held] = 100
    trainer.fit((other, y), settings=_still(validation=0.2))
    np.testing.assert_array_equal(
        trainer.manifest.read_checkpoint(trainer.folder / "training" / "last.ckpt", "x")[0]["w"], first
    )


def test_ignored_labels_and_rows_that_are_too_many(tmp_path, monkeypatch):
    x = inputs("pixels", 12)
    y = np.random.default_rng(0).integers(0, 3, (12, 6, 6))
    y[:, 0] = -100
    y[0] = 7
    trainer = _made("pixels", tmp_path, ignore_label=7)
    trainer.fit((x, y), settings=_still())
    assert trainer.head_start.rows == 11 * 30
    monkeypatch.setattr(head_rows, "MOST_ROWS", 50)
    trainer.fit((x, y), settings=_still())
    assert trainer.head_start.rows == 50
    assert "a random part" in trainer.head_start.note


@pytest.mark.parametrize("rate", [0.001, None])
def test_validation_of_which_every_label_is_ignored_has_no_loss(tmp_path, rate):
    trainer, x = _made("tokens", tmp_path), inputs("tokens", 60)
    y = np.full((60, 5), -100)
    training, _ = split_rows(60, 0.1, 0)
    y[training] = np.random.default_rng(0).integers(0, 3, (54, 5))
    rows = trainer.fit((x, y), settings=Settings(epochs=8, batch_size=10, learning_rate=rate))
    assert [row["eval_loss"] for row in rows] == [None] * 9
    y[training] = -100
    with pytest.raises(DataError, match="every label"):
        trainer.fit((x, y), settings=Settings(epochs=8, learning_rate=rate))


def test_absent_classes_are_improbable_before_and_after(tmp_path):
    x, y = inputs("gemm", 60), np.arange(60) % 2
    trainer = _made("gemm", tmp_path, classes=5)
    trainer.fit((x, y), settings=_still())
    logits = _run(export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx"), x)
    assert logits[:, 2:].max() < logits[:, :2].max(1).min()
    assert logits[:, 2:].std(0).max() < 1e-5


def test_a_training_goes_on_with_what_it_began_with(tmp_path):
    x = inputs("gemm", 60)
    y = (x[:, 0] > 0).astype(int)
    whole, parted = (_made("gemm", tmp_path / part) for part in ("whole", "parted"))
    how = Settings(epochs=3, schedule="constant")
    expected = whole.fit((x, y), settings=how)
    parted.fit((x, y), settings=Settings(epochs=1, schedule="constant"))
    start = parted.head_start
    again = Trainer(parted.folder)
    rows = again.fit((x, y), epochs=3, resume=True)
    assert again.head_start == start == whole.head_start
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in expected]
    assert rows[0]["eval_loss"] < 0.69


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("rate", [0.01, None])
def test_epochs_after_none_are_as_if_they_had_been_wanted_at_once(tmp_path, schedule, rate):
    """A head that is only fitted has no cap on its scale, with which training would learn nothing."""
    x, rows = inputs("gemm", 120), {}
    y = _run(new_head(network("gemm"), 3, seed=5).proto(), x).argmax(1)
    how = Settings(schedule=schedule, learning_rate=rate, batch_size=10, epochs=0)
    for part in ("at once", "later"):
        trainer = _made("gemm", tmp_path / part)
        if part == "later":
            trainer.fit((x, y), settings=how)
            free = trainer.head_start
        rows[part] = (
            trainer.fit((x, y), settings=how, epochs=4)
            if part == "at once"
            else trainer.fit((x, y), epochs=4, resume=True)
        )
    assert trainer.head_start.scale < free.scale
    assert [{**row, "seconds": 0} for row in rows["later"]] == [{**row, "seconds": 0} for row in rows["at once"]]


def test_class_weights_weigh_rows(tmp_path):
    x = inputs("gemm", 90)
    y = (x[:, 0] > 1).astype(int)
    trainer = _made("gemm", tmp_path)
    found = []
    for weights in ([1.0, 1.0, 1.0], [1.0, 30.0, 1.0]):
        trainer.manifest.content["class_weights"] = weights
        trainer.fit((x, y), settings=_still())
        logits = _run(export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx", check=False), x)
        found.append((logits.argmax(1) == 1).sum())
    assert found[1] > found[0]


def test_a_graph_that_cannot_be_run_is_no_reason_to_fail(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise ModelError("running the head's part failed")

    trainer = _made("pooled, then the head", tmp_path)
    monkeypatch.setattr(head_rows.HeadRows, "all", broken)
    trainer.fit((inputs("pooled, then the head", 30), np.arange(30) % 3), settings=_still(head_init="auto"))
    assert "failed" in str(trainer.head_start)


def test_what_is_said_of_it(tmp_path):
    x = inputs("gemm", 60)
    trainer = _made("gemm", tmp_path)
    trainer.fit((x, (x[:, 0] > 0).astype(int)), settings=_still(head_init="auto"))
    said = str(trainer.head_start)
    assert said.endswith("was fitted before training")
    stored = json.loads(json.dumps(trainer.head_start.to_json()))
    assert (stored["how"], stored["rows"], stored["features"]) == ("logistic", 60, 6)
    assert stored["accuracy"] == trainer.head_start.accuracy


def test_an_unknown_start_is_refused():
    with pytest.raises(UsageError, match="head_init"):
        Settings(head_init="zero")


@pytest.mark.slow
def test_trials_of_rates_start_with_a_head_that_has_not_seen_what_judges_them(tmp_path, monkeypatch):
    """Nor near duplicates; the training itself starts with the head fitted to all of its samples."""
    trainer, seen, to = _made("gemm", tmp_path), [], head_start.HeadFit.fit
    x = inputs("gemm", 100)
    x = np.concatenate([x, x + 1e-6])  # each twice
    y = _run(new_head(network("gemm"), 3, seed=5).proto(), x).argmax(1)

    def noted(fit, samples):
        seen.append((set(samples.tolist()), fit.groups))
        return to(fit, samples)

    monkeypatch.setattr(head_start.HeadFit, "fit", noted)
    settings = Settings(epochs=8, batch_size=20, validation=0.2)
    rows = trainer.fit((x, y), settings=settings)
    (whole, groups), (part, _) = seen
    assert trainer.rates.samples == pytest.approx(60, abs=3)
    assert len(whole) == 160
    judged = set(range(200)) - part
    assert len(judged) >= trainer.rates.samples
    assert (groups[:100] == groups[100:]).mean() > 0.9
    assert not {groups[sample] for sample in part} & {groups[sample] for sample in judged}
    found = trainer.rates.rate
    again = Trainer(tmp_path / "artifacts").fit((x, y), settings=settings, learning_rate=found)
    assert [row["eval_loss"] for row in again] == [row["eval_loss"] for row in rows]


def test_all_views_of_a_sample_are_rows_of_it(tmp_path):
    model = new_head(tiny.conv_net(), 3)
    make_artifacts(model, select(model, strategy="head"), tmp_path / "a", check=False)
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    settings = Settings(epochs=1, learning_rate=STILL, validation=0.25, augment=("crop",), views=3)
    trainer = Trainer(tmp_path / "a")
    trainer.fit((x, np.arange(40) % 3), settings=settings, preprocessing=Preprocessing(preset="unit"))
    assert trainer.head_start.rows == 30 * 3


def test_weights_for_features_that_tell_little_are_not_large_where_early_layers_are_trained(tmp_path):
    """They would amplify changes of those layers; the predicted classes stay the same."""
    model = new_head(tiny.mlp(), 3)
    x = 1e-3 * np.random.default_rng(0).standard_normal((60, *model.inputs[0].shape[1:])).astype(np.float32)
    y = x.reshape(60, -1)[:, :3].argmax(1)
    found = {}
    for name, layers in {"head": [model.head.name], "all": ["*"]}.items():
        made = tmp_path / name
        make_artifacts(model, select(model, choosing=Choosing(layers=layers)), made, check=False)
        trainer = Trainer(made)
        trainer.fit((x, y), settings=_still())
        start, last = trainer.head_start, made / "training" / "last.ckpt"
        values, _ = trainer.manifest.read_checkpoint(last, "x")
        weight = next(values[parameter.name] for parameter in model.head.parameters if len(parameter.shape) == 2)
        size = float(np.sqrt((weight**2).mean()) * np.sqrt(3 * start.features))
        found[name] = start, size, evaluate(made, (x, y))["accuracy"]
    assert found["head"][1] > 20
    assert found["all"][1] == pytest.approx(10, rel=0.01)
    assert found["all"][0].scale < found["head"][0].scale
    assert found["all"][0].scale < found["all"][0].asked
    assert found["all"][2] == found["head"][2]
