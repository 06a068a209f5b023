"""One training of a comparison, in this process or in a worker, and the file it leaves.

``runs/NAME.json``: format "adabet-onnx/run", version 1, with
    accuracy, loss    on the test data (a final run) or on validation data split off the training data (a run that a
                      learning rate is chosen by); accuracy null where the loss has none; both null if training failed
    source            {accuracy, loss} on the old domain's test data, or null
    curve             per epoch: train_loss, eval_loss, eval_accuracy
    failed            null, or why the training failed (its loss, or what the trained model gives, was not finite)
A run that has its file is not done again.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from ..data.dataset import Dataset, Splits
from ..data.preprocess import preprocessing_from_json
from ..data.source import open_data
from ..errors import CheckError, DataError, TrainingError, UsageError
from ..model.open import open_model
from ..progress import Progress, silent
from ..records import Entries, read_record, write_json
from ..runtime import Threads
from ..trainability.choices import Choices
from ..training.evaluation import evaluate, open_trained
from ..training.settings import Settings
from ..training.trainer import Trainer
from .pictures import decoded

FORMAT, VERSION = "adabet-onnx/run", 1
_MADE_BY = "`compare`"
_NOT_FINITE = "the outputs of the trained model are NaN or infinite: the learning rate is too high"


@dataclass(frozen=True)
class Task:
    """What is the same for all trainings of a comparison; workers get it once.

    Attributes:
        model: path of the model (with its new head).
        data: what `open_data` takes.
        source: the same for the old domain, or None.
        preprocessing: as JSON.
        train_samples: how many training samples are used; None: all.
        epochs: of a training.
        batch_size: samples of a batch, which a job may cut into parts.
        accumulate: batches of an update.
        threads: of a training, or a `Runtime`.
        choices: of the trainings and the evaluation.
        kept: how features are kept.
        pictures: the folder of decoded pictures; None: they are not kept.
        token: tells this comparison from others; arrays among the data cannot be compared.
    """

    model: Path
    data: Any
    source: Any
    preprocessing: dict[str, Any]
    train_samples: int | None
    epochs: int
    batch_size: int
    accumulate: int
    threads: Threads
    choices: Choices
    kept: Settings = field(default_factory=Settings)
    pictures: Path | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: of its file, without suffix.
        artifacts: the folder it starts from; it is not changed.
        rate: learning rate; 0: the new head is fitted, and nothing trained.
        seed: of the order of samples (and of the validation split).
        validation: share of the training data to measure on; 0: measure on the test data.
        parts: into how many a batch is cut, to keep to a budget.
        what: for people.
        features: the folder where features are kept, that of all jobs with the same frozen layers; None: nothing is
            frozen.
    """

    name: str
    artifacts: Path
    rate: float
    seed: int
    validation: float
    parts: int
    what: str
    features: Path | None = None


@dataclass(frozen=True)
class Inputs:
    """What all trainings of a comparison read.

    Attributes:
        token: that of the task.
        splits: the data, with no more training samples than are used.
        source: the data of the old domain, or None.
    """

    token: str
    splits: Splits
    source: Dataset | None


_read: dict[str, Inputs] = {}  # by this process: data is read once


def _inputs_of(task: Task) -> Inputs:
    if "last" not in _read or _read["last"].token != task.token:
        model = open_model(task.model)
        splits = used_data(open_data(task.data, model), task.train_samples)
        source = None if task.source is None else open_data(task.source, model).for_evaluation
        if task.pictures is not None:
            splits, source = with_pictures(splits, source, task.pictures, silent)
        _read["last"] = Inputs(task.token, splits, source)
    return _read["last"]


def with_pictures(splits: Splits, source: Dataset | None, folder: Path, say: Progress) -> tuple[Splits, Dataset | None]:
    """All data with image files decoded, once for all processes.

    Args:
        splits: of a comparison.
        source: the data of the old domain, or None.
        folder: of the decoded pictures.
        say: told of them.
    """
    train, test, old = (part and decoded(part, folder, say) for part in (splits.train, splits.test, source))
    return Splits(train or splits.train, test), old


def used_data(splits: Splits, train_samples: int | None) -> Splits:
    """The data with no more than so many training samples, the first ones."""
    if train_samples is None or train_samples >= len(splits.train):
        return splits
    return replace(splits, train=splits.train.subset(list(range(train_samples))))


def run(task: Task, job: Job) -> dict[str, Any]:
    """Train and measure on the data that the task names; the result is the content of the run's file."""
    return run_on(_inputs_of(task), task, job)


