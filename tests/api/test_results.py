"""Results in Python: short reprs, tables and plots in notebooks, data frames."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import io
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from models.tiny import conv_net
from PIL import Image

from adabet_onnx import (
    Adapting,
    Budget,
    Choices,
    Choosing,
    Data,
    Plan,
    Predictor,
    Preprocessing,
    Repeats,
    RuntimeMissingError,
    Scoring,
    Settings,
    UsageError,
    check_model,
    load_scores,
    load_selection,
    open_model,
    prepare,
    select,
)
from adabet_onnx.cost.measure import Cost
from adabet_onnx.cost.overview import overview
from adabet_onnx.data.preprocess import IMAGENET, Arithmetic
from adabet_onnx.data.source import open_data
from adabet_onnx.outcome import Outcome
from adabet_onnx.report.outcome import outcome_text
from adabet_onnx.scoring.record import ChannelScores, LayerScore, Scores
from adabet_onnx.selection.budget import BudgetUse
from adabet_onnx.selection.record import Selection
from adabet_onnx.showing import clipped, html_table, one_line, shortened
from adabet_onnx.study.agreements import Agreement
from adabet_onnx.study.clusters import Clusters
from adabet_onnx.study.compare import Comparison
from adabet_onnx.study.results import Result, summarise
from adabet_onnx.study.stability_record import Stability
from adabet_onnx.trainability.verdicts import Check, CheckedLayer, Obstacle, Verdict
from adabet_onnx.training.head_start import HeadStart

LAYER_COUNTS = (1, 4, 42, 300)
HOSTILE = "<script>alert('x')</script>\n" + "long" * 3000
LIBRARIES = ("pandas", "polars")


def names_of(count: int) -> tuple[str, ...]:
    return (*(f"transformer.encoder.layers.{i}.attention.output.dense" for i in range(count - 1)), "head")


def scores_of(names: tuple[str, ...], *, scored: bool = True) -> Scores:
    rng = np.random.default_rng(0)
    layers = []
    for rank, name in enumerate(names, 1):
        hat = float(rng.lognormal(-8, 1)) if rank % 7 else 0.0
        measured = ((3, 4), 3.5, hat, hat / 5, rank) if scored else ((), 0.0, 0.0, 0.0, 0)
        layers.append(LayerScore(name, "Conv", (f"{name}.weight",), 10 * rank, 64, False, *measured))
    samples = (tuple(range(128)),) if scored else ()
    kind = "subsets" if scored else "none"
    return Scores("0" * 64, kind, 32, samples, tuple(layers), head=names[-1], model_file="models/resnet20.onnx")


def selection_of(names: tuple[str, ...]) -> Selection:
    return select(scores_of(names), rho=min(1.0, max(1, len(names) // 10) / len(names)))


class FakeModel:
    """The attributes of a model that an outcome shows."""

    name = "models/resnet20.onnx"


def outcome_of(names: tuple[str, ...], *, accuracy: bool = True, measured: bool = True, scored: bool = True) -> Outcome:
    rows = [
        {
            "epoch": epoch,
            "train_loss": None if epoch == 0 else 1 / epoch,
            "eval_loss": 1.2 / (epoch + 1),
            "eval_accuracy": 1 - 0.5 / (epoch + 1) if accuracy else None,
            "learning_rate": 1e-3,
            "seconds": 0.1,
        }
        for epoch in range(6)
    ]
    costs = {"selection": Cost(14_000_000, 0.1), "inference": Cost(12_000_000, 0.1), "all": Cost(99_000_000, 0.5)}
    return Outcome(
        model=FakeModel(),  # type: ignore[arg-type]
        scores=scores_of(names, scored=scored),
        selection=selection_of(names),
        before={"loss": 2.0, "accuracy": 0.4 if accuracy else None, "samples": 400},
        after={"loss": 0.5, "accuracy": 0.9 if accuracy else None, "samples": 400},
        evaluated_on="400 test samples",
        trainable_share=0.031,
        costs=costs if measured else {},
        not_measured=None,
        metrics=rows,
        folder=Path("out"),
    )


def comparison_of(names: tuple[str, ...], *, accuracy: bool = True) -> Comparison:
    results = [
        Result(
            strategy=strategy,
            rho=0.1 if strategy == "adabet" else None,
            seed=seed,
            accuracy=0.7 + 0.05 * number + 0.001 * seed if accuracy else None,
            loss=0.9 - 0.1 * number,
            trainable_share=0.1,
            step_seconds=0.01 * (number + 1),
            step_memory_bytes=10_000_000 * (number + 1),
            update_bytes=1000,
            layers=names,
            learning_rate=0.01,
            predicted_memory_bytes=1,
        )
        for number, strategy in enumerate(("head", "adabet", "all"))
        for seed in range(2)
    ]
    return Comparison(Path("out"), results, summarise(results, 400), 400, 0.4, None, warnings=("adabet is at chance",))


def stability_of(names: tuple[str, ...]) -> Stability:
    rows = tuple(
        Agreement(measure, samples, 4, 6, 0.5, 0.05, 0.4, 0.6, None)
        for measure in ("b1_hat", "size")
        for samples in (32, 64)
    )
    example = tuple((1e-3 * (i + 1), 2e-3 * (i + 1)) for i in range(len(names)))
    clusters = tuple(Clusters(name, i % 4, 0, i % 9) for i, name in enumerate(names))
    enough = {"b1_hat": None, "size": None}
    return Stability("0" * 64, "m.onnx", {}, 32, 0.1, 4, 3, names, rows, enough, 32, example, clusters)


def check_of(names: tuple[str, ...]) -> Check:
    able, lost = Verdict(True, ("a repair",), None), Verdict(False, (), f"node {names[-1]} has no gradient")
    layers = tuple(CheckedLayer(name, "Conv", lost if name == names[-1] else able, lost) for name in names)
    obstacle = Obstacle(names[-1], "Conv", names[-1], "portable", "has no gradient", "Remove it.")
    installed = {"portable": True, "ort": False}
    return Check(names[0], "0" * 64, "cross-entropy", layers, (obstacle,), installed, {"portable": None, "ort": None})


RESULTS: dict[str, Callable[[tuple[str, ...]], Any]] = {
    "scores": scores_of,
    "unscored": lambda names: scores_of(names, scored=False),
    "selection": selection_of,
    "outcome": outcome_of,
    "regression": lambda names: outcome_of(names, accuracy=False),
    "comparison": comparison_of,
    "comparison of losses": lambda names: comparison_of(names, accuracy=False),
    "stability": stability_of,
    "check": check_of,
}


class Page(HTMLParser):
    """Elements and text of a piece of HTML; fails if elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.styles: set[str] = set()
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"style", "colspan"}
        self.styles |= {value or "" for name, value in attrs if name == "style"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def model():
    return open_model(conv_net())


@pytest.mark.parametrize("count", LAYER_COUNTS)
@pytest.mark.parametrize("what", RESULTS)
def test_reprs_are_a_short_line_whatever_the_models_size(what, count):
    found = repr(RESULTS[what](names_of(count)))
    assert len(found) <= 300
    assert "\n" not in found
    assert re.fullmatch(r"[A-Z]\w+\(.+\)", found)


@pytest.mark.parametrize("what", RESULTS)
def test_reprs_and_tables_of_hostile_names(what):
    names = (HOSTILE, *(f"{HOSTILE}{i}" for i in range(40)))
    result = RESULTS[what](names)
    assert len(repr(result)) <= 300
    assert "\n" not in repr(result)
    found = result._repr_html_()
    assert "<script" not in found
    assert len(found) < 30_000
    assert set(Page(found).tags) <= {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("count", LAYER_COUNTS)
@pytest.mark.parametrize("what", RESULTS)
def test_tables_have_no_colours_and_say_what_they_leave_out(what, count):
    result = RESULTS[what](names_of(count))
    page = Page(result._repr_html_())
    assert page.styles <= {"text-align: left", "text-align: right", "text-align: center"}
    assert page.tags.count("tr") <= 32
    if what in ("scores", "unscored", "check") and count > 30:
        assert f"… {count - 30} more layer" in page.text


def test_what_reprs_say(model):
    names = ("conv1", "conv2", "head")
    scores = scores_of(names)
    best = ", ".join(f"{layer.name} {layer.b1_hat:.2e}" for layer in scores.layers)
    assert repr(scores) == f"Scores(3 layers of resnet20.onnx, subsets, 128 samples, highest b1_hat: {best})"
    assert repr(scores_of(names, scored=False)) == "Scores(3 layers of resnet20.onnx, not scored)"
    assert repr(scores.layers[0]).startswith("LayerScore('conv1', Conv, b1_hat ")
    assert repr(select(scores, layers="conv*")) == "Selection(by name: 2 layers: conv1, conv2)"
    assert repr(select(scores, strategy="all")) == "Selection(all: 3 layers: conv1, conv2, head)"
    assert repr(outcome_of(names)) == (
        "Outcome(accuracy 40.0% -> 90.0% on 400 test samples, trained 1 of 3 layers, 3.1% of the parameters, in out)"
    )
    assert repr(outcome_of(names, accuracy=False)).startswith("Outcome(loss 2 -> 0.5 on 400 test samples, ")
    compared = "6 trainings of 3 settings, 400 test samples, best: all 80.0% ± 0.1"
    assert repr(comparison_of(names)) == f"Comparison({compared}, ties with it: adabet 10%)"
    assert repr(check_of(names)) == "Check(conv1: 2 of 3 layers can be trained (cross-entropy), not head)"
    channels = "ChannelScores(2 channels of 4 elements, highest b1_mean 3, of channel 1)"
    assert repr(ChannelScores(4, (1.0, 3.0))) == channels
    usual = "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)"
    assert repr(IMAGENET) == f"Arithmetic(scale=1/255, {usual}, data='integer')"
    assert len(repr(Arithmetic(mean=(0.5,) * 500, std=(0.5,) * 500))) < 300


def test_reprs_of_a_model_and_what_is_made_of_it(model):
    layers, parameters = len(model.layers), model.parameter_count
    assert f"{layers} layers, {parameters:,} parameters, input 'input' float32 (N, " in repr(model)
    assert f"head {model.head.name!r}" in repr(model)
    layer = model.layers[0]
    assert repr(layer).startswith(f"Layer({layer.name!r}, {layer.op_type}, {layer.parameter_count:,} parameters in ")
    selection = select(model, strategy="head")
    predictor = Predictor(model, batch_size=4)
    found = [layer.parameters[0], *model.inputs, prepare(model, selection), predictor, predictor.inference()]
    assert all(len(repr(item)) < 300 and "\n" not in repr(item) for item in found)
    costs = overview(model, selection, batch_size=4)
    assert re.match(r"Overview\(batch 4, .+ predicted memory of a step: inference .+, selection .+, all ", repr(costs))
    assert Page(costs._repr_html_()).tags.count("tr") == 4
    assert all(layer.name in Page(model._repr_html_()).text for layer in model.layers)


def test_reprs_of_data(model):
    shape = tuple(extent for extent in model.inputs[0].shape[1:])
    x, y = np.zeros((20, *shape), np.float32), np.zeros(20, np.int64)
    splits = open_data((x, y), model)
    size = " x ".join(map(str, shape))
    assert f"{size} float32, labels int64" in repr(splits.train)
    assert f"(20 training samples, no test part, {size} float32)" in repr(splits)
    assert repr(splits.train.subset([1, 2])).startswith("Dataset(")
    assert repr(Data(x, allow_resize=True)) == "Data(ndarray, allow_resize=True)"


def test_a_budget_and_firmness_say_their_sentences(model):
    selection = selection_of(names_of(300))
    assert repr(selection.firmness) == f"Firmness({clipped(selection.firmness.sentence(), 200)})"
    choosing = Choosing(strategy="last", rho=1.0, budget=Budget(max_update="10GB"))
    use = select(model, choosing=choosing, costs=Predictor(model)).budget
    assert repr(use) == f"BudgetUse({use.sentence()})"


def test_options_show_what_differs_from_the_defaults():
    for options in (Plan, Adapting, Choices, Choosing, Settings, Scoring, Repeats, Preprocessing, Budget):
        assert repr(options()) == f"{options.__name__}()"
    how = Adapting(choosing=Choosing(rho=0.2, budget=Budget(max_memory="64MB")), settings=Settings(epochs=3))
    assert repr(how) == (
        "Adapting(choosing=Choosing(rho=0.2, budget=Budget(max_memory=64000000)), settings=Settings(epochs=3))"
    )
    assert eval(repr(how)) == how


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("what", "columns", "rows"),
    [
        ("scores", [*(item.name for item in dataclasses.fields(LayerScore))][:-1], 42),
        ("selection", ["name", "scored", "channels"], 4),
        ("outcome", ["epoch", "train_loss", "eval_loss", "eval_accuracy", "learning_rate", "seconds"], 6),
        ("comparison", [item.name for item in dataclasses.fields(Result)], 6),
        ("stability", [item.name for item in dataclasses.fields(Agreement)], 4),
        ("check", ["name", "op_type", "trainable", "backend", "portable.trainable", "ort.reason"], 42),
    ],
)
def test_data_frames_have_the_columns_of_the_json(library, what, columns, rows):
    wanted = pytest.importorskip(library)
    found = RESULTS[what](names_of(42)).to_dataframe(library=library)
    assert isinstance(found, wanted.DataFrame)
    assert found.shape[0] == rows
    assert set(columns) <= set(found.columns)


@pytest.mark.parametrize("library", LIBRARIES)
def test_values_of_data_frames(library):
    pytest.importorskip(library)
    scores = scores_of(("a", "b", "head"))
    channels = ChannelScores(4, (1.0, 2.0))
    first = dataclasses.replace(scores.layers[0], b1_hat=0, channels=channels)  # a whole number among floats
    scores = dataclasses.replace(scores, layers=(first, *scores.layers[1:]))
    found = scores.to_dataframe(library)
    assert list(found["name"]) == ["a", "b", "head"]
    assert list(found["b1_hat"]) == [layer.b1_hat for layer in scores.layers]
    assert found["channels.b1_mean"][0] is not None
    assert found["channels.b1_mean"][0][1] == 2.0
    selection = dataclasses.replace(selection_of(("a", "b", "head")), layers=("a", "b"), channels={"a": (0, 2)})
    frame = selection.to_dataframe(library)
    assert list(frame["channels"][0]) == [0, 2]
    summaries = comparison_of(("a",)).to_dataframe("summaries", library=library)
    assert list(summaries["strategy"]) == ["head", "adabet", "all"]
    assert list(summaries["best"]) == [False, False, True]
    with pytest.raises(UsageError, match="'results' or 'summaries'"):
        comparison_of(("a",)).to_dataframe("rows")


def test_which_library_is_taken(monkeypatch):
    there = {"pandas", "polars"}
    known = importlib.util.find_spec

    def find(name, *rest):
        return known(name, *rest) if name not in LIBRARIES or name in there else None

    monkeypatch.setattr(importlib.util, "find_spec", find)
    for name in LIBRARIES:
        pytest.importorskip(name)
    scores = scores_of(("a", "head"))
    assert type(scores.to_dataframe()).__module__.startswith("pandas")
    there.discard("pandas")
    assert type(scores.to_dataframe()).__module__.startswith("polars")
    with pytest.raises(RuntimeMissingError, match=r"needs pandas, which is not installed: pip install pandas"):
        scores.to_dataframe("pandas")
    there.clear()
    with pytest.raises(RuntimeMissingError, match=r"needs pandas or polars, which are not installed"):
        scores.to_dataframe()
    with pytest.raises(UsageError, match="library must be 'pandas' or 'polars'"):
        scores.to_dataframe("numpy")


def shade(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))


