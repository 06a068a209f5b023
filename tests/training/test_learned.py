"""Warnings of trainings that learned nothing, and advice about the learning rate; none without evidence."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from models import tiny

from adabet_onnx import Trainer, make_artifacts, open_model, select
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.scoring.score import score
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.baseline_loss import at_baseline, baseline_loss, minimum_loss
from adabet_onnx.training.learning_check import at_chance, evaluated_at_chance, rate_advice, scaling_advice
from adabet_onnx.training.settings import Settings


def tail(right: int, count: int, share: float) -> float:
    """Probability of at least so many correct answers, each with the probability ``share``."""
    return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(right, count + 1))


@pytest.mark.parametrize(("count", "classes"), [(40, 2), (100, 4), (300, 10), (600, 5)])
def test_chance_ends_where_the_binomial_tail_falls_below_five_percent(count, classes):
    labels = np.arange(count) % classes
    needed = next(right for right in range(count) if tail(right, count, 1 / classes) <= 0.05)
    assert at_chance(needed / count, labels, classes) is None
    said = at_chance((needed - 1) / count, labels, classes)
    assert f"an accuracy of {(needed - 1) / count:.1%} on {count:,} labels cannot be distinguished from chance" in said
    assert f"always answering the most frequent class is right on {1 / classes:.1%}" in said


def test_chance_counts_the_most_frequent_class_and_no_ignored_labels():
    labels = np.concatenate([np.zeros(180, int), np.ones(20, int), np.full(500, -100)])
    assert "right on 90.0%" in at_chance(0.9, labels, 2)
    assert "on 200 labels is no better than chance" in at_chance(0.5, labels, 2)
    assert at_chance(0.95, labels, 2) is None


def test_worse_than_chance_is_told_of_few_labels_too():
    labels = np.r_[np.zeros(497, int), np.ones(3, int)]
    said = at_chance(0.5, labels, 2)
    assert "is no better than chance: always answering the most frequent class is right on 99.4%" in said
    assert at_chance(0.994, labels, 2) is None, "as good as chance, and so few others that nothing better can be told"


def test_chance_of_many_classes_with_few_labels_each():
    labels = np.arange(60) % 50
    assert "guessing among 50 classes is right on 2.0%" in at_chance(1 / 60, labels, 50)
    assert at_chance(0.2, labels, 50) is None


@pytest.mark.parametrize(
    ("labels", "classes", "accuracy"),
    [
        (np.arange(19) % 2, 2, 0.5),  # too few at all
        (np.r_[np.zeros(27, int), np.ones(3, int)], 2, 28 / 30),  # halfway, could be chance
        (np.zeros(100, int), 3, 0.5),  # a single class: always chance
    ],
)
def test_nothing_is_said_where_it_means_nothing(labels, classes, accuracy):
    assert at_chance(accuracy, labels, classes) is None
    assert at_chance(None, np.arange(100) % 2, 2) is None, "a loss without an accuracy"


def test_chance_of_a_model_that_was_evaluated(rng):
    model = open_model(tiny.conv_net())
    x = rng.standard_normal((60, 3, 8, 8)).astype(np.float32)
    given = Dataset(ArrayRows({"": x}), np.arange(60) % 4)
    assert "right on 25.0%" in evaluated_at_chance(model, given, 0.25, Choices())
    assert evaluated_at_chance(model, given, 0.6, Choices()) is None
    assert evaluated_at_chance(model, given, None, Choices(loss="mse")) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("counts", [(30, 30, 30), (80, 15, 5), (50, 50, 0)])
def test_guessing_loss_is_the_least_of_an_answer_that_is_always_the_same(counts, smoothing, rng):
    labels = np.repeat(np.arange(3), counts)
    found = baseline_loss("cross-entropy", np.r_[labels, -100], 3, smoothing)
    targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3

    def loss(logits: np.ndarray) -> float:
        return float(-(targets * (logits - np.log(np.exp(logits).sum()))).sum(1).mean())

    best = np.log(np.maximum(targets.mean(0), 1e-12))
    assert found == pytest.approx(loss(best), abs=1e-6)
    assert all(loss(best + 0.1 * rng.standard_normal(3)) >= found - 1e-9 for _ in range(20))
    if len(set(counts)) == 1:
        assert found == pytest.approx(math.log(3))


def test_guessing_loss_of_the_other_losses():
    targets = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert baseline_loss("bce-with-logits", targets, 1) == pytest.approx((math.log(2) + quarter) / 2)
    assert baseline_loss("mse", targets, 1) == pytest.approx((0.25 + 0.1875) / 2)
    assert baseline_loss("l1", np.array([[1.0], [2.0], [9.0]]), 1) == pytest.approx(8 / 3)
    best = min(((targets - answer) ** 2).mean() for answer in np.linspace(0, 1, 9)[:, None, None] * np.ones(2))
    assert baseline_loss("mse", targets, 1) <= best


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 0.9])
def test_least_loss_is_that_of_a_perfect_answer(smoothing, rng):
    labels = np.arange(60) % 2
    targets = (1 - smoothing) * np.eye(2)[labels] + smoothing / 2
    perfect = -(targets * np.log(np.maximum(targets, 1e-300))).sum(1).mean()
    assert minimum_loss("cross-entropy", labels, 2, smoothing) == pytest.approx(perfect)
    guessing = baseline_loss("cross-entropy", labels, 2, smoothing)
    assert at_baseline(perfect, guessing, 2, perfect) is None, "nothing better can be"
    if smoothing < 0.9:
        assert "at ln(2) = 0.693" in at_baseline(guessing, guessing, 2, perfect)
    soft = rng.uniform(0.45, 0.55, (60, 1))  # targets of another model: all is near their mean
    entropy = float(-(soft * np.log(soft) + (1 - soft) * np.log(1 - soft)).mean())
    assert minimum_loss("bce-with-logits", soft, 1) == pytest.approx(entropy)
    assert at_baseline(entropy, baseline_loss("bce-with-logits", soft, 1), None, entropy) is None
    assert minimum_loss("mse", soft, 1) == 0


def test_no_advice_where_nothing_better_can_be():
    least = minimum_loss("cross-entropy", np.arange(10) % 2, 2, 0.2)
    assert rate_advice(rows(0.326, 0.3255, held=(0.33, 0.3256)), 0.001, math.log(2), least) is None
    assert "barely fell" in rate_advice(rows(0.326, 0.3255, held=(0.33, 0.3256)), 0.001, math.log(2))
    assert rate_advice(rows(1e-4, 0.9e-4), 0.001, 0.5) is None, "of targets whose variance is 0.5"
    assert "from 0.001 to 0.00095" in rate_advice(rows(1e-3, 0.95e-3), 0.001, 1e-3)


def test_at_guessing():
    assert at_baseline(2.30, math.log(10), 10) == (
        "the training loss ended at 2.300, at ln(10) = 2.303, the loss of a constant prediction"
    )
    assert "ended at 4.000, above ln(10) = 2.303" in at_baseline(4.0, math.log(10), 10)
    assert "at 0.325, the loss" in at_baseline(0.325, 0.325, 2), "unequal classes: not ln(2)"
    assert at_baseline(2.2, math.log(10), 10) is None


def rows(*losses: float, held: tuple[float, float] | None = None) -> list[dict[str, float | None]]:
    """Of a training: its losses, and the validation loss before and after."""
    before, after = held or (None, None)
    return [
        {"train_loss": None, "eval_loss": before},
        *({"train_loss": loss, "eval_loss": after} for loss in losses),
    ]


SMALLER = "try a smaller learning rate, `learning_rate=0.0001`"
LARGER = "try a larger learning rate, `learning_rate=0.01`"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (rows(1.5, 2.0), f"the training loss rose from 1.500 to 2.000: {SMALLER}"),
        (rows(4.0, held=(2.4, 3.0)), f"the validation loss rose from 2.400 to 3.000: {SMALLER}"),
        (
            rows(9.0, 2.4, held=(2.5, 2.3)),
            f"the validation loss went from 2.500 to 2.300, with a training loss of 9.000 on the way: {SMALLER}",
        ),
        (rows(2.4, 2.39), f"the training loss barely fell, from 2.400 to 2.390: {LARGER}"),
        (rows(2.4, held=(2.4, 2.39)), f"the validation loss barely fell, from 2.400 to 2.390: {LARGER}"),
        (rows(1.28, 1.27, held=(1.20, 1.20)), f"the training loss barely fell, from 1.280 to 1.270: {LARGER}"),
        (rows(1.10, held=(1.09, 1.091)), f"the validation loss did not fall, it went from 1.090 to 1.091: {LARGER}"),
        (
            rows(2.2, 1.8, held=(2.4, 1.9)),
            "the validation loss only fell from 2.400 to 1.900: try a larger learning rate, `learning_rate=0.003` "
            "or 0.01, or more epochs",
        ),
        (
            rows(3.0, 2.3, 2.31),
            "the training loss went from 3.000 to 2.310 and stayed there: try both `learning_rate=0.0001` and 0.01",
        ),
        (rows(2.4, 1.2, 0.9), None),
        (rows(1.2, 1.0, 0.5, held=(2.4, 2.6)), None),  # overfitted
        (rows(0.3, 0.28), None),  # it was good before
        (rows(0.1, 0.2, 0.1, held=(0.08, 0.08)), None),
        (rows(2.4), None),
        (rows(), None),
    ],
)
def test_advice_goes_by_what_the_losses_did(given, said):
    assert rate_advice(given, 1e-3, math.log(10)) == said
    larger = said is not None and "smaller" not in said
    assert rate_advice(given, 1e-3, math.log(10), searched=True) == (None if larger else said)


def test_a_loss_far_above_guessing_is_one_of_scaling():
    """Data of 0 to 255 for a model of 0 to 1 began at a loss of 381; a high training loss is the rate's."""
    advice = scaling_advice(rows(30.0, held=(381.1, 20.0)), math.log(10))
    assert advice is not None
    assert "381.100, 166 times that of guessing" in advice
    assert "`preset`" in advice
    assert scaling_advice(rows(3.0, held=(46.0, 2.0)), math.log(10)) is None
    assert scaling_advice(rows(3.0, held=(47.0, 2.0)), math.log(10)) is not None
    assert scaling_advice(rows(381.1, 30.0), math.log(10)) is None


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Artifacts of a network with a new head, and data whose classes differ by brightness."""
    folder = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = (0.3 * rng.standard_normal((400, 3, 8, 8)) + 0.8 * np.eye(4)[y][:, :3, None, None]).astype(np.float32)
    onnx.save(tiny.conv_net(seed=3), folder / "model.onnx")
    model = open_model(folder / "model.onnx")
    scores = score(model, x, preprocessing=Arithmetic(), scoring=Scoring(samples=32, subset_size=16, subsets=2))
    make_artifacts(model, select(scores, strategy="all"), folder / "artifacts", check=False)
    return folder / "artifacts", (x, y)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "word"), [(1e-5, "larger"), (3.0, "smaller")])
def test_a_training_at_a_wrong_rate_is_warned_of_and_the_advice_helps(task, rate, word):
    folder, data = task
    trainer = Trainer(folder)
    settings = Settings(epochs=4, validation=0.25)
    before = trainer.fit(data, learning_rate=rate, settings=settings)
    assert (
        f"try a {word} learning rate, `learning_rate={rate * (10 if word == 'larger' else 0.1):g}`"
        in trainer.learned.advice
    )
    assert "ended at" in trainer.learned.guessing
    assert (trainer.learned.chance is not None) == (word == "larger"), "0.23 of 100 labels, and 0.5"
    assert len(trainer.learned.warnings) == 1 + (word == "larger")
    while (
        trainer.learned.advice is not None and word in trainer.learned.advice
    ):  # follow the advice until there is none
        rate = float(trainer.learned.advice.split("learning_rate=")[1].split("`")[0])
        after = trainer.fit(data, learning_rate=rate, settings=settings)
    assert trainer.learned.warnings == ()
    assert after[-1]["eval_loss"] < 0.8 * math.log(4) < before[-1]["eval_loss"]
