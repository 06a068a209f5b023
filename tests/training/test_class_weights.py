"""Class weights in the cross-entropy: graphs and gradients against torch, numbers against scikit-learn, and errors."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from command_line import command_of
from models import tiny
from portable_trainings import LABELS, dense_net, made, torch_training

from adabet_onnx import (
    DataError,
    RecordError,
    Settings,
    Trainer,
    UsageError,
    evaluate,
    make_artifacts,
    new_head,
    open_model,
    select,
)
from adabet_onnx.data.dataset import split_rows
from adabet_onnx.trainability.choices import Choices, choose_backend
from adabet_onnx.trainability.class_weights import balanced
from adabet_onnx.training.baseline_loss import baseline_loss, minimum_loss
from adabet_onnx.training.exact_loss import exact_loss
from adabet_onnx.training.manifest import load_manifest

pytestmark = pytest.mark.usefixtures("checked_here")
WEIGHTS = {"all": (0.5, 1.0, 3.0, 2.0), "one without": (0.0, 1.5, 0.2, 4.0)}


def network(kind):
    return tiny.conv_net() if kind == "vector" else dense_net(kind == "pixels")


def batch(rng, kind):
    shape, classes = LABELS[kind]
    x = rng.standard_normal((8, *open_model(network(kind)).inputs[0].shape[1:])).astype(np.float32)
    labels = rng.integers(0, classes, shape)
    if kind != "vector":
        labels[rng.random(shape) < 0.2] = -100
    return {"input": x}, labels


def torch_loss(kind, weights, smoothing):
    import torch
    from torch.nn.functional import cross_entropy

    def loss(logits, labels):
        logits = logits.movedim(-1, 1) if kind == "tokens" else logits
        return cross_entropy(logits, labels, torch.tensor(weights, dtype=logits.dtype), label_smoothing=smoothing)

    return loss


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_steps_equal_torch(kind, weights, smoothing, tmp_path, torch_oracle, rng):
    import torch

    choices = {"optimizer": "sgd", "label_smoothing": smoothing, "class_weights": weights}
    manifest = made(network(kind), tmp_path / "a", **choices)
    batches = [batch(rng, kind) for _ in range(6)]
    loss = torch_loss(kind, weights, smoothing)
    expected = torch_training(torch_oracle, manifest, batches, loss, torch.optim.SGD, 0.05)
    session = manifest.session(manifest.initial)
    losses = [session.step(feeds, labels, 0.05)[0] for feeds, labels in batches]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_gradient_equals_torch_also_gathered_in_uneven_parts(kind, smoothing, tmp_path, torch_oracle, rng):
    import torch

    weights = WEIGHTS["one without"]
    manifest = made(network(kind), tmp_path / "a", check=False, label_smoothing=smoothing, class_weights=weights)
    feeds, labels = batch(rng, kind)
    labels[5:6] = 0  # a micro-batch in which no label has a weight: with smoothing, it still has a gradient
    model = onnx.load(manifest.file("model"))
    stored = {t.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(t))) for t in model.graph.initializer}
    given = {k: v.double() if v.is_floating_point() else v for k, v in stored.items()}
    leaves = {name: given[name].requires_grad_(True) for name in manifest.parameters}
    x = {"input": torch.from_numpy(feeds["input"]).double()}
    logits = torch_oracle.execute(model, {**given, **x})[manifest.content["model_logits"]]
    value = torch_loss(kind, weights, smoothing)(logits, torch.from_numpy(labels))
    value.backward()
    session = manifest.session(manifest.initial)
    for parts in ([slice(0, 8)], [slice(0, 5), slice(5, 6), slice(6, 8)]):
        session.forget_gradients()
        for part in parts:
            loss, found = session.gradients({"input": feeds["input"][part]}, labels[part])
        for name, leaf in leaves.items():
            np.testing.assert_allclose(session.gradient(name), leaf.grad.numpy(), rtol=2e-4, atol=2e-6, err_msg=name)
    loss, found = session.evaluate(feeds, labels)
    assert loss == pytest.approx(value.item(), rel=1e-5)
    assert exact_loss(manifest, found, labels) == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"profile": "webgpu"}, {"recompute": True}, {"batch_norm": "batch"}], ids=str)
def test_every_form_of_a_step_has_them(how, tmp_path):
    made(tiny.conv_net(), tmp_path / "a", class_weights=WEIGHTS["one without"], **how)
    dense = made(dense_net(True), tmp_path / "b", class_weights=WEIGHTS["all"], **how)
    assert dense.content["checked"]["gradient"]["parameters"] == 4


def test_parts_of_an_update_and_losses_of_an_epoch_are_those_of_the_whole(tmp_path, rng):
    """Trained values and losses are the same in batches of 30 and in micro-batches of 7."""
    x, y = rng.standard_normal((30, 3, 8, 8)).astype(np.float32), rng.integers(0, 4, 30)
    found = []
    for size, parts in ((30, 1), (7, 5)):
        manifest = made(
            tiny.conv_net(), tmp_path / str(size), check=False, optimizer="sgd", class_weights=(0.0, 1.0, 0.1, 5.0)
        )
        how = Settings(epochs=2, batch_size=size, accumulate=parts, validation=0.2, schedule="constant")
        rows = Trainer(manifest.folder).fit((x, y), settings=how)
        found.append([row[key] for row in rows for key in ("train_loss", "eval_loss") if row[key] is not None])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_labels_without_weight_change_nothing(tmp_path, rng):
    manifest = made(tiny.conv_net(), tmp_path / "a", check=False, optimizer="sgd", class_weights=(0, 1, 1, 1))
    session = manifest.session(manifest.initial)
    before = {name: session.parameter(name) for name in manifest.parameters}
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert session.step({"input": x}, np.zeros(2, np.int64), 0.1)[0] == 0
    assert all(np.array_equal(before[name], session.parameter(name)) for name in before)


def test_balanced_is_that_of_scikit_learn(rng):
    from sklearn.utils.class_weight import compute_class_weight

    labels = rng.choice(5, 200, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    np.testing.assert_allclose(balanced(labels, 5), expected)
    absent = np.where(labels == 1, 0, labels)
    expected = compute_class_weight("balanced", classes=np.unique(absent), y=absent)
    np.testing.assert_allclose(np.delete(balanced(absent, 5), 1), expected)
    assert balanced(absent, 5)[1] == 1
    dense = np.array([[0, 0, -100], [1, -100, 0]])
    assert balanced(dense, 2) == pytest.approx((4 / (2 * 3), 4 / 2))


def test_balanced_is_resolved_in_the_manifest(tmp_path, rng):
    x, y = rng.standard_normal((40, 3, 8, 8)).astype(np.float32), np.repeat([0, 1, 2, 3], [20, 10, 6, 4])
    model = open_model(tiny.conv_net())
    chosen = select(model, strategy="head")
    manifest = make_artifacts(
        model, chosen, tmp_path / "a", choices=Choices(class_weights="balanced"), calibrate=(x, y)
    )
    assert manifest.content["class_weights"] == pytest.approx([0.5, 1, 40 / 24, 2.5])
    assert manifest.class_weights == tuple(load_manifest(tmp_path / "a").content["class_weights"])
    with pytest.raises(UsageError, match="counts the labels of the training data"):
        make_artifacts(model, chosen, tmp_path / "b", choices=Choices(class_weights="balanced"))
    with pytest.raises(DataError, match="no labels"):
        make_artifacts(model, chosen, tmp_path / "b", choices=Choices(class_weights="balanced"), calibrate=x)
    assert not (tmp_path / "b").exists()


def test_weights_by_name(tmp_path, rng):
    data = {"x": rng.standard_normal((8, 3, 8, 8)).astype(np.float32), "y": np.arange(8) % 4, "classes": list("abcd")}
    model = open_model(tiny.conv_net())
    chosen = select(model, strategy="head")
    made = make_artifacts(
        model, chosen, tmp_path / "a", choices=Choices(class_weights={"c": 2, "a": 0.5}), calibrate=data
    )
    assert made.class_weights == (0.5, 1, 2, 1)
    with pytest.raises(UsageError, match="a class 'e', but the classes are a, b, c, d"):
        make_artifacts(model, chosen, tmp_path / "b", choices=Choices(class_weights={"e": 2}), calibrate=data)
    with pytest.raises(UsageError, match="have no known names"):
        make_artifacts(model, chosen, tmp_path / "b", choices=Choices(class_weights={"c": 2}))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, 2), r"has 2 numbers, but .* has 4 classes"),
        ((0, 0, 0, 0), "at least one class"),
        ((1, -1, 1, 1), "numbers from 0"),
        ((1, float("nan"), 1, 1), "numbers from 0"),
        ((1, float("inf"), 1, 1), "numbers from 0"),
        ("balance", "unknown class weights 'balance'"),
        ({"a": "much"}, "numbers from 0"),
        (3, "must be a list of numbers"),
    ],
)
def test_wrong_weights_are_refused(weights, message, tmp_path):
    model = open_model(tiny.conv_net())
    with pytest.raises(UsageError, match=message):
        make_artifacts(model, select(model, strategy="head"), tmp_path / "a", choices=Choices(class_weights=weights))


def test_who_lacks_them():
    with pytest.raises(UsageError, match=r"has no class weights\. Use `backend='portable'`"):
        choose_backend("ort", Choices(class_weights=(1, 2)))
    assert choose_backend("auto", Choices(class_weights="balanced")) == "portable"
    with pytest.raises(UsageError, match="belong to cross-entropy, not to mse"):
        Choices(loss="mse", class_weights="balanced")


def test_a_damaged_manifest_is_refused_and_an_older_one_read(tmp_path):
    folder = made(tiny.conv_net(), tmp_path / "a", check=False, class_weights=(1, 2, 3, 4)).folder
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for wrong in ([1, 2, 3], [0, 0, 0, 0], [1, 2, 3, -4], [1, 2, 3, "4"]):
        path.write_text(json.dumps({**content, "class_weights": wrong}))
        with pytest.raises(RecordError, match="'class_weights' must be a number for each class"):
            load_manifest(folder)
    del content["class_weights"]
    path.write_text(json.dumps(content))
    assert load_manifest(folder).class_weights is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_guessing_is_the_least_of_a_constant_answer(smoothing, rng):
    import torch
    from scipy.optimize import minimize
    from torch.nn.functional import cross_entropy

    labels, weights = rng.choice(3, 100, p=[0.7, 0.2, 0.1]), (0.3, 2.0, 1.0)

    def of(logits):
        x = torch.from_numpy(np.atleast_2d(logits))
        x = x.expand(100, 3) if len(x) == 1 else x
        how = {"weight": torch.tensor(weights, dtype=torch.float64), "label_smoothing": smoothing}
        return cross_entropy(x, torch.from_numpy(labels), **how).item()

    assert baseline_loss("cross-entropy", labels, 3, smoothing, weights) == pytest.approx(
        minimize(of, np.zeros(3)).fun, rel=1e-6
    )
    target = np.full((3, 3), smoothing / 3) + np.eye(3) * (1 - smoothing)
    target = target * weights / (target @ weights)[:, None]
    perfect = of(np.log(np.maximum(target, 1e-300))[labels])
    assert minimum_loss("cross-entropy", labels, 3, smoothing, weights) == pytest.approx(perfect, abs=1e-9)


def test_evaluate_weighs_nothing(tmp_path, rng):
    """The loss of an evaluation depends only on the data, so that models can be compared."""
    x, y = rng.standard_normal((20, 3, 8, 8)).astype(np.float32), np.arange(20) % 4
    losses = [
        evaluate(str(made(tiny.conv_net(), tmp_path / str(i), check=False, class_weights=weights).folder), (x, y))
        for i, weights in enumerate([None, (1, 5, 1, 0.1)])
    ]
    assert losses[0] == losses[1]


def test_rare_classes_gain_by_weights(tmp_path, monkeypatch, capfd):
    """On the command line: recall rises for a class with a tenth of the samples."""
    rng = np.random.default_rng(3)
    y = rng.choice(3, 600, p=[0.8, 0.15, 0.05])
    x = (rng.standard_normal((600, 10)) * 2 + np.eye(3, 10)[y] * 2).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=x[:400], y_train=y[:400], x_test=x[400:], y_test=y[400:])
    onnx.save(tiny.mlp(), tmp_path / "m.onnx")
    found, command = {}, command_of(monkeypatch, capfd)
    for name, more in (("plain", []), ("balanced", ["--class-weights", "balanced"])):
        out = tmp_path / name
        words = ["run", tmp_path / "m.onnx", tmp_path / "d.npz", "-o", out, "--epochs", 10, "--lr", 0.01, "-q"]
        words += ["--strategy", "all", "--no-measure", "--no-check", "--save-config", out / "c.toml", *more]
        command(*words)
        manifest = load_manifest(out / "artifacts")
        predicted = evaluate(str(out / "adapted.onnx"), (x[400:][y[400:] == 2], y[400:][y[400:] == 2]))
        found[name] = predicted["accuracy"]
        assert manifest.class_weights == (None if name == "plain" else pytest.approx(balanced(y[:400], 3)))
    assert found["balanced"] > found["plain"] + 0.2
    assert 'class-weights = "balanced"' in (tmp_path / "balanced" / "c.toml").read_text()
    command("run", "--config", tmp_path / "balanced" / "c.toml", "--resume", "-q")  # it resumes with the same options


@pytest.mark.slow
def test_names_numbers_and_what_comes_next(tmp_path, monkeypatch, capfd):
    """By name on the command line and in a file; the proposed comparison has them too, and accepts them."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((60, 10)).astype(np.float32), np.arange(60) % 3
    names = ["cat", "dog", "hen"]
    command = command_of(monkeypatch, capfd)
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:], classes=names)
    onnx.save(tiny.mlp(), "m.onnx")
    run = ["run", "m.onnx", "d.npz", "-o", "out", "--epochs", 1, "--strategy", "head", "--no-measure", "--no-check"]
    said = command(*run, "--class-weights", "dog=2,hen=0.5", "--save-config", "c.toml").out
    assert "--class-weights dog=2,hen=0.5" in said.splitlines()[-1]
    assert load_manifest(tmp_path / "out" / "artifacts").class_weights == (1, 2, 0.5)
    assert 'class-weights = "dog=2,hen=0.5"' in (tmp_path / "c.toml").read_text()
    command("run", "--config", "c.toml", "-o", "again", "-q")
    assert load_manifest(tmp_path / "again" / "artifacts").class_weights == (1, 2, 0.5)
    text = (tmp_path / "c.toml").read_text().replace('"dog=2,hen=0.5"', "[1, 2.5, 0]")
    (tmp_path / "c.toml").write_text(text)
    command("run", "--config", "c.toml", "-o", "numbers", "-q")
    assert load_manifest(tmp_path / "numbers" / "artifacts").class_weights == (1, 2.5, 0)
    assert "is not a list NAME=NUMBER" in command(*run, "--class-weights", "dog=2,hen", code=2).err
    assert "the classes are cat, dog, hen" in command(*run, "--class-weights", "cow=2", code=2).err
    compare = ["compare", "m.onnx", "d.npz", "-o", "c", "--strategies", "head,all", "--seeds", 1, "--epochs", 1, "-q"]
    compare += ["--rates", "0.01", "--jobs", 1, "--class-weights", "balanced"]
    command(*compare)
    plan = json.loads((tmp_path / "c" / "plan.json").read_text())
    assert plan["choices"]["class_weights"] == pytest.approx(balanced(y[:40], 3))
    command(*compare)  # an interrupted training continues
    assert "class_weights" in command(*compare[:-1], "1,1,2", code=2).err


