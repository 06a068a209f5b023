"""Simulations of a fleet in one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet_clients import pictures
from models import tiny

from adabet_onnx import (
    Adapting,
    Choosing,
    Fleet,
    RecordError,
    Scoring,
    Settings,
    UsageError,
    evaluate,
    export_model,
    load_delta,
    simulate_fleet,
)

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    x, y = pictures(240, 1)
    np.savez(folder / "data.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    tiny_model = tiny.conv_net(classes=7)
    (folder / "model.onnx").write_bytes(tiny_model.SerializeToString())
    return folder / "model.onnx", folder / "data.npz"


HOW = Adapting(
    num_classes=4,
    choosing=Choosing(rho=0.4),
    scoring=Scoring(samples=32, subset_size=16, subsets=8),
    settings=Settings(batch_size=16, learning_rate=0.01),
)


def test_a_whole_simulation(files, tmp_path):
    fleet = Fleet(clients=5, per_round=3, rounds=4, partition="dirichlet:0.5")
    rows = simulate_fleet(*files, tmp_path / "f", fleet=fleet, adapting=HOW)
    about = json.loads((tmp_path / "f" / "fleet.json").read_text())
    assert about["head"]["note"] is None
    assert sum(about["samples"]) == 200
    assert len(about["poll"]["voters"]) + len(about["poll"]["abstained"]) == 5
    assert all(len(row["clients"]) == 3 for row in rows[1:])
    assert rows == [json.loads(line) for line in (tmp_path / "f" / "fleet.jsonl").read_text().splitlines()]
    assert rows[-1]["bytes_up"] == 3 * about["bytes_up"]
    assert rows[-1]["eval_accuracy"] > 0.5
    result = evaluate(tmp_path / "f" / "artifacts", files[1])
    assert result["accuracy"] == pytest.approx(rows[-1]["eval_accuracy"])
    assert evaluate(tmp_path / "f" / "adapted.onnx", files[1])["accuracy"] == pytest.approx(result["accuracy"])
    assert load_delta(tmp_path / "f" / "delta.safetensors").model_sha256 == about["model_sha256"]
    export_model(tmp_path / "f" / "artifacts", tmp_path / "again.onnx")
    assert not list((tmp_path / "f").rglob("*.features"))
    again = simulate_fleet(*files, tmp_path / "g", fleet=fleet, adapting=HOW)
    assert [without_time(row) for row in again] == [without_time(row) for row in rows]


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "seconds"}


def test_a_simulation_goes_on(files, tmp_path):
    constant = replace(HOW.settings, schedule="constant")
    how = replace(HOW, choosing=Choosing(strategy="last", rho=0.4), settings=constant)
    whole = simulate_fleet(*files, tmp_path / "w", fleet=Fleet(clients=3, rounds=3), adapting=how)
    simulate_fleet(*files, tmp_path / "p", fleet=Fleet(clients=3, rounds=1), adapting=how)
    rows = simulate_fleet(*files, tmp_path / "p", fleet=Fleet(clients=3, rounds=3), adapting=how, resume=True)
    assert [without_time(row) for row in rows] == [without_time(row) for row in whole]
    one, other = (load_delta(tmp_path / name / "delta.safetensors").sha256 for name in "wp")
    assert one == other
    for changed in (Fleet(clients=4, rounds=3), Fleet(clients=3, rounds=3, proximal=1.0)):
        with pytest.raises(UsageError, match="was made with other options"):
            simulate_fleet(*files, tmp_path / "p", fleet=changed, adapting=how, resume=True)
    falling = replace(how, settings=HOW.settings)
    simulate_fleet(*files, tmp_path / "c", fleet=Fleet(clients=3, rounds=1), adapting=falling)
    with pytest.raises(UsageError, match="rounds differs"):
        simulate_fleet(*files, tmp_path / "c", fleet=Fleet(clients=3, rounds=2), adapting=falling, resume=True)
    other_head = replace(how, num_classes=5)
    with pytest.raises(RecordError, match="a fleet of another model"):
        simulate_fleet(*files, tmp_path / "p", fleet=Fleet(clients=3, rounds=3), adapting=other_head, resume=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"aggregation": "fedsgd"}, "unknown aggregation 'fedsgd'"),
        ({"clients": 0}, "`clients` must be at least 1"),
        ({"rounds": -1}, "`rounds` must be at least 0"),
        ({"per_round": 30}, "30 of 20 clients are asked"),
        ({"minimum": 21}, "21 must reply"),
        ({"proximal": -1.0}, "`proximal` must be at least 0"),
        ({"max_norm": 0.0}, "`max_norm` must be above 0"),
        ({"partition": "x"}, "unknown partition 'x'"),
        ({"client_memory": ("much",)}, "client_memory"),
        ({"client_memory": ("1MB",), "aggregation": "krum"}, "`aggregation='krum'` and `privacy_noise` do not support"),
    ],
)
def test_options_out_of_range(given, words):
    with pytest.raises(UsageError, match=words):
        Fleet(**given)


def test_what_a_fleet_cannot_do(files, tmp_path):
    for how, words in (
        (replace(HOW, backend="ort"), "leave `backend` out"),
        (replace(HOW, choosing=Choosing(channel_rho=0.5)), "leave `channel_rho` out"),
        (replace(HOW, choosing=Choosing(strategy="b1")), "votes with the strategy adabet, not b1"),
        (
            Adapting(choosing=HOW.choosing, scoring=HOW.scoring, settings=Settings(head_init="fitted")),
            "is not possible",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            simulate_fleet(*files, tmp_path / "f", fleet=Fleet(clients=3, rounds=1), adapting=how)
