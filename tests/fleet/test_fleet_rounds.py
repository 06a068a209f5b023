"""Rounds of training: aggregates, clients and their states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fleet_clients import artifacts, client, dataset, pictures, task

from adabet_onnx import Choices, Choosing, Fleet, UsageError, select
from adabet_onnx.fleet.aggregation import weighted_mean
from adabet_onnx.fleet.checks import Expectations, accepted
from adabet_onnx.fleet.client import Client, ClientSetup
from adabet_onnx.fleet.client_artifacts import ClientArtifacts
from adabet_onnx.fleet.grids import InProcess
from adabet_onnx.fleet.messages import Local, Reply
from adabet_onnx.fleet.server import Server
from adabet_onnx.fleet.states import FolderStates

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
def test_the_same_data_everywhere_is_a_central_step(tmp_path, optimizer, batch_norm):
    bench = ClientArtifacts(artifacts(tmp_path / "a", optimizer=optimizer, batch_norm=batch_norm))
    data = dataset()
    grid = InProcess(client(number, bench, data, tmp_path) for number in range(3))
    local = Local(steps=1, batch_size=len(data), learning_rate=0.01)
    server = Server(grid, tmp_path / "s", bench.model_sha256, bench.initial_values(), Fleet(clients=3, rounds=2), local)
    rows = server.run()
    central = bench.manifest.session(bench.manifest.initial)
    x, y = pictures()
    losses = [central.step({"input": x}, y.astype(np.int64), 0.01)[0] for _ in range(2)]
    assert set(server.values) == {*bench.manifest.parameters, *bench.manifest.statistics}
    for name, value in server.values.items():
        assert np.abs(value - central.parameter(name)).max() <= 1e-6, name
    assert [row["loss"] for row in rows[1:]] == pytest.approx(losses, abs=1e-5)
    assert any(np.abs(value - bench.initial_values()[name]).max() > 1e-4 for name, value in server.values.items())


def test_aggregation_is_weighted_by_who_trained_a_parameter():
    rng = np.random.default_rng(0)
    one, two = ({name: rng.standard_normal(3).astype(np.float32) for name in "ab"} for _ in range(2))
    current = {name: np.zeros(3, np.float32) for name in "abc"}
    found = weighted_mean(current, [(1.0, one), (3.0, two), (4.0, {"b": one["b"]})])
    assert np.allclose(found["a"], (one["a"] + 3 * two["a"]) / 4)
    assert np.allclose(found["b"], (5 * one["b"] + 3 * two["b"]) / 8)
    assert np.array_equal(found["c"], current["c"])
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_the_proximal_term(trained_all, tmp_path):
    """Two steps by hand: the second one's gradient has mu times the distance from what was sent."""
    bench, data = ClientArtifacts(trained_all), dataset()
    local = {"steps": 2, "batch_size": len(data), "learning_rate": 0.05}
    sent = task(bench, **local, proximal=0.7)
    reply = client(0, bench, data, tmp_path).train(sent)
    session = bench.manifest.session(bench.manifest.initial)
    x, y = pictures()
    expected = dict(sent.tensors)
    for _ in range(2):
        for name, value in expected.items():
            session.set_parameter(name, value)
        session.gradients({"input": x}, y.astype(np.int64))
        steps = {name: session.gradient(name) + 0.7 * (value - sent.tensors[name]) for name, value in expected.items()}
        expected = {name: value - 0.05 * steps[name] for name, value in expected.items()}
        session.forget_gradients()
    for name, value in expected.items():
        assert np.abs(reply.tensors[name] - value).max() < 1e-5, name
    plain = client(1, bench, data, tmp_path).train(replace(sent, local=Local(**local)))
    tight = client(2, bench, data, tmp_path).train(replace(sent, local=Local(**local, proximal=10.0)))

    def away(found: Reply) -> float:
        return sum(float(((found.tensors[name] - value) ** 2).sum()) for name, value in sent.tensors.items())

    assert away(tight) < away(reply) < away(plain)


def test_optimizer_state_stays_with_the_client(tmp_path):
    bench, data = ClientArtifacts(artifacts(tmp_path / "a")), dataset()
    local = {"steps": 3, "batch_size": 16, "learning_rate": 0.01}
    one = client(0, bench, data, tmp_path)
    first = one.train(task(bench, 1, **local))
    assert set(first.tensors) == set(bench.manifest.parameters)
    second = one.train(replace(task(bench, 2, **local), tensors=first.tensors))
    fresh = client(0, bench, data, tmp_path).train(replace(task(bench, 2, **local), tensors=first.tensors))
    assert any((second.tensors[name] != fresh.tensors[name]).any() for name in second.tensors)
    again = one.train(replace(task(bench, 2, **local), tensors=first.tensors))  # the round is repeated
    assert all(np.array_equal(again.tensors[name], array) for name, array in second.tensors.items())


