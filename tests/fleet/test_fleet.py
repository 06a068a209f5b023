"""Fleets without an engine: partitions of data, votes, rounds, personal layers, and rejected replies."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny

from adabet_onnx import (
    Adapting,
    Choices,
    Choosing,
    DataError,
    Fleet,
    RecordError,
    Scoring,
    Settings,
    TrainingError,
    UsageError,
    evaluate,
    export_model,
    load_delta,
    make_artifacts,
    new_head,
    open_model,
    score,
    select,
    simulate_fleet,
)
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.fitting.ridge import ridge
from adabet_onnx.fitting.table import table
from adabet_onnx.fleet import heads
from adabet_onnx.fleet.aggregation import weighted_mean
from adabet_onnx.fleet.checks import MOST_SAMPLES, Expectations, accepted
from adabet_onnx.fleet.client import Client, ClientSetup
from adabet_onnx.fleet.client_artifacts import ClientArtifacts
from adabet_onnx.fleet.fitted_head import fit_head
from adabet_onnx.fleet.grids import InProcess
from adabet_onnx.fleet.messages import Local, Reply, RoundTask, Vote
from adabet_onnx.fleet.partitions import parse_partition
from adabet_onnx.fleet.record import load_checkpoint
from adabet_onnx.fleet.server import Server
from adabet_onnx.fleet.states import FolderStates
from adabet_onnx.fleet.votes import cast_vote, count
from adabet_onnx.kendall import kendall_w, midranks
from adabet_onnx.training.head_rows import HeadRows
from adabet_onnx.training.head_start import settable_tensors

pytestmark = pytest.mark.usefixtures("checked_here")


def pictures(samples: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which the first channel's brightness determines one of four classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, samples)
    x = rng.standard_normal((samples, 3, 8, 8)).astype(np.float32)
    x[:, 0] += y[:, None, None]
    return x, y


def dataset(samples: int = 40, seed: int = 0) -> Dataset:
    x, y = pictures(samples, seed)
    return Dataset(ArrayRows({"": x}), y.astype(np.int64))


def artifacts(folder: Path, strategy: str = "all", model: Any = None, **choices: Any) -> Path:
    opened = open_model(tiny.conv_net() if model is None else model)
    make_artifacts(opened, select(opened, strategy=strategy), folder, choices=Choices(**choices), backend="portable")
    return folder


@pytest.fixture(scope="module")
def trained_all(tmp_path_factory) -> Path:
    """Artifacts that train all layers by plain gradient descent."""
    folder = tmp_path_factory.mktemp("fleet") / "artifacts"
    opened = open_model(tiny.conv_net())
    made = make_artifacts(opened, select(opened, strategy="all"), folder, choices=Choices(optimizer="sgd"), check=False)
    return made.folder


def client(number: int, bench: ClientArtifacts, data: Dataset, folder: Path, **more: Any) -> Client:
    return Client(ClientSetup(number, data, folder / str(number), {}, **more), bench)


def task(bench: ClientArtifacts, number: int = 1, **local: Any) -> RoundTask:
    return RoundTask(number, bench.model_sha256, bench.initial_values(), Local(**local))


# --- partitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.3", "dirichlet:0.01", "by-class:2", "by-class:5"])
def test_every_sample_has_one_client_and_every_client_a_sample(how):
    labels = np.random.default_rng(1).integers(0, 5, 300)
    parts = parse_partition(how).rows(labels, 300, 20, seed=3)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(300))
    assert min(map(len, parts)) >= 1
    again = parse_partition(how).rows(labels, 300, 20, seed=3)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    other = parse_partition(how).rows(labels, 300, 20, seed=4)
    assert any(len(one) != len(two) or (one != two).any() for one, two in zip(parts, other, strict=True))


def test_what_partitions_are_like():
    labels = np.repeat(np.arange(10), 100)

    def spread(how: str) -> float:
        """Mean share of a client's most frequent class."""
        parts = parse_partition(how).rows(labels, 1000, 20, seed=0)
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert spread("iid") < spread("dirichlet:1") < spread("dirichlet:0.1")
    for part in parse_partition("by-class:2").rows(labels, 1000, 20, seed=0):
        assert len(np.unique(labels[part])) == 2
    assert {len(part) for part in parse_partition("iid").rows(None, 1000, 20, seed=0)} == {50}


@pytest.mark.parametrize(
    "text",
    ["", "idd", "iid:2", "dirichlet", "dirichlet:0", "dirichlet:nan", "dirichlet:x", "by-class:0", "by-class:1.5"],
)
def test_partitions_that_are_none(text):
    with pytest.raises(UsageError, match="use iid, dirichlet"):
        parse_partition(text)


