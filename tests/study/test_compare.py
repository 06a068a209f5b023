"""Comparing strategies: results, resuming, rates, ties, and errors."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.linear_heads import inputs, network
from PIL import Image

from adabet_onnx import (
    CheckError,
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
from adabet_onnx.cost.measure import Cost
from adabet_onnx.data.images import ImageRows
from adabet_onnx.portable.features import Features
from adabet_onnx.portable.session import PortableSession
from adabet_onnx.report.comparison import HEADINGS, cells, comparison_table
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.study import runs
from adabet_onnx.study.compare import Comparison, compare
from adabet_onnx.study.plan import Plan, Setting
from adabet_onnx.study.results import Result, load_results, ranked, save_results, summarise, ties_sentence
from adabet_onnx.study.ties import Chance
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.rates import EXTENSIONS, TrialOutcome, best_rate, next_rate

pytestmark = pytest.mark.slow

DEMO = Path(__import__("adabet_onnx").__file__).parent / "demo"
MODEL, DATA = DEMO / "digits.onnx", DEMO / "digits_shifted.npz"
ENTRIES = {
    "strategy", "rho", "seed", "accuracy", "trainable_share", "step_seconds", "step_memory_bytes", "update_bytes",
    "layers",
}  # fmt: skip
PLAN = Plan(
    threads=1,
    strategies=("adabet", "fisher", "head"), seeds=2, epochs=1, rates=(0.001, 0.01), train_samples=200,
    scoring=Scoring(samples=64, subset_size=16, subsets=4),
)  # fmt: skip


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    return compare(MODEL, DATA, folder, PLAN)


@pytest.fixture
def unmeasured(monkeypatch):
    """Pretend that a step takes a megabyte and a hundredth of a second, so that nothing is measured."""
    monkeypatch.setattr("adabet_onnx.study.runner.measure_training", lambda *given, **choices: Cost(1 << 20, 0.01))


def accuracies(folder: Path) -> list[tuple]:
    return [(row.strategy, row.rho, row.seed, row.accuracy, row.learning_rate) for row in load_results(folder)]


def test_the_results_are_as_promised(compared):
    rows = json.loads((compared.folder / "results.json").read_text())
    assert len(rows) == 6
    for row in rows:
        assert row.keys() >= ENTRIES
        assert 0 <= row["accuracy"] <= 1
        assert row["step_seconds"] > 0
        assert row["step_memory_bytes"] > 0
        assert row["learning_rate"] in (0.001, 0.01)
    assert {(row["strategy"], row["rho"], row["seed"]) for row in rows} == {
        *((name, 0.1, seed) for name in ("adabet", "fisher") for seed in (0, 1)),
        *(("head", None, seed) for seed in (0, 1)),
    }
    head = next(row for row in rows if row["strategy"] == "head")
    assert len(head["layers"]) == 1
    assert load_results(compared.folder / "results.json") == compared.results
    assert (compared.folder / "results.csv").read_text().count("\n") == 7


def test_a_finished_comparison_is_not_done_again(compared):
    before = {path: path.stat().st_mtime_ns for path in (compared.folder / "runs").iterdir()}
    again = compare(MODEL, DATA, compared.folder, PLAN)
    assert again.results == compared.results
    assert {path: path.stat().st_mtime_ns for path in (compared.folder / "runs").iterdir()} == before


def test_another_plan_is_refused_and_more_strategies_are_not(compared, tmp_path):
    with pytest.raises(UsageError, match="epochs was 1, now it is 2"):
        compare(MODEL, DATA, compared.folder, dataclasses.replace(PLAN, epochs=2))
    with np.load(DATA, allow_pickle=False) as stored:
        other = {name: stored[name] for name in stored.files}
    other["y_train"] = other["y_train"][::-1]
    np.savez(tmp_path / "other.npz", **other)
    with pytest.raises(UsageError, match="data_sha256"):
        compare(MODEL, tmp_path / "other.npz", compared.folder, PLAN)


def test_a_killed_comparison_goes_on_where_it_was(compared, tmp_path):
    options = ["--strategies", "adabet,fisher,head", "--seeds", "2", "--epochs", "1", "--lr", "0.001,0.01"]
    options += ["--train-samples", "200", "--samples", "64", "--subset-size", "16", "--subsets", "4", "--jobs", "1"]
    command = [sys.executable, "-m", "adabet_onnx", "compare", MODEL, DATA, "-o", tmp_path / "c", *options]
    process = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = tmp_path / "c" / "runs"
    while process.poll() is None and not (runs.is_dir() and len(list(runs.glob("*.json"))) >= 2):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "c" / "results.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in runs.glob("*.json")}
    assert kept
    done = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert accuracies(tmp_path / "c" / "results.json") == accuracies(compared.folder / "results.json")
    assert "adabet 10%" in done.stdout


@pytest.mark.usefixtures("unmeasured")
def test_the_test_data_plays_no_part_in_choosing_a_rate(compared, tmp_path):
    with np.load(DATA, allow_pickle=False) as stored:
        poisoned = {name: stored[name] for name in stored.files}
    poisoned["y_test"] = (poisoned["y_test"] + 1) % 10
    np.savez(tmp_path / "poisoned.npz", **poisoned)
    found = compare(MODEL, tmp_path / "poisoned.npz", tmp_path / "c", PLAN)
    assert [row.learning_rate for row in found.results] == [row.learning_rate for row in compared.results]
    assert all(b.accuracy < a.accuracy for a, b in zip(compared.results, found.results, strict=True))


def test_the_best_rate_wins_and_the_lower_one_in_a_tie():
    tried = {0.1: TrialOutcome(0.5, 1.0), 0.01: TrialOutcome(0.5, 1.0), 0.001: TrialOutcome(0.4, 0.1), 1.0: None}
    assert best_rate(tried) == 0.01
    assert best_rate({0.1: TrialOutcome(0.0, 2.0), 0.01: TrialOutcome(0.0, 1.0)}) == 0.01  # a loss without accuracy
    assert best_rate({0.1: None}) is None


def test_a_grid_grows_where_its_best_is_at_an_edge():
    low, middle, high = TrialOutcome(0.1, 1.0), TrialOutcome(0.2, 1.0), TrialOutcome(0.3, 1.0)
    assert next_rate({0.003: low, 0.01: middle, 0.03: high}) == 0.1
    assert next_rate({0.001: high, 0.003: middle, 0.01: low}) == 0.0003
    assert next_rate({0.003: low, 0.01: high, 0.03: middle}) is None
    assert next_rate({0.003: None, 0.01: None}) == 0.001
    assert next_rate({0.003: low, 0.01: high, 0.03: None}) is None


@pytest.mark.usefixtures("unmeasured")
def test_a_strategy_with_the_best_rate_at_the_edge_tries_more(tmp_path):
    import dataclasses

    plan = dataclasses.replace(PLAN, strategies=("head",), seeds=1, rates=())
    found = compare(MODEL, DATA, tmp_path / "c", plan)
    tried = {float(path.stem.rsplit("-", 1)[1]) for path in (tmp_path / "c" / "runs").glob("rate-*.json")}
    assert tried > set(plan.grid)  # one epoch of 200 samples needs a higher rate than the grid has
    inside = min(tried) < found.results[0].learning_rate < max(tried)
    assert inside or len(tried) == len(plan.grid) + EXTENSIONS


def test_ties():
    close = Chance.of([[0.50, 0.52, 0.51], [0.51, 0.53, 0.52]], 1000)
    assert close.freedom == 4
    assert close.variance == pytest.approx(1e-4)
    assert close.tied([0.50, 0.52, 0.51], [0.51, 0.53, 0.52])
    assert not close.tied([0.50, 0.52, 0.51], [0.60, 0.62, 0.61])
    # By hand: t(4) = 2.776; 2.776 sqrt(2e-4 / 3) = 0.0227; 1.96 sqrt(2 * 0.515 * 0.485 / 1000) = 0.0438.
    assert close.tolerance([0.50, 0.52, 0.51], [0.51, 0.53, 0.52]) == pytest.approx(0.0493, abs=2e-4)
    single = Chance.of([[0.5], [0.6]], 100)
    assert single.freedom == 0
    assert single.tied([0.5], [0.6])
    assert not Chance.of([[0.5], [0.6]], 10_000).tied([0.5], [0.6])


def test_the_summary_names_the_best_and_its_ties(compared):
    rows = [row for row in compared.results if row.strategy == "head"]
    better = [dataclasses.replace(row, strategy="all", accuracy=0.9 + 0.01 * row.seed) for row in rows]
    worse = [dataclasses.replace(row, strategy="random", rho=0.2, accuracy=0.2) for row in rows]
    lost = [dataclasses.replace(row, strategy="last", accuracy=None, failed="the loss became nan") for row in rows]
    found = {str(summary.setting): summary for summary in summarise([*worse, *better, *lost], 1000)}
    assert found["all"].best
    assert not found["random 20%"].ties
    assert found["all"].mean == pytest.approx(0.905)
    assert found["last"].failed == 2
    assert not found["last"].ties


def test_settings_are_strategies_with_their_rhos():
    plan = Plan(strategies=("adabet", "all"), rhos=(0.1, 0.2))
    assert plan.settings() == [Setting("adabet", 0.1), Setting("adabet", 0.2), Setting("all", None)]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"strategies": ("magic",)}, "unknown strategy 'magic'"),
        ({"rhos": (0.0,)}, "rho must be above 0"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"rates": (-1.0,)}, "learning rate must be above 0"),
    ],
)
def test_wrong_plans(plan, message):
    with pytest.raises(UsageError, match=message):
        Plan(**plan)


def test_what_cannot_be_compared_is_refused(tmp_path):
    with np.load(DATA, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "no_test.npz", x=arrays["x_train"], y=arrays["y_train"])
    with pytest.raises(UsageError, match="x_test and y_test"):
        compare(MODEL, tmp_path / "no_test.npz", tmp_path / "c", PLAN)
    with pytest.raises(UsageError, match="`old_domain`"):
        compare(MODEL, DATA, tmp_path / "c", PLAN, num_classes=10, old_domain=DATA)


def test_damaged_results_are_refused(tmp_path):
    path = tmp_path / "results.json"
    for content in ("", "{}", "[1]", '[{"strategy": 3}]', "[NaN]"):
        path.write_text(content)
        with pytest.raises(RecordError):
            load_results(path)


@pytest.mark.usefixtures("unmeasured")
def test_arrays_that_were_read_again_go_on(tmp_path):
    plan = dataclasses.replace(PLAN, strategies=("head",), seeds=1, rates=(0.001,))
    for seeds in (1, 2):
        with np.load(DATA, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = compare(MODEL, arrays, tmp_path / "c", dataclasses.replace(plan, seeds=seeds))
        assert len(found.results) == seeds


def test_another_old_domain_is_refused(compared):
    """The finished trainings were not evaluated on it."""
    with pytest.raises(UsageError, match="source_sha256 was None"):
        compare(MODEL, DATA, compared.folder, PLAN, old_domain=DATA)


def test_half_removed_artifacts_are_not_taken_for_whole(compared, tmp_path, monkeypatch):
    folder = shutil.copytree(compared.folder, tmp_path / "c")
    (folder / "starting-artifacts" / "some").mkdir(parents=True)

    really = shutil.rmtree

    def killed(path, *rest, **options):
        if Path(path).name in ("starting-artifacts", ".starting-artifacts.part") and Path(path).exists():
            raise KeyboardInterrupt
        really(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr("adabet_onnx.files.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(MODEL, DATA, folder, PLAN)
    assert not (folder / "starting-artifacts").exists()
    assert compare(MODEL, DATA, folder, PLAN).results == compared.results
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


@pytest.mark.usefixtures("unmeasured")
def test_a_training_that_explodes_in_its_last_step_is_a_result(tmp_path):
    """One step: its loss is that of the model before it, and finite."""
    plan = dataclasses.replace(PLAN, strategies=("head",), seeds=1, batch_size=200, rates=(1e38,))
    row = compare(MODEL, DATA, tmp_path / "high", plan).results[0]
    assert (row.accuracy, row.loss) == (None, None)
    assert "NaN or infinite" in str(row.failed)
    plan = dataclasses.replace(plan, rates=(0.001, 1e38))
    row = compare(MODEL, DATA, tmp_path / "both", plan).results[0]
    assert (row.learning_rate, row.failed) == (0.001, None)


def test_strategies_at_chance_are_named(tmp_path, unmeasured, rng):
    found = np.load(DATA)
    labels = {key: rng.integers(0, 10, len(found[key])) for key in ("y_train", "y_test")}
    data = {key: found[key] for key in ("x_train", "x_test")} | labels
    plan = dataclasses.replace(PLAN, strategies=("head",), seeds=1, rates=(0.001,))
    (warning,) = compare(MODEL, data, tmp_path, plan).warnings
    assert warning.startswith("head: an accuracy of")
    assert "chance: always answering the most frequent class" in warning


ROW = Result("last", 0.1, 0, 0.5, 1.5, 0.1, 0.01, 10**7, 400, ("fc",), 0.001, 10**7)


def test_without_accuracies_losses_are_said():
    other = dataclasses.replace(ROW, strategy="all", rho=None, loss=0.25)
    rows = [dataclasses.replace(row, accuracy=None) for row in (ROW, other)]
    found = summarise(rows, 1000)
    assert {summary.verdict() for summary in found} == {"-"}
    best = min(found, key=lambda summary: summary.loss)
    assert ranked(found)[0] == best
    assert ties_sentence(found).startswith(f"{best.setting} has the lowest test loss, {best.loss:.4g}")
    assert cells(best, None, False)[1] == f"loss {best.loss:.4g}"
    failed = [dataclasses.replace(row, accuracy=None, loss=None, failed="nan") for row in rows]
    assert "no training succeeded" in ties_sentence(summarise(failed, 1000))


def results_of(strategy, *accuracies):
    return [dataclasses.replace(ROW, strategy=strategy, seed=seed, accuracy=a) for seed, a in enumerate(accuracies)]


def test_the_last_line_says_how_much_may_be_chance_and_why():
    found = summarise([*results_of("adabet", 0.56, 0.568), *results_of("last", 0.52, 0.524)], 400)
    # By hand: t(2) = 4.303, s^2 = 2e-5; 4.303 sqrt(2e-5) = 0.0192; 1.96 sqrt(2 * 0.543 * 0.457 / 400) = 0.0690.
    assert ties_sentence(found) == (
        "adabet 10% has the highest mean, but its lead over last 10% (4.2 points) is within chance: differences up to "
        "7.2 points may be chance (6.9 as there are 400 test samples, 1.9 between seeds)"
    )
    one = summarise([*results_of("adabet", 0.9), *results_of("last", 0.5)], 400)
    assert ties_sentence(one) == (
        "adabet 10% is best, and no other ties with it: differences up to 6.4 points may be chance (6.4 as there are "
        "400 test samples, the chance of training is unknown with one seed)"
    )


def test_one_strategy_is_compared_with_nothing():
    (found,) = summarise(results_of("adabet", 0.398), 400)
    assert found.reached() == "39.8%", "one seed has no deviation"
    assert ties_sentence([found]) == "adabet 10% reached 39.8%; there is no other strategy to compare it with"
    failed = dataclasses.replace(ROW, accuracy=None, loss=None, failed="nan")
    assert ties_sentence(summarise([*results_of("adabet", 0.398), failed], 400)).endswith("; 1 other failed")
    assert summarise(results_of("adabet", 0.39, 0.41), 400)[0].reached() == "40.0% ± 1.4"


def test_each_quantity_has_a_column():
    (found,) = summarise([dataclasses.replace(ROW, frozen_seconds=0.000968, stored_bytes=65500)], 400)
    shown = dict(zip(HEADINGS, cells(found, None, False), strict=True))
    assert (shown["frozen pass"], shown["kept per sample"]) == ("0.968 ms", "65.5 KB")
    comparison = Comparison(Path("c"), [ROW], [found], 400, 0.3, None)
    assert comparison_table(comparison).renderables[0].title == "1 training, measured on 400 test samples"


class Unpickled:
    """An object that runs a function when it is unpickled in a worker."""

    def __init__(self, *what: object) -> None:
        self._what = what

    def __reduce__(self):
        return self._what[0], self._what[1:]


def trainings(folder: Path, data: object):
    task = runs.Task(MODEL, data, None, {}, None, 1, 32, 1, 1, Choices())
    jobs = [runs.Job(f"job{i}", folder / "artifacts" / "a", 0.1, 0, 0.0, 1, "a training") for i in range(3)]
    return runs.run_all(task, jobs, folder, 2)


def test_a_worker_that_dies_is_said(tmp_path):
    with pytest.raises(CheckError, match="a training process died"):
        list(trainings(tmp_path, Unpickled(os._exit, 3)))


def test_an_interrupt_does_not_wait_for_trainings(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "wait", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(trainings(tmp_path, Unpickled(time.sleep, 300)))
    assert time.monotonic() - began < 150


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step_seconds", 0), ("step_memory_bytes", 0), ("accuracy", 1.5), ("accuracy", -0.1), ("strategy", "**"),
        ("step_memory_bytes", 10**400), ("update_bytes", -1), ("rho", 7),
    ],
)  # fmt: skip
def test_results_that_cannot_be_are_refused(tmp_path, key, value):
    save_results(tmp_path, [ROW])
    assert load_results(tmp_path / "results.json") == [ROW]
    rows = json.loads((tmp_path / "results.json").read_text())
    rows[0][key] = value
    (tmp_path / "results.json").write_text(json.dumps(rows))
    with pytest.raises(RecordError, match=key):
        load_results(tmp_path / "results.json")


def test_a_classifier_is_put_on_the_outputs(tmp_path, unmeasured):
    plan = dataclasses.replace(PLAN, strategies=("head",), seeds=1, rates=(0.01,), train_samples=80, append=True)
    found = compare(MODEL, DATA, tmp_path / "c", plan, num_classes=10)
    assert [row.layers for row in found.results] == [("new_head",)]
    model = onnx.load(tmp_path / "c" / "model.onnx")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["new_head.weight"] == (10, 10)
    names = {tensor.name for tensor in onnx.load(MODEL).graph.initializer}
    assert len(names & shapes.keys()) == len(names)  # all layers stay


@pytest.mark.parametrize("option", ["append", "keep_tail"])
def test_what_is_about_a_new_head_needs_one(option, tmp_path):
    with pytest.raises(UsageError, match="give `num_classes` too"):
        compare(MODEL, DATA, tmp_path / "c", dataclasses.replace(PLAN, **{option: True}))
    assert not (tmp_path / "c").exists()


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of the demo's digits as files."""
    with np.load(DATA, allow_pickle=False) as stored:
        for part, count in (("train", 60), ("test", 30)):
            for index in range(count):
                place = tmp_path / "pictures" / part / f"d{stored[f'y_{part}'][index]}"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(stored[f"x_{part}"][index].squeeze()).save(place / f"{index}.png")
    return tmp_path / "pictures"


