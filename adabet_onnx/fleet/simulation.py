"""Simulation of a fleet in one process: the data of one source is distributed among independent clients."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..adapting import Adapting
from ..data.arithmetic import integer_data
from ..data.dataset import Dataset, Splits
from ..data.labels import align_classes
from ..data.preprocess import Arithmetic, arithmetic_for
from ..data.source import open_data
from ..device.delta import write_delta
from ..errors import RecordError, UsageError
from ..file_names import ADAPTED, ARTIFACTS, MODEL, SELECTION
from ..files import check_folder, keep_apart, make_folder, replacing, write_bytes
from ..model.error_context import guarded
from ..model.head import check_head_options, with_head
from ..model.open import Model, ModelSource, open_model
from ..options import typed
from ..progress import Progress, silent
from ..records import read_record, write_json
from ..trainability.choices import Choices
from ..training.artifacts import make_artifacts
from ..training.export import export_model
from ..training.history import LAST, PROPERTY
from ..training.manifest import FILE as MANIFEST
from ..training.manifest import Manifest
from ..training.predictions import read_from
from ..training.settings import LEARNING_RATES, Settings
from .aggregation import Aggregation, WeightedMean
from .choosing import choose, needs_votes
from .client import Client, ClientSetup
from .client_artifacts import ClientArtifacts
from .evaluator import Evaluator
from .fitted_head import fit_head
from .flower import FlowerStrategy
from .grids import InProcess
from .messages import Local, RoundTask, Vote
from .options import Fleet, fixed_rate
from .record import FORMAT, RECORD, VERSION
from .server import Server
from .states import FolderStates
from .votes import cast_vote

DELTA = "delta.safetensors"


@typed
@guarded("simulating a fleet with")
def simulate_fleet(
    model: ModelSource,
    data: Any,
    folder: str | os.PathLike[str],
    *,
    fleet: Fleet | None = None,
    adapting: Adapting | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Simulate federated training: a fleet of devices, each with a part of the data that it never sends.

    The folder gets fleet.json and fleet.jsonl (see `fleet.record`), artifacts/ with the trained state, which can be
    evaluated and exported, delta.safetensors and adapted.onnx.

    Args:
        model: the trained model, opened or in any form that `open_model` accepts.
        data: labelled data in any form that `Data` describes: its training part is distributed among clients, and the
            server evaluates on its test part.
        folder: the output folder.
        fleet: number of clients, rounds and related options; None: the defaults of `Fleet`.
        adapting: the options of the steps: a new head, scoring, choosing, choices, and of ``settings`` the batch size,
            the learning rate (None: the usual one of the optimizer; there is no search), its schedule over rounds (only
            a constant one allows more rounds later), the seed, the validation share of each client, and the initial
            values of a new head. None: the defaults of `Adapting`.
        resume: continue after the last round in the folder.
        progress: callback that receives the current activity, the steps done and the total number of steps.

    Returns:
        The rows of fleet.jsonl: one per round, the state before training first, each with ``round``, ``loss``,
        ``eval_loss``, ``eval_accuracy``, ``client_accuracy``, ``bytes_down``, ``bytes_up``, ``dropped`` and more.

    Raises:
        UsageError: options do not fit together, or the folder was made with other options.
        DataError: the data has no labels, does not fit, or cannot be partitioned this way.
        ModelError: the model cannot be opened or trained.
        RecordError: a file to resume from is damaged.
        RuntimeMissingError: the aggregation needs Flower, which is not installed.
        TrainingError: a round got too few valid replies.
        CheckError: artifacts or the adapted model failed verification.
        OutputError: the folder cannot be written to.

    Example:
        >>> from adabet_onnx import Adapting, Choosing, Fleet, simulate_fleet
        >>> rows = simulate_fleet(
        ...     "model.onnx", "new_domain.npz", "fleet",
        ...     fleet=Fleet(clients=4, rounds=2), adapting=Adapting(choosing=Choosing(strategy="head")),
        ... )
        >>> [row["round"] for row in rows]
        [0, 1, 2]
    """
    simulation = _begin(model, data, folder, fleet or Fleet(), adapting or Adapting(), resume, progress)
    aggregation = aggregation_of(simulation.fleet)
    artifacts, about = _prepared(simulation)
    evaluator = (
        None
        if simulation.splits.test is None
        else Evaluator(artifacts, simulation.splits.test, simulation.target, simulation.used)
    )
    clients = [Client(simulation.own(number), artifacts) for number in range(simulation.fleet.clients)]
    grid = InProcess(clients)
    try:
        values = _start(simulation, artifacts, grid, about)
        seed, schedule = simulation.settings.seed, simulation.settings.schedule
        arguments = (simulation.fleet, simulation.local, aggregation, evaluator, seed, schedule)
        server = Server(grid, simulation.target, artifacts.model_sha256, values, *arguments)
        rows = server.run(resume=simulation.resume, progress=progress)
    finally:
        for client in clients:
            client.close()
        if evaluator is not None:
            evaluator.close()
    store_trained(artifacts, server.values, simulation.target, about={"classes": simulation.splits.train.classes})
    export_model(artifacts.manifest.folder, simulation.target / ADAPTED, check=simulation.options.check)
    return rows