@pytest.mark.slow
@pytest.mark.parametrize("count", LAYER_COUNTS)
@pytest.mark.parametrize("what", ["scores", "outcome", "regression", "comparison", "comparison of losses", "stability"])
def test_plots(tmp_path, what, count):
    figure = RESULTS[what](names_of(count)).plot(tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().rstrip().endswith("</svg>")
    assert figure.get_figwidth() <= 12  # no wider than a page, whatever the model's size
    picture = shade(figure._repr_png_())
    assert (picture < 200).mean() > 0.005


def test_a_copy_of_a_figure_is_the_same_picture():
    figure = outcome_of(names_of(4)).plot()
    assert np.array_equal(shade(figure._repr_png_()), shade(copy.deepcopy(figure)._repr_png_()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$\\frac{1", "a\nb", "<b>&amp;", "%s{}", "x" * 5000, ""])
def test_names_are_drawn_letter_by_letter(name):
    figure = outcome_of((name, "head")).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure.axes[-1].get_xticklabels()[0].get_text() == shortened(name, 32)


def boxes(figure, texts):
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]


@pytest.mark.slow
@pytest.mark.parametrize("count", LAYER_COUNTS)
@pytest.mark.parametrize("what", ["outcome", "regression", "scores"])
def test_no_text_lies_on_another_or_outside(what, count):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = RESULTS[what](names_of(count)).plot()
    FigureCanvasAgg(figure).draw()
    found = []
    for axis in figure.axes:
        texts = [axis.title, axis._left_title, axis.xaxis.label, *axis.texts]
        low, high = axis.get_xlim()
        texts += [label for label in axis.get_xticklabels() if low <= label.get_position()[0] <= high]
        found += boxes(figure, texts)
    assert len(found) > 3
    width, height = figure.get_size_inches() * figure.dpi
    for i, one in enumerate(found):
        assert one.x0 > -2
        assert one.y0 > -2
        assert one.x1 < width + 2
        assert one.y1 < height + 2
        for other in found[i + 1 :]:
            wide = min(one.x1, other.x1) - max(one.x0, other.x0)
            tall = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert wide < 2 or tall < 2, (one, other)


def test_selected_layers_are_marked_and_named_where_not_all_names_fit():
    names = names_of(300)
    figure = scores_of(names).plot(chosen=names[150:151])
    labels = figure.axes[2].get_xticklabels()
    assert 20 < len(labels) <= 64
    marked = [label.get_text() for label in labels if label.get_color() == "tab:orange"]
    assert marked == [shortened(names[150], 32)]
    assert "150" in marked[0]
    orange = [bar.get_facecolor()[:2] == (1.0, 127 / 255) for bar in figure.axes[2].containers[-1].patches]
    assert [i for i, is_orange in enumerate(orange) if is_orange] == [150]


def test_names_are_shortened_from_the_left_and_keep_their_numbers():
    assert shortened("layer4.1.conv2") == "layer4.1.conv2"
    assert (
        shortened("transformer.encoder.layers.11.attention.output.dense", 40) == "t.e.layers.11.attention.output.dense"
    )
    assert shortened("/model/encoder/layers/3/dense/MatMul", 24) == "/m/e/l/3/dense/MatMul"
    assert len(shortened("x" * 100, 40)) == 40
    assert clipped("a\nb\tc\x00d") == "a b c d"
    assert clipped("a" * 10 + "b" * 10, 7) == "aa…bbbb"
    assert one_line([], None, "", "one", "x" * 1000).endswith("x…)")
    assert len(one_line([], "x" * 1000)) == 300


def test_numbers_stand_on_the_right():
    page = html_table("t", ("name", "count", "share"), [("a", 1234, "5.0%"), ("b", 5, "-")])
    assert page.count("text-align: right") == 6
    assert "1,234" in page


def test_what_is_outside_the_plots_format(tmp_path):
    with pytest.raises(UsageError, match=r"must end in .png, .svg, .pdf"):
        scores_of(("a",)).plot(tmp_path / "plot.txt")


@pytest.mark.slow
def test_drawing_touches_neither_pyplot_nor_the_backend(tmp_path):
    code = (
        "import pickle, sys\n"
        "scores, outcome = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert 'matplotlib' not in sys.modules and 'pandas' not in sys.modules and 'polars' not in sys.modules\n"
        "scores.plot(); outcome.plot(); repr(outcome); outcome._repr_html_()\n"
        "print([name for name in ('matplotlib.pyplot', 'IPython', 'pandas', 'polars') if name in sys.modules])\n"
        "import matplotlib; print(matplotlib.rcParams._get('backend') is matplotlib.rcsetup._auto_backend_sentinel)\n"
    )
    names = names_of(4)
    outcome = dataclasses.replace(outcome_of(names), model=None)
    (tmp_path / "results").write_bytes(pickle.dumps((scores_of(names), outcome)))
    code = code.replace("outcome._repr_html_()", "scores._repr_html_()")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "results")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_records_by_path_or_as_they_are(tmp_path):
    scores = scores_of(("a", "head"))
    selection = selection_of(("a", "head"))
    scores.save(tmp_path / "scores.json")
    selection.save(tmp_path / "selection.json")
    assert load_scores(scores) is scores
    assert load_selection(selection) is selection
    assert load_scores(str(tmp_path / "scores.json")) == scores
    assert load_selection(tmp_path / "selection.json") == selection
    for load in (load_scores, load_selection):
        with pytest.raises(UsageError, match="not dict"):
            load({})  # type: ignore[arg-type]


def test_a_check_of_a_real_model(model):
    check = check_model(model)
    assert repr(check).startswith("Check(")
    assert f"{len(model.layers)} of {len(model.layers)} layers can be trained" in repr(check)
    assert Page(check._repr_html_()).tags.count("tr") == len(model.layers) + 1


@pytest.mark.parametrize(("sizes", "scale"), [((100, 103, 97), "linear"), ((100, 10), "linear"), ((4096, 10), "log")])
def test_bars_begin_at_0_where_that_shows_them(sizes, scale):
    scores = scores_of(names_of(len(sizes)))
    layers = tuple(
        dataclasses.replace(layer, activation_size=size, b1_hat=size / 1e5)
        for layer, size in zip(scores.layers, sizes, strict=True)
    )
    _, size, hat = dataclasses.replace(scores, layers=layers).plot().axes
    for axis in (size, hat):
        assert axis.get_yscale() == scale
        assert scale == "log" or axis.get_ylim()[0] == 0


def test_the_fitted_head_and_the_training_are_told_apart():
    start = HeadStart("fc", "logistic", rows=1800, features=128, strength=0.003, scale=0.88, accuracy=0.361)
    outcome = dataclasses.replace(outcome_of(names_of(3)), head_start=start, validation_samples=200)
    said = "'fc' was fitted before training; on 200 validation samples: 50.0% with the fitted head alone"
    assert outcome.fitted_alone == f"{said}, 91.7% after training"
    assert not outcome.lowered_accuracy
    best = dataclasses.replace(outcome, kept_epoch=2)
    assert best.fitted_alone == f"{said}, 83.3% after training"
    rows = [dict(row) for row in outcome.metrics]
    rows[0]["eval_accuracy"], rows[-1]["eval_accuracy"] = 0.44, 0.41
    lower = dataclasses.replace(outcome, metrics=rows)
    text = "\n".join(map(str, outcome_text(lower).renderables))
    hint = (
        "training lowered the accuracy on the validation data of 200 samples from 44.0% with the fitted head alone to"
    )
    assert f"hint      {hint} 41.0%" in text
    assert "hint      training lowered" not in "\n".join(map(str, outcome_text(outcome).renderables))


def test_without_epochs_only_the_head_is_called_changed():
    start = HeadStart("fc", "logistic", rows=1800, features=128)
    layer = SimpleNamespace(parameters=(SimpleNamespace(size=25),))
    outcome = dataclasses.replace(
        outcome_of(names_of(3)),
        model=SimpleNamespace(name="model.onnx", file=None, head=layer, weight_count=1000),  # type: ignore[arg-type]
        head_start=start,
        validation_samples=200,
    )
    fitted = dataclasses.replace(outcome, metrics=outcome.metrics[:1])
    text = "\n".join(map(str, outcome_text(fitted).renderables))
    said = "head      'fc' was fitted before training; nothing else was changed; 50.0% on 200 validation samples"
    assert said in text
    assert "trained   nothing; the head was fitted, 2.5% of the parameters" in text
    assert "after training" not in text
    assert "trained nothing; the head was fitted" in repr(fitted)
    nothing = dataclasses.replace(fitted, head_start=None)
    assert nothing.trained_text() == "nothing (0 epochs)"


def test_figures_of_training_data_are_called_that():
    names = names_of(3)
    outcome = dataclasses.replace(outcome_of(names), evaluated_on="the 400 samples it was trained on")
    assert repr(outcome).startswith("Outcome(accuracy 40.0% -> 90.0% on the 400 samples it was trained on, trained 1")
    assert "give test data too" in outcome._repr_html_()
    assert "give test data too" not in outcome_of(names)._repr_html_()
    text = "\n".join(map(str, outcome_text(outcome).renderables))
    assert "give test data too" in text
    assert "norm-bias" not in text, "the model has no normalisations"
    with_norm = dataclasses.replace(outcome.scores.layers[0], is_norm=True)
    assert "if the input itself has shifted" in _text_with(outcome, with_norm), "without figures it is not known"


def _text_with(outcome: Outcome, first: LayerScore) -> str:
    """The text of an outcome whose first layer is another one."""
    scores = dataclasses.replace(outcome.scores, layers=(first, *outcome.scores.layers[1:]))
    return "\n".join(map(str, outcome_text(dataclasses.replace(outcome, scores=scores)).renderables))


@pytest.mark.parametrize(
    ("shift", "said"),
    [(0.01, None), (0.04, "may have shifted (median divergence 0.04;"), (0.2, "has shifted (median divergence 0.2;")],
)
def test_a_shift_is_hinted_at_only_where_the_figures_show_one(shift: float, said: str | None) -> None:
    outcome = outcome_of(names_of(3))
    norm = dataclasses.replace(outcome.scores.layers[0], is_norm=True, shift=shift)
    text = _text_with(outcome, norm)
    assert ("norm-bias" in text) == (said is not None)
    assert said is None or f"hint      the input itself {said}" in text


def test_a_measurement_above_the_limit_is_explained() -> None:
    """Limits hold for predictions."""
    outcome = outcome_of(names_of(3))
    use = BudgetUse(32, "portable", 1, 0.1, 0.1, 1, {}, [], None, 0.0, 1)

    def text(share: float) -> str:
        budget = dataclasses.replace(use, limits={"max_memory_share": share})
        selection = dataclasses.replace(outcome.selection, budget=budget)
        return "\n".join(map(str, outcome_text(dataclasses.replace(outcome, selection=selection)).renderables))

    said = "the measured memory, 0.141x, is above the limit of 0.12x, which holds for the prediction"
    assert said in text(0.12)
    assert "is above the limit" not in text(0.15)
    absolute = dataclasses.replace(use, limits={"max_memory": 13_000_000})
    selection = dataclasses.replace(outcome.selection, budget=absolute)
    renderables = outcome_text(dataclasses.replace(outcome, selection=selection)).renderables
    assert "14 MB, is above the limit of 13 MB" in "\n".join(map(str, renderables))