@pytest.mark.slow
def test_what_a_step_takes_is_told_before_weights_are_known(tmp_path):
    from adabet_onnx.cost.overview import overview

    model = open_model(tiny.conv_net())
    chosen, plain, weighed = select(model, strategy="all"), Choices(), Choices(class_weights="balanced")
    costs = [overview(model, chosen, batch_size=4, choices=choices) for choices in (plain, weighed)]
    sizes = [found.selection.prediction.step_multiply_adds for found in costs]
    assert sizes[0] == sizes[1]
    measured = overview(model, chosen, batch_size=4, choices=weighed, measure=True)
    assert measured.selection.measured_bytes is not None
    with pytest.raises(UsageError, match="has 2 numbers, but there are 4 classes"):
        overview(model, chosen, batch_size=4, choices=Choices(class_weights=(1, 2)))


# If no label counts.


def _weighed(folder, weights=(0.0, 0.0, 0.0, 1.0)):
    model = new_head(open_model(tiny.conv_net()), 4, seed=1)
    make_artifacts(model, select(model, strategy="head"), folder, check=False, choices=Choices(class_weights=weights))
    return Trainer(folder)


@pytest.mark.parametrize("head_init", ["auto", "random"])
def test_data_of_which_no_label_has_weight_is_refused(head_init, tmp_path, rng):
    x, y = rng.normal(size=(40, 3, 8, 8)).astype(np.float32), np.arange(40) % 3
    with pytest.raises(DataError, match=r"every label that would be trained on is ignored, or of a class of weight 0"):
        _weighed(tmp_path / "a").fit((x, y), settings=Settings(epochs=2, head_init=head_init))


def test_validation_of_which_no_label_has_weight_has_no_loss(tmp_path, rng):
    """This differs from a loss that is not finite."""
    x, y = rng.normal(size=(60, 3, 8, 8)).astype(np.float32), np.arange(60) % 3
    training, held_out = split_rows(60, 0.1, 0)
    y[training[0]] = 3
    trainer = _weighed(tmp_path / "a")
    rows = trainer.fit((x, y), settings=Settings(epochs=8, batch_size=10))
    assert [row["eval_loss"] for row in rows] == [None] * 9
    assert not (y[held_out] == 3).any()
    assert rows[-1]["eval_accuracy"] is not None
    assert trainer.rates.kept in ("0 samples are too few to judge by", "1 sample is too few to judge by")
    with pytest.raises(DataError, match=r"held out for early stopping is ignored.*Raise `validation`, or leave out"):
        trainer.fit((x, y), settings=Settings(epochs=8, patience=2))
