"""The fit of a linear head, against direct solutions, refits without a sample, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from adabet_onnx.fitting import fit, gradients, logistic
from adabet_onnx.fitting.duplicates import near_duplicates
from adabet_onnx.fitting.fit import fit_classes, fit_outputs
from adabet_onnx.fitting.ridge import ridge
from adabet_onnx.fitting.scale import best_scale, capped, cross_entropies, cross_entropy
from adabet_onnx.fitting.table import table

EXACT = 1e-6


def _direct(features, targets, weights, strength, *, intercept=True):
    """Weight and bias from the normal equations, with the intercept as an unpenalised column."""
    weights = np.ones(len(features)) if weights is None else weights
    weights = weights / weights.mean()
    mean = np.average(features, axis=0, weights=weights) if intercept else np.zeros(features.shape[1])
    spread = (weights[:, None] * (features - mean) ** 2).sum() / features.shape[1]
    rows = np.hstack([features, np.ones((len(features), 1))]) if intercept else features
    penalty = np.full(rows.shape[1], strength * spread)
    if intercept:
        penalty[-1] = 0
    found = np.linalg.solve(
        rows.T @ (weights[:, None] * rows) + np.diag(penalty), rows.T @ (weights[:, None] * targets)
    )
    return (found[:-1], found[-1]) if intercept else (found, np.zeros(targets.shape[1]))


def _data(rows, features, outputs, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 3, (rows, features))
    return x, x @ rng.normal(size=(features, outputs)) / 3 + rng.normal(size=(rows, outputs))


def _labelled(rows=240, features=10, classes=4, seed=0, noise=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    centres = rng.normal(size=(classes, features))
    return (2 * centres[labels] + noise * rng.normal(size=(rows, features))).astype(np.float32), labels


@pytest.mark.parametrize("intercept", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "alike"])
@pytest.mark.parametrize(("rows", "features"), [(60, 7), (12, 40), (30, 30)], ids=["tall", "wide", "square"])
def test_ridge_is_the_direct_solution(rows, features, weighted, intercept):
    x, y = _data(rows, features, 3)
    weights = np.random.default_rng(1).uniform(0.2, 3, rows) if weighted else None
    made = ridge(table(x, y, np.arange(rows), weights, intercept=intercept))
    for strength in (1e-3, 0.1, 10.0):
        for found, expected in zip(
            made.solved(strength), _direct(x, y, weights, strength, intercept=intercept), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=EXACT)


@pytest.mark.parametrize("per_sample", [1, 3, 9], ids=["rows", "views", "more rows than rank"])
def test_left_out_predictions_are_those_of_refits(per_sample):
    """Every group is left out in turn, and the rest is refitted with the same penalty, mean and spread."""
    rows = 36
    x, y = _data(rows, 5, 2)
    groups = np.arange(rows) // per_sample
    weights = np.random.default_rng(2).uniform(0.5, 2, rows)
    made = ridge(table(x, y, groups, weights))
    left = made.left_out(0.05)
    penalty = np.diag([0.05 * made.unit] * 5 + [0])
    whole = np.hstack([x, np.ones((rows, 1))])
    weights = weights / weights.mean()
    for group in np.unique(groups):
        rest = groups != group
        part = whole[rest] * weights[rest, None]
        found = np.linalg.solve(part.T @ whole[rest] + penalty, part.T @ y[rest])
        np.testing.assert_allclose(left[~rest], whole[~rest] @ found, atol=EXACT)


def test_constant_and_duplicated_features_change_nothing_that_is_said():
    x, y = _data(50, 4, 2)
    odd = np.hstack([x, x[:, :1], np.full((50, 2), 7.0)])
    weight, bias = ridge(table(odd, y, np.arange(50), None)).solved(0.1)
    expected, level = _direct(odd, y, None, 0.1)
    np.testing.assert_allclose(odd @ weight + bias, odd @ expected + level, atol=EXACT)
    np.testing.assert_allclose(weight[0], weight[4], atol=EXACT)  # twins share
    np.testing.assert_allclose(weight[5:], 0, atol=EXACT)


def test_only_constant_features_leave_a_bias():
    labels = np.array([0, 0, 0, 1] * 5)
    made = fit_classes(np.ones((20, 3), np.float32), labels, np.arange(20), 2)
    assert np.abs(made.weight).max() < EXACT
    assert made.bias[0] > made.bias[1]
    numbers = fit_outputs(np.ones((20, 3)), labels[:, None].astype(float), np.arange(20), "mse")
    np.testing.assert_allclose(np.ones((1, 3)) @ numbers.weight + numbers.bias, 0.25, atol=EXACT)


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_are_fitted_unscaled_with_the_strength_that_left_out_rows_ask_for(outputs):
    x, y = _data(40, 6, outputs)
    made = fit_outputs(x, y, np.arange(40), "mse")
    assert (made.how, made.scale) == ("ridge", 1.0)
    for found, expected in zip((made.weight, made.bias), _direct(x, y, None, made.strength), strict=True):
        np.testing.assert_allclose(found, expected, atol=EXACT)

    def left_out(strength):
        start = ridge(table(x, y, np.arange(40), None))
        return ((start.left_out(strength) - y) ** 2).mean()

    assert made.error == pytest.approx(left_out(made.strength))
    assert all(made.error <= left_out(10.0**power) for power in range(-6, 4))


def test_l1_chooses_by_absolute_errors():
    x, y = _data(40, 30, 1)
    y[:3] += 100  # outliers
    made = fit_outputs(x, y, np.arange(40), "l1")
    start = ridge(table(x, y, np.arange(40), None))
    assert made.error == pytest.approx(np.abs(start.left_out(made.strength) - y).mean())


def test_one_sample_gives_its_targets():
    made = fit_outputs(np.ones((1, 4)), np.array([[3.0, 4.0]]), np.zeros(1, int), "mse")
    np.testing.assert_allclose(np.zeros((1, 4)) @ made.weight + made.bias, [[3, 4]])


def test_the_logistic_fit_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    x, y = _labelled()
    made = fit_classes(x, y, np.arange(len(y)), 4)
    assert made.how == "logistic"
    centred = x.astype(float) - x.mean(0, dtype=float)
    penalty = made.strength * (centred**2).mean()
    other = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-10, max_iter=10_000).fit(x.astype(float), y)
    mine = (x @ made.weight + made.bias) / made.scale
    mine -= mine.mean(1, keepdims=True)
    np.testing.assert_allclose(mine, other.decision_function(x), atol=5e-3)


def test_row_weights_are_repetitions():
    from sklearn.linear_model import LogisticRegression

    x, y = _labelled(120)
    weights = np.where(y == 0, 3.0, 1.0)
    made = fit_classes(x, y, np.arange(len(y)), 4, weights=weights)
    mean = np.average(x, axis=0, weights=weights)
    penalty = made.strength * np.average(((x - mean) ** 2).mean(1), weights=weights)
    other = LogisticRegression(C=1 / (penalty * weights.sum()), tol=1e-10, max_iter=10_000)
    other.fit(x.astype(float), y, sample_weight=weights)
    mine = (x @ made.weight + made.bias) / made.scale
    np.testing.assert_allclose(mine - mine.mean(1, keepdims=True), other.decision_function(x), atol=5e-3)


def test_rows_of_no_weight_are_as_if_they_were_not_there():
    x, y = _labelled(100)
    weights = np.where(y == 2, 0.0, 1.0)
    made = fit_classes(x, y, np.arange(100), 4, weights=weights)
    rest = y != 2
    other = fit_classes(x[rest], y[rest], np.flatnonzero(rest), 4)
    assert made.absent == other.absent == (2,)
    np.testing.assert_allclose(made.weight, other.weight, atol=1e-9)


def test_absent_classes_get_a_bias_that_makes_them_improbable():
    x, y = _labelled(100, classes=3)
    made = fit_classes(x, y + (y == 2), np.arange(100), 6)  # classes 0, 1 and 3 of 6
    assert made.absent == (2, 4, 5)
    assert not made.weight[:, [2, 4, 5]].any()
    logits = x @ made.weight + made.bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert shares[:, [2, 4, 5]].sum(1).max() <= 1 / 200 + 1e-9
    assert shares[:, [2, 4, 5]].min() > 0
    few = fit_classes(x, y, np.arange(100), 3)
    np.testing.assert_array_equal(logits[:, [0, 1, 3]].argmax(1), (x @ few.weight + few.bias).argmax(1))


def test_one_class_alone_is_a_bias():
    made = fit_classes(np.ones((9, 2), np.float32), np.full(9, 1), np.arange(9), 3)
    assert (made.how, made.absent) == ("constant", (0, 2))
    assert not made.weight.any()
    assert made.bias.argmax() == 1


def test_more_features_than_samples():
    x, y = _labelled(40, 300, 3, noise=1.0)
    made = fit_classes(x, y, np.arange(40), 3)
    fresh, labels = _labelled(40, 300, 3, noise=1.0)
    assert ((fresh @ made.weight + made.bias).argmax(1) == labels).mean() > 0.9
    assert made.accuracy > 0.8


def test_views_of_a_sample_leave_together():
    """Random labels cannot be learned, unless a remaining view reveals one that was left out."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(60, 40)), 3, 0) + 0.01 * rng.normal(size=(180, 40))
    y = np.repeat(rng.integers(0, 2, 60), 3)
    honest = fit_classes(x, y, np.arange(180) // 3, 2)
    fooled = fit_classes(x, y, np.arange(180), 2)
    assert honest.accuracy < 0.7
    assert fooled.accuracy > 0.8


def test_near_duplicates_are_found_and_only_they():
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(30, 20))
    x = np.concatenate([apart, apart[:5] + 0.01, apart[5:10] + 1e-9])
    classes = np.concatenate([np.arange(30) % 2, np.arange(10) % 2])
    groups = near_duplicates(x, classes)
    assert len(np.unique(groups)) == 30
    np.testing.assert_array_equal(groups[:10], groups[30:])


