"""Gradients and training steps of both backends against torch, and what a step may change."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import tiny

from adabet_onnx import make_artifacts, open_model, score, select
from adabet_onnx.model.head import new_head
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.samples import sample_feeds

pytestmark = pytest.mark.usefixtures("checked_here")

TOLERANCE = 1e-4


@pytest.fixture(params=["portable", "ort"])
def backend(request):
    if request.param == "ort":
        request.getfixturevalue("training")
    return request.param


def selections(model, images):
    """Early, late, spread and everything; with scores, so that adabet's own choice is among them."""
    scores = score(model, images, scoring=Scoring(samples=32, subsets=2))
    yield "adabet", select(scores)
    yield "all", select(scores, strategy="all")
    yield "first", select(scores, strategy="first")
    yield "random", select(scores, strategy="random", rho=0.2)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))


def compare(model, selection, folder, oracle, backend, batch=2, loss="cross-entropy", targets=None):
    """Gradients of the artifacts against torch's on the graph before any repair.

    A Relu whose input is zero up to rounding may be active in one and inactive in the other (about one input in four on
    ResNet-20, worth 1e-4): up to three inputs are tried, of which one must be free of that.
    """
    manifest = make_artifacts(model, selection, folder, backend=backend, loss=loss, check=False)
    original = onnx.load(manifest.file("model"))
    session = manifest.session(manifest.initial)
    for seed in range(3):
        feeds = sample_feeds(manifest, batch, seed)
        labels = np.random.default_rng(1).integers(0, manifest.num_outputs, batch) if targets is None else targets
        session.forget_gradients()
        ours, _ = session.gradients(feeds, labels)
        logits = manifest.content["model_logits"]
        theirs, expected = oracle.gradients(original, feeds, labels, manifest.parameters, loss=loss, logits=logits)
        assert ours == pytest.approx(theirs, rel=1e-5)
        errors = {name: relative(session.gradient(name), expected[name]) for name in manifest.parameters}
        if max(errors.values()) <= TOLERANCE:
            return manifest, session, feeds, labels
    pytest.fail(f"gradients differ from torch's: {errors}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("resnet20_cifar10_bn", 20),
        ("resnet20_cifar10_folded", None),
        ("mobilenetv1_025_vww96_bn", 5),
        ("mobilenetv1_025_vww96_folded", None),
        ("mobilenetv2_035_imagenet128", 5),
    ],
)
def test_gradients_equal_torch_and_only_selected_parameters_change(
    shared, tmp_path, torch_oracle, backend, name, classes, rng
):
    model = open_model(shared / "models" / f"{name}.onnx")
    if classes:
        model = new_head(model, classes)
    images = rng.standard_normal((32, *model.inputs[0].shape[1:])).astype(np.float32)
    for what, selection in selections(model, images):
        manifest, session, feeds, labels = compare(model, selection, tmp_path / what, torch_oracle, backend)
        before = {key: session.parameter(key) for key in session.parameter_names()}
        assert set(before) == set(manifest.parameters)  # frozen weights are constants: there is nothing to change
        session.update(1e-2)
        assert all(not np.array_equal(before[key], session.parameter(key)) for key in manifest.parameters)
        # The original graph with the trained values in it gives the trained logits: no statistic has moved.
        adapted = onnx.load(manifest.file("model"))
        for tensor in adapted.graph.initializer:
            if tensor.name in before:
                tensor.CopyFrom(onnx.numpy_helper.from_array(session.parameter(tensor.name), tensor.name))
        logits = torch_oracle.run(adapted, feeds)[adapted.graph.output[0].name]
        assert relative(session.evaluate(feeds, labels)[1], logits) <= TOLERANCE


def test_frozen_weights_in_the_checkpoint_train_the_same(training, tmp_path, torch_oracle, rng):
    model = open_model(tiny.conv_net())
    scores = score(model, rng.standard_normal((32, 3, 8, 8)).astype(np.float32), scoring=Scoring(samples=32))
    for strategy in ("last", "first"):
        selection = select(scores, strategy=strategy, rho=0.4)
        results = []
        for frozen in ("embedded", "checkpoint"):
            manifest = make_artifacts(
                model, selection, tmp_path / f"{strategy}-{frozen}", backend="ort", choices=Choices(frozen=frozen)
            )
            session = manifest.session(manifest.initial)
            feeds, labels = sample_feeds(manifest, 6), np.arange(6) % 4
            before = {key: session.parameter(key) for key in session.parameter_names()}
            for _ in range(3):
                loss, _ = session.gradients(feeds, labels)
                session.update(1e-2)
            changed = {key for key, value in before.items() if not np.array_equal(value, session.parameter(key))}
            assert changed == set(manifest.parameters)
            assert (len(before) > len(changed)) == (frozen == "checkpoint")
            results.append((loss, {key: session.parameter(key) for key in manifest.parameters}))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
        for key in results[0][1]:
            np.testing.assert_allclose(results[0][1][key], results[1][1][key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "bce-with-logits", "l1"])
def test_other_losses_equal_torch(tmp_path, torch_oracle, backend, loss, rng):
    model = open_model(tiny.mlp())
    scores = score(model, rng.standard_normal((32, 10)).astype(np.float32), scoring=Scoring(samples=32))
    labels = rng.integers(0, 2, (2, 3)).astype(np.float32)
    compare(model, select(scores, strategy="all"), tmp_path / loss, torch_oracle, backend, loss=loss, targets=labels)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_ten_steps_equal_torch(tmp_path, torch_oracle, backend, optimizer, rng):
    model = open_model(tiny.conv_net())
    images = rng.standard_normal((64, 3, 8, 8)).astype(np.float32)
    selection = select(score(model, images, scoring=Scoring(samples=64)), strategy="all")
    manifest = make_artifacts(
        model, selection, tmp_path / "artifacts", backend=backend, choices=Choices(optimizer=optimizer), check=False
    )
    session = manifest.session(manifest.initial)
    batches = [({"input": images[i : i + 8]}, rng.integers(0, 4, 8)) for i in range(0, 64, 8)]
    rate = 1e-2 if optimizer == "sgd" else 1e-3
    ours = []
    for feeds, labels in batches:
        ours.append(session.gradients(feeds, labels)[0])
        session.update(rate)
    theirs, _ = torch_oracle.train(
        onnx.load(manifest.file("model")), batches, manifest.parameters, optimizer=optimizer, lr=rate
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
