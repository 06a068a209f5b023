"""Rounds with too few replies, and runs that continue from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet_clients import artifacts, client, dataset

from adabet_onnx import Fleet, RecordError, TrainingError
from adabet_onnx.fleet.client import Client, ClientSetup
from adabet_onnx.fleet.client_artifacts import ClientArtifacts
from adabet_onnx.fleet.grids import InProcess
from adabet_onnx.fleet.messages import Local, RoundTask
from adabet_onnx.fleet.record import load_checkpoint
from adabet_onnx.fleet.server import Server

pytestmark = pytest.mark.usefixtures("checked_here")


class Failing(InProcess):
    """Clients that do not reply to some of the calls."""

    calls = 0

    def __init__(self, clients: Any, fail: set[int], at: set[int]) -> None:
        super().__init__(clients)
        self._fail, self._at = fail, at

    def train(self, clients: Sequence[int], given: RoundTask) -> Any:
        self.calls += 1
        return super().train([each for each in clients if each not in self._fail or self.calls not in self._at], given)


def served(folder: Path, bench: ClientArtifacts, grid: Any, **fleet: Any) -> Server:
    local = Local(epochs=1, batch_size=16, learning_rate=0.01)
    return Server(grid, folder, bench.model_sha256, bench.initial_values(), Fleet(**fleet), local)


def test_a_round_below_the_minimum_is_repeated_and_then_ends_clearly(tmp_path):
    bench = ClientArtifacts(artifacts(tmp_path / "a"))
    kept: list[dict[int, Any]] = [{}, {}, {}]

    def members() -> list[Client]:
        return [Client(ClientSetup(at, dataset(seed=at), tmp_path, kept[at]), bench) for at in range(3)]

    how = {"clients": 3, "rounds": 2, "minimum": 3, "retries": 1}
    smooth = served(tmp_path / "smooth", bench, InProcess(members()), **how)
    smooth.run()
    for states in kept:
        states.clear()
    repeated = served(tmp_path / "again", bench, Failing(members(), {1}, {2}), **how)
    rows = repeated.run()
    assert [row["attempts"] for row in rows] == [0, 1, 2]
    assert rows[2]["dropped"] == [{"client": 1, "why": "it did not reply"}]
    assert rows[2]["bytes_down"] == 2 * rows[1]["bytes_down"]
    assert all(np.array_equal(repeated.values[name], value) for name, value in smooth.values.items())
    for states in kept:
        states.clear()
    given_up = served(tmp_path / "up", bench, Failing(members(), {0, 2}, {2, 3}), **how)
    with pytest.raises(TrainingError, match=r"round 2 got 1 valid replies, fewer than 3 .* 2 times .* client 2: it"):
        given_up.run()
    resumed = served(tmp_path / "up", bench, InProcess(members()), **how)
    rows = resumed.run(resume=True)
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert all(np.array_equal(resumed.values[name], value) for name, value in smooth.values.items())


def test_checkpoints_of_other_runs_are_refused(trained_all, tmp_path):
    bench = ClientArtifacts(trained_all)
    grid = InProcess([client(0, bench, dataset(), tmp_path)])
    served(tmp_path / "s", bench, grid, clients=1, rounds=1).run()
    path = tmp_path / "s" / "fleet.safetensors"
    shapes = {name: array.shape for name, array in bench.initial_values().items()}
    assert load_checkpoint(path.parent, bench.model_sha256, shapes).number == 1
    with pytest.raises(RecordError, match="of another run"):
        load_checkpoint(path.parent, "ab" * 32, shapes)
    with pytest.raises(RecordError, match="of another run"):
        load_checkpoint(path.parent, bench.model_sha256, {**shapes, "more": (1,)})
    rows = (path.parent / "fleet.jsonl").read_text()
    for spoilt in ("{", rows.splitlines()[0] + "\n"):
        (path.parent / "fleet.jsonl").write_text(spoilt)
        with pytest.raises(RecordError, match="without `resume`"):
            served(path.parent, bench, grid, clients=1, rounds=2).run(resume=True)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(RecordError, match="was altered"):
        load_checkpoint(path.parent, bench.model_sha256, shapes)
