"""The Flower app of the server, which collects votes, makes and distributes artifacts and runs the rounds.

Flower cannot continue a run whose superlink was stopped. This app can: its folder holds the results so far, and the
next run continues from there.
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
from .choosing import choose
from .client_artifacts import ClientArtifacts
from .evaluator import Evaluator
from .fitted_head import fit_head
from .flower import ARRAYS, from_arrays, need_flower, to_arrays
from .flower_client import CONFIG
from .installing import key_of, packed
from .messages import Local, Reply, RidgeSums, RoundTask, Vote
from .options import Fleet
from .record import FORMAT, RECORD, VERSION
from .server import Server
from .simulation import aggregation_of, distributed, store_trained

_POLL = 0.5  # seconds between checks for nodes


def server_app() -> Any:
    """Create Flower's ServerApp, which is controlled by the run's configuration; see `apps`.

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
    """Do a whole run and return the rows of fleet.jsonl.

    Args:
        grid: Flower's grid.
        config: configuration of the run.

    Raises:
        TrainingError: there are too few nodes, or a round got too few valid replies.
        UsageError: the configuration is wrong.
    """
    fleet, folder = fleet_of(config), Path(str(config["folder"]))
    make_folder(folder)
    client_grid = FlowerGrid(grid, float(config.get("timeout", 600)))
    client_grid.wait(max(int(config.get("nodes", 1)), fleet.minimum))
    artifacts, about = _artifacts(client_grid, config, fleet, folder)
    client_grid.hand_out({path.name: path for path in distributed(artifacts.manifest)})
    rate = float(config.get("learning-rate") or LEARNING_RATES[artifacts.manifest.optimizer])
    seed = int(config.get("seed", 0))
    local = Local(fleet.local_epochs, fleet.local_steps, int(config.get("batch-size", 32)), rate, fleet.mu, seed)
    values = artifacts.initial_values()
    head = artifacts.model.head
    if about.get("head") is None and artifacts.model.new_head and head is not None:
        if all(parameter.name in values for parameter in head.parameters):
            fitted, fleet_head = fit_head(artifacts, client_grid, RoundTask(0, artifacts.model_sha256, values, local))
            values, about["head"] = values | fitted, fleet_head.to_json()
        size = sum(array.nbytes for array in values.values())
        write_json(folder / RECORD, about | {"bytes_down": size, "bytes_up": size})
    evaluator = _evaluator(artifacts, str(config.get("evaluate", "")), folder)
    server = Server(
        client_grid,
        folder,
        artifacts.model_sha256,
        values,
        fleet,
        local,
        aggregation_of(fleet),
        evaluator,
        seed,
        str(config.get("schedule", "constant")),
    )
    rows = server.run(resume=True)
    store_trained(artifacts, server.values, folder, about={})
    return rows


def _evaluator(artifacts: ClientArtifacts, data: str, folder: Path) -> Evaluator | None:
    """Return an evaluator on the server's data, if it has some."""
    if not data:
        return None
    return Evaluator(
        artifacts, align_classes(open_data(data, artifacts.model).for_evaluation, artifacts.manifest.classes), folder
    )


def fleet_of(config: Mapping[str, Any]) -> Fleet:
    """Read the options of a fleet from a run's configuration, in which 0 and "" mean None.

    Raises:
        UsageError: an option is out of range.
    """
    options: dict[str, Any] = {}
    for field in fields(Fleet):
        value = config.get(field.name.replace("_", "-"))
        given = value not in (None, "", 0) or (value == 0 and field.name in ("rounds", "retries"))
        if given:
            options[field.name] = tuple(str(value).split(",")) if field.name == "personal" else value
    asked = max(int(options.get("per_round", 1)), int(options.get("minimum", 1)), int(config.get("nodes", 1)))
    for name in ("proximal", "server_rate", "privacy_clip", "privacy_noise", "max_norm"):
        if name in options:
            options[name] = float(options[name])
    if "privacy_clip" in options:
        options.setdefault("privacy_noise", 0.0)
    return Fleet(**(options | {"clients": max(asked, int(options.get("clients", 1)))}))


def _artifacts(
    client_grid: FlowerGrid, config: Mapping[str, Any], fleet: Fleet, folder: Path
) -> tuple[ClientArtifacts, dict[str, Any]]:
    """Return the configured artifacts, those of an earlier run, or new ones for the layers that clients vote for."""
    given, own = str(config.get("artifacts", "")), folder / ARTIFACTS
    folder_used = Path(given) if given else own
    poll = None
    if not (folder_used / MANIFEST).is_file():
        source = str(config.get("model", ""))
        if given or not source:
            raise UsageError(f"{folder_used} has no artifacts, and the run's configuration names no model to vote on.")
        model = open_model(source)
        client_grid.hand_out({MODEL: Path(source)})
        scoring = Scoring(samples=int(config.get("samples", 128)), subset_size=int(config.get("subset-size", 32)))
        votes = list(client_grid.votes(client_grid.clients(), scoring))
        choices = Choices().for_model(model)
        about = {name: model.metadata(name) for name in ("preprocessing", "classes")}
        options: dict[str, Any] = {"choices": choices, "batch_size": int(config.get("batch-size", 32)), "about": about}
        selection, poll = choose(model, Choosing(rho=float(config.get("rho") or 0.1)), votes, **options)
        make_artifacts(model, selection, own, choices=choices, backend="portable")
    artifacts = ClientArtifacts(folder_used, fleet.personal)
    if (folder / RECORD).is_file():
        return artifacts, read_record(folder / RECORD, FORMAT, VERSION, "`simulate_fleet`")
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": artifacts.model_sha256,
        "options": asdict(fleet),
        "poll": None if poll is None else poll.to_json(),
        "head": None,
        "distribution_bytes": sum(path.stat().st_size for path in distributed(artifacts.manifest)),
    }
    size = sum(array.nbytes for array in artifacts.initial_values().values())
    write_json(folder / RECORD, about | {"bytes_down": size, "bytes_up": size})
    return artifacts, about


