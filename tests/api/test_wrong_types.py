"""Values of wrong types are rejected in every parameter of every public name."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import adabet_onnx
from adabet_onnx import (
    AdabetError,
    Adapting,
    Budget,
    Choices,
    Choosing,
    Data,
    DataError,
    Model,
    Outcome,
    Plan,
    Preprocessing,
    Repeats,
    Scores,
    Scoring,
    Selection,
    Settings,
    Trainer,
    UsageError,
    adapt,
    compare,
    make_artifacts,
    predict,
    score,
    select,
    stability,
    write_report,
)

MODEL, DATA = (str(ROOT / "adabet_onnx" / "demo" / name) for name in ("digits.onnx", "digits_shifted.npz"))
# The other arguments of a call, apart from the tested parameter.
GIVEN = {"data": DATA, "inputs": DATA, "model": MODEL, "source": MODEL, "num_classes": 3, "path": "never.onnx"}
MADE = (Model, Outcome, Scores, Selection)  # results, which users do not construct
NAMES = [
    name
    for name in adabet_onnx.__all__
    if not name.endswith(("Error", "Warning"))
    and getattr(adabet_onnx, name) not in MADE
    and name not in ("load_scores", "Data")
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("types")
    selection = select(MODEL, strategy="head")
    selection.save(folder / "selection.json")
    make_artifacts(MODEL, selection, folder / "artifacts", check=False)
    return folder


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        (name, parameter)
        for name in NAMES
        for parameter in inspect.signature(getattr(adabet_onnx, name)).parameters
        if (name, parameter) != ("Plan", "command")  # only noted
    ],
)
def test_every_parameter_refuses_a_thing_of_no_type(place, name, parameter):
    function = getattr(adabet_onnx, name)
    given = GIVEN | {"folder": place / "artifacts", "selection": place / "selection.json", "output": place / "x.html"}
    if name in ("make_device", "make_menu"):
        given["device"] = place / "device"
    if name in ("apply_delta", "save_delta"):
        given["delta"], given["path"] = place / "personal.safetensors", place / "made"
    if name == "merge_deltas":
        given["deltas"], given["path"] = [str(place / "personal.safetensors")], place / "made"
    if name == "write_fleet_app":
        given["source"], given["folder"] = place / "artifacts", place / "app"
    if name in ("adapt", "compare", "make_artifacts", "simulate_fleet"):
        given["folder"] = place / "made"
    if name == "write_predictions":
        given["output"] = place / "x.csv"
    if name == "load_selection":
        given["source"] = place / "selection.json"
    wanted = inspect.signature(function).parameters
    call = {key: value for key, value in given.items() if key in wanted and wanted[key].default is inspect._empty}
    if "scores" in wanted and name != "make_menu":
        call |= {"scores": MODEL, "strategy": "head"}
    if parameter == "costs" and name == "select":
        call["choosing"] = Choosing(budget=Budget(max_memory="1MB"))
    with pytest.raises(AdabetError) as error:
        function(**(call | {parameter: object()}))
    assert "object" in str(error.value)
    assert "it failed" not in str(error.value)


def test_fit_refuses_the_same(place):
    trainer = Trainer(place / "artifacts")
    for parameter in inspect.signature(trainer.fit).parameters:
        with pytest.raises(UsageError, match="object"):
            trainer.fit(**({"data": DATA} | {parameter: object()}))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Settings(epochs="3"), "`epochs` must be a whole number, not '3'."),
        (lambda: Settings(epochs=3.0), "`epochs` must be a whole number, not 3.0."),
        (lambda: Settings(epochs=True), "`epochs` must be a whole number, not True."),
        (lambda: Scoring(samples=float("nan")), "`samples` must be a whole number, not nan."),
        (lambda: Scoring(channels="yes"), "`channels` must be True or False, not 'yes'."),
        (lambda: Choosing(rho="0.1"), "`rho` must be a number or None, not '0.1'."),
        (lambda: Choosing(layers=["head", 5]), "`layers` must be text or a list of texts, not ['head', 5]."),
        (lambda: Choosing(budget="64MB"), "`budget` must be Budget(...), not '64MB'."),
        (lambda: Adapting(scoring={"samples": 64}), "`scoring` must be Scoring(...), not a dict."),
        (lambda: Adapting(backend="foo"), "unknown backend 'foo': choose one of auto, portable, ort."),
        (lambda: Plan(strategies="auto"), "`strategies` must be a list of texts, not 'auto'."),
        (lambda: Plan(head="foo"), "unknown head rule 'foo'"),
        (lambda: Plan(train_samples=0), "train_samples must be at least 1, not 0."),
        (lambda: Repeats(max_samples=5), "`max_samples` must be at least `points`, 32, not 5."),
        (lambda: Preprocessing(bgr="a"), "`bgr` must be True, False or None, not 'a'."),
        (lambda: Data("x.npz", layout=5), "`layout` must be text, a list of texts, a dict or None, not 5."),
        (lambda: select(MODEL, layers=[]), "`layers` names no layer."),
        (lambda: select(MODEL, layers="*", choosing=Scoring()), "`choosing` must be Choosing(...) or None, not Scor"),
        (lambda: select(MODEL, strategy="random", seed=-1), "the seed must be at least 0, not -1."),
        (lambda: score(MODEL, DATA, threads=-1), "`threads` must be at least 1, or None for ONNX Runtime's choice"),
        (lambda: stability(MODEL, DATA, repeats=Settings()), "`repeats` must be Repeats(...) or None, not Settings("),
        (lambda: write_report("no_such_folder", "x.html"), "no_such_folder does not exist or is not a folder."),
    ],
)
def test_the_message_says_what_was_meant(call, said):
    with pytest.raises(UsageError) as error:
        call()
    assert said in str(error.value)


def test_wrong_names_are_a_plain_type_error():
    with pytest.raises(TypeError, match=r"^score\(\) got an unexpected keyword argument 'simples'$"):
        score(MODEL, DATA, simples=3)
    with pytest.raises(TypeError, match=r"^Trainer.__init__\(\) missing a required argument: 'folder'$"):
        Trainer()


@pytest.mark.parametrize(
    ("call", "places"),
    [
        (lambda: score(MODEL, DATA, samples=3), "scoring=Scoring(samples=...)"),
        (lambda: adapt(MODEL, DATA, "x", threads=1), "adapting=Adapting(threads=...)"),
        (lambda: adapt(MODEL, DATA, "x", epochs=2), "adapting=Adapting(settings=Settings(epochs=...))"),
        (
            lambda: adapt(MODEL, DATA, "x", max_memory="8MB"),
            "adapting=Adapting(scoring=Scoring(max_memory=...)) or "
            "adapting=Adapting(choosing=Choosing(budget=Budget(max_memory=...)))",
        ),
        (lambda: compare(MODEL, DATA, "x", epochs=2), "plan=Plan(epochs=...)"),
        (lambda: Trainer("x", rate=2), None),
    ],
)
def test_an_option_of_an_options_class_is_placed(call, places):
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value).partition(". Give ")[2] == (places or "")


def test_numbers_of_numpy_are_taken_for_numbers(place):
    how = Settings(epochs=np.int64(1), batch_size=np.int16(50), learning_rate=np.float32(0.5), seed=np.array(2))
    assert json.dumps(dataclasses.asdict(how))  # as a checkpoint stores it
    assert Choosing(layers=np.array(["head"])).layers == ("head",)
    assert Choices(recompute=np.bool_(True)).recompute is True
    rows = Trainer(place / "artifacts").fit(DATA, settings=how)
    assert rows[-1]["epoch"] == 1
    assert json.loads((place / "artifacts" / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 1


def test_data_that_is_nearly_right_is_told_how(place):
    x, y = np.zeros((40, 16, 16, 1), np.uint8), np.arange(40) % 10
    trainer = Trainer(place / "artifacts")
    with pytest.raises(DataError, match=r"it holds pictures, y\. Rename the input arrays\."):
        trainer.fit({"pictures": x, "y": y})
    with pytest.raises(DataError, match=r"A list is interpreted as batches\. Give inputs with labels as a pair:"):
        trainer.fit([x, y])
    with pytest.raises(DataError, match="y has a single label for 16 samples"):
        trainer.fit((x[0], y[0]))
    with pytest.raises(DataError, match="the data has no samples"):
        predict(MODEL, x[:0])
    assert len(predict(MODEL, x[:2])) == 2
