"""The report: its contents, which match the files, and that it loads in a browser without errors."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, missing
from models import tiny

from adabet_onnx import RecordError, UsageError, open_model
from adabet_onnx.adapting import Adapting
from adabet_onnx.cli.main import main
from adabet_onnx.cost.measure import Cost
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.outcome import save_summary
from adabet_onnx.pipeline import adapt
from adabet_onnx.report.gather import gather
from adabet_onnx.report.page import write_report
from adabet_onnx.report.predicted import find_model, predict_costs
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.options import Choosing
from adabet_onnx.sizes import size_text
from adabet_onnx.study.compare import compare
from adabet_onnx.study.plan import Plan
from adabet_onnx.study.repeats import Repeats
from adabet_onnx.study.results import load_results
from adabet_onnx.study.stability import stability
from adabet_onnx.training.metrics import ClassFigures, LabelFigures, NumberFigures
from adabet_onnx.training.settings import Settings

pytestmark = pytest.mark.slow

JS = ROOT / "tests" / "js"
WIDTHS = (1200, 390)  # of a desktop's window and of a phone's
HOSTILE = '<b class="injected">&"\'{{ 7 * 7 }}</b>'


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    x = rng.standard_normal((120, 3, 8, 8)).astype(np.float32)
    x[np.arange(120), np.minimum(y, 2)] += (2.0 * (y < 3))[:, None, None]
    return {"x_train": x[:80], "y_train": y[:80], "x_test": x[80:], "y_test": y[80:]}


def hostile_net() -> onnx.ModelProto:
    """A network whose first layer has a name that would be markup."""
    proto = tiny.conv_net(seed=3)
    first = next(node for node in proto.graph.node if node.op_type == "Conv")
    weight = first.input[1]
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name == weight:
                node.input[i] = f"{HOSTILE}.weight"
    next(tensor for tensor in proto.graph.initializer if tensor.name == weight).name = f"{HOSTILE}.weight"
    return proto


SCORING = Scoring(samples=64, subset_size=16, subsets=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of run, compare and stability, in one folder."""
    folder = tmp_path_factory.mktemp("report")
    path = folder / "net.onnx"
    path.write_bytes(hostile_net().SerializeToString())
    arrays = data()
    outcome = adapt(
        path,
        arrays,
        folder / "all" / "run",
        adapting=Adapting(
            scoring=SCORING,
            settings=Settings(epochs=2, batch_size=16),
            check=False,
            choosing=Choosing(strategy="last", rho=0.4),
        ),
    )
    save_summary(outcome, command="adabet-onnx run <net>.onnx")
    plan = Plan(strategies=("last", "head", "all"), rhos=(0.4,), seeds=2, epochs=1, rates=(0.01,), scoring=SCORING)
    sizes = itertools.count(1)  # the cost of a step is given, so that no process has to measure it
    with pytest.MonkeyPatch.context() as patch:
        measure = "adabet_onnx.study.runner.measure_training"
        patch.setattr(measure, lambda *given, **choices: Cost(next(sizes) << 20, 0.01))
        compare(path, arrays, folder / "all" / "compare", plan)
    model = open_model(path)
    found = stability(
        model,
        arrays,
        preprocessing=Arithmetic(),
        repeats=Repeats(points=16, subsets=4, max_samples=32, seeds=1, fisher=False),
    )
    found.save(folder / "all" / "stability.json")
    return folder / "all"


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report(folder, path) == []
    return path