SHARED = dataclasses.replace(PLAN, strategies=("last", "head"), rhos=(0.4,), train_samples=None)


def test_trainings_share_what_is_frozen_and_pictures_are_decoded_once(pictures, tmp_path, monkeypatch, unmeasured):
    decoded, frozen = [], []
    read, compute = ImageRows._read, PortableSession.features
    monkeypatch.setattr(ImageRows, "_read", lambda rows, path: decoded.append(path) or read(rows, path))
    monkeypatch.setattr(
        PortableSession,
        "features",
        lambda s, feeds: frozen.append(len(next(iter(feeds.values())))) or compute(s, feeds),
    )
    shared = compare(MODEL, pictures, tmp_path / "shared", SHARED, num_classes=10)
    assert len(decoded) == 90 + 60 + 30, "each once, and up to 64 of each part to tell whether they are the same data"
    assert 60 * 2 <= sum(frozen) < 60 * 2 * 1.2, "two selections, and the last ones of a micro-batch filled up"
    assert not (tmp_path / "shared" / "features").exists()
    decoded.clear()
    frozen.clear()
    alone = compare(MODEL, pictures, tmp_path / "alone", dataclasses.replace(SHARED, features="off"), num_classes=10)
    assert len(decoded) > 3 * 90
    assert sum(frozen) > 60 * 2 * 3
    assert alone.results == shared.results