def test_what_cannot_be_shared_out():
    labels = np.arange(10)
    with pytest.raises(DataError, match="3 samples cannot be distributed among 4 clients"):
        parse_partition("iid").rows(None, 3, 4, 0)
    for labelled in (None, labels.astype(float), labels.reshape(5, 2)):
        with pytest.raises(DataError, match="does not have one class for each sample"):
            parse_partition("dirichlet:1").rows(labelled, 5, 2, 0)
    for how in ("by-class:11", "by-class:2"):
        with pytest.raises(UsageError, match="every class must have a client"):
            parse_partition(how).rows(labels, 10, 4, 0)


# --- choosing together -----------------------------------------------------------------------------------------------


def test_agreement_of_rankings():
    """Kendall's own example of three judges and six things: W = 0.1619 (Rank Correlation Methods, ch. 6)."""
    judged = np.array([[5, 4, 1, 6, 3, 2], [2, 3, 1, 5, 6, 4], [4, 1, 6, 3, 2, 5]], float)
    sums = judged.sum(0)
    textbook = 12 * ((sums - sums.mean()) ** 2).sum() / (3**2 * (6**3 - 6))
    assert kendall_w(judged) == pytest.approx(textbook)
    assert textbook == pytest.approx(0.1619, abs=1e-4)
    assert kendall_w(judged[[0, 0, 0]]) == pytest.approx(1)
    assert kendall_w(judged, [1, 1e-12, 1e-12]) == pytest.approx(1)
    assert kendall_w(judged[:1]) is None
    assert midranks([5, 7, 5, 9]).tolist() == [3.5, 2, 3.5, 1]
    ties = np.array([midranks(row) for row in ([1, 1, 2, 3], [1, 2, 2, 3], [3, 3, 3, 1])])
    sums, groups = ties.sum(0), [2**3 - 2, 2**3 - 2, 3**3 - 3]
    corrected = 12 * ((sums - sums.mean()) ** 2).sum() / (9 * (4**3 - 4) - 3 * sum(groups))
    assert kendall_w(ties) == pytest.approx(corrected)


@pytest.fixture(scope="module")
def voted() -> tuple[Any, list[Vote]]:
    model = open_model(tiny.conv_net())
    scoring = Scoring(samples=32, subset_size=16, subsets=8)
    sizes = (40, 60, 10)
    return model, [cast_vote(at, model, dataset(size, at), scoring) for at, size in enumerate(sizes)]


def test_votes_say_what_scores_say(voted):
    model, votes = voted
    found = score(model, pictures(60, 1), scoring=Scoring(samples=32, subset_size=16, subsets=8))
    assert votes[1].b1_hat == {layer.name: layer.b1_hat for layer in found.layers}
    assert votes[1].shift == {layer.name: layer.shift for layer in found.layers}
    assert votes[1].ranks == dict(zip(votes[1].b1_hat, midranks(list(votes[1].b1_hat.values())), strict=True))
    assert votes[2].note == "it has 10 samples, and scoring needs 16"
    assert not votes[2].ranks


def test_votes_are_weighted_by_samples(voted):
    model, votes = voted
    poll = count(votes, model)
    assert (poll.voters, poll.abstained, poll.dropped) == ((0, 1), (2,), ())
    for layer in poll.layers:
        expected = (40 * votes[0].ranks[layer.name] + 60 * votes[1].ranks[layer.name]) / 100
        assert layer.rank == pytest.approx(expected)
    assert poll.agreement is not None
    assert 0 <= poll.agreement <= 1
    best = min(poll.layers, key=lambda layer: layer.rank).name
    assert select(model, values=poll.values, strategy="fleet", rho=0.01).layers == (best,)
    assert count(list(reversed(votes)), model) == poll


def test_votes_that_do_not_count(voted):
    model, votes = voted
    good = votes[0]
    names = list(good.ranks)
    bad = [
        replace(good, client=3, model_sha256="ab" * 32),
        replace(good, client=4, samples=math.nan),
        replace(good, client=5, samples=True),
        replace(good, client=6, samples=MOST_SAMPLES * 10),
        replace(good, client=7, ranks={names[0]: 1.0}),
        replace(good, client=8, b1_hat={**good.b1_hat, names[0]: math.inf}),
        replace(good, client=9, ranks=dict.fromkeys(names, 1.0)),
        replace(good, client=10, ranks={**good.ranks, names[0]: 1000.0}),
        good,
    ]
    poll = count([good, *bad], model)
    assert poll.voters == (0,)
    assert {each.client for each in poll.dropped} == {0, *range(3, 11)}
    assert all("\n" not in each.why for each in poll.dropped)
    with pytest.raises(DataError, match="all abstained because they have too few samples"):
        count([votes[2]], model)