class Text(HTMLParser):
    """Texts of table cells, and all tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def parsed(path: Path) -> Text:
    parser = Text()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_it_shows_what_is_in_the_files(folder, written):
    page = parsed(written)
    text = " ".join(page.texts)
    scores = json.loads((folder / "run" / "scores.json").read_text())
    for layer in scores["layers"]:
        assert f"{layer['b1_hat']:.1e}" in page.texts
        assert f"{layer['activation_size']:,}" in page.texts
    assert scores["model_sha256"] in page.texts
    summary = json.loads((folder / "run" / "run.json").read_text())
    assert f"{summary['after']['accuracy']:.1%}" in text
    for row in load_results(folder / "compare" / "results.json"):
        assert str(row.setting) in page.texts
    for heading in ("The network by depth", "How reliable the choice is", "Strategies compared", "Learning curves"):
        assert heading in page.texts
    assert "adabet-onnx run <net>.onnx" in text
    marked = [attributes for tag, attributes in page.tags if tag == "tr" and attributes.get("class") == "on"]
    assert len(marked) >= len(summary["layers"])


def test_the_frozen_pass_and_a_step_after_it_have_a_row_each(folder, written):
    texts = parsed(written).texts
    costs = json.loads((folder / "run" / "run.json").read_text())["costs"]["selection"]
    found = gather(folder / "run")
    find_model(found, None)
    predict_costs(found)
    predicted = found.costs["selection"]
    assert predicted.stored_bytes > 0
    for row, size, measured, seconds in (
        ("the frozen pass, once", predicted.frozen_bytes, costs["frozen_bytes"], costs["frozen_seconds"]),
        ("training the selection: a step after it", predicted.tail_bytes, costs["tail_bytes"], costs["seconds"]),
    ):
        at = texts.index(row)
        assert texts[at + 1 : at + 4] == [size_text(size), size_text(measured), f"{1000 * seconds:.3g} ms"]
    assert "training the selection" not in texts


def test_names_are_text_and_nothing_is_fetched(written):
    page = parsed(written)
    text = written.read_text()
    assert HOSTILE in " ".join(page.texts)
    assert "49" not in re.findall(r"injected&[^<]*", text)
    assert not [tag for tag, attributes in page.tags if attributes.get("class") == "injected"]
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed") or attributes.get("href") == "data:,"
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import", text)


def test_the_same_twice(folder, written, tmp_path):
    write_report(folder, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == written.read_bytes()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_has_nothing_to_complain_of(written, width, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        missing("no Chromium (make test installs it where apt-get can)")
    if shutil.which("node") is None or not (JS / "node_modules" / "playwright-core").is_dir():
        missing("playwright-core is not installed (make test does)")
    picture = tmp_path / "page.png"
    command = ["node", JS / "page.mjs", browser, written, str(width), picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["messages"] == []
    assert found["requests"] == [written.as_uri()]
    assert found["sideways"] == 0
    assert found["twice"] == []
    assert found["bold"] == 0
    assert len(found["figures"]) == 4
    assert all(0.5 * min(width, 700) < drawn <= width for drawn in found["figures"])
    assert picture.stat().st_size > 20_000


def test_parts_alone(folder, tmp_path):
    notes = write_report(folder / "run", tmp_path / "run.html", costs=False)
    assert any("No strategies were compared" in note for note in notes)
    assert "Strategies compared" not in (tmp_path / "run.html").read_text()
    notes = write_report(folder / "compare", tmp_path / "compare.html")
    assert not any("left out" in note for note in notes)  # its model is in the folder
    text = (tmp_path / "compare.html").read_text()
    assert "Cost of a training step" in text
    assert "Marked: selected by" in text


def test_a_model_that_is_not_found_is_said_and_another_is_refused(folder, tmp_path):
    other = shutil.copytree(folder / "run", tmp_path / "run")
    content = json.loads((other / "scores.json").read_text())
    (other / "scores.json").write_text(json.dumps({**content, "model_file": str(tmp_path / "gone.onnx")}))
    assert any("`model`" in note for note in write_report(other, tmp_path / "page.html"))
    assert "memory to train it" not in (tmp_path / "page.html").read_text()
    net = tmp_path / "other.onnx"
    net.write_bytes(tiny.mlp().SerializeToString())
    with pytest.raises(UsageError, match="not the model that was scored"):
        write_report(other, tmp_path / "page.html", model=net)


def test_what_cannot_be_shown(folder, tmp_path):
    with pytest.raises(UsageError, match="has nothing to report"):
        gather(tmp_path)
    both = shutil.copytree(folder, tmp_path / "both")
    for name, content in (("run.json", "{"), ("run.json", '{"costs": {}}'), ("metrics.jsonl", "[1]\n")):
        path = both / "run" / name
        before = path.read_text()
        path.write_text(content)
        with pytest.raises(RecordError, match=name.replace(".", r"\.")):
            gather(both)
        path.write_text(before)
    plan = both / "compare" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "model_sha256": "0" * 64}))
    with pytest.raises(RecordError, match="different models"):
        gather(both)


def test_costs_are_of_the_batch_that_was_trained(folder, tmp_path):
    found = gather(folder / "run")
    find_model(found, None)
    predict_costs(found)
    assert found.batch_size == 16
    assert json.loads((folder / "run" / "run.json").read_text())["batch_size"] == 16
    other = shutil.copytree(folder / "compare", tmp_path / "compare")
    plan = json.loads((other / "plan.json").read_text())
    plan["choices"]["optimizer"], plan["batch_size"] = "sgd", 8
    (other / "plan.json").write_text(json.dumps(plan))
    found = gather(other)
    find_model(found, None)
    predict_costs(found)
    assert (found.batch_size, found.costs["all"].state_bytes) == (8, 0)


def evaluated_as(folder, tmp_path, before, after):
    """The page of a run with other figures."""
    place = shutil.copytree(folder / "run", tmp_path / "other")
    summary = json.loads((place / "run.json").read_text())
    (place / "run.json").write_text(json.dumps(summary | {"before": before, "after": after}))
    write_report(place, tmp_path / "other.html", costs=False)
    return parsed(tmp_path / "other.html")


def figures_of(classes: int, seed: int, names=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 20 * classes)
    figures = ClassFigures(classes)
    figures.add(rng.standard_normal((len(labels), classes)) + seed * np.eye(classes)[labels], labels)
    base = {"loss": 1.0, "accuracy": figures.accuracy, "samples": len(labels), "data": ""}
    return base | figures.result(names)


@pytest.mark.parametrize("classes", [2, 3, 37, 100, 101])
def test_classes_before_and_after(folder, tmp_path, classes):
    names = [f"{HOSTILE} {i}" if i == 1 else f"class $x_{i}$" for i in range(classes)]
    before, after = figures_of(classes, 0, names), figures_of(classes, 2, names)
    page = evaluated_as(folder, tmp_path, before, after)
    text = " ".join(page.texts)
    assert "Classes before and after" in text
    change = f"balanced accuracy {before['balanced_accuracy']:.1%} before, {after['balanced_accuracy']:.1%} after"
    assert change in text
    assert ("top-5 accuracy" in text) == (classes > 20)
    assert ("Confusion matrix after the training" in text) == (classes <= 100)
    assert ("Most confused after the training" in text) == (classes > 30)
    lowest = min(after["per_class"], key=lambda row: row["accuracy"])
    assert f"{lowest['accuracy']:.1%}" in page.texts
    assert not [tag for tag, attributes in page.tags if attributes.get("class") == "injected"]
    if classes <= 30:  # every count stands in its cell
        for row in after["confusion_matrix"]:
            assert all(str(count) in page.texts for count in row if count)
    if classes > 40:
        assert f"The 20 of {classes} classes with the lowest accuracy" in text


def test_outputs_before_and_after(folder, tmp_path):
    def regression(seed):
        figures = NumberFigures((3,))
        rng = np.random.default_rng(seed)
        figures.add(rng.standard_normal((30, 3)), rng.standard_normal((30, 3)))
        return {"loss": 1.0, "accuracy": None, "samples": 30, "data": ""} | figures.result(["x", "y", "z"])

    before, after = regression(0), regression(1)
    text = " ".join(evaluated_as(folder, tmp_path, before, after).texts)
    assert "Outputs before and after" in text
    for side in (before, after):
        assert all(f"{row['r2']:.4g}" in text for row in side["per_output"])
    assert f"MAE {before['mae']:.4g} before, {after['mae']:.4g} after" in text


def test_several_labels_before_and_after(folder, tmp_path):
    figures = LabelFigures((2,))
    figures.add(np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1, 0], [0, 1]]))
    side = {"loss": 1.0, "accuracy": None, "samples": 2, "data": ""} | figures.result(["on", "off"])
    text = " ".join(evaluated_as(folder, tmp_path, side, side).texts)
    assert "all labels right 50.0% before, 50.0% after" in text
    assert "66.7%" in text  # F1 of the first


def test_a_run_of_an_earlier_release(folder, tmp_path):
    """Whose run.json knows loss and accuracy alone."""
    plain = {"loss": 1.0, "accuracy": 0.5, "samples": 9}
    text = " ".join(evaluated_as(folder, tmp_path, plain, plain).texts)
    assert "before and after" not in text
    assert "50.0%" in text


@pytest.mark.parametrize(
    "change",
    [
        {"per_class": 3},
        {"per_class": [1]},
        {"per_class": [{"class": "a"}]},
        {"per_class": [{"class": "a", "labels": 1, "accuracy": 1.0, "precision": 1.0, "f1": 1.0}]},
        {"balanced_accuracy": "high"},
        {"confusion_matrix": [[1, 2]]},
        {"confusion_matrix": [[1, 2, 0], [1, -2, 0], [0, 0, 0]]},
        {"confusion_matrix": [[1, 2, 0], [1, 2.5, 0], [0, 0, 0]]},
        {"most_confused": [{"label": 0}]},
    ],
)
def test_damaged_figures(folder, tmp_path, change):
    side = figures_of(3, 1)
    with pytest.raises(RecordError, match=r"run\.json"):
        evaluated_as(folder, tmp_path, side, side | change)


def test_figures_that_cannot_be(folder, tmp_path):
    (tmp_path / "any.json").mkdir()
    run, compare = (shutil.copytree(folder / name, tmp_path / name) for name in ("run", "compare"))
    summary = json.loads((run / "run.json").read_text())
    half = json.loads((run / "run.json").read_text())
    half["costs"]["selection"]["frozen_seconds"] = 0.0
    summary["costs"]["all"]["memory_bytes"] = 0
    plan = json.loads((compare / "plan.json").read_text())
    for path, content in (
        (run / "run.json", json.dumps(summary)),
        (run / "run.json", json.dumps({**summary, "costs": {}, "batch_size": 0})),
        (run / "run.json", json.dumps({**summary, "costs": {}}).replace('"batch_size": 16', '"batch_size": 1e999')),
        (run / "run.json", json.dumps(half)),
        (run / "metrics.jsonl", f'{{"train_loss": {10**400}}}'),
        (compare / "plan.json", json.dumps({**plan, "choices": {"magic": 1}})),
        (compare / "plan.json", json.dumps({**plan, "choices": {**plan["choices"], "loss": "magic"}})),
        (compare / "plan.json", json.dumps({**plan, "batch_size": -1})),
    ):
        before = path.read_text()
        path.write_text(content)
        with pytest.raises(RecordError, match=path.name.replace(".", r"\.")):
            gather(tmp_path)
        path.write_text(before)
    gather(tmp_path)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    assert run(folder, "-o", tmp_path / "page.html") == 0
    printed = capsys.readouterr()
    assert (printed.err, "page.html" in printed.out) == ("", True)
    assert run(tmp_path, "-o", tmp_path / "page.html") == 2
    assert "has nothing to report" in capsys.readouterr().err
    assert run(folder, "-o", tmp_path / "none" / "page.html") == 1 or "none" in capsys.readouterr().err


def test_commands_are_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "net.onnx").write_bytes(tiny.conv_net().SerializeToString())
    np.savez(tmp_path / "data.npz", **data())
    monkeypatch.chdir(tmp_path)
    quick = "--samples 32 --subset-size 16 --subsets 2 --epochs 1 --no-measure --no-check"
    monkeypatch.setattr(sys, "argv", ["adabet-onnx", *f"run net.onnx data.npz -o out -q {quick}".split()])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0, capsys.readouterr().err
    assert gather(tmp_path / "out").commands == [f"adabet-onnx run net.onnx data.npz -o out -q {quick}"]