def test_processes_share_it_too_and_what_is_kept_serves_again(pictures, tmp_path, unmeasured, monkeypatch):
    plan = dataclasses.replace(SHARED, keep_features=True, processes=2, threads=1)
    found = compare(MODEL, pictures, tmp_path / "two", plan, num_classes=10)
    kept = sorted((tmp_path / "two" / "features").rglob("*.features"))
    assert len(kept) == 4, "training and test pictures, and the features of two selections"
    before = [path.stat().st_mtime_ns for path in kept]
    shutil.rmtree(tmp_path / "two" / "runs")
    frozen, compute = [], PortableSession.features
    monkeypatch.setattr(PortableSession, "features", lambda *given: frozen.append(given) or compute(*given))
    again = compare(MODEL, pictures, tmp_path / "two", dataclasses.replace(plan, processes=1), num_classes=10)
    assert again.results == found.results
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert not [given for given in frozen if not isinstance(given[1], Features)], "nothing is computed again"


@pytest.mark.parametrize("features", ["auto", "off"])
def test_processes_give_the_results_of_one(pictures, tmp_path, unmeasured, features):
    plan = dataclasses.replace(SHARED, features=features, threads=1)
    found = {
        count: compare(
            MODEL, pictures, tmp_path / str(count), dataclasses.replace(plan, processes=count), num_classes=10
        )
        for count in (1, 2)
    }
    assert found[1].results == found[2].results
    assert len(found[1].results) == 4
    for count in (1, 2):
        assert not list((tmp_path / str(count)).rglob("*.features*")), "what is shared goes at the end"


