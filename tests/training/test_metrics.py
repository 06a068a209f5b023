"""Figures of an evaluation: equal to scikit-learn's, gathered in batches of any size."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from adabet_onnx.training import metrics
from adabet_onnx.training.metrics import FIGURES, ClassFigures, LabelFigures, NumberFigures, figures_for

sklearn = pytest.importorskip("sklearn.metrics")


def gathered(figures, logits, labels, size=7, names=None):
    """The figures accumulated over batches of ``size``."""
    for start in range(0, len(logits), size):
        figures.add(logits[start : start + size], labels[start : start + size])
    found = figures.result(names)
    assert tuple(found) == FIGURES
    return found


def same(found, expected):
    """Compare figures; None stands for NaN."""
    expected = np.asarray(expected, float)
    np.testing.assert_allclose(np.array([np.nan if x is None else x for x in found], float), expected, rtol=1e-12)


def column(found, key, rows="per_class"):
    return [row[key] for row in found[rows]]


CASES = {
    "random": lambda rng: (rng.standard_normal((200, 5)), rng.integers(0, 5, 200)),
    "many classes": lambda rng: (rng.standard_normal((300, 37)), rng.integers(0, 37, 300)),
    "a class without labels": lambda rng: (rng.standard_normal((50, 4)), rng.integers(0, 3, 50)),
    "a class never predicted": lambda rng: (rng.standard_normal((50, 4)) - [0, 0, 99, 0], rng.integers(0, 4, 50)),
    "a class in neither": lambda rng: (rng.standard_normal((50, 4)) - [0, 0, 0, 99], rng.integers(0, 3, 50)),
    "one class in the labels": lambda rng: (rng.standard_normal((9, 3)), np.ones(9, np.int64)),
    "one sample, right": lambda rng: (np.array([[0.0, 1.0, 0.5]]), np.array([1])),
    "one sample, wrong": lambda rng: (np.array([[0.0, 1.0, 0.5]]), np.array([2])),
    "all right": lambda rng: (np.eye(6), np.arange(6)),
    "more classes than samples": lambda rng: (rng.standard_normal((10, 100)), rng.integers(0, 100, 10)),
}


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("case", CASES)
def test_of_classes(case, size):
    logits, labels = CASES[case](np.random.default_rng(0))
    classes, predicted = logits.shape[1], logits.argmax(-1)
    found = gathered(ClassFigures(classes, dense=True), logits, labels, size)
    every = {"labels": range(classes), "average": None, "zero_division": np.nan}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, support = sklearn.precision_recall_fscore_support(labels, predicted, **every)
        same([found["balanced_accuracy"]], [sklearn.balanced_accuracy_score(labels, predicted)])
        overlap = sklearn.jaccard_score(labels, predicted, average="macro")
        macro = sklearn.f1_score(labels, predicted, average="macro")
    same(column(found, "precision"), precision)
    same(column(found, "recall"), recall)
    same(column(found, "accuracy"), recall)
    same(column(found, "f1"), f1)
    assert column(found, "labels") == list(support)
    assert column(found, "predicted") == np.bincount(predicted, minlength=classes).tolist()
    same([found["f1_macro"]], [macro])
    same([found["mean_iou"]], [overlap])
    matrix = sklearn.confusion_matrix(labels, predicted, labels=range(classes))
    assert found["confusion_matrix"] == matrix.tolist()
    wrong = {(int(i), int(j)): int(matrix[i, j]) for i, j in np.argwhere(matrix) if i != j}
    listed = {(row["label"], row["predicted"]): row["count"] for row in found["most_confused"]}
    assert len(listed) == min(len(wrong), 20)
    assert listed.items() <= wrong.items()
    assert sorted(listed.values(), reverse=True) == sorted(wrong.values(), reverse=True)[:20]
    if classes <= 20:
        assert found["top5_accuracy"] is None
    else:
        top = sklearn.top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
        same([found["top5_accuracy"]], [top])


def test_ties_among_the_best_go_as_for_argmax():
    """Constant logits: the first five classes are the best, and the first is predicted."""
    labels = np.arange(25)
    found = gathered(ClassFigures(25), np.zeros((25, 25)), labels)
    assert found["top5_accuracy"] == 5 / 25
    assert found["per_class"][0]["accuracy"] == 1.0


def test_of_a_class_that_is_not_there():
    logits, labels = CASES["a class in neither"](np.random.default_rng(0))
    row = gathered(ClassFigures(4), logits, labels, names=["a", "b", "c", "d"])["per_class"][3]
    nothing = dict.fromkeys(("accuracy", "precision", "recall", "f1"))
    assert row == {"class": "d", "labels": 0, "predicted": 0, **nothing}


def test_of_very_many_classes():
    """Entries that grow with the square of the classes are omitted, and no figure changes."""
    rng = np.random.default_rng(0)
    many = metrics.MOST_LISTED + 1
    logits, labels = rng.standard_normal((30, many)), rng.integers(0, many, 30)
    found = gathered(ClassFigures(many), logits, labels)
    assert found["per_class"] is found["confusion_matrix"] is found["most_confused"] is None
    same([found["f1_macro"]], [sklearn.f1_score(labels, logits.argmax(-1), average="macro")])
    middle = metrics.MOST_IN_MATRIX + 1
    found = gathered(ClassFigures(middle), rng.standard_normal((30, middle)), rng.integers(0, middle, 30))
    assert found["confusion_matrix"] is None
    assert len(found["per_class"]) == middle


def test_nothing_yet():
    for loss, shape in (("cross-entropy", (3,)), ("mse", (2,)), ("bce-with-logits", (2,))):
        found = figures_for(loss, shape).result()
        assert tuple(found) == FIGURES
        assert found["f1_macro"] is found["balanced_accuracy"] is found["r2"] is None


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("outputs", [1, 3, 8])
def test_of_several_labels(outputs, size):
    rng = np.random.default_rng(outputs)
    logits, targets = rng.standard_normal((60, outputs)), rng.integers(0, 2, (60, outputs)).astype(np.float32)
    predicted = logits > 0
    if outputs == 8:
        targets[:, 0], targets[:, 1] = 0, 1  # an output that never holds, and one that always does
        logits[:, 2] = -1  # and one that is never predicted
        targets[:, 3], logits[:, 3] = 0, -1  # and one in neither
        predicted = logits > 0
    found = gathered(LabelFigures((outputs,)), logits, targets, size)
    # As indicators, also of one output, where scikit-learn would otherwise take both values for classes.
    true, guess = (array.reshape(60, outputs) for array in (targets.astype(int), predicted.astype(int)))
    each = [
        sklearn.precision_recall_fscore_support(true[:, i], guess[:, i], labels=[1], average=None, zero_division=np.nan)
        for i in range(outputs)
    ]
    for place, key in enumerate(("precision", "recall", "f1")):
        same(column(found, key, "per_output"), [row[place][0] for row in each])
    same(column(found, "accuracy", "per_output"), (true == guess).mean(0))
    assert found["exact_match"] == sklearn.accuracy_score(true, guess)
    same([found["f1_macro"]], [np.nanmean([row[2][0] for row in each])])
    if outputs > 1:
        same([found["f1_micro"]], [sklearn.f1_score(true, guess, average="micro")])
        macro = sklearn.f1_score(true, guess, average="macro", zero_division=np.nan)
        same([found["f1_macro"]], [macro])


def test_several_labels_per_pixel_count_together():
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((6, 1, 4, 5)), rng.integers(0, 2, (6, 1, 4, 5))
    found = gathered(LabelFigures((1, 4, 5)), logits, targets, 4)
    same([found["f1_micro"]], [sklearn.f1_score(targets.reshape(-1), (logits > 0).reshape(-1))])
    assert found["exact_match"] is None
    assert len(found["per_output"]) == 1


REGRESSIONS = {
    "random": lambda rng: (rng.standard_normal((50, 3)), rng.standard_normal((50, 3))),
    "far from zero": lambda rng: (1e6 + rng.standard_normal((50, 2)), 1e6 + rng.standard_normal((50, 2))),
    "one output": lambda rng: (rng.standard_normal((50, 1)), rng.standard_normal((50, 1))),
    "exact": lambda rng: (np.arange(12.0).reshape(6, 2), np.arange(12.0).reshape(6, 2)),
    "constant targets": lambda rng: (rng.standard_normal((20, 2)), np.full((20, 2), 3.0)),
    "constant targets, exact": lambda rng: (np.full((20, 2), 3.0), np.full((20, 2), 3.0)),
    "one of two constant": lambda rng: (rng.standard_normal((20, 2)), np.c_[np.full(20, 0.5), np.arange(20.0)]),
}


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("case", REGRESSIONS)
def test_of_numbers(case, size):
    found_values, targets = REGRESSIONS[case](np.random.default_rng(0))
    found = gathered(NumberFigures(targets.shape[1:]), found_values, targets, size)
    for key, score in (
        ("r2", sklearn.r2_score),
        ("mae", sklearn.mean_absolute_error),
        ("rmse", sklearn.root_mean_squared_error),
    ):
        each = score(targets, found_values, multioutput="raw_values")
        np.testing.assert_allclose(column(found, key, "per_output"), each, rtol=1e-9)
        np.testing.assert_allclose(found[key], score(targets, found_values), rtol=1e-9)


def test_a_constant_that_rounds_is_constant():
    """The mean of 0.1 is not exact, but its spread is still 0."""
    targets = np.full((30, 1), 0.1)
    assert gathered(NumberFigures((1,)), targets + 0.5, targets, 4)["r2"] == 0.0


def test_r2_of_one_sample_is_unknown():
    found = gathered(NumberFigures((2,)), np.zeros((1, 2)), np.ones((1, 2)))
    assert found["r2"] is None
    assert (found["mae"], found["rmse"]) == (1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(sklearn.r2_score([[1.0, 1.0]], [[0.0, 0.0]]))
