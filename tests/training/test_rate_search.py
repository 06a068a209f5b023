"""The search for a learning rate: trials, the rule, and no leftovers; collapses; no epochs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from models import tiny
from test_training import final_parameters, toy_data

from adabet_onnx import (
    Adapting,
    Choices,
    Choosing,
    RecordError,
    Trainer,
    TrainingError,
    UsageError,
    adapt,
    evaluate,
    export_model,
    make_artifacts,
    new_head,
    open_model,
    select,
)
from adabet_onnx.training import trainer as trainer_module
from adabet_onnx.training.collapse import CollapseWatch
from adabet_onnx.training.epochs import Epochs
from adabet_onnx.training.history import LAST, PROPERTY, START
from adabet_onnx.training.manifest import load_manifest
from adabet_onnx.training.rate_search import Rates, Trial, _split, lengths, rates_from_json
from adabet_onnx.training.rates import TrialOutcome, best_rate, next_rate
from adabet_onnx.training.settings import Settings
from adabet_onnx.training.training_data import open_training_data

ONE_EPOCH = math.ceil(0.9 * 320 / 32)


@pytest.fixture(scope="module")
def data():
    x_train, y_train = toy_data(320, 0)
    x_test, y_test = toy_data(200, 1)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


@pytest.fixture(params=["portable", "ort"])
def backend(request):
    if request.param == "ort":
        request.getfixturevalue("training")
    return request.param


@pytest.fixture
def folder(backend, tmp_path):
    return made(tmp_path / "artifacts", backend=backend)


def made(place, *, strategy="last", backend="portable", **choices):
    model = new_head(open_model(tiny.conv_net(softmax=True)), 4, seed=3)
    selection = select(model, strategy=strategy, rho=0.5)
    make_artifacts(model, selection, place, backend=backend, check=False, choices=Choices(**choices))
    return place


@pytest.mark.slow
def test_a_training_after_a_search_is_one_with_that_rate_bit_for_bit(folder, data):
    trainer = Trainer(folder)
    rows = trainer.fit(data, epochs=4)
    after, found = final_parameters(folder), trainer.rates
    assert found.kept is None
    assert found.lowered is None
    by_hand = Trainer(folder)
    again = by_hand.fit(data, epochs=4, learning_rate=found.rate)
    assert by_hand.rates is None
    assert by_hand.learned.rate == trainer.learned.rate == found.rate
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in again]
    assert all(np.array_equal(value, after[name]) for name, value in final_parameters(folder).items())


def test_the_state_of_the_optimizer_goes_back_too(folder, data, tmp_path):
    manifest = load_manifest(folder)
    session = manifest.session(manifest.initial)
    first = {name: session.parameter(name) for name in session.parameter_names()}
    session.save(tmp_path / "start")
    feeds = dict.fromkeys([name for name, _ in manifest.feed_names], data["x_train"][:32])
    labels = data["y_train"][:32].astype(np.int64)

    def three():
        for _ in range(3):
            session.step(feeds, labels, 0.01)
        return {name: session.parameter(name) for name in session.parameter_names()}

    once = three()
    assert any(not np.array_equal(first[name], value) for name, value in once.items())
    session.load(tmp_path / "start")
    assert all(np.array_equal(session.parameter(name), value) for name, value in first.items())
    again = three()  # moments and the number of the step are those of the start, or these would differ
    assert all(np.array_equal(again[name], value) for name, value in once.items())


@pytest.mark.slow
def test_gathered_gradients_are_searched_with(tmp_path, data):
    folder = made(tmp_path / "artifacts")
    how = Settings(epochs=10, batch_size=16, accumulate=2)
    trainer = Trainer(folder)
    rows = trainer.fit(data, settings=how)
    assert trainer.rates.kept is None
    again = Trainer(folder).fit(data, settings=how, learning_rate=trainer.rates.rate)
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in again]


@pytest.mark.slow
def test_what_was_tried_is_told_stored_and_said(folder, data):
    told = []
    trainer = Trainer(folder)
    trainer.fit(data, epochs=10, progress=lambda *what: told.append(what))
    found = trainer.rates
    assert [trial.rate for trial in found.trials[:3]] == [0.001, 0.003, 0.01]
    short, long = lengths(10 * ONE_EPOCH, once=trainer.manifest.frozen)
    size = found.trials[0].updates
    assert abs(size - short) <= 3, "whole epochs, or nearly so many"
    assert abs(found.trials[-1].updates - long) <= 4
    assert found.samples == 96  # 30 % of 320: 32 for validation, and 64 more
    assert found.rate in {trial.rate for trial in found.trials[-2:]}
    searched = [what for what in told if what[0].startswith("trying the rate")]
    assert searched
    assert all(what.endswith(": updates made") for what, _, _ in searched)
    made = sum(trial.updates for trial in found.trials)
    assert f"learning rate found by {made} updates" in {what for what, _, _ in told}
    assert all(0 < done <= total for _, done, total in searched)
    assert [done for _, done, _ in searched] == sorted(done for _, done, _ in searched)
    _, state = trainer.manifest.read_checkpoint(folder / LAST, PROPERTY)
    state = json.loads(state)
    assert state["settings"]["learning_rate"] == "auto"
    assert rates_from_json(state["rates"], "it") == found
    assert found.summary.startswith(f"{found.rate:g}, found in ")
    assert "96 samples" in found.summary
    assert not (folder / START).exists()


def test_a_search_is_the_same_again_and_follows_the_seed(tmp_path, data):
    folder = made(tmp_path / "artifacts")
    tried = []
    for seed in (0, 0, 1):
        trainer = Trainer(folder)
        trainer.fit(data, settings=Settings(epochs=4, seed=seed))
        tried.append(trainer.rates.trials)
    assert tried[0] == tried[1] != tried[2]


class StopAt:
    """Interrupts at the n-th report."""

    def __init__(self, what, count=1):
        self.what, self.left = what, count

    def __call__(self, what, done, total):
        self.left -= self.what in what
        if self.left < 0 or (self.left == 0 and self.what in what):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_search_costs_no_earlier_training_and_is_made_again(folder, data):
    whole = Trainer(folder)
    rows = whole.fit(data, epochs=4)
    kept = {path.name: path.read_bytes() for path in (folder / "training").iterdir()}
    metrics = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder).fit(data, epochs=4, progress=StopAt("trying the rate 0.003"))
    assert {path.name: path.read_bytes() for path in (folder / "training").iterdir()} == kept
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    again = Trainer(folder)
    assert [row["train_loss"] for row in again.fit(data, epochs=4)] == [row["train_loss"] for row in rows]
    assert again.rates.trials == whole.rates.trials


@pytest.mark.slow
def test_an_interrupted_training_goes_on_with_the_rate_it_found(folder, data):
    whole = Trainer(folder)
    rows = whole.fit(data, epochs=5)
    expected = final_parameters(folder)
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder).fit(data, epochs=5, progress=StopAt("epoch 3/5"))
    trainer = Trainer(folder)
    assert trainer.interrupted.learning_rate == "auto"
    told = []
    again = trainer.fit(data, resume=True, learning_rate="auto", progress=lambda what, *_: told.append(what))
    assert not [what for what in told if what.startswith("trying")], "nothing is searched for twice"
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
    assert trainer.rates.trials == whole.rates.trials
    assert all(np.array_equal(expected[name], value) for name, value in final_parameters(folder).items())
    with pytest.raises(UsageError, match=r"`learning_rate` auto, not 0\.5"):
        Trainer(folder).fit(data, resume=True, learning_rate=0.5)


def test_what_a_checkpoint_says_of_rates_is_checked():
    good = Rates(0.01, (Trial(0.01, 10, 1.0, 0.5),), 20, 0.1).to_json()
    assert rates_from_json(json.loads(json.dumps(good)), "x").rate == 0.01
    for wrong in (
        None,
        [],
        {},
        {**good, "rate": "much"},
        {**good, "rate": -1.0},
        {**good, "trials": [3]},
        {**good, "a": 1},
    ):
        with pytest.raises(RecordError, match="has no valid record of the learning rate"):
            rates_from_json(wrong, "x")


def test_the_usual_rate_is_kept_where_a_search_says_nothing(tmp_path, data):
    folder = made(tmp_path / "artifacts")
    few = Trainer(folder)
    few.fit(data, epochs=3)
    assert (few.rates.rate, few.rates.trials) == (0.001, ())
    assert "27 updates are too few" in few.rates.summary
    little = Trainer(folder)
    little.fit((data["x_train"][:20], data["y_train"][:20]), epochs=40)
    assert "6 samples are too few to judge by" in little.rates.summary
    sgd = Trainer(made(tmp_path / "sgd", optimizer="sgd", momentum=0.9))
    sgd.fit(data, epochs=1)
    assert sgd.rates.rate == 0.01
    sgd.fit(data, epochs=4)
    assert [trial.rate for trial in sgd.rates.trials[:3]] == [0.001, 0.003, 0.01]


def test_samples_are_held_out_for_the_search_where_none_are_for_validation(tmp_path, data):
    trainer = Trainer(made(tmp_path / "artifacts"))
    trainer.fit(data, settings=Settings(epochs=4, validation=0))
    assert trainer.rates.kept is None
    assert trainer.rates.samples == 96
    assert all(trial.loss is not None for trial in trainer.rates.trials)


@pytest.mark.parametrize("validation", [0.0, 0.1])
def test_no_group_is_on_both_sides(tmp_path, data, validation):
    folder = made(tmp_path / "artifacts")
    manifest = load_manifest(folder)
    settings = Settings(validation=validation)
    used = open_training_data(
        manifest, open_model(manifest.file("model")), data, settings, preprocessing=None, resumed=None
    )
    groups = np.arange(320) // 5
    training, judged = _split(used, 0, groups)
    assert not {*groups[training]} & {*groups[judged]}
    assert sorted([*training, *judged]) == list(range(320))
    assert 91 <= len(judged) <= 96
    training, judged = _split(used, 0, None)
    assert not {*training} & {*judged}
    assert len(judged) == 96
    if used.held_out is not None:
        assert {*used.held_out} <= {*judged}


def test_a_group_that_is_too_large_leaves_others_to_judge_by(tmp_path, data):
    folder = made(tmp_path / "artifacts")
    manifest = load_manifest(folder)
    used = open_training_data(
        manifest, open_model(manifest.file("model")), data, Settings(), preprocessing=None, resumed=None
    )
    groups = np.arange(320)
    groups[:120], groups[120:270] = 0, 1  # more than the 96 that are wanted
    for seed in range(40):
        training, judged = _split(used, seed, groups)
        assert 40 < len(judged) <= 96
        assert not {*groups[training]} & {*groups[judged]}


def test_equal_accuracies_are_told_apart_by_the_loss():
    tried = {0.001: TrialOutcome(0.52, 1.3), 0.01: TrialOutcome(0.5, 1.1), 0.1: TrialOutcome(0.3, 0.9)}
    assert best_rate(tried) == 0.001
    assert best_rate(tried, doubt=0.05) == 0.01
    assert next_rate(tried) == 0.0003
    assert next_rate(tried, doubt=0.05) is None
    assert best_rate({0.001: TrialOutcome(0.5, 1.0), 0.003: TrialOutcome(0.52, 1.0)}, doubt=0.05) == 0.001


def test_of_equal_losses_the_highest_rate_wins():
    """Losses close to the lowest count as equal if accuracies are equal."""
    tried = {
        0.001: TrialOutcome(0.50, 1.0),
        0.003: TrialOutcome(0.49, 1.05),
        0.01: TrialOutcome(0.48, 1.2),
        0.03: TrialOutcome(0.3, 1.0),
    }
    assert best_rate(tried, 0.05, lambda lowest: 0.1 * lowest) == 0.003
    assert best_rate(tried, 0.05, lambda lowest: 0.3 * lowest) == 0.01
    assert best_rate(tried, 0.05, lambda lowest: 0.0) == 0.001
    assert best_rate(tried, 0.005, lambda lowest: 0.3 * lowest) == 0.001
    assert next_rate(tried, 0.05, lambda lowest: 0.3 * lowest) is None
    assert (
        next_rate({0.001: TrialOutcome(0.5, 1.0), 0.003: TrialOutcome(0.5, 1.01)}, 0.05, lambda lowest: 0.0) == 0.0003
    )
    assert next_rate({0.001: TrialOutcome(0.5, 1.0), 0.003: TrialOutcome(0.5, 1.05)}, 0.05, lambda lowest: 0.1) == 0.01


@pytest.mark.parametrize(
    ("first", "second", "rate", "text"),
    [
        ((0.347, 1.9), (0.333, 1.84), 0.01, "and 0.01 has the lower loss (losses 1.9, 1.84)"),
        ((0.347, 1.84), (0.333, 1.9), 0.01, "their losses nearly so (1.84, 1.9), and the higher rate is taken"),
        ((0.5, 1.84), (0.333, 1.9), 0.003, "; 0.003 is better by more than chance (two standard errors, 4.1 points)"),
    ],
)
def test_the_summary_says_what_decided(first, second, rate, text):
    trials = [Trial(each, 44, 2.0, 0.3) for each in (0.001, 0.003, 0.01)]
    trials += [Trial(0.003, 132, first[1], first[0]), Trial(0.01, 132, second[1], second[0])]
    said = Rates(rate, tuple(trials), 600, 1.0).summary
    assert said.endswith(text)
    if first[0] < 0.4:
        assert "; 0.003 and 0.01 are equal within chance (two standard errors, 3.9 points), " in said
    lower = Rates(rate / 10, tuple(trials), 600, 1.0, lowered="it collapsed").summary
    assert lower == f"{said}; it collapsed"
    losses = tuple(Trial(trial.rate, trial.updates, trial.loss, None) for trial in trials)
    assert Rates(rate, losses, 600, 1.0).summary.endswith("(loss on 600 samples)")


@pytest.mark.parametrize("updates", [30, 145, 285, 640, 1000, 10_000, 100_000])
def test_a_search_takes_no_more_than_is_said(updates):
    for once, most in ((True, max(640, 0.38 * updates)), (False, 0.38 * updates if updates >= 300 else 1.4 * updates)):
        short, long = lengths(updates, once=once)
        assert 0 < short < long
        assert 6 * short + 2 * long <= most


def test_rates_that_explode_are_passed_over_and_the_best_is_better_than_the_usual(tmp_path, data, monkeypatch):
    """If the head is scaled so that the usual rates explode, the grid is extended downwards until a rate works."""
    tried = []

    def run(self, epoch, progress, _real=Epochs.run):
        tried.append(self._settings.rate)
        if self._settings.rate > 5e-4:
            raise self._not_finite("loss became nan in", epoch)
        return _real(self, epoch, progress)

    monkeypatch.setattr(Epochs, "run", run)
    trainer = Trainer(made(tmp_path / "artifacts"))
    trainer.fit(data, epochs=4)
    assert [trial.rate for trial in trainer.rates.trials if trial.loss is None] == [0.001, 0.003, 0.01]
    assert trainer.rates.rate < 5e-4
    assert "0.01 not finite" in trainer.rates.summary


def collapsing(monkeypatch, above, exploding=False):
    """Make trainings (not trials) with a rate above this collapse to guessing."""
    search = trainer_module.search
    state = {"searching": False}

    def searching(*given, **named):
        state["searching"] = True
        try:
            return search(*given, **named)
        finally:
            state["searching"] = False

    def run(self, epoch, progress, _real=Epochs.run):
        row, told = _real(self, epoch, progress)
        if state["searching"] or self._settings.rate <= above:
            return row, told
        if exploding:
            raise self._not_finite("loss became nan in", epoch)
        return row | {"train_loss": math.log(4) + 0.01, "eval_loss": math.log(4) + 0.01, "eval_accuracy": 0.25}, told

    monkeypatch.setattr(trainer_module, "search", searching)
    monkeypatch.setattr(Epochs, "run", run)


@pytest.mark.slow
@pytest.mark.parametrize("exploding", [False, True])
def test_a_training_that_collapses_starts_again_with_a_tenth(folder, data, monkeypatch, exploding):
    found = Trainer(folder)
    found.fit(data, epochs=4)
    rate = found.rates.rate
    lower = Trainer(folder).fit(data, epochs=4, learning_rate=float(f"{rate / 10:.6g}"))
    expected = final_parameters(folder)
    collapsing(monkeypatch, above=rate / 2, exploding=exploding)
    told = []
    trainer = Trainer(folder)
    rows = trainer.fit(data, epochs=4, progress=lambda what, *_: told.append(what))
    assert trainer.rates.rate == pytest.approx(rate / 10) == trainer.learned.rate
    assert "so training was restarted with" in trainer.rates.summary
    assert [what for what in told if f"again with a rate of {rate / 10:g}" in what]
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in lower]
    assert all(np.array_equal(value, expected[name]) for name, value in final_parameters(folder).items())
    assert not (folder / START).exists()
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder).fit(data, epochs=4, progress=StopAt("epoch 3/4"))
    assert (folder / START).exists()
    resumed = Trainer(folder)
    again = resumed.fit(data, resume=True)
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
    assert resumed.rates.lowered is not None


def test_a_training_never_starts_again_from_where_another_began(tmp_path, data, monkeypatch):
    """One is interrupted, another killed in its search, and the first resumes and collapses."""
    folder = made(tmp_path / "artifacts")
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder).fit(data, epochs=8, progress=StopAt("epoch 3/8"))
    state = (folder / START).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder).fit(data, epochs=8, settings=Settings(seed=7, head_init="random"), progress=StopAt("trying"))
    (folder / START).write_bytes(state[:-4] + b"\0\0\0\1")  # as after a kill: from another training
    collapsing(monkeypatch, above=0)
    trainer = Trainer(folder)
    trainer.fit(data, resume=True)
    assert trainer.rates.lowered is None


def test_it_is_lowered_once(tmp_path, data, monkeypatch):
    collapsing(monkeypatch, above=0, exploding=True)
    with pytest.raises(TrainingError, match="loss became nan in epoch 1"):
        Trainer(made(tmp_path / "artifacts")).fit(data, epochs=4)


def test_a_rate_by_hand_is_not_lowered_but_its_collapse_is_told(tmp_path, data, monkeypatch):
    collapsing(monkeypatch, above=0)
    told = []
    trainer = Trainer(made(tmp_path / "artifacts"))
    rows = trainer.fit(data, epochs=8, learning_rate=0.01, progress=lambda what, *_: told.append(what))
    assert trainer.rates is None
    assert len(rows) == 9
    assert rows[-1]["learning_rate"] < 0.01
    assert [what for what in told if what.endswith("no better than guessing")]
    assert "ln(4)" in trainer.learned.guessing


def test_class_weights_count_in_what_guessing_gives(tmp_path, data):
    """For rare classes with higher weights, the loss of guessing is ln(4), not the entropy of the frequencies."""
    labels = data["y_train"]
    rows = np.concatenate([np.flatnonzero(labels == 0), *(np.flatnonzero(labels == one)[:3] for one in (1, 2, 3))])
    x, y = data["x_train"][rows], labels[rows]
    counts = np.bincount(y, minlength=4)
    folder = made(tmp_path / "artifacts", class_weights=tuple(float(len(y) / (4 * count)) for count in counts))
    manifest = load_manifest(folder)
    used = open_training_data(
        manifest, open_model(manifest.file("model")), (x, y), Settings(validation=0.0), preprocessing=None, resumed=None
    )
    watch = CollapseWatch(manifest, used, 20, 10)

    def row(epoch, loss):
        return {"epoch": epoch, "train_loss": loss, "eval_loss": None, "eval_accuracy": None}

    assert watch.collapsed(row(6, 0.9), [row(5, 0.9)]) is None, "far below what guessing gives"
    assert "ln(4)" in watch.collapsed(row(6, math.log(4)), [row(5, math.log(4))])
    assert "ln(4)" in watch.collapsed(row(2, math.log(4)), [row(1, 0.9)]), "it was better"


def test_a_slow_start_is_no_collapse(tmp_path, data):
    folder = made(tmp_path / "artifacts")
    manifest = load_manifest(folder)
    used = open_training_data(
        manifest, open_model(manifest.file("model")), data, Settings(), preprocessing=None, resumed=None
    )
    watch, level = CollapseWatch(manifest, used, 9, 10), math.log(4)

    def row(epoch, loss, accuracy=0.25):
        return {"epoch": epoch, "train_loss": loss if epoch else None, "eval_loss": loss, "eval_accuracy": accuracy}

    bad = row(0, 1.8)
    assert watch.collapsed(row(2, 1.5), [bad, row(1, 1.7)]) is None, "falling, and never better"
    assert watch.collapsed(row(6, 1.5), [bad, row(5, 1.7)]) is None
    assert watch.collapsed(row(2, level), [bad, row(1, level)]) is None, "early"
    assert "loss of epoch 6 ended" in watch.collapsed(row(6, level), [bad, row(5, level)])
    assert watch.collapsed(row(2, level), [row(0, 0.9), row(1, 1.1)]) is not None, "it was better"
    assert watch.collapsed(row(2, level), [bad, row(1, level)], trials=[None, 0.7]) is not None
    assert watch.collapsed(row(2, level), [row(0, 0.95 * level), row(1, level)]) is None, "hardly better"
    hard = row(6, 0.985 * level)
    assert watch.collapsed(hard, [bad, row(5, 0.987 * level)]) is None, "a task of which little can be learned"
    assert watch.collapsed(row(2, level, 0.9), [row(0, 0.9), row(1, 1.1)]) is None, "the accuracy is not at chance"
    assert watch.collapsed(row(1, level), [row(0, 0.9)]) is None, "9 updates"


def test_no_epochs_leave_the_state_as_it_is(folder, data, tmp_path):
    trainer = Trainer(folder)
    rows = trainer.fit(data, settings=Settings(epochs=0, head_init="random"))
    assert [row["epoch"] for row in rows] == [0]
    assert rows[0]["eval_accuracy"] is not None
    assert trainer.rates is None
    assert trainer.learned.rate is None
    assert trainer.learned.advice is None
    assert "the model is unchanged" in trainer.learned.unchanged
    assert (folder / LAST).is_file()
    assert not (folder / START).exists()
    export_model(folder, tmp_path / "same.onnx")
    made_from = folder / json.loads((folder / "manifest.json").read_text())["files"]["model"]
    before, after = (evaluate(path, data) for path in (made_from, tmp_path / "same.onnx"))
    assert before["loss"] == pytest.approx(after["loss"], abs=1e-6)
    assert before["accuracy"] == after["accuracy"]
    assert Trainer(folder).fit(data, resume=True) == rows


def test_what_was_fitted_before_counts_as_a_change(tmp_path, data, monkeypatch):
    def run(self, session, *rest, _real=Trainer._run):
        name = session.parameter_names()[-1]
        session.set_parameter(name, session.parameter(name) + 1)
        return _real(self, session, *rest)

    monkeypatch.setattr(Trainer, "_run", run)
    trainer = Trainer(made(tmp_path / "artifacts"))
    trainer.fit(data, epochs=0)
    assert trainer.learned.unchanged is None


@pytest.mark.slow
def test_the_main_job_without_epochs(tmp_path, data):
    how = Adapting(choosing=Choosing(strategy="head"), settings=Settings(epochs=0, head_init="random"), measure=False)
    outcome = adapt(tiny.conv_net(softmax=True), data, tmp_path / "out", num_classes=4, adapting=how)
    assert outcome.after["loss"] == pytest.approx(outcome.before["loss"], abs=1e-6)
    assert outcome.learning_rate is None
    assert outcome.rates is None
    assert outcome.epochs == 0
    assert any("the model is unchanged" in text for text in outcome.warnings)
    assert outcome.plot() is not None
    assert outcome._repr_html_()


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("fast", "must be a number above 0 or 'auto', not 'fast'"),
        (-1, "must be above 0, not -1"),
        (math.nan, "must be above 0, not nan"),
        ([0.1], "`learning_rate` must be a number, text or None"),
        (True, "`learning_rate` must be a number, text or None"),
    ],
)
def test_what_is_no_rate_is_refused(rate, said):
    with pytest.raises(UsageError) as error:
        Settings(learning_rate=rate)
    assert said in str(error.value)


def test_what_is_a_rate():
    assert Settings(learning_rate=np.float32(0.5)).learning_rate == 0.5
    assert Settings().settled().learning_rate == Settings(learning_rate="auto").learning_rate == "auto"
    with pytest.raises(UsageError, match="epochs must be at least 0"):
        Settings(epochs=-1)