def run_on(inputs: Inputs, task: Task, job: Job) -> dict[str, Any]:
    """Train and measure on this data; the result is the content of the run's file."""
    preprocessing = preprocessing_from_json(task.preprocessing, "the plan")
    found: dict[str, Any] = {"accuracy": None, "loss": None, "source": None, "curve": [], "failed": None}
    # Beside the artifacts, which are removed at the end: so is what a worker that was stopped leaves.
    with tempfile.TemporaryDirectory(prefix=".run-", dir=job.artifacts.parent) as scratch:
        folder = Path(scratch) / "artifacts"
        shutil.copytree(job.artifacts, folder)
        try:
            rows = Trainer(folder, threads=task.threads, features=job.features).fit(
                inputs.splits,
                settings=replace(
                    task.kept,
                    epochs=task.epochs if job.rate else 0,
                    head_init=task.kept.head_init if job.rate else "fitted",
                    batch_size=task.batch_size // job.parts,
                    accumulate=task.accumulate * job.parts,
                    learning_rate=job.rate or None,
                    seed=job.seed,
                    validation=job.validation,
                ),
                preprocessing=preprocessing,
            )
        except TrainingError as error:
            return {**found, "failed": str(error)}
        except UsageError as error:
            if job.rate:
                raise
            return {**found, "failed": str(error)}  # a head that cannot be fitted
        keys = ("epoch", "train_loss", "eval_loss", "eval_accuracy")
        found["curve"] = [{key: row.get(key) for key in keys} for row in rows]
        if job.validation:
            if rows[-1]["eval_loss"] is None:
                return {**found, "failed": _NOT_FINITE}
            return {**found, "accuracy": rows[-1]["eval_accuracy"], "loss": rows[-1]["eval_loss"]}
        try:
            adapted = open_trained(folder)
        except CheckError:  # a parameter
            return {**found, "failed": _NOT_FINITE}
    how: dict[str, Any] = {"preprocessing": preprocessing, "choices": task.choices, "threads": task.threads}
    try:  # the data was evaluated before any training: what is wrong now is the training
        after = evaluate(adapted, inputs.splits.for_evaluation, **how)
        old = None if inputs.source is None else evaluate(adapted, inputs.source, **how)
    except DataError:
        return {**found, "failed": _NOT_FINITE}
    found |= {"accuracy": after["accuracy"], "loss": after["loss"]}
    if old is not None:
        found["source"] = {"accuracy": old["accuracy"], "loss": old["loss"]}
    return found


def read(path: Path) -> dict[str, Any]:
    """A run's file.

    Raises:
        RecordError: it is damaged.
    """
    content = Entries(read_record(path, FORMAT, VERSION, _MADE_BY), str(path), _MADE_BY)
    nothing = type(None)
    return {
        "accuracy": content.take("accuracy", float, nothing),
        "loss": content.take("loss", float, nothing),
        "source": content.take("source", dict, nothing),
        "curve": content.take_list("curve", dict),
        "failed": content.take("failed", str, nothing),
    }


def missing_runs(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The trainings that have no file in the folder yet."""
    return [job for job in jobs if not (folder / f"{job.name}.json").is_file()]


def write_run(folder: Path, job: Job, outcome: dict[str, Any]) -> None:
    """Write the file of a training that is finished."""
    write_json(folder / f"{job.name}.json", {"format": FORMAT, "version": VERSION, **outcome})


def run_all(task: Task, jobs: Sequence[Job], folder: Path, processes: int) -> Iterator[Job]:
    """Do the trainings that have no file yet; each is given when its file is written.

    Args:
        task: what they share.
        jobs: the trainings.
        folder: of their files.
        processes: how many at once; 1: in this process.
    """
    left = missing_runs(jobs, folder)

    def keep(job: Job, outcome: dict[str, Any]) -> Job:
        write_run(folder, job, outcome)
        return job

    if processes == 1 or len(left) < 2:
        for job in left:
            yield keep(job, run(task, job))
        return
    # "spawn": a forked child would share locks of the native libraries' threads.
    others = set(active_children())
    with ProcessPoolExecutor(
        min(processes, len(left)), mp_context=get_context("spawn"), initializer=_leave_interrupts
    ) as pool:
        try:
            first, waiting = in_turn(left)
            pending = {pool.submit(run, task, job): job for job in first}
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    job = pending.pop(future)
                    pending |= {pool.submit(run, task, next_one): next_one for next_one in waiting.pop(job.name, ())}
                    yield keep(job, future.result())
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(active_children()) - others:  # or this process waits till they have trained
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                raise CheckError(
                    "a process that trained has died, perhaps for lack of memory. What was finished is kept: start "
                    "again, with fewer `processes` or a smaller `batch_size`."
                ) from error
            raise


def in_turn(jobs: Sequence[Job]) -> tuple[list[Job], dict[str, list[Job]]]:
    """Trainings to start with, and by name of each those that follow it, for which it computes the frozen part."""
    first: dict[Path, Job] = {}
    waiting: dict[str, list[Job]] = {}
    begun = []
    for job in jobs:
        leader = job if job.features is None else first.setdefault(job.features, job)
        if leader is job:
            begun.append(job)
        else:
            waiting.setdefault(leader.name, []).append(job)
    return begun, waiting


def _leave_interrupts() -> None:
    """In a worker: Ctrl-C, which a terminal sends to all processes, is for the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
