"""What --json prints: JSON alone on stdout, with the keys that --help names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import command_of
from test_cli import QUICK, make_inputs

from adabet_onnx.cli.main import cli

SCORING = QUICK.split()


@pytest.fixture
def printed(tmp_path, monkeypatch, capfd):
    """A function that runs a command with --json in a folder with model and data, and reads what it printed."""
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = command_of(monkeypatch, capfd)

    def run(*words: str, code: int = 0) -> Any:
        return json.loads(command(*words, "--json", code=code).out)

    return run


def named(command: str) -> list[str]:
    """The keys that the help of a command names: those of the first sentence, without parentheses."""
    text = re.sub(r" \([^()]*\)", "", cli.commands[command].epilog or "")
    return re.split(r", | and ", re.split(r"[.;]", text)[0].split(": ")[-1])


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def test_every_command_prints_json():
    for name, command in cli.commands.items():
        assert "--json" in [option for parameter in command.params for option in parameter.opts]
        assert (command.epilog or "").startswith("JSON: "), name


def test_of_models(printed):
    inspected = printed("inspect", "model.onnx")
    assert list(inspected) == named("inspect")
    assert list(printed("check", "model.onnx")) == named("check")
    headed = printed("new-head", "model.onnx", "--num-classes", "7", "-o", "seven.onnx")
    assert headed == {"output": "seven.onnx", **headed}
    assert set(headed) == {"output", *inspected}
    assert headed["layers"][-1]["activation_shape"] == [7]
    assert headed["new_head"] is True
    imported = printed("import", "model.onnx", "-o", "plain.onnx")
    assert imported.pop("output") == "plain.onnx"
    assert imported == inspected
    probed = printed("surgery", "model.onnx", "--outputs", "gram", "-o", "probed.onnx")
    assert list(probed) == named("surgery")
    assert list(probed["outputs"]) == [layer["name"] for layer in inspected["layers"]]


def test_of_each_step(printed):
    assert printed("score", "model.onnx", "data.npz", "-o", "scores.json", *SCORING) == read("scores.json")
    selected = printed("select", "scores.json", "-o", "selection.json", "--strategy", "last", "--rho", "0.4")
    assert selected == read("selection.json")
    costs = printed("cost", "model.onnx", "selection.json")
    assert list(costs) == named("cost")
    made = printed("artifacts", "model.onnx", "selection.json", "-o", "artifacts", "--no-check")
    assert list(made) == named("artifacts")
    assert made["layers"] == selected["layers"]
    assert made["backend"] == read("artifacts/manifest.json")["backend"] == "portable"
    trained = printed("train", "artifacts", "data.npz", "--epochs", "2")
    assert list(trained) == named("train")
    assert trained["metrics"] == [json.loads(row) for row in Path("artifacts/metrics.jsonl").read_text().splitlines()]
    evaluated = printed("evaluate", "artifacts", "data.npz")
    assert set(evaluated) == set(named("evaluate"))
    assert printed("export", "artifacts", "-o", "adapted.onnx") == {
        "output": "adapted.onnx",
        "checked": True,
        "precision": None,
    }
    rows = printed("predict", "adapted.onnx", "photo.png")
    assert set(rows[0]) == set(named("predict"))


def test_of_deltas(printed):
    printed("select", "model.onnx", "-o", "selection.json", "--strategy", "head")
    printed("artifacts", "model.onnx", "selection.json", "-o", "artifacts", "--no-check")
    printed("train", "artifacts", "data.npz", "--epochs", "1")
    saved = printed("delta", "save", "artifacts", "-o", "personal.safetensors")
    assert list(saved) == named("delta save")
    shown = printed("delta", "show", "personal.safetensors")
    assert list(shown) == named("delta show")
    assert shown == {**{key: value for key, value in saved.items() if key != "output"}, "whole": True, "finite": True}
    applied = printed("delta", "apply", "artifacts", "personal.safetensors", "-o", "adapted.onnx")
    assert list(applied) == named("delta apply")
    assert applied["written"] == "model"
    found = printed("delta", "diff", "personal.safetensors", "personal.safetensors")
    assert list(found) == named("delta diff")
    assert [apart["distance"] for apart in found["tensors"]] == [0.0] * len(saved["tensors"])


@pytest.mark.slow
def test_of_studies(printed):
    options = ["--groups", "2", "--group-size", "32", "--shuffles", "1", "--subset-size", "8", "--subsets", "4"]
    found = printed("stability", "model.onnx", "data.npz", "-o", "stability.json", *options)
    assert found == read("stability.json")
    options = ["--strategies", "last,head", "--seeds", "1", "--epochs", "1", "--jobs", "1", "--rates", "0.01"]
    compared = printed("compare", "model.onnx", "data.npz", "-o", "compared", *options)
    assert list(compared) == named("compare")
    assert compared["results"] == read("compared/results.json")
    assert [entry["strategy"] for entry in compared["summaries"]] == ["last", "head"]
    for key in re.findall(r"\(strategy, (.*)\)", cli.commands["compare"].epilog)[0].split(", "):
        assert key in compared["summaries"][0]
    page = printed("report", "compared", "-o", "page.html", "--no-costs")
    assert list(page) == named("report")
    assert page["output"] == "page.html"


@pytest.mark.slow
def test_of_the_whole_job(printed):
    found = printed("run", "model.onnx", "data.npz", "-o", "out", *SCORING, "--epochs", "1", "--no-measure")
    assert found == read("out/run.json")


@pytest.mark.slow
def test_of_the_demo(printed):
    found = printed("demo", "-o", "shown", "--epochs", "1")
    assert Path(found.pop("picture")).is_file()
    assert found == read("shown/run.json")


def test_of_what_is_installed(printed):
    found = printed("doctor")
    assert list(found) == named("doctor")
    assert found["works"] is found["portable"]["works"] is True
    assert found["packages"]["numpy"]
