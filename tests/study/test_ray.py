"""Trainings and rankings as Ray tasks: the results equal those of a serial run, even if a worker is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import HELPERS
from flower_processes import surroundings
from hypothesis import given, settings
from hypothesis import strategies as st

from adabet_onnx import CheckError, Plan, Repeats, RuntimeMissingError, UsageError, compare, stability
from adabet_onnx.cost.measure import Cost
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.study import ray_cluster, shared_rows
from adabet_onnx.study.ray_cluster import Node, check_address, connect
from adabet_onnx.study.ray_runner import ClusterRunner, comparable
from adabet_onnx.study.runner import Measurement
from adabet_onnx.study.shared_rows import shared

DEMO = Path(__import__("adabet_onnx").__file__).parent / "demo"
MODEL, DATA = DEMO / "digits.onnx", DEMO / "digits_shifted.npz"
NOT_COMPARED = {"step_seconds", "step_memory_bytes", "frozen_seconds"}  # measured anew


@pytest.fixture(scope="module")
def ran(ray_python, tmp_path_factory):
    """The output of ray_runs.py."""
    folder = tmp_path_factory.mktemp("ray")
    command = [str(ray_python), str(HELPERS / "ray_runs.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings(folder), timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_give_the_results_of_a_serial_run(ran):
    assert ran["killed"] == 1
    assert len(ran["serial"]) == 4
    for serial, spread in zip(ran["serial"], ran["ray"], strict=True):
        assert serial.keys() == spread.keys()
        for name in serial.keys() - NOT_COMPARED:
            assert serial[name] == spread[name], name
        assert spread["step_memory_bytes"] > 0
        assert spread["step_seconds"] > 0
    assert ran["runs_equal"]
    assert all(ran["runs_equal"].values()), "every run's file is the same, byte by byte"
    assert ran["costs"] == len({tuple(row["layers"]) for row in ran["ray"]})


@pytest.mark.slow
def test_stability_is_that_of_a_serial_run(ran):
    assert ran["stability_equal"]


@pytest.mark.slow
def test_what_was_started_is_stopped_and_nothing_is_left(ran):
    assert ran["still_there"], "a connection that was there before stays"
    assert ran["stopped"]
    assert ran["left"] == []


@pytest.mark.slow
def test_errors_of_tasks_are_raised_here(ran):
    assert ran["errors"]["fail"] == ["DataError", "expected 3, found 4"]
    kind, text = ran["errors"]["die"]
    assert kind == "CheckError"
    assert "a training (head, seed 0) was started 4 times" in text
    assert "is kept" in text


@pytest.mark.parametrize("address", ["", "here", "head:", ":6379", "head:port", "head:99999", "http://head:6379"])
def test_wrong_addresses(address, tmp_path):
    with pytest.raises(UsageError, match="`ray` must be 'local', 'auto', 'HOST:PORT'"):
        Plan(ray=address)
    with pytest.raises(UsageError, match="`ray` must be"):
        Repeats(ray=address)


def test_right_addresses():
    for address in ("local", "auto", "10.0.0.1:6379", "ray://head.example:10001", "[::1]:6379"):
        check_address(address)


def test_a_cluster_that_does_not_answer(monkeypatch, tmp_path):
    class Idle:
        @staticmethod
        def is_initialized() -> bool:
            return False

    monkeypatch.setattr(ray_cluster, "_ray", lambda: Idle)
    with pytest.raises(CheckError, match=r"nothing answers at 127.0.0.1:1 .*which Ray prints when it starts there"):
        compare(MODEL, DATA, tmp_path / "c", Plan(ray="127.0.0.1:1"))
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif("ray" in sys.modules, reason="Ray is there")
def test_without_ray(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'adabet-onnx\[cluster\]'"):
        compare(MODEL, DATA, tmp_path / "c", Plan(ray="local"))
    with pytest.raises(RuntimeMissingError, match="Ray is not installed"):
        stability(MODEL, DATA, repeats=Repeats(ray="local"))


class FakeRay:
    """Fake nodes and their answers."""

    def __init__(self, *answers) -> None:
        self.answers = answers

    def nodes(self):
        return [
            {"NodeID": str(number), "Alive": True, "Resources": {"CPU": 2.0}, "NodeManagerHostname": f"host{number}"}
            for number in range(len(self.answers))
        ]


def nodes(monkeypatch, *answers):
    def ask(function, arguments, node, cpus):
        return answers[int(node)]

    def fetched(references):
        for reference in references:
            if isinstance(reference, Exception):
                raise reference
        return list(references)

    monkeypatch.setattr(ray_cluster, "_on_node", ask)
    monkeypatch.setattr(ray_cluster, "fetch", fetched)
    return ray_cluster._nodes(FakeRay(*answers))


def test_nodes_with_other_versions_are_named(monkeypatch):
    own = ray_cluster._describe()
    assert [node.host for node in nodes(monkeypatch, own, own)] == ["host0", "host1"]
    with pytest.raises(UsageError, match=r"node host1 .* has adabet-onnx 0\.0\.1, this machine adabet-onnx"):
        nodes(monkeypatch, own, (own[0], "adabet-onnx 0.0.1"))
    with pytest.raises(UsageError, match=r"node host0 .* cannot run adabet-onnx: No module named"):
        nodes(monkeypatch, ModuleNotFoundError("No module named 'adabet_onnx'"))
    with pytest.raises(CheckError, match="no node with CPUs"):
        nodes(monkeypatch)


def test_costs_are_measured_on_nodes_that_are_alike():
    made = [Node(str(i), f"host{i}", 2, machine, "") for i, machine in enumerate(["a", "b", "b", "c"])]
    assert [node.id for node in comparable(made)] == ["1", "2"]
    assert [node.id for node in comparable(made[:2])] == ["0"]


def test_keeping_features_is_rejected():
    with pytest.raises(UsageError, match="`keep_features` cannot be combined with `ray`"):
        Plan(ray="local", keep_features=True)


class Memory:
    """An object store in this process."""

    def put(self, value):
        return (value,)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    width=st.integers(1, 5),
    per_block=st.integers(1, 12),
    picks=st.lists(st.integers(0, 1000), max_size=20),
)
def test_shared_rows_are_the_rows(count, width, per_block, picks):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((count, width)).astype(np.float32), "b": rng.integers(0, 255, (count,))}
    dataset = Dataset(ArrayRows(arrays), labels=np.arange(count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_rows, "fetch", lambda references: [value for (value,) in references])
        patch.setattr("adabet_onnx.data.dataset._BLOCK", per_block * (4 * width + 8))
        made = shared(dataset, Memory())
        assert len(made) == count
        assert made.rows.forms == dataset.rows.forms
        assert np.array_equal(made.labels, dataset.labels)
        indices = np.array([pick % count for pick in picks], np.int64)
        for name, array in made.subset(indices).rows.fetch(np.arange(len(indices))).items():
            assert np.array_equal(array, arrays[name][indices])
            assert array.dtype == arrays[name].dtype


def test_one_run_at_once_is_one(monkeypatch):
    made = [Node("0", "host", 8, "m", "")]
    assert ray_cluster.Cluster(made, None).at_once == 8
    assert ray_cluster.Cluster(made, 3).at_once == 3


def test_connecting_checks_the_address_first(monkeypatch):
    monkeypatch.setattr(ray_cluster, "_ray", lambda: None)
    with pytest.raises(UsageError, match="`ray` must be"), connect("nowhere"):
        pass


class LosingCluster:
    """Two nodes; the first is lost while it measures."""

    def __init__(self) -> None:
        self.nodes = (Node("0", "host0", 1, "m", ""), Node("1", "host1", 1, "m", ""))
        self.measured: list[tuple[str, str]] = []
        self.lost: set[str] = set()
        self._count = 0

    def alive(self):
        return [node for node in self.nodes if node.id not in self.lost]

    def put(self, value):
        return value

    def submit_alone(self, function, step, files, *, node):
        self._count += 1
        self.measured.append((node.id, step.label))
        return (self._count, node.id, step.label)

    def next_done(self, pending):
        return pending[0]

    def result(self, reference, what):
        if reference[1] == "0":
            self.lost.add("0")
            raise CheckError("its node was lost")
        return Cost(len(reference[2]), 0.5)

    def cancel(self, pending):
        assert not pending


def test_what_a_lost_node_measured_is_measured_by_another(tmp_path):
    cluster = LosingCluster()
    runner = object.__new__(ClusterRunner)
    runner._cluster, runner._files = cluster, {}
    steps = [Measurement(label, tmp_path, 8, 1, 1) for label in ("a", "bb", "ccc")]
    costs = {step.label: cost.memory_bytes for step, cost in runner.measure(steps)}
    assert costs == {"a": 1, "bb": 2, "ccc": 3}
    assert [node for node, label in cluster.measured if label == "a"] == ["0", "1"]
    cluster.nodes, cluster.lost = cluster.nodes[:1], set()
    with pytest.raises(CheckError, match="its node was lost"):
        list(runner.measure(steps))
