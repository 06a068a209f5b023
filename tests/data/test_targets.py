"""Labels against outputs: equal shapes up to axes of size 1, or rejected with both shapes; never broadcast."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import onnx
import pytest
from models import shaped, tiny

from adabet_onnx import DataError, Trainer, UsageError, export_model, make_artifacts, open_model
from adabet_onnx.adapting import Adapting
from adabet_onnx.cli.main import main
from adabet_onnx.data.dataset import split_off
from adabet_onnx.data.labels import fit_labels
from adabet_onnx.data.preprocess import NONE
from adabet_onnx.data.source import open_data
from adabet_onnx.model.logits_axes import class_axis, label_shape
from adabet_onnx.pipeline import adapt
from adabet_onnx.selection.record import Selection
from adabet_onnx.study.fisher import fisher_information
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.trainability.preflight import check_model
from adabet_onnx.training.evaluation import evaluate, predict
from adabet_onnx.training.settings import Settings

COUNT = 7
OUTPUTS = [(), (1,), (3,), (4, 1), (4, 3), (1, 4, 2), (3, 1), (2, 4, 3)]
TARGETS = [*OUTPUTS, (1, 1), (4,), (1, 4), (4, 2), (3, 4), (2, 12), (24,)]
CLASSES = {(3,): [(), (1,)], (4, 3): [(4,), (4, 1), (1, 4)], (2, 4, 3): [(4, 3), (1, 4, 3)], (3, 1): [(3,), (3, 1)]}


def whole(model):
    """A selection of everything."""
    layers = tuple(layer.name for layer in model.layers)
    names = dict.fromkeys(parameter.name for layer in model.layers for parameter in layer.parameters)
    return Selection(model.sha256, "all", layers, tuple(names))


def without_ones(shape):
    return tuple(extent for extent in shape if extent != 1)


def by_numpy(loss, outputs, targets):
    """The loss, from its definition, in float64."""
    x, t = outputs.astype(np.float64), targets.astype(np.float64).reshape(outputs.shape)
    if loss == "bce-with-logits":
        p = 1 / (1 + np.exp(-x))
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    return {"mse": np.square(x - t), "l1": np.abs(x - t)}[loss].mean()


def cross_entropy(outputs, labels, axis):
    """The same of class indices."""
    x = np.moveaxis(outputs.astype(np.float64), axis, -1)
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(p, labels.reshape(x.shape[:-1])[..., None], -1)).mean()


def both_named(found, expected):
    """A pattern for a message with both shapes, the expected one first."""
    first, second = (re.escape(f"({', '.join(map(str, shape))}") for shape in (("N", *expected), (COUNT, *found)))
    return f"{first},?\\).*{second},?\\)"


@pytest.fixture(params=["portable", "ort"])
def backend(request):
    if request.param == "ort":
        request.getfixturevalue("training")
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "l1", "bce-with-logits"])
@pytest.mark.parametrize("shape", OUTPUTS, ids=str)
def test_the_first_training_loss_is_numpys_or_both_shapes_are_named(shape, loss, backend, tmp_path, rng):
    proto = shaped.outputs_of(shape)
    model = open_model(proto)
    manifest = make_artifacts(model, whole(model), tmp_path / "a", backend=backend, loss=loss, check=False)
    session = manifest.session(manifest.initial)
    x = rng.standard_normal((COUNT, shaped.FEATURES)).astype(np.float32)
    outputs = tiny.run(proto, x)
    accepted = 0
    for wanted in TARGETS:
        y = rng.random((COUNT, *wanted)).astype(np.float32)
        if without_ones(wanted) == without_ones(shape):
            accepted += 1
            labels = fit_labels(y, loss, manifest.logits_shape, "the data", manifest.class_axis)
            found, _ = session.gradients({"input": x}, labels)
            assert found == pytest.approx(by_numpy(loss, outputs, y), rel=1e-5)
            session.forget_gradients()
            if backend == "portable":
                found = evaluate(model, open_data((x, y), model).train, preprocessing=NONE, loss=loss)["loss"]
                assert found == pytest.approx(by_numpy(loss, outputs, y), rel=1e-5)
            continue
        with pytest.raises(DataError, match=both_named(wanted, shape)):
            fit_labels(y, loss, manifest.logits_shape, "the data", manifest.class_axis)
    assert accepted >= 1


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_every_command_refuses_other_shapes(loss, backend, tmp_path, rng):
    """(N, 12, 1) against (N,) gave 0.59 or so, or an internal error."""
    proto = shaped.steps_of_one() if loss == "mse" else shaped.outputs_of((3,))
    model = open_model(proto)
    x = rng.standard_normal((COUNT, *model.inputs[0].shape[1:])).astype(np.float32)
    y, expected = (rng.random(COUNT), (12, 1)) if loss == "mse" else (rng.integers(0, 3, (COUNT, 2)), ())
    pattern = both_named(y.shape[1:], expected)
    make_artifacts(model, whole(model), tmp_path / "a", backend=backend, loss=loss, check=False)
    with pytest.raises(DataError, match=pattern):
        Trainer(tmp_path / "a").fit((x, y), preprocessing=NONE)
    with pytest.raises(DataError, match=pattern):
        evaluate(model, open_data((x, y), model).train, preprocessing=NONE, loss=loss)
    with pytest.raises(DataError, match=pattern):
        adapt(model, (x, y), tmp_path / "o", adapting=Adapting(choices=Choices(loss=loss), backend=backend))
    with pytest.raises(DataError, match=pattern):
        fisher_information(model, (x, y), preprocessing=NONE, choices=Choices(loss=loss))


@pytest.mark.parametrize("shape", CLASSES, ids=str)
def test_class_indices_fit_up_to_axes_of_one(shape, tmp_path, rng):
    proto = shaped.outputs_of(shape)
    model = open_model(proto)
    axis = 2 if shape in [(4, 3)] else 1
    chosen = 1 if shape == (3, 1) else None  # three axes: the last one would hold the classes
    make_artifacts(model, whole(model), tmp_path / "a", check=False, choices=Choices(class_axis=chosen))
    trainer = Trainer(tmp_path / "a")
    x = rng.standard_normal((COUNT, shaped.FEATURES)).astype(np.float32)
    outputs = tiny.run(proto, x)
    dense = tuple(np.delete(outputs.shape, axis)[1:])
    for wanted in [*TARGETS, (1, 4, 3)]:
        wanted = wanted if np.prod(wanted) > 1 else ()  # (N, 1) integers are read as (N,)
        y = rng.integers(0, 2, (COUNT, *wanted))
        if without_ones(wanted) == without_ones(dense):
            expected = cross_entropy(outputs, y, axis)
            rows = trainer.fit((x, y), epochs=1, batch_size=COUNT, preprocessing=NONE, settings=Settings(validation=0))
            assert rows[1]["train_loss"] == pytest.approx(expected, rel=1e-5)
            found = evaluate(
                model, open_data((x, y), model).train, preprocessing=NONE, choices=Choices(class_axis=chosen)
            )["loss"]
            assert found == pytest.approx(expected, rel=1e-5)
            continue
        with pytest.raises(DataError, match=both_named(wanted, dense)):
            trainer.fit((x, y), epochs=1, preprocessing=NONE)


def test_one_channel_of_pixels(backend, tmp_path, checked_here):
    """(N, 1, H, W) against (N, H, W): 1.4399 was printed instead of 1.4642."""
    proto = shaped.one_conv()
    x = np.random.default_rng(0).random((64, 3, 16, 16)).astype(np.float32)
    y = x.mean(1)
    expected = np.square(tiny.run(proto, x)[:, 0] - y).mean()
    model = open_model(proto)
    found = evaluate(model, open_data((x, y), model).train, preprocessing=NONE, loss="mse")["loss"]
    assert found == pytest.approx(expected, rel=1e-5)
    make_artifacts(model, whole(model), tmp_path / "a", backend=backend, loss="mse")
    rows = Trainer(tmp_path / "a").fit(
        (x, y), epochs=2, batch_size=64, preprocessing=NONE, settings=Settings(validation=0)
    )
    assert rows[1]["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert rows[2]["train_loss"] < rows[1]["train_loss"]


def test_a_number_per_sample_from_end_to_end(backend, tmp_path, monkeypatch, capsys, checked_here):
    """Outputs of shape (N,): every command; evaluate printed 0.5958 instead of 0.6113."""
    monkeypatch.chdir(tmp_path)
    proto = shaped.squeezed()
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    x = np.random.default_rng(1).random((64, 5)).astype(np.float32)
    y = x.mean(1)
    np.savez("d.npz", x=x, y=y)
    expected = np.square(tiny.run(proto, x) - y).mean()

    def say(words):
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *words.split()])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert not left.value.code, err
        return out

    assert json.loads(say("evaluate m.onnx d.npz --loss mse --json"))["loss"] == pytest.approx(expected)
    say("score m.onnx d.npz -o s.json --samples 16 --subset-size 8")
    say("select s.json -o sel.json --strategy all")
    say(f"artifacts m.onnx sel.json -o a --loss mse --backend {backend}")
    say("train a d.npz --epochs 2 --batch-size 64 --lr 0.01 --validation 0")
    first = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[1])
    assert first["train_loss"] == pytest.approx(expected, rel=1e-5)
    say("export a -o adapted.onnx")
    after = np.square(tiny.run(onnx.load("adapted.onnx"), x) - y).mean()
    assert after < expected
    assert json.loads(say("evaluate a d.npz --json"))["loss"] == pytest.approx(after, rel=1e-5)
    rows = json.loads(say("predict adapted.onnx d.npz --json"))
    np.testing.assert_allclose([row["logits"] for row in rows], tiny.run(onnx.load("adapted.onnx"), x))
    assert rows[0]["class"] is None
    say(f"run m.onnx d.npz -o o --loss mse --backend {backend} --epochs 1 --no-measure --samples 16 --subset-size 8")
    assert json.loads((tmp_path / "o" / "run.json").read_text())["before"]["loss"] == pytest.approx(expected)


def test_cross_entropy_of_a_number_per_sample_is_refused(rng):
    model = open_model(shaped.squeezed())
    x = rng.random((8, 5)).astype(np.float32)
    with pytest.raises(UsageError, match=r"shape \(N,\).*`loss='bce-with-logits'`"):
        evaluate(model, open_data((x, np.zeros(8, int)), model).train, preprocessing=NONE)
    assert "bce-with-logits" in (check_model(model).refused["portable"] or "")
    assert check_model(model, loss="mse").refused == {"portable": None, "ort": None}


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_integer_labels_of_a_model_with_one_output(shape, backend, tmp_path, rng):
    proto = shaped.outputs_of(shape)
    model = open_model(proto)
    x, y = rng.standard_normal((9, 5)).astype(np.float32), rng.integers(0, 2, 9)
    make_artifacts(model, whole(model), tmp_path / "a", backend=backend, loss="bce-with-logits", check=False)
    rows = Trainer(tmp_path / "a").fit(
        (x, y), epochs=1, batch_size=9, preprocessing=NONE, settings=Settings(validation=0)
    )
    assert rows[1]["train_loss"] == pytest.approx(by_numpy("bce-with-logits", tiny.run(proto, x), y), rel=1e-5)
    numbers = rng.integers(0, 90, 9)  # an age, say: a number like another
    found = evaluate(model, open_data((x, numbers), model).train, preprocessing=NONE, loss="mse")["loss"]
    assert found == pytest.approx(by_numpy("mse", tiny.run(proto, x), numbers), rel=1e-5)


INTEGERS = np.array([0, 1, 2, 1])
REFUSED = {
    "class indices for several outputs": (INTEGERS, "mse", ("N", 3), None, r"class indices of shape \(4,\)"),
    "labels above 1": (INTEGERS, "bce-with-logits", ("N", 1), None, "from 0 to 1, found 0 to 2"),
    "labels of -1 and 1": (np.array([-1.0, 1.0]), "bce-with-logits", ("N",), None, "from 0 to 1, found -1 to 1"),
    "one-hot": (np.eye(3)[INTEGERS], "cross-entropy", ("N", 3), None, r"numpy.argmax\(y, axis=1\)"),
    "one-hot integers": (np.eye(3, dtype=int)[INTEGERS], "cross-entropy", ("N", 3), None, "numpy.argmax"),
    "ignored samples": (np.array([0, -100, 2]), "cross-entropy", ("N", 3), None, "only per pixel or token"),
    "one output": (np.zeros(4, int), "cross-entropy", ("N", 1), None, "cross-entropy of a single class is always 0"),
    "another class axis": (
        np.zeros((4, 7), int), "cross-entropy", ("N", 3, 7), None, r"\(N, 3\).*\(4, 7\).*`class_axis=1`"
    ),
    "swapped axes": (np.zeros((4, 7, 3)), "mse", ("N", 3, 7), None, r"\(N, 3, 7\).*\(4, 7, 3\)"),
    "NaN": (np.array([0.0, np.nan]), "l1", ("N",), None, "NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_refused(case):
    labels, loss, logits, axis, words = REFUSED[case]
    with pytest.raises(DataError, match=words):
        fit_labels(labels, loss, logits, "the data", axis)


def test_labels_with_an_axis_of_one():
    assert fit_labels(INTEGERS[:, None], "cross-entropy", ("N", 3), "the data").tolist() == INTEGERS.tolist()
    pixels = np.arange(8).reshape(2, 1, 2, 2) % 3
    fitted = fit_labels(pixels, "cross-entropy", ("N", 3, 2, 2), "the data")
    np.testing.assert_array_equal(fitted, pixels[:, 0])
    one = fit_labels(np.zeros((1, 5), np.float32), "mse", ("N", 5), "the data")
    assert one.shape == (1, 5)
    with pytest.raises(DataError):  # the samples' axis is no axis of size 1
        fit_labels(np.zeros((1, 5), np.float32), "mse", ("N",), "the data")


def test_which_axis_holds_the_classes():
    assert class_axis(("N", 9), None, "cross-entropy") == 1
    assert class_axis(("N", 7, 9), None, "cross-entropy") == 2
    assert class_axis(("N", 9, 4, 4), None, "cross-entropy") == 1
    assert class_axis(("N", 4, 4, 9), -1, "cross-entropy") == 3
    assert class_axis(("N", 9), None, "mse") is None
    assert label_shape(("N", 7, 9), 2) == ("N", 7)
    assert label_shape(("N", 7, 9), None) == ("N", 7, 9)
    for shape, given, loss in [
        (("N",), None, "cross-entropy"),
        (("N", 9), 0, "cross-entropy"),
        (("N", 9), -2, "cross-entropy"),
        (("N", 9), 2, "cross-entropy"),
        (("N", 9), 1, "mse"),
    ]:
        with pytest.raises(UsageError, match=r"class|cross-entropy"):
            class_axis(shape, given, loss)


def test_a_batch_needs_a_label_per_sample(backend, tmp_path, rng):
    """Without the trainer, a session must not apply one label to all samples."""
    model = open_model(shaped.outputs_of((3,)))
    manifest = make_artifacts(model, whole(model), tmp_path / "a", backend=backend, loss="mse", check=False)
    session = manifest.session(manifest.initial)
    x = rng.standard_normal((4, 5)).astype(np.float32)
    for run in (session.gradients, session.evaluate, lambda *given: session.step(*given, 0.1)):
        with pytest.raises(DataError, match=r"\(4, 5\).*\(1, 3\)"):
            run({"input": x}, np.zeros((1, 3), np.float32))


def test_two_axes_that_may_hold_the_classes_are_asked_about(rng, tmp_path):
    """As many steps as classes: (N, 4, 4) may be (N, steps, classes) or (N, classes, steps)."""
    proto = shaped.outputs_of((4, 4))
    model = open_model(proto)
    x, y = rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 4, (6, 4))
    data = open_data((x, y), model).train
    words = r"axis 1 of the logits \(N, 4, 4\) as well as on axis 2.*`class_axis=1` or `class_axis=2`"
    with pytest.raises(DataError, match=words):
        evaluate(model, data, preprocessing=NONE)
    make_artifacts(model, whole(model), tmp_path / "a", check=False)
    with pytest.raises(DataError, match=words):
        Trainer(tmp_path / "a").fit((x, y), preprocessing=NONE)
    for axis in (1, 2):
        expected = cross_entropy(tiny.run(proto, x), y, axis)
        assert evaluate(model, data, preprocessing=NONE, choices=Choices(class_axis=axis))["loss"] == pytest.approx(
            expected, rel=1e-5
        )
        make_artifacts(model, whole(model), tmp_path / "b", check=False, choices=Choices(class_axis=axis))
        rows = Trainer(tmp_path / "b").fit(
            (x, y), epochs=1, batch_size=6, preprocessing=NONE, settings=Settings(validation=0)
        )
        assert rows[1]["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_ignored_labels_count_for_nothing_however_a_batch_is_cut(tmp_path, rng):
    model = open_model(shaped.outputs_of((4, 3)))
    make_artifacts(model, whole(model), tmp_path / "a", check=False, choices=Choices(optimizer="sgd"))
    x = rng.standard_normal((8, shaped.FEATURES)).astype(np.float32)
    y = rng.integers(0, 3, (8, 4))
    y[:3, 1:] = -100
    y[7] = -100
    losses, adapted = [], []
    for size, parts in ((8, 1), (2, 4)):
        rows = Trainer(tmp_path / "a").fit(
            (x, y), epochs=1, batch_size=size, learning_rate=0.5, settings=Settings(accumulate=parts, validation=0)
        )
        losses.append(rows[-1]["train_loss"])
        adapted.append(tiny.run(export_model(tmp_path / "a", tmp_path / "adapted.onnx", check=False), x))
    outputs, counts = tiny.run(shaped.outputs_of((4, 3)), x), y != -100
    expected = cross_entropy(outputs[counts], y[counts], 1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(adapted[0], adapted[1], atol=1e-5)
    assert np.abs(adapted[0] - outputs).max() > 0.1


def test_the_validation_loss_is_that_of_all_labels_that_count(tmp_path, rng):
    model = open_model(shaped.outputs_of((4, 3)))
    manifest = make_artifacts(model, whole(model), tmp_path / "a", check=False)
    x = rng.standard_normal((400, shaped.FEATURES)).astype(np.float32)
    y = rng.integers(0, 3, (400, 4))
    y[:200, 1:] = -100
    held = split_off(open_data((x, y), model).train, 0.5, 0)[1]
    rows = Trainer(manifest.folder).fit((x, y), epochs=1, settings=Settings(validation=0.5))
    kept = held.labels != -100
    outputs = tiny.run(shaped.outputs_of((4, 3)), held.rows.fetch(np.arange(len(held)))[""])
    assert rows[0]["eval_loss"] == pytest.approx(cross_entropy(outputs[kept], held.labels[kept], 1), rel=1e-5)


def test_advice_for_labels_that_are_no_indices():
    several = np.array([[1, 1, 0], [0, 0, 0]])
    for y, advice in ((several, "`loss='bce-with-logits'`"), (np.eye(3), "argmax")):
        with pytest.raises(DataError, match=advice):
            fit_labels(y, "cross-entropy", ("N", 3), "the data")


def test_classes_behind_axes_of_one_are_predicted(rng):
    x = rng.standard_normal((5, shaped.FEATURES)).astype(np.float32)
    outputs = tiny.run(shaped.outputs_of((3, 1, 1)), x).reshape(5, 3).astype(np.float64)
    rows = predict(open_model(shaped.outputs_of((3, 1, 1))), x, preprocessing=NONE)
    assert [row["class"] for row in rows] == outputs.argmax(1).tolist()
    expected = (np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose([row["probability"] for row in rows], expected, rtol=1e-5)