# --- rounds ----------------------------------------------------------------------------------------------------------


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


# --- hostile replies -------------------------------------------------------------------------------------------------


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


# --- failed and resumed rounds ---------------------------------------------------------------------------------------


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


# --- the head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False])
def test_a_head_from_sums_is_that_of_all_rows(intercept):
    rng = np.random.default_rng(2)
    x = (3 + rng.standard_normal((200, 12))).astype(np.float32)
    y = np.eye(4)[rng.integers(0, 4, 200)]
    cuts = [(0, 5), (5, 80), (80, 200)]
    parts = [heads.sums_of(x[a:b], y[a:b]) for a, b in cuts]
    groups = np.concatenate([[at] * (b - a) for at, (a, b) in enumerate(cuts)])
    central = ridge(table(x, y, groups, None, intercept=intercept))
    for strength in (1.0, 1e-3):
        weight, bias = central.solved(strength)
        found = heads.solve(heads.added(parts), strength, intercept=intercept)
        assert np.abs(found[0] - weight).max() < 1e-8
        assert np.abs(found[1] - bias).max() < 1e-8
    made = heads.fit(parts, intercept=intercept)
    errors = {strength: _left_out(x, y, groups, strength, intercept) for strength in heads.STRENGTHS}
    assert made.strength == min(errors, key=errors.get)
    assert made.error == pytest.approx(errors[made.strength], rel=1e-9)
    assert parts[0].bytes == heads.sums_bytes(12, 4)


def _left_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray, strength: float, intercept: bool) -> float:
    """Mean squared error for each group of a fit to the rows of the others."""
    total = 0.0
    for group in np.unique(groups):
        rest, out = groups != group, groups == group
        given = table(x[rest], y[rest], np.arange(rest.sum()), None, intercept=intercept)
        weight, bias = ridge(given).solved(strength)
        total += float(((x[out] @ weight + bias - y[out]) ** 2).sum())
    return total / y.size


def test_sums_that_do_not_count():
    rng = np.random.default_rng(0)
    good = heads.sums_of(rng.standard_normal((9, 3)), rng.standard_normal((9, 2)))
    assert heads.check_sums(good, 3, 2) is None
    for bad in (
        replace(good, rows=0),
        replace(good, rows=2.5),
        replace(good, inputs=np.zeros(4)),
        replace(good, products=good.products.astype(np.float32)),
        replace(good, squares=good.squares * np.nan),
        replace(good, output_squares=math.inf),
    ):
        assert heads.check_sums(bad, 3, 2)


def test_the_federated_head_is_the_central_one(tmp_path):
    """Through clients and graphs, against ridge regression on the head's inputs of all data together."""
    opened = new_head(tiny.conv_net(classes=7), 4)
    make_artifacts(opened, select(opened, strategy="head"), tmp_path / "a", check=False)
    bench = ClientArtifacts(tmp_path / "a")
    parts = [dataset(30, seed) for seed in range(3)]
    grid = InProcess(client(at, bench, part, tmp_path) for at, part in enumerate(parts))
    values, said = fit_head(bench, grid, task(bench, 0))
    assert said.note is None
    assert said.rows == 90
    x = np.concatenate([part.rows.fetch(np.arange(30))[""] for part in parts])
    y = np.concatenate([part.labels for part in parts])
    whole = client(9, bench, Dataset(ArrayRows({"": x}), y), tmp_path)
    used = whole._data(Local())
    bench.put(bench.initial(), bench.initial_values())
    tensors = settable_tensors(bench.manifest, bench.model.head)
    rows = HeadRows(bench.manifest, bench.session, used, whole._features(used, Local()), tensors, None)
    features = rows.of(np.arange(90)).reshape(90, -1)
    weight, bias = ridge(table(features, np.eye(4)[y], np.arange(90), None)).solved(said.strength)
    made = rows.head.parameters(said.scale * weight, said.scale * bias, rows.kernel)
    for name, expected in zip((tensors.weight, tensors.bias), made, strict=True):
        assert np.abs(values[name] - expected.reshape(values[name].shape)).max() <= 1e-5 * said.scale
    assert said.scale > 1


# --- simulation ------------------------------------------------------------------------------------------------------


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
