"""A fleet in one process: the data of one source shared out among clients, who know nothing of each other's."""

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
from .bench import Bench
from .choosing import choose, needs_votes
from .client import Client, Own
from .fitted_head import fit_head
from .flower import FlowerStrategy
from .grids import InProcess
from .judge import Judge
from .messages import Local, Task
from .options import Fleet
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
    """Train a model as a fleet of devices would, each with a part of the data that it never sends.

    The folder gets fleet.json and fleet.jsonl (see `fleet.record`), artifacts/ with the trained state, which can be
    evaluated and exported, delta.safetensors and adapted.onnx.

    Args:
        model: the trained model: opened, or what `open_model` takes.
        data: labelled data in any form that `Data` describes: its training part is shared out, its test part is what
            the server evaluates on.
        folder: where results go.
        fleet: how many clients, rounds and the like; None: the defaults of `Fleet`.
        adapting: the options of the steps: a new head, scoring, choosing, choices, and of ``settings`` the batch size,
            the learning rate (where it is to be found: the optimizer's usual one) and how it falls from round to round
            (only a constant one can go on for more rounds), the seed, the share for validation
            that each client keeps, and how a new head starts. None: the defaults of `Adapting`.
        resume: go on after the last round in the folder.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The rows of fleet.jsonl: one per round, the state before training first, each with ``round``, ``loss``,
        ``eval_loss``, ``eval_accuracy``, ``client_accuracy``, ``bytes_down``, ``bytes_up``, ``dropped`` and more.

    Raises:
        UsageError: options that do not fit together, or a folder that was begun with others.
        DataError: data without labels, that does not fit, or that cannot be shared out so.
        ModelError: the model cannot be opened or trained.
        RecordError: what is resumed is damaged.
        RuntimeMissingError: the aggregation is one of Flower's, which is not installed.
        TrainingError: a round got too few replies that count.
        CheckError: artifacts or the adapted model are not what they should be.
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
    job = _begin(model, data, folder, fleet or Fleet(), adapting or Adapting(), resume, progress)
    aggregation = aggregation_of(job.fleet)
    bench, about = _prepared(job)
    judge = None if job.splits.test is None else Judge(bench, job.splits.test, job.target, job.used)
    clients = [Client(job.own(number), bench) for number in range(job.fleet.clients)]
    grid = InProcess(clients)
    try:
        values = _start(job, bench, grid, about)
        seed, schedule = job.settings.seed, job.settings.schedule
        how = (job.fleet, job.local, aggregation, judge, seed, schedule)
        server = Server(grid, job.target, bench.model_sha256, values, *how)
        rows = server.run(resume=job.resume, progress=progress)
    finally:
        for client in clients:
            client.close()
        if judge is not None:
            judge.close()
    store_trained(bench, server.values, job.target, about={"classes": job.splits.train.classes})
    export_model(bench.manifest.folder, job.target / ADAPTED, check=job.options.check)
    return rows


def aggregation_of(fleet: Fleet) -> Aggregation:
    """What makes new values of replies.

    Raises:
        RuntimeMissingError: it is one of Flower's, which is not installed.
    """
    return WeightedMean() if fleet.own else FlowerStrategy(fleet)


@dataclass(frozen=True)
class _Job:
    """What is settled before anything long begins."""

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
    say: Progress

    @property
    def artifacts(self) -> Path:
        return self.target / ARTIFACTS

    def data(self, number: int) -> Dataset:
        """Of a client."""
        return self.splits.train.subset(self.parts[number])

    def own(self, number: int) -> Own:
        """What a client has."""
        folder = self.target / "clients" / str(number)
        return Own(
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
        """What decides about results."""
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
) -> _Job:
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
    rate = LEARNING_RATES[choices.optimizer] if settings.searched else settings.rate
    local = Local(fleet.local_epochs, fleet.local_steps, settings.size, rate, fleet.mu, seed)
    how = (options, fleet, target, resume and (target / RECORD).is_file(), progress or silent)
    return _Job(model, headed, Splits(train, test), parts, used, choices, settings, local, *how)


def _prepared(job: _Job) -> tuple[Bench, dict[str, Any]]:
    """Artifacts of what is chosen together, made or found, and what is known of them so far."""
    if job.resume and (job.artifacts / MANIFEST).is_file():
        about = read_record(job.target / RECORD, FORMAT, VERSION, "`simulate_fleet`")
        bench = Bench(job.artifacts, job.fleet.personal, job.options.threads)
        _same_run(job, bench, about)
        return bench, about
    votes = None
    if needs_votes(job.options.choosing):
        votes = []
        for number in range(job.fleet.clients):
            job.say("clients score", number, job.fleet.clients)
            scoring, threads = job.options.scoring, job.options.threads
            seed = job.settings.seed
            vote = cast_vote(
                number, job.model, job.data(number), scoring, preprocessing=job.used, seed=seed, threads=threads
            )
            votes.append(vote)
        job.say("clients score", job.fleet.clients, job.fleet.clients)
    known = {"preprocessing": job.used.to_json(), "classes": job.splits.train.classes}
    selection, poll = choose(
        job.model,
        job.options.choosing,
        votes,
        choices=job.choices,
        batch_size=job.settings.size,
        about=known,
        seed=job.settings.seed,
    )
    make_folder(job.target)
    if job.headed is not None:
        write_bytes(job.target / MODEL, job.headed)
    selection.save(job.target / SELECTION)
    job.say("making artifacts", 0, 1)
    check = job.options.check
    made = make_artifacts(
        job.model, selection, job.artifacts, choices=job.choices, calibrate=job.splits, backend="portable", check=check
    )
    job.say("making artifacts", 1, 1)
    bench = Bench(made.folder, job.fleet.personal, job.options.threads)
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model_sha256": bench.model_sha256,
        **job.to_json(),
        "poll": None if poll is None else poll.to_json(),
        "head": None,
        "distribution_bytes": sum(path.stat().st_size for path in distributed(bench.manifest)),
    }
    return bench, about


def distributed(manifest: Manifest) -> list[Path]:
    """The files that each client gets once."""
    return [manifest.folder / MANIFEST, *sorted({manifest.file(what) for what in manifest.file_names})]


def _same_run(job: _Job, bench: Bench, about: Mapping[str, Any]) -> None:
    """See that a folder was begun so.

    Raises:
        RecordError: it is of another model.
        UsageError: options differ.
    """
    if bench.model_sha256 != job.model.sha256 or about.get("model_sha256") != job.model.sha256:
        raise RecordError(f"{job.target} is a fleet of another model. Give another folder, or leave out `resume`.")
    wanted = json.loads(json.dumps(job.to_json()))
    for part, now in wanted.items():
        there = about.get(part)
        known = there if isinstance(there, dict) else {}
        free = {"rounds"} if job.settings.schedule == "constant" else set()
        inner = [key for key in now if key not in free and known.get(key) != now[key]] if isinstance(now, dict) else []
        if inner or (not isinstance(now, dict) and there != now):
            what = inner[0] if inner else part
            raise UsageError(
                f"{job.target} was begun with other options: {what} differs. Give the same ones, or another folder."
            )


def _start(job: _Job, bench: Bench, grid: InProcess, about: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values of the first round: the model's, with a new head fitted where that is wanted; noted in fleet.json."""
    values = bench.initial_values()
    head, wanted = bench.model.head, job.settings.head_init
    can = head is not None and bench.model.new_head and head.name in bench.manifest.selection.layers
    can = can and all(parameter.name in values for parameter in (head.parameters if head is not None else ()))
    if not job.resume and wanted != "random":
        note = "the head is not marked as new, not trained, or personal"
        if can:
            job.say("fitting the head", 0, 1)
            fitted, said = fit_head(bench, grid, Task(0, bench.model_sha256, values, job.local))
            values |= fitted
            about["head"], note = said.to_json(), said.note or ""
        if wanted == "fitted" and (not can or note):
            raise UsageError(f"`head_init='fitted'` cannot be had: {note}. Leave it out.")
    about["bytes_down"] = about["bytes_up"] = sum(array.nbytes for array in values.values())
    write_json(job.target / RECORD, about)
    return values


def store_trained(bench: Bench, values: Mapping[str, np.ndarray], folder: Path, about: Mapping[str, Any]) -> None:
    """Let the artifacts be trained, and write the delta.

    Args:
        bench: of the artifacts.
        values: what is shared; personal layers keep the model's own.
        folder: of the server, for the delta.
        about: ``classes`` and ``preprocessing`` of the data, as far as they are known.
    """
    bench.put(bench.initial(), values)
    bench.session.set_property(PROPERTY, json.dumps(dict(about)))
    make_folder((bench.manifest.folder / LAST).parent)
    with replacing(bench.manifest.folder / LAST) as part:
        bench.session.save(part)
    entry = str(bench.manifest.selection_entry["strategy"])
    write_delta(folder / DELTA, bench.values(bench.trained), model_sha256=bench.model_sha256, entry=entry)