def aggregation_of(fleet: Fleet) -> Aggregation:
    """Return the aggregation of a fleet.

    Raises:
        RuntimeMissingError: it needs Flower, which is not installed.
    """
    return WeightedMean() if fleet.own else FlowerStrategy(fleet)


@dataclass(frozen=True)
class _Simulation:
    """What is determined before any long computation starts."""

    model: Model
    headed: bytes | None
    splits: Splits
    parts: Sequence[np.ndarray]
    used: Arithmetic
    choices: Choices
    settings: Settings
    local: Local
    options: Adapting
    fleet: Fleet
    target: Path
    resume: bool
    report: Progress

    @property
    def artifacts(self) -> Path:
        return self.target / ARTIFACTS

    def data(self, number: int) -> Dataset:
        """Return the data of a client."""
        return self.splits.train.subset(self.parts[number])

    def own(self, number: int) -> ClientSetup:
        """Return the data and settings of a client."""
        folder = self.target / "clients" / str(number)
        return ClientSetup(
            number,
            self.data(number),
            folder,
            FolderStates(folder),
            self.settings.validation,
            self.fleet.memory_of(number),
            self.settings.seed,
            self.used,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the options that determine the results."""
        return {
            "options": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.fleet).items()},
            "local": asdict(self.local),
            "validation": self.settings.validation,
            "schedule": self.settings.schedule,
            "samples": [len(part) for part in self.parts],
        }


def _begin(
    source: ModelSource,
    data: Any,
    folder: str | os.PathLike[str],
    fleet: Fleet,
    options: Adapting,
    resume: bool,
    progress: Progress | None,
) -> _Simulation:
    if options.backend == "ort":
        raise UsageError("a fleet trains with the portable backend: leave `backend` out.")
    keep_apart(folder, read_from(source, data), "the folder to write")
    target = check_folder(folder)
    check_head_options(options.num_classes, options.kept)
    needs_votes(options.choosing)
    seed = options.settings.seed if options.seed is None else options.seed
    settings = replace(options.settings, seed=seed)
    model, headed = with_head(
        open_model(source), options.num_classes, kept=options.kept, seed=seed, name=str(target / MODEL)
    )
    choices = options.choices.for_model(model)
    splits = open_data(data, model)
    known = model.metadata("classes")
    train = align_classes(splits.train, known, ignore=choices.ignore_label)
    test = None if splits.test is None else align_classes(splits.test, known, ignore=choices.ignore_label)
    labels = train.need_labels("training")
    parts = fleet.shared_out.rows(labels, len(train), fleet.clients, seed)
    used = arithmetic_for(model, integer_data(model, train), options.preprocessing)
    rate = fixed_rate(settings) or LEARNING_RATES[choices.optimizer]
    local = Local(fleet.local_epochs, fleet.local_steps, settings.size, rate, fleet.mu, seed)
    rest = (options, fleet, target, resume and (target / RECORD).is_file(), progress or silent)
    return _Simulation(model, headed, Splits(train, test), parts, used, choices, settings, local, *rest)


def _prepared(simulation: _Simulation) -> tuple[ClientArtifacts, dict[str, Any]]:
    """Make the artifacts for the jointly chosen layers, or load those of an earlier run; also return the record."""
    if simulation.resume and (simulation.artifacts / MANIFEST).is_file():
        about = read_record(simulation.target / RECORD, FORMAT, VERSION, "`simulate_fleet`")
        artifacts = ClientArtifacts(simulation.artifacts, simulation.fleet.personal, simulation.options.threads)
        _same_run(simulation, artifacts, about)
        return artifacts, about
    votes = _votes(simulation) if needs_votes(simulation.options.choosing) else None
    known = {"preprocessing": simulation.used.to_json(), "classes": simulation.splits.train.classes}
    selection, poll = choose(
        simulation.model,
        simulation.options.choosing,
        votes,
        choices=simulation.choices,
        batch_size=simulation.settings.size,
        about=known,
        seed=simulation.settings.seed,
    )
    make_folder(simulation.target)
    if simulation.headed is not None:
        write_bytes(simulation.target / MODEL, simulation.headed)
    selection.save(simulation.target / SELECTION)
    simulation.report("making artifacts", 0, 1)
    check = simulation.options.check
    made = make_artifacts(
        simulation.model,
        selection,
        simulation.artifacts,
        choices=simulation.choices,
        calibrate=simulation.splits,
        backend="portable",
        check=check,
    )
    simulation.report("making artifacts", 1, 1)
    artifacts = ClientArtifacts(made.folder, simulation.fleet.personal, simulation.options.threads)
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": artifacts.model_sha256,
        "model_file": simulation.model.file,
        **simulation.to_json(),
        "poll": None if poll is None else poll.to_json(),
        "head": None,
        "distribution_bytes": sum(path.stat().st_size for path in distributed(artifacts.manifest)),
    }
    return artifacts, about


def _votes(simulation: _Simulation) -> list[Vote]:
    """Have each client vote on the layers."""
    votes = []
    for number in range(simulation.fleet.clients):
        simulation.report("clients score", number, simulation.fleet.clients)
        vote = cast_vote(
            number,
            simulation.model,
            simulation.data(number),
            simulation.options.scoring,
            preprocessing=simulation.used,
            seed=simulation.settings.seed,
            threads=simulation.options.threads,
        )
        votes.append(vote)
    simulation.report("clients score", simulation.fleet.clients, simulation.fleet.clients)
    return votes


def distributed(manifest: Manifest) -> list[Path]:
    """Return the files that each client gets once."""
    return [manifest.folder / MANIFEST, *sorted({manifest.file(role) for role in manifest.file_names})]


def _same_run(simulation: _Simulation, artifacts: ClientArtifacts, about: Mapping[str, Any]) -> None:
    """Check that the folder was made with the same model and options.

    Raises:
        RecordError: the folder is of another model.
        UsageError: options differ.
    """
    if artifacts.model_sha256 != simulation.model.sha256 or about.get("model_sha256") != simulation.model.sha256:
        raise RecordError(
            f"{simulation.target} is a fleet of another model. Give another folder, or leave out `resume`."
        )
    free = {"rounds"} if simulation.settings.schedule == "constant" else set()
    for part, given in json.loads(json.dumps(simulation.to_json())).items():
        recorded = about.get(part)
        if isinstance(given, dict):
            known = recorded if isinstance(recorded, dict) else {}
            differing = [key for key in given if key not in free and known.get(key) != given[key]]
        else:
            differing = [] if recorded == given else [part]
        if differing:
            raise UsageError(
                f"{simulation.target} was made with other options: {differing[0]} differs. Give the same options, or "
                "another folder."
            )


def _start(
    simulation: _Simulation, artifacts: ClientArtifacts, grid: InProcess, about: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return the initial values, those of the model with a new head fitted if requested, and write fleet.json."""
    values = artifacts.initial_values()
    head, head_init = artifacts.model.head, simulation.settings.head_init
    fittable = head is not None and artifacts.model.new_head and head.name in artifacts.manifest.selection.layers
    fittable = fittable and all(parameter.name in values for parameter in (head.parameters if head is not None else ()))
    if not simulation.resume and head_init != "random":
        note = "the head is not marked as new, not trained, or personal"
        if fittable:
            simulation.report("fitting the head", 0, 1)
            fitted, fleet_head = fit_head(
                artifacts, grid, RoundTask(0, artifacts.model_sha256, values, simulation.local)
            )
            values |= fitted
            about["head"], note = fleet_head.to_json(), fleet_head.note or ""
        if head_init == "fitted" and (not fittable or note):
            raise UsageError(f"`head_init='fitted'` is not possible: {note}. Leave it out.")
    about["bytes_down"] = about["bytes_up"] = sum(array.nbytes for array in values.values())
    write_json(simulation.target / RECORD, about)
    return values


def store_trained(
    artifacts: ClientArtifacts, values: Mapping[str, np.ndarray], folder: Path, about: Mapping[str, Any]
) -> None:
    """Store the trained values in the artifacts, and write the delta.

    Args:
        artifacts: the artifacts of the client.
        values: values of the shared tensors; personal layers keep those of the model.
        folder: folder of the server, for the delta.
        about: ``classes`` and ``preprocessing`` of the data, as far as known.
    """
    artifacts.put(artifacts.initial(), values)
    artifacts.session.set_property(PROPERTY, json.dumps(dict(about)))
    make_folder((artifacts.manifest.folder / LAST).parent)
    with replacing(artifacts.manifest.folder / LAST) as part:
        artifacts.session.save(part)
    entry = str(artifacts.manifest.selection_entry["strategy"])
    write_delta(folder / DELTA, artifacts.values(artifacts.trained), model_sha256=artifacts.model_sha256, entry=entry)
