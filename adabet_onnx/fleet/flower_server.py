"""The server under Flower: an app that votes, makes artifacts, hands them out and runs the rounds.

Flower cannot go on with a run whose superlink was stopped. This app can: what it reached is in its folder, and the next
run goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labels import align_classes
from ..data.source import open_data
from ..errors import AdabetError, TrainingError, UsageError
from ..file_names import ARTIFACTS, MODEL
from ..files import make_folder
from ..model.open import open_model
from ..records import read_record, write_json
from ..scoring.options import Scoring
from ..selection.options import Choosing
from ..trainability.choices import Choices
from ..training.artifacts import make_artifacts
from ..training.manifest import FILE as MANIFEST
from ..training.settings import LEARNING_RATES
from . import wire
from .bench import Bench
from .choosing import choose
from .fitted_head import fit_head
from .flower import ARRAYS, from_arrays, need_flower, to_arrays
from .flower_client import CONFIG
from .installing import key_of, packed
from .judge import Judge
from .messages import Local, Reply, Sums, Task, Vote
from .options import Fleet
from .record import FORMAT, RECORD, VERSION
from .server import Server
from .simulation import aggregation_of, distributed, store_trained

_POLL = 0.5  # seconds between looks for nodes


def server_app() -> Any:
    """Flower's ServerApp, which is told what to do by the run's configuration; see `apps`.

    Raises:
        RuntimeMissingError: Flower is not installed.
    """
    need_flower()
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        run(grid, context.run_config)

    return app


def run(grid: Any, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Do all of a run; the rows of fleet.jsonl.

    Args:
        grid: Flower's.
        config: of the run.

    Raises:
        TrainingError: there are too few nodes, or a round got too few replies that count.
        UsageError: the configuration is wrong.
    """
    fleet, folder = fleet_of(config), Path(str(config["folder"]))
    make_folder(folder)
    way = FlowerGrid(grid, float(config.get("timeout", 600)))
    way.wait(max(int(config.get("nodes", 1)), fleet.minimum))
    bench, about = _bench(way, config, fleet, folder)
    way.hand_out({path.name: path for path in distributed(bench.manifest)})
    rate = float(config.get("learning-rate") or LEARNING_RATES[bench.manifest.optimizer])
    seed = int(config.get("seed", 0))
    local = Local(fleet.local_epochs, fleet.local_steps, int(config.get("batch-size", 32)), rate, fleet.mu, seed)
    values = bench.initial_values()
    head = bench.model.head
    if about.get("head") is None and bench.model.new_head and head is not None:
        if all(parameter.name in values for parameter in head.parameters):
            fitted, said = fit_head(bench, way, Task(0, bench.model_sha256, values, local))
            values, about["head"] = values | fitted, said.to_json()
        size = sum(array.nbytes for array in values.values())
        write_json(folder / RECORD, about | {"bytes_down": size, "bytes_up": size})
    judge = _judge(bench, str(config.get("evaluate", "")), folder)
    server = Server(
        way,
        folder,
        bench.model_sha256,
        values,
        fleet,
        local,
        aggregation_of(fleet),
        judge,
        seed,
        str(config.get("schedule", "constant")),
    )
    rows = server.run(resume=True)
    store_trained(bench, server.values, folder, about={})
    return rows


def _judge(bench: Bench, data: str, folder: Path) -> Judge | None:
    """Evaluates on data of the server, where it has some."""
    if not data:
        return None
    return Judge(bench, align_classes(open_data(data, bench.model).for_evaluation, bench.manifest.classes), folder)


def fleet_of(config: Mapping[str, Any]) -> Fleet:
    """The options of a fleet in a run's configuration, where 0 and "" mean none.

    Raises:
        UsageError: one is out of range.
    """
    found: dict[str, Any] = {}
    for field in fields(Fleet):
        value = config.get(field.name.replace("_", "-"))
        told = value not in (None, "", 0) or (value == 0 and field.name in ("rounds", "retries"))
        if told:
            found[field.name] = tuple(str(value).split(",")) if field.name == "personal" else value
    asked = max(int(found.get("per_round", 1)), int(found.get("minimum", 1)), int(config.get("nodes", 1)))
    for name in ("proximal", "server_rate", "privacy_clip", "privacy_noise", "max_norm"):
        if name in found:
            found[name] = float(found[name])
    if "privacy_clip" in found:
        found.setdefault("privacy_noise", 0.0)
    return Fleet(**(found | {"clients": max(asked, int(found.get("clients", 1)))}))


def _bench(way: FlowerGrid, config: Mapping[str, Any], fleet: Fleet, folder: Path) -> tuple[Bench, dict[str, Any]]:
    """The artifacts: those that are named, those of an earlier run, or of what clients vote for."""
    given, own = str(config.get("artifacts", "")), folder / ARTIFACTS
    where = Path(given) if given else own
    poll = None
    if not (where / MANIFEST).is_file():
        source = str(config.get("model", ""))
        if given or not source:
            raise UsageError(f"{where} has no artifacts, and the run's configuration names no model to vote on.")
        model = open_model(source)
        way.hand_out({MODEL: Path(source)})
        scoring = Scoring(samples=int(config.get("samples", 128)), subset_size=int(config.get("subset-size", 32)))
        votes = list(way.votes(way.clients(), scoring))
        choices = Choices().for_model(model)
        about = {name: model.metadata(name) for name in ("preprocessing", "classes")}
        how: dict[str, Any] = {"choices": choices, "batch_size": int(config.get("batch-size", 32)), "about": about}
        selection, poll = choose(model, Choosing(rho=float(config.get("rho") or 0.1)), votes, **how)
        make_artifacts(model, selection, own, choices=choices, backend="portable")
    bench = Bench(where, fleet.personal)
    if (folder / RECORD).is_file():
        return bench, read_record(folder / RECORD, FORMAT, VERSION, "`simulate_fleet`")
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": bench.model_sha256,
        "options": asdict(fleet),
        "poll": None if poll is None else poll.to_json(),
        "head": None,
        "distribution_bytes": sum(path.stat().st_size for path in distributed(bench.manifest)),
    }
    size = sum(array.nbytes for array in bench.initial_values().values())
    write_json(folder / RECORD, about | {"bytes_down": size, "bytes_up": size})
    return bench, about