def test_a_client_goes_on_from_its_folder(tmp_path):
    bench, data = ClientArtifacts(artifacts(tmp_path / "a")), dataset()
    local = {"steps": 2, "batch_size": 16, "learning_rate": 0.01}

    def own(states: Any) -> Client:
        return Client(ClientSetup(0, data, tmp_path, states), bench)

    kept: dict[int, Any] = {}
    for number in (1, 2, 3):
        expected = own(kept).train(task(bench, number, **local))
        found = own(FolderStates(tmp_path / "states")).train(task(bench, number, **local))
        assert all(np.array_equal(found.tensors[name], array) for name, array in expected.tensors.items())
    assert sorted(kept) == sorted(FolderStates(tmp_path / "states")) == [2, 3]
    with pytest.raises(KeyError):
        FolderStates(tmp_path / "states")[1]


def test_personal_layers_stay(tmp_path):
    folder, data = artifacts(tmp_path / "a", batch_norm="batch"), [dataset(24, seed) for seed in range(2)]
    bench = ClientArtifacts(folder, personal=("bn*", "fc"))
    stay = {"fc.weight", "fc.bias"} | {f"bn{n}.{key}" for n in (1, 2) for key in ("weight", "bias")}
    stay |= {f"bn{n}.running_{key}" for n in (1, 2) for key in ("mean", "var")}
    assert set(bench.personal) == stay
    kept: list[dict[int, Any]] = [{}, {}]
    grid = InProcess(Client(ClientSetup(at, data[at], tmp_path, kept[at], 0.25), bench) for at in range(2))
    local = Local(epochs=1, batch_size=8, learning_rate=0.01)
    server = Server(grid, tmp_path / "s", bench.model_sha256, bench.initial_values(), Fleet(clients=2, rounds=2), local)
    rows = server.run()
    assert set(server.values) == set(bench.trained) - stay
    for states in kept:
        assert stay <= set(states[2].tensors)
        assert not set(server.values) & set(states[2].tensors)
    assert (kept[0][2].tensors["fc.weight"] != kept[1][2].tensors["fc.weight"]).any()
    assert rows[-1]["client_accuracy"] is not None
    for patterns, words in ((("none*",), "matches none of the selected layers"), (("*",), "leaves nothing")):
        with pytest.raises(UsageError, match=words):
            ClientArtifacts(folder, personal=patterns)


def test_little_memory_trains_a_part(tmp_path):
    """The last layers that fit are trained; the others keep the values of the round."""
    bench, data = ClientArtifacts(artifacts(tmp_path / "a", optimizer="sgd")), dataset()
    local = {"steps": 1, "batch_size": len(data), "learning_rate": 0.05}
    rng = np.random.default_rng(0)
    moved = {
        name: value + 0.05 * rng.standard_normal(value.shape).astype(np.float32)
        for name, value in bench.initial_values().items()
    }
    sent = replace(task(bench, **local), tensors=moved)
    whole = client(0, bench, data, tmp_path).train(sent)
    from adabet_onnx import Budget, Predictor

    costs = Predictor(bench.model, batch_size=len(data), choices=Choices(optimizer="sgd"), backend="portable")
    least = select(bench.model, layers=["fc"], costs=costs, choosing=Choosing(budget=Budget(max_memory="1GB")))
    part = client(1, bench, data, tmp_path, memory=int(least.budget.memory_bytes) + 1).train(sent)
    assert part.error is None
    assert part.partial
    assert {"fc.weight", "fc.bias"} <= set(part.tensors) < set(whole.tensors)
    for name, array in part.tensors.items():
        assert np.abs(array - whole.tensors[name]).max() < 1e-6, name  # one step of the same loss
    none = client(2, bench, data, tmp_path, memory=1000).train(sent)
    assert none.error is not None
    assert "none of the selected layers can be trained in" in none.error
    good, bad = accepted([whole, part, none], Expectations(1, bench.model_sha256, moved, {0, 1, 2}))
    assert [reply.client for reply in good] == [0, 1]
    assert [each.client for each in bad] == [2]


def test_clients_reject_what_is_for_another_model(trained_all, tmp_path):
    bench = ClientArtifacts(trained_all)
    one, good = client(0, bench, dataset(), tmp_path), task(bench, steps=1)
    tensors = dict(good.tensors)
    for changed, words in (
        (replace(good, model_sha256="cd" * 32), "of another model"),
        (replace(good, tensors={**tensors, "fc.bias": np.zeros(7, np.float32)}), "'fc.bias' is missing, not finite"),
        (
            replace(good, tensors={**tensors, "fc.bias": np.full(4, np.nan, np.float32)}),
            "'fc.bias' is missing, not fin",
        ),
        (replace(good, tensors={**tensors, "more": np.zeros(1, np.float32)}), "'more', which is not shared"),
        (replace(good, local=Local(learning_rate=1e30, epochs=2, batch_size=8)), "loss became"),
    ):
        reply = one.train(changed)
        assert words in str(reply.error)
        assert not reply.tensors
    assert one.train(good).error is None