def test_what_is_close_to_another_class_is_no_duplicate():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(200, 1)), 20, 1)  # one dimension: everything has a neighbour that is close
    assert len(np.unique(near_duplicates(x, rng.integers(0, 2, 200)))) > 160


def test_samples_that_are_all_the_same_are_one_group_of_each_class():
    groups = near_duplicates(np.ones((10, 3)), np.arange(10) % 2)
    assert len(np.unique(groups)) == 2
    made = fit_classes(np.ones((10, 3), np.float32), np.arange(10) % 2, groups, 2)
    assert np.isfinite(made.weight).all()
    assert np.isfinite(made.bias).all()


def test_the_scale_has_the_lowest_cross_entropy():
    rng = np.random.default_rng(0)
    targets = np.eye(3)[rng.integers(0, 3, 200)]
    outputs = targets + 0.6 * rng.normal(size=(200, 3))
    weights = np.ones(200)
    scale, loss = best_scale(outputs, targets, weights)
    assert loss == pytest.approx(cross_entropy(outputs * scale, targets, weights))
    assert all(cross_entropy(outputs * other, targets, weights) >= loss for other in np.geomspace(0.1, 50, 200))


def test_a_cap_leaves_a_loss_and_changes_no_answer():
    x, y = _labelled(80, 60, 3, noise=0.5)
    free, bound = (fit_classes(x, y, np.arange(80), 3, least=least) for least in (None, 0.3))
    logits = x @ bound.weight + bound.bias
    assert cross_entropy(x @ free.weight + free.bias, np.eye(3)[y], np.ones(80)) < 0.1
    assert cross_entropy(logits, np.eye(3)[y], np.ones(80)) == pytest.approx(0.3, abs=1e-3)
    assert (bound.asked, bound.scale < bound.asked) == (free.scale, True)
    np.testing.assert_array_equal(logits.argmax(1), (x @ free.weight + free.bias).argmax(1))
    assert capped(2.0, logits, np.eye(3)[y], np.ones(80), 0.0) == 2.0