class FlowerGrid:
    """The way to clients through Flower.

    Args:
        grid: Flower's.
        timeout: seconds that clients have for an answer.
    """

    def __init__(self, grid: Any, timeout: float) -> None:
        self._grid, self._timeout = grid, timeout
        self._files: dict[str, np.ndarray] = {}
        self._key = ""
        self._have: set[int] = set()

    def wait(self, count: int) -> None:
        """Wait for so many nodes.

        Raises:
            TrainingError: there are fewer when the time for an answer is over.
        """
        end = time.monotonic() + self._timeout
        while len(list(self._grid.get_node_ids())) < count:
            if time.monotonic() > end:
                there = len(list(self._grid.get_node_ids()))
                raise TrainingError(
                    f"{count} nodes are needed (nodes, minimum), and after {self._timeout:g} seconds there are {there}."
                )
            time.sleep(_POLL)

    def hand_out(self, files: Mapping[str, Path]) -> None:
        """Give clients files, now and when others come; they replace those before."""
        self._files = packed(files)
        self._key, self._have = key_of(self._files), set()
        self._install(self.clients())

    def _install(self, clients: Sequence[int]) -> None:
        new = [client for client in clients if client not in self._have]
        for client, settings, _ in self._answers(new, "query", {"what": "install"}, self._files):
            if settings.get("done") == "installed":
                self._have.add(client)

    def clients(self) -> list[int]:
        """Nodes that are there."""
        return sorted(int(node) for node in self._grid.get_node_ids())

    def train(self, clients: Sequence[int], task: Task) -> Iterator[Reply]:
        """See `Grid`."""
        self._install(clients)
        for client, settings, tensors in self._answers(clients, "train", wire.task_settings(task), task.tensors):
            why = settings.get("error")
            try:
                reply = None if why else wire.reply_of(client, settings, tensors)
            except AdabetError as error:
                reply, why = None, str(error)
            yield reply or Reply(client, task.number, task.model_sha256, {}, 0, error=str(why))

    def votes(self, clients: Sequence[int], scoring: Scoring) -> Iterator[Vote]:
        """See `Grid`."""
        self._install(clients)
        asked = {"what": "vote", **wire.scoring_settings(scoring)}
        for client, settings, _ in self._answers(clients, "query", asked, {}):
            try:
                yield wire.vote_of(client, settings)
            except AdabetError as error:
                yield Vote(client, "", 0, error=str(settings.get("error") or error))

    def sums(self, clients: Sequence[int], task: Task) -> Iterator[tuple[int, Sums | str]]:
        """See `Grid`."""
        asked = {"what": "sums", **wire.task_settings(task)}
        for client, settings, tensors in self._answers(clients, "query", asked, task.tensors):
            try:
                yield client, wire.sums_of_parts(settings, tensors)
            except AdabetError as error:
                yield client, str(settings.get("error") or error)

    def losses(self, clients: Sequence[int], task: Task, scales: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `Grid`."""
        asked = {"what": "losses", "scales": ",".join(map(repr, scales.tolist())), **wire.task_settings(task)}
        for client, _, tensors in self._answers(clients, "query", asked, task.tensors):
            if "losses" in tensors:
                yield client, tensors["losses"]

    def _answers(
        self, clients: Sequence[int], kind: str, settings: wire.Settings, tensors: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[int, Mapping[str, Any], dict[str, np.ndarray]]]:
        """What clients answer: settings, where ``error`` says what went wrong, and tensors."""
        from flwr.app import ConfigRecord, Message, RecordDict

        if not clients:
            return
        config = ConfigRecord({**settings, "key": self._key})
        messages = [
            Message(
                RecordDict({ARRAYS: to_arrays(tensors), CONFIG: config}),
                dst_node_id=client,
                message_type=kind,
                group_id=str(client),
            )
            for client in clients
        ]
        for answer in self._grid.send_and_receive(messages, timeout=self._timeout):
            client = int(answer.metadata.src_node_id)
            if answer.has_error() and client not in clients:  # the superlink says it of a node that is gone
                group = str(answer.metadata.group_id)
                client = int(group) if group.isdecimal() else client
            if client not in clients:
                continue  # whose time is over counts as who did not reply
            if answer.has_error():
                yield client, {"error": f"it failed: {answer.error.reason}"}, {}
                continue
            try:
                found = from_arrays(answer.content[ARRAYS])
                yield client, dict(answer.content[CONFIG]), found
            except (AdabetError, KeyError, TypeError, AttributeError) as error:
                yield client, {"error": f"it cannot be read: {error}"}, {}
