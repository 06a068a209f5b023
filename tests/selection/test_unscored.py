"""Selecting without scores."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models.deep import residual

from adabet_onnx import DataError, UsageError, open_model, select
from adabet_onnx.adapting import Adapting
from adabet_onnx.cli.main import cli, main
from adabet_onnx.pipeline import adapt
from adabet_onnx.selection.options import Choosing
from adabet_onnx.training.settings import Settings


@pytest.fixture(scope="module")
def model():
    return open_model(residual(1))


def test_the_head_and_named_layers_need_no_scores(model):
    head = select(model, strategy="head")
    assert (head.layers, head.parameters) == (("fc",), ("fc.weight", "fc.bias"))
    assert (head.estimator, head.scored, head.size_tau, head.preprocessing) == (None, None, None, None)
    named = select(model, layers=["blocks.0.*1", "fc"])
    assert named.layers == ("blocks.0.conv1", "blocks.0.bn1", "fc")
    assert named.strategy == "layers"


@pytest.mark.parametrize("strategy", ["adabet", "auto", "size", "b1"])
def test_other_strategies_say_how_to_score(model, strategy):
    with pytest.raises(UsageError, match=f"strategy {strategy} needs scores.*`score\\(model, data\\)`.*`layers`.*head"):
        select(model, strategy=strategy)


def test_select_takes_a_model_in_place_of_scores(tmp_path):
    path, out = tmp_path / "model.onnx", tmp_path / "selection.json"
    onnx.save(residual(1), path)
    call = CliRunner().invoke
    refused = call(cli, ["select", str(path), "-o", str(out)])
    assert isinstance(refused.exception, UsageError)
    assert not out.exists()
    done = call(cli, ["select", str(path), "-o", str(out), "--strategy", "head", "--head", "auto"])
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert (written["layers"], written["estimator"]) == (["fc"], None)


def test_a_run_with_few_samples_trains_the_head_without_scores(tmp_path):
    data = np.random.default_rng(0)
    x, y = data.standard_normal((12, 3, 16, 16)).astype(np.float32), data.integers(0, 10, 12)
    found = adapt(
        onnx_model := residual(1),
        (x, y),
        tmp_path / "out",
        preset="none",
        adapting=Adapting(
            settings=Settings(epochs=1, batch_size=4), check=False, measure=False, choosing=Choosing(strategy="head")
        ),
    )
    assert found.selection.layers == ("fc",)
    assert found.selection.estimator is None
    assert found.selection.preprocessing is not None
    assert not (tmp_path / "out" / "scores.json").exists()
    assert (tmp_path / "out" / "adapted.onnx").is_file()
    with pytest.raises(DataError, match="scoring needs 32 samples, but the data has 12"):
        adapt(onnx_model, (x, y), tmp_path / "no", preset="none", adapting=Adapting(measure=False))


def command(*words, code=0):
    """Run a command as the program does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["adabet-onnx", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == code


@pytest.mark.parametrize("strategy", ["adabet", "auto"])
def test_the_command_that_the_refusal_names_leads_to_a_selection(strategy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(residual(1), "a model.onnx")
    np.savez("data.npz", x=np.random.default_rng(0).standard_normal((32, 3, 16, 16)).astype(np.float32))
    command("select", "a model.onnx", "-o", "selection.json", "--strategy", strategy, code=2)
    message = " ".join(capsys.readouterr().err.split())
    assert "a model.onnx is a model that was not scored" in message
    scoring = re.search(r"adabet-onnx (score .* DATA -o (\S+))\)", message)
    words = ["data.npz" if word == "DATA" else word for word in shlex.split(scoring[1])]
    command(*words, "--preset", "none", "--samples", "32", "--subset-size", "16", "--subsets", "4", "-q")
    command("select", scoring[2], "-o", "selection.json", "--strategy", strategy, "-q")
    assert json.loads((tmp_path / "selection.json").read_text())["strategy"] == strategy


FEW = ["--epochs", "1", "--batch-size", "4", "--preset", "none", "--no-measure", "-q"]


@pytest.fixture(scope="module")
def unscored_run(tmp_path_factory):
    """The files of a run that trains the head on twelve samples without scores."""
    here = tmp_path_factory.mktemp("unscored")
    data = np.random.default_rng(0)
    x, y = data.standard_normal((12, 3, 16, 16)).astype(np.float32), data.integers(0, 10, 12)
    np.savez(here / "data.npz", x=x, y=y)
    onnx.save(residual(1), here / "model.onnx")
    command("run", here / "model.onnx", here / "data.npz", "-o", here / "out", "--strategy", "head", *FEW)
    return here


@pytest.mark.slow
def test_a_run_without_scores_is_resumed(unscored_run, tmp_path):
    here = shutil.copytree(unscored_run, tmp_path / "here")
    adapted = (here / "out" / "adapted.onnx").read_bytes()
    (here / "out" / "adapted.onnx").unlink()
    given = ["run", here / "model.onnx", here / "data.npz", "-o", here / "out", "--resume"]
    command(*given, "--strategy", "head", *FEW)
    assert (here / "out" / "adapted.onnx").read_bytes() == adapted
    command(*given, "--layers", "blocks.0.conv1", *FEW, code=2)


@pytest.mark.slow
def test_scores_of_an_earlier_run_do_not_stay(unscored_run, tmp_path):
    here = shutil.copytree(unscored_run, tmp_path / "here")
    (here / "out" / "scores.json").write_text("{}")
    command("run", here / "model.onnx", here / "data.npz", "-o", here / "out", "--strategy", "head", *FEW)
    assert not (here / "out" / "scores.json").exists()


@pytest.mark.slow
def test_a_run_without_scores_is_reported(unscored_run, tmp_path, capsys):
    page = tmp_path / "report.html"
    command("report", unscored_run / "out", "-o", page)
    assert "left out" not in capsys.readouterr().out
    text = page.read_text()
    opened = open_model(unscored_run / "model.onnx")
    assert "b1_hat</th>" not in text
    assert f"1 of {len(opened.layers)}" in text
    assert opened.sha256 in text
    rows = re.findall(r"<tr( class=\"on\")?><td>(\S+) <span", text)
    assert [name for _, name in rows] == [layer.name for layer in opened.layers]
    assert [name for marked, name in rows if marked] == ["fc"]
    assert "memory to train it" in text


@pytest.mark.slow
def test_a_report_without_scores_follows_the_note_where_the_model_is_gone(unscored_run, tmp_path, capsys):
    here = shutil.copytree(unscored_run, tmp_path / "here")
    model = (here / "model.onnx").rename(tmp_path / "moved.onnx")
    summary = json.loads((here / "out" / "run.json").read_text())
    (here / "out" / "run.json").write_text(json.dumps(summary | {"model_file": str(here / "model.onnx")}))
    command("report", here / "out", "-o", here / "page.html", "--no-costs")
    assert "not found; give it with --model" in " ".join(capsys.readouterr().out.split())
    command("report", here / "out", "-o", here / "page.html", "--no-costs", "--model", model, "-q")
    assert "blocks.0.conv1" in (here / "page.html").read_text()
    onnx.save(residual(2), tmp_path / "other.onnx")
    command("report", here / "out", "-o", here / "page.html", "--model", tmp_path / "other.onnx", code=2)
    assert "not the model that was adapted" in " ".join(capsys.readouterr().err.split())