def test_events_are_scikit_learns_too():
    from sklearn.linear_model import LogisticRegression

    x, y = _labelled(150, 6, 3)
    targets = np.stack([y == 0, y > 0, x[:, 0] > 0], 1).astype(float)
    made = fit_outputs(x, targets, np.arange(150), "bce-with-logits")
    penalty = made.strength * ((x - x.mean(0)) ** 2).mean(dtype=float)
    for column in range(3):
        other = LogisticRegression(C=1 / (penalty * 150), tol=1e-10, max_iter=10_000).fit(x, targets[:, column])
        mine = (x @ made.weight[:, column] + made.bias[column]) / made.scale
        np.testing.assert_allclose(mine, other.decision_function(x), atol=2e-2)


def test_gradients_come_to_the_closed_form(monkeypatch):
    x, y = _data(200, 30, 3)
    found = gradients.descend(table(x, y, np.arange(200), None), fit._squared, 0)
    weight, bias = _direct(x, y, None, found.strength)
    np.testing.assert_allclose(found.weight, weight, atol=EXACT)
    np.testing.assert_allclose(found.level - found.centre @ found.weight, bias, atol=1e-5)
    assert len(found.rows) == 20
    monkeypatch.setattr(fit, "MOST", 20)
    assert fit_outputs(x, y, np.arange(200), "mse").how == "descent"
    features, labels = _labelled(300, 30, 3)
    made = fit_classes(features, labels, np.arange(300), 3)
    assert made.how == "descent"
    assert ((features @ made.weight + made.bias).argmax(1) == labels).mean() > 0.8


def test_the_tenth_that_is_left_out_has_whole_samples():
    x, y = _data(200, 30, 1)
    samples = np.arange(200) // 5
    found = gradients.descend(table(x, y, samples, None), fit._squared, 0)
    assert len(found.rows) == 20
    assert not np.isin(samples[found.rows], np.delete(samples, found.rows)).any()


def test_what_would_take_too_long_stays_a_ridge_regression(monkeypatch):
    monkeypatch.setattr(fit, "MOST_WORK", 10)
    x, y = _labelled()
    made = fit_classes(x, y, np.arange(len(y)), 4)
    assert made.how == "ridge"
    weight, bias = _direct(x.astype(float), np.eye(4)[y], None, made.strength)
    np.testing.assert_allclose(made.weight, made.scale * weight, atol=1e-5)
    np.testing.assert_allclose(made.bias, made.scale * (bias - bias.mean()), atol=1e-5)


def test_folds_keep_samples_whole_and_the_same_seed_gives_the_same_fit():
    groups = np.arange(90) // 3
    folds = logistic._folds(groups, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(30))
    assert len(set(folds)) == logistic.FOLDS
    x, y = _labelled()
    one, other = (fit_classes(x, y, np.arange(len(y)), 4, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.weight, other.weight)


def test_cross_entropies_are_numpys():
    logits, targets = np.array([[1.0, 2.0], [300.0, -300.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(cross_entropies(logits, targets), [np.log(np.e**1 + np.e**2) - 1, 600])
    np.testing.assert_allclose(
        cross_entropies(logits[:1], targets[:1], softmax=False), [(np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 2]
    )
