"""Replies that are wrong or hostile are dropped, and nothing of them is in the aggregate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet_clients import client, dataset

from adabet_onnx import Fleet
from adabet_onnx.fleet.checks import Expectations, accepted
from adabet_onnx.fleet.client_artifacts import ClientArtifacts
from adabet_onnx.fleet.grids import InProcess
from adabet_onnx.fleet.messages import Local, Reply, RoundTask
from adabet_onnx.fleet.server import Server

pytestmark = pytest.mark.usefixtures("checked_here")


def hostile(good: Reply) -> dict[str, Reply]:
    """Twenty replies that must not influence the aggregate."""
    tensors = dict(good.tensors)
    weight = tensors["fc.weight"]

    def with_(array: Any, name: str = "fc.weight") -> Reply:
        return replace(good, tensors={**tensors, name: array})

    bad = np.array(weight)
    bad.flat[3] = np.nan
    infinite = np.array(weight)
    infinite.flat[0] = -np.inf
    return {
        "wrong name": replace(good, tensors={("fc.w" if k == "fc.weight" else k): v for k, v in tensors.items()}),
        "missing name": replace(good, tensors={k: v for k, v in tensors.items() if k != "fc.weight"}),
        "extra name": with_(weight, "extra"),
        "no tensors": replace(good, tensors={}, partial=True),
        "shape that broadcasts": with_(weight[:1]),
        "shape of one number": with_(np.zeros((), np.float32)),
        "shape that does not broadcast": with_(np.zeros((3, 7), np.float32)),
        "flat": with_(weight.reshape(-1)),
        "truncated": with_(weight.reshape(-1)[:-1]),
        "float64": with_(weight.astype(np.float64)),
        "int64": with_(np.zeros(weight.shape, np.int64)),
        "no array": with_(weight.tolist()),
        "NaN": with_(bad),
        "infinite": with_(infinite),
        "huge norm": with_(weight + np.float32(1e18)),
        "zero weight": replace(good, samples=0),
        "weight that is no number": replace(good, samples=math.nan),
        "absurd weight": replace(good, samples=10**12),
        "another model": replace(good, model_sha256="ab" * 32),
        "another round": replace(good, number=good.number - 1),
    }


class Among:
    """A grid in which one client sends another reply."""

    def __init__(self, inner: InProcess, clients: int, send: Any) -> None:
        self._inner, self._number, self._send = inner, clients, send

    def clients(self) -> list[int]:
        return [*self._inner.clients(), self._number]

    def train(self, clients: Sequence[int], given: RoundTask) -> list[Reply]:
        good = list(self._inner.train([each for each in clients if each != self._number], given))
        return [replace(self._send(good[0]), client=self._number), *good]


@pytest.mark.parametrize("what", hostile(Reply(0, 1, "", {"fc.weight": np.zeros((2, 2), np.float32)}, 1)))
def test_hostile_replies_are_dropped_with_a_line(trained_all, tmp_path, what):
    bench, local = ClientArtifacts(trained_all), Local(steps=1, batch_size=40, learning_rate=0.01)

    def run(folder: Path, grid: Any) -> Server:
        made = Server(grid, folder, bench.model_sha256, bench.initial_values(), Fleet(clients=3, rounds=1), local)
        made.run()
        return made

    def honest() -> InProcess:
        return InProcess(client(number, bench, dataset(seed=number), tmp_path) for number in range(2))

    expected = run(tmp_path / "e", honest())
    found = run(tmp_path / "f", Among(honest(), 2, lambda good: hostile(good)[what]))
    row = json.loads((tmp_path / "f" / "fleet.jsonl").read_text().splitlines()[-1])
    assert [each["client"] for each in row["dropped"]] == [2]
    assert "\n" not in row["dropped"][0]["why"]
    assert row["clients"] == [0, 1]
    assert all(np.array_equal(found.values[name], value) for name, value in expected.values.items())


def test_twenty_of_them(trained_all):
    bench = ClientArtifacts(trained_all)
    values = bench.initial_values()
    good = Reply(0, 5, bench.model_sha256, values, 10)
    bad = [replace(each, client=at) for at, each in enumerate(hostile(good).values(), start=1)]
    assert len(bad) == 20
    wanted = Expectations(5, bench.model_sha256, values, frozenset(range(21)))
    for replies in ([good, *bad], [*bad, good]):
        counted, dropped = accepted(replies, wanted)
        assert [reply.client for reply in counted] == [0]
        assert sorted(each.client for each in dropped) == list(range(1, 21))
        assert len({each.why for each in dropped}) >= 16
    counted, dropped = accepted([good, good, replace(good, client=99), replace(good, error="it broke")], wanted)
    assert len(counted) == 1
    assert [each.why for each in dropped] == ["it has already replied in this round", "it was not asked", "it broke"]
    near = {name: value + np.float32(0.1) for name, value in values.items()}
    assert len(accepted([replace(good, tensors=near)], wanted)[0]) == 1
    assert "`max_norm`" in accepted([replace(good, tensors=near)], replace(wanted, max_norm=0.01))[1][0].why


def test_the_rate_falls_from_round_to_round(trained_all, tmp_path):
    bench, seen = ClientArtifacts(trained_all), []

    class Watched(InProcess):
        def train(self, clients: Sequence[int], given: RoundTask) -> Any:
            seen.append(given.local.learning_rate)
            return super().train(clients, given)

    grid, local = Watched([client(0, bench, dataset(), tmp_path)]), Local(steps=1, learning_rate=0.01)
    how = (bench.model_sha256, bench.initial_values(), Fleet(clients=1, rounds=4), local)
    Server(grid, tmp_path / "s", *how, schedule="cosine").run()
    assert seen == pytest.approx([0.01 * (1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75)])