def test_a_comparison_without_room_goes_on_without(tmp_path, monkeypatch, unmeasured, pictures):
    class Full:
        free = 1000

    monkeypatch.setattr("psutil.disk_usage", lambda _: Full)
    full = compare(MODEL, pictures, tmp_path / "full", SHARED, num_classes=10)
    monkeypatch.undo()
    assert not list((tmp_path / "full").rglob("*.features"))
    assert [row.accuracy for row in full.results if row.strategy == "head"]


def test_a_fitted_head_that_nothing_is_trained_from_is_compared(tmp_path, unmeasured):
    plan = dataclasses.replace(PLAN, strategies=("head", "fit-head"), seeds=1, rates=(0.01, 0.003))
    found = compare(MODEL, DATA, tmp_path / "c", plan, num_classes=10)
    head, fitted = found.results
    assert (fitted.layers, fitted.step_seconds, fitted.learning_rate) == (head.layers, 0.0, 0.0)
    assert head.learning_rate in (0.01, 0.003)
    runs_of = sorted(path.name for path in (tmp_path / "c" / "runs").glob("*fit-head*"))
    assert len(runs_of) == 1, "no rate is chosen where nothing is trained"
    model = new_head(MODEL, 10)
    make_artifacts(model, select(model, strategy="head"), tmp_path / "a", check=False)
    with np.load(DATA, allow_pickle=False) as stored:
        data = {"x": stored["x_train"][:200], "y": stored["y_train"][:200]}
    Trainer(tmp_path / "a", threads=1).fit(data, settings=Settings(epochs=0, head_init="fitted", validation=0.0))
    assert evaluate(tmp_path / "a", DATA)["accuracy"] == pytest.approx(fitted.accuracy, abs=0.003)


def test_a_head_that_is_not_new_is_not_fitted(tmp_path, unmeasured):
    with pytest.raises(UsageError, match="fit-head fits a new head"):
        compare(MODEL, DATA, tmp_path / "c", dataclasses.replace(PLAN, strategies=("head", "fit-head")))
    assert not (tmp_path / "c").exists()
    assert "fit-head" in Plan().strategies
    assert "fit-head" not in Plan().for_model(open_model(MODEL)).strategies


def test_a_head_that_cannot_be_fitted_is_a_result(tmp_path, unmeasured, rng):
    """The largest output of all positions counts."""
    x, y = inputs("the largest", 120), rng.integers(0, 3, 120)
    data = {"x_train": x[:80], "y_train": y[:80], "x_test": x[80:], "y_test": y[80:]}
    plan = dataclasses.replace(PLAN, strategies=("head", "fit-head"), seeds=1, rates=(0.01,))
    found = compare(network("the largest"), data, tmp_path / "c", plan, num_classes=3)
    assert found.results[0].failed is None
    assert "is not possible" in found.results[1].failed
    assert cells(found.summaries[1], None, old=False)[1].startswith("-")
