"""Selecting without scores."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models.deep import residual

from adabet_onnx import DataError, UsageError, open_model, select
from adabet_onnx.cli.main import cli
from adabet_onnx.pipeline import adapt


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
    with pytest.raises(UsageError, match=f"strategy {strategy} needs scores.*adabet-onnx score.*--layers.*head"):
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
        strategy="head",
        preprocessing={"preset": "none"},
        training={"epochs": 1, "batch_size": 4},
        check=False,
        measure=False,
    )
    assert found.selection.layers == ("fc",)
    assert found.selection.estimator is None
    assert found.selection.preprocessing is not None
    assert not (tmp_path / "out" / "scores.json").exists()
    assert (tmp_path / "out" / "adapted.onnx").is_file()
    with pytest.raises(DataError, match="scoring needs 32 samples, but the data has 12"):
        adapt(onnx_model, (x, y), tmp_path / "no", preprocessing={"preset": "none"}, measure=False)
