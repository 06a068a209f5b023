"""Under Flower: both apps in one process, a simulation, and a deployment over TLS; and the message without Flower."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HELPERS
from flower_processes import PATIENCE, Processes, surroundings
from models import tiny

from adabet_onnx import (
    Choices,
    Fleet,
    RecordError,
    RuntimeMissingError,
    Settings,
    UsageError,
    evaluate,
    load_delta,
    make_artifacts,
    open_model,
    select,
    write_fleet_app,
)
from adabet_onnx.fleet import flower

pytestmark = pytest.mark.slow

RUNS = HELPERS / "fleet_runs.py"


def ran(python: Path, what: str, folder: Path) -> Any:
    """The result of a function of fleet_runs.py."""
    command = [str(python), str(RUNS), what, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=surroundings(folder), timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- in one process --------------------------------------------------------------------------------------------------


def test_under_flower_it_is_the_same(fleet_python, tmp_path):
    found = ran(fleet_python, "apps", tmp_path)
    assert found["difference"] == 0
    assert found["clients"] == [1, 2, 3]
    assert found["sent"] == ["query"] * 3 + ["train"] * 6, "what clients get once is sent once"
    assert found["rounds_after_resuming"] == [0, 1, 2, 3]
    assert found["bytes"] == [0, found["expected_bytes"], found["expected_bytes"]]


def test_from_a_model_alone(fleet_python, tmp_path):
    found = ran(fleet_python, "votes", tmp_path)
    assert found["voters"] == [1, 2, 3]
    assert 0 < found["agreement"] <= 1
    assert (found["head"], found["rows_of_head"]) == (None, 120)
    assert found["losses"][2] < found["losses"][1]
    assert found["delta"]


def test_replies_that_are_damaged_on_the_way(fleet_python, tmp_path):
    found = ran(fleet_python, "spoilt", tmp_path)
    assert found.pop("not installed") == ["the files that the server sent are missing or were changed."]
    assert len(found) == 6
    for what, row in found.items():
        assert row["clients"] == [1, 3], what
        assert [each["client"] for each in row["dropped"]] == [2], what


def test_aggregations_are_what_they_are_said_to_be(fleet_python, tmp_path):
    found = ran(fleet_python, "strategies", tmp_path)
    assert found.pop("nothing") == "krum returned no values in round 1."
    assert found.pop("dtype") == ["float32"]
    assert 1e-4 < found.pop("noise") < 0.2
    assert {name: value for name, value in found.items() if value > 1e-6} == {}
    assert len(found) == 8


def test_simulations_by_them_go_on_as_they_were(fleet_python, tmp_path):
    """Momentum and moments are in the checkpoint."""
    found = ran(fleet_python, "simulated", tmp_path)
    assert sorted(found) == ["fedadam", "fedavgm", "fedmedian", "krum"]
    for name, losses in found.items():
        assert losses["parts"] == pytest.approx(losses["whole"], abs=1e-6), name
        assert losses["whole"][-1] < losses["whole"][0], name
    assert len({tuple(losses["whole"]) for losses in found.values()}) == 4


def test_local_differential_privacy(fleet_python, tmp_path):
    found = ran(fleet_python, "private", tmp_path)
    assert (found["clients"], found["dropped"]) == ([1, 2, 3], [])
    assert 1e-4 < found["moved"] < 1


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path_factory) -> Path:
    """A folder with a short path, artifacts, and data of three clients and for evaluation."""
    folder = tmp_path_factory.mktemp("f")
    sets = []
    for number in range(3):
        rng = np.random.default_rng(number)
        y = rng.integers(0, 4, 40)
        x = rng.standard_normal((40, 3, 8, 8)).astype(np.float32)
        x[:, 0] += y[:, None, None]
        np.savez(folder / f"{number}.npz", x=x, y=y)
        sets.append((x, y))
    np.savez(folder / "all.npz", x=np.concatenate([x for x, _ in sets]), y=np.concatenate([y for _, y in sets]))
    opened = open_model(tiny.conv_net())
    chosen = select(opened, strategy="last", rho=0.4)
    make_artifacts(opened, chosen, folder / "artifacts", choices=Choices(), check=False)
    return folder


def came_of(folder: Path, rounds: int, clients: int) -> None:
    """Check the results of a run."""
    rows = [json.loads(line) for line in (folder / "app-results" / "fleet.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == list(range(rounds + 1))
    assert all(len(row["clients"]) == clients and not row["dropped"] for row in rows[1:])
    assert rows[-1]["loss"] < rows[1]["loss"]
    before = evaluate(open_model(tiny.conv_net()), folder / "all.npz")["loss"]
    assert evaluate(folder / "artifacts", folder / "all.npz")["loss"] < before
    load_delta(folder / "app-results" / "delta.safetensors")


def test_a_simulation(fleet_python, place):
    fleet, settings = Fleet(rounds=2, clients=3, minimum=3), Settings(batch_size=16, learning_rate=0.01)
    write_fleet_app(place / "artifacts", place / "app", fleet=fleet, settings=settings)
    with Processes(fleet_python, place) as processes:
        processes.superlink("--simulation")
        processes.run(
            place / "app",
            "here",
            "--run-config",
            f'data="{place / "all.npz"}" partition="dirichlet:1" timeout=60',
            "--federation-config",
            "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=1",
        )
    came_of(place, rounds=2, clients=3)


def test_a_deployment_over_tls(fleet_python, place):
    fleet, settings = Fleet(rounds=2, clients=2, minimum=2), Settings(batch_size=16, learning_rate=0.01)
    write_fleet_app(place / "artifacts", place / "app", fleet=fleet, settings=settings)
    with Processes(fleet_python, place, ran(fleet_python, "certificates", place)) as processes:
        processes.superlink()
        for number in range(2):
            processes.supernode(number, place / f"{number}.npz", place / f"kept{number}")
        processes.run(*processes.documented("flwr run", **{"app here": f"{place / 'app'} here"}))
    came_of(place, rounds=2, clients=2)


# --- the app, and without Flower -------------------------------------------------------------------------------------


def test_what_an_app_is_told(place):
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    fleet = Fleet(rounds=7, personal=("fc",), aggregation="fedadam", server_rate=0.05, max_norm=3.0)
    files = write_fleet_app(place / "artifacts", place / "app", fleet=fleet)
    assert all((place / "app" / path).is_file() for path in files)
    told = tomllib.loads((place / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert told["artifacts"] == str(place / "artifacts")
    assert (told["rounds"], told["personal"], told["server-rate"], told["max-norm"]) == (7, "fc", 0.05, 3.0)
    assert (told["learning-rate"], told["per-round"], told["privacy-noise"]) == (0.0, 0, 0.0)
    write_fleet_app(place / "artifacts", place / "app")
    (place / "m.onnx").write_bytes(tiny.conv_net().SerializeToString())
    write_fleet_app(place / "m.onnx", place / "app")
    told = tomllib.loads((place / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert (told["artifacts"], told["model"], told["rho"]) == ("", str(place / "m.onnx"), 0.1)
    with pytest.raises(UsageError, match="`personal` layers need artifacts"):
        write_fleet_app(place / "m.onnx", place / "app", fleet=fleet)
    with pytest.raises(RecordError, match="not an artifact folder"):
        write_fleet_app(place, place / "app")


def test_a_configuration_says_what_options_say():
    from adabet_onnx.fleet.flower_server import fleet_of

    assert fleet_of({"rounds": 0, "per-round": 0, "privacy-noise": 0.0, "privacy-clip": 0.0}) == Fleet(
        rounds=0, clients=1
    )
    found = fleet_of({"rounds": 3, "per-round": 5, "nodes": 8, "personal": "a,b", "privacy-clip": 1, "retries": 0})
    assert found == Fleet(
        rounds=3, per_round=5, clients=8, personal=("a", "b"), privacy_clip=1.0, privacy_noise=0.0, retries=0
    )


def test_without_flower(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'adabet-onnx\[fleet\]'"):
        flower.FlowerStrategy(Fleet(aggregation="krum"))