class FlowerGrid:
    """Access to clients through Flower.

    Args:
        grid: Flower's grid.
        timeout: seconds within which clients must answer.
    """

    def __init__(self, grid: Any, timeout: float) -> None:
        self._grid, self._timeout = grid, timeout
        self._files: dict[str, np.ndarray] = {}
        self._key = ""
        self._served: set[int] = set()

    def wait(self, count: int) -> None:
        """Wait until a number of nodes are connected.

        Raises:
            TrainingError: there are fewer after the timeout.
        """
        end = time.monotonic() + self._timeout
        while len(list(self._grid.get_node_ids())) < count:
            if time.monotonic() > end:
                available = len(list(self._grid.get_node_ids()))
                raise TrainingError(
                    f"{count} nodes are needed (nodes, minimum), and after {self._timeout:g} seconds there are "
                    f"{available}."
                )
            time.sleep(_POLL)

    def hand_out(self, files: Mapping[str, Path]) -> None:
        """Distribute files to clients, also to those that connect later; they replace earlier files."""
        self._files = packed(files)
        self._key, self._served = key_of(self._files), set()
        self._install(self.clients())

    def _install(self, clients: Sequence[int]) -> None:
        new = [client for client in clients if client not in self._served]
        for client, settings, _ in self._answers(new, "query", {"what": "install"}, self._files):
            if settings.get("done") == "installed":
                self._served.add(client)

    def clients(self) -> list[int]:
        """Return the connected nodes."""
        return sorted(int(node) for node in self._grid.get_node_ids())

    def train(self, clients: Sequence[int], task: RoundTask) -> Iterator[Reply]:
        """See `ClientGrid`."""
        self._install(clients)
        for client, settings, tensors in self._answers(clients, "train", wire.task_settings(task), task.tensors):
            why = settings.get("error")
            try:
                reply = None if why else wire.reply_of(client, settings, tensors)
            except AdabetError as error:
                reply, why = None, str(error)
            yield reply or Reply(client, task.number, task.model_sha256, {}, 0, error=str(why))

    def votes(self, clients: Sequence[int], scoring: Scoring) -> Iterator[Vote]:
        """See `ClientGrid`."""
        self._install(clients)
        asked = {"what": "vote", **wire.scoring_settings(scoring)}
        for client, settings, _ in self._answers(clients, "query", asked, {}):
            try:
                yield wire.vote_of(client, settings)
            except AdabetError as error:
                yield Vote(client, "", 0, error=str(settings.get("error") or error))

    def sums(self, clients: Sequence[int], task: RoundTask) -> Iterator[tuple[int, RidgeSums | str]]:
        """See `ClientGrid`."""
        asked = {"what": "sums", **wire.task_settings(task)}
        for client, settings, tensors in self._answers(clients, "query", asked, task.tensors):
            try:
                yield client, wire.sums_of_parts(settings, tensors)
            except AdabetError as error:
                yield client, str(settings.get("error") or error)

    def losses(self, clients: Sequence[int], task: RoundTask, scales: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `ClientGrid`."""
        asked = {"what": "losses", "scales": ",".join(map(repr, scales.tolist())), **wire.task_settings(task)}
        for client, _, tensors in self._answers(clients, "query", asked, task.tensors):
            if "losses" in tensors:
                yield client, tensors["losses"]

    def _answers(
        self, clients: Sequence[int], kind: str, settings: wire.Settings, tensors: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[int, Mapping[str, Any], dict[str, np.ndarray]]]:
        """Yield the answers of clients: settings, with a message in ``error`` after a failure, and tensors."""
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
            if answer.has_error() and client not in clients:  # the superlink reports a disconnected node
                group = str(answer.metadata.group_id)
                client = int(group) if group.isdecimal() else client
            if client not in clients:
                continue  # a timeout counts as no reply
            if answer.has_error():
                yield client, {"error": f"it failed: {answer.error.reason}"}, {}
                continue
            try:
                tensors_received = from_arrays(answer.content[ARRAYS])
                yield client, dict(answer.content[CONFIG]), tensors_received
            except (AdabetError, KeyError, TypeError, AttributeError) as error:
                yield client, {"error": f"it cannot be read: {error}"}, {}
