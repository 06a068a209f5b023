"""Options from a TOML file, and into one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
import tomli_w
from command_line import command_of
from test_cli import QUICK, make_inputs

from adabet_onnx.cli.config import read_config, write_config
from adabet_onnx.cli.main import cli
from adabet_onnx.cli.parameters import Share

RUN = ["--epochs", "1", "--no-measure", *QUICK.split()]


def context(*words: str) -> click.Context:
    """The context of a run with some options, MODEL and DATA, or with those of a file."""
    return cli.commands["run"].make_context("run", list(words))


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return command_of(monkeypatch, capfd)


def read(path: str) -> dict:
    return json.loads(Path(path).read_text())


@pytest.mark.slow
def test_a_saved_config_runs_again(command):
    command("run", "model.onnx", "data.npz", "-o", "out", *RUN, "--rho", "0.4", "--save-config", "out/run.toml")
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    command("run", "--config", "../out/run.toml", "-o", "again")
    os.chdir("..")
    assert read("out/selection.json") == read("elsewhere/again/selection.json")
    first, second = read("out/run.json"), read("elsewhere/again/run.json")
    for key in ("after", "before", "layers", "trainable_share", "learning_rate"):
        assert first[key] == second[key], key
    assert not Path("elsewhere/again/run.toml").exists()


def test_what_is_written_is_what_was_given(command):
    """Every kind of option, read back from another folder with the same values."""
    given = [
        *(
            "model.onnx",
            "data.npz",
            "-o",
            "out",
            "--rho",
            "0.2",
            "--layers",
            "a*",
            "--layers",
            "b",
            "--mean",
            "1,0.2",
        ),
        *("--max-memory", "0.25x", "--max-update", "200KB", "--max-step-time", "0.5x", "--bgr", "--no-check"),
        *("--input", "sr=16000", "--input", "mode=[1, 2.5]", "--input", "w=w.npy", "--input", 'word="x"'),
        *("--lr", "0.01", "--seed", "7", "--layout", "NTC", "--plot", "p.png", "--json", "--resume"),
    ]
    before = context(*given)
    Path("kept").mkdir()
    write_config(Path("kept/run.toml"), before)
    after = context("--config", "kept/run.toml")
    ours = {"as_json", "resume", "save_config"}
    for name, value in before.params.items():
        found = after.params[name]
        if name == "bind":
            assert [(key, str(v).removeprefix("kept/../")) for key, v in found] == [(k, str(v)) for k, v in value]
        elif isinstance(value, Path):
            assert found.resolve() == value.resolve()
        else:
            assert name in ours or (type(found), found) == (type(value), value), name
    assert isinstance(after.params["max_memory"], Share)
    assert after.params["as_json"] is after.params["resume"] is False
    text = Path("kept/run.toml").read_text()
    assert 'model = "../model.onnx"' in text
    assert text.index("[data]") < text.index("[choosing]") < text.index("[runtime]")


def test_the_command_line_wins_over_the_file(command):
    Path("run.toml").write_text(tomli_w.dumps({"rho": 0.3, "layers": ["a", "b"], "check": False, "batch_size": 8}))
    found = context("--config", "run.toml", "model.onnx", "data.npz", "-o", "out", "--layers", "c", "--batch-size", "4")
    assert found.params["layers"] == ("c",)
    assert found.params["batch_size"] == 4
    assert found.params["rho"] == 0.3
    assert found.params["check"] is False
    assert context("model.onnx", "data.npz", "-o", "out").params["check"] is True


def test_values_as_toml_has_them(command):
    Path("run.toml").write_text(
        'layers = "fc"\n[input]\nsr = 16000\n[model]\nmodel = "model.onnx"\n[data]\ndata = "data.npz"\nmean = [1, 2]\n'
        "[choosing]\nrho = 1\n[budget]\nmax-memory = 64_000_000\n"
    )
    found = read_config(Path("run.toml"), click.Context(cli.commands["run"], info_name="run"))
    assert found == {
        "layers": ["fc"],
        "bind": [("sr", 16000)],
        "model": "model.onnx",
        "data": "data.npz",
        "mean": "1,2",
        "rho": 1,
        "max_memory": 64_000_000,
    }
    full = context("--config", "run.toml", "-o", "out").params
    assert (full["mean"], full["rho"], full["bind"]) == ((1.0, 2.0), 1.0, (("sr", 16000),))


def test_compare_has_one_too(command):
    ctx = cli.commands["compare"].make_context("compare", ["model.onnx", "data.npz", "-o", "out", "--rates", "1,2"])
    write_config(Path("compare.toml"), ctx)
    again = cli.commands["compare"].make_context("compare", ["--config", "compare.toml"])
    assert {name: value for name, value in again.params.items() if not isinstance(value, Path)} == {
        name: value for name, value in ctx.params.items() if not isinstance(value, Path)
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rhos = 0.2", ("'rhos' is not an option of run", "Did you mean 'rho'?")),
        ("[choosing]\nstratgy = 'all'", ("'stratgy'", "Did you mean 'strategy'?")),
        ("quite_other = 1", ("'quite-other'", "--help")),
        ("save-config = 'x.toml'", ("'save-config' is not an option",)),
        ("[chosing]\nrho = 1", ("[chosing]", "Did you mean [choosing]?")),
        ("[zzz]\nlr = 1", ("[zzz]", "[training], [fleet], [budget]")),
        ("rho = 0.1\n[choosing]\nrho = 0.2", ("'rho' twice",)),
        ("rho = 'much'", ('rho = "much"', "expected a number")),
        ("rho = true", ("rho = true", "expected a number")),
        ("epochs = 1.5", ("epochs = 1.5", "expected a whole number")),
        ("epochs = -1", ("epochs = -1", "not in the range x>=0")),
        ("preset = 1", ("preset = 1", "one of auto, unit, imagenet, none")),
        ("preset = 'zscore'", ("preset", "'zscore'", "imagenet")),
        ("measure = 'no'", ("measure", "true or false")),
        ("layers = 3", ("layers = 3", "list")),
        ("max-memory = 'lots'", ("max-memory", "'lots'", "500MB")),
        ("max-step-time = 3", ("max-step-time = 3", '"0.5x"')),
        ("mean = ['a']", ("mean", "not a number")),
        ("input = 3", ("input = 3", "a table of names and values")),
        ("input = ['sr']", ("input", "NAME=VALUE")),
        ("model = 'nix.onnx'", ("model", "nix.onnx' does not exist")),
        ("rho = = 1", ("cannot be read as TOML", "line 1")),
        (f"rho = {900 * '['}", ("cannot be read as TOML",)),
        ("rho = 2", ("rho", "at most 1", "2")),
    ],
)
def test_what_is_wrong_in_a_file_is_said(text, words, command):
    Path("bad.toml").write_text(text)
    given = [] if text.startswith("model") else ["model.onnx", "data.npz"]
    said = command("run", "--config", "bad.toml", *given, "-o", "out", code=2).err
    for word in ("bad.toml", *words):
        assert word in said
    assert not Path("out").exists()


def test_a_place_that_cannot_be_written_is_said_before_the_work(command):
    said = command("run", "model.onnx", "data.npz", "-o", "out", "--save-config", "no/where.toml", code=1).err
    assert "where.toml" in said
    assert not Path("out").exists()
