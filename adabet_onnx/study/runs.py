"""One training of a comparison, in this process or in a worker, and the file it writes.

``runs/NAME.json``: format "adabet-onnx/run", version 1, with
    accuracy, loss    on the test data (a final run) or on validation data split off the training data (a run for
                      choosing a learning rate); accuracy null if the loss has none; both null if training failed
    source            {accuracy, loss} on the old domain's test data, or null
    curve             per epoch: train_loss, eval_loss, eval_accuracy
    failed            null, or why the training failed (the loss, or an output of the trained model, was not finite)
A run with a file is not repeated.
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
    """What all trainings of a comparison have in common; each worker receives it once.

    Attributes:
        model: path of the model (with its new head).
        data: data that `open_data` accepts.
        source: the same for the old domain, or None.
        preprocessing: preprocessing as JSON values.
        train_samples: number of training samples to use; None for all.
        epochs: epochs of a training.
        batch_size: samples of a batch, which a job may split into micro-batches.
        accumulate: batches of an update.
        threads: threads of a training, or a `Runtime`.
        choices: loss, optimizer and form of trainings and evaluation.
        kept: how features are kept.
        pictures: folder of decoded image files; None if they are not kept.
        token: identifies the comparison (the data may hold arrays, which cannot be compared).
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
        name: name of its file, without suffix.
        artifacts: folder of the artifacts to train a copy of.
        rate: learning rate; 0 to fit the new head and train nothing.
        seed: random seed of the order of samples (and of the validation split).
        validation: fraction of the training data to measure on; 0 to measure on the test data.
        parts: micro-batches of a batch, to stay within a budget.
        what: description for progress messages.
        features: folder of the features, shared by all jobs with the same frozen layers; None if nothing is frozen.
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
    """The data that all trainings of a comparison read.

    Attributes:
        token: token of the task.
        splits: the data, limited to the training samples that are used.
        source: the data of the old domain, or None.
    """

    token: str
    splits: Splits
    source: Dataset | None


_read: dict[str, Inputs] = {}  # of this process, which reads the data once


def _inputs_of(task: Task) -> Inputs:
    if "last" not in _read or _read["last"].token != task.token:
        model = open_model(task.model)
        splits = used_data(open_data(task.data, model), task.train_samples)
        source = None if task.source is None else open_data(task.source, model).for_evaluation
        if task.pictures is not None:
            splits, source = with_pictures(splits, source, task.pictures, silent)
        _read["last"] = Inputs(task.token, splits, source)
    return _read["last"]


def with_pictures(
    splits: Splits, source: Dataset | None, folder: Path, report: Progress
) -> tuple[Splits, Dataset | None]:
    """All data with image files decoded, once for all processes.

    Args:
        splits: data of a comparison.
        source: data of the old domain, or None.
        folder: folder for the decoded images.
        report: called with the progress of decoding.
    """
    train, test, old = (part and decoded(part, folder, report) for part in (splits.train, splits.test, source))
    return Splits(train or splits.train, test), old


def used_data(splits: Splits, train_samples: int | None) -> Splits:
    """The data limited to the first training samples, at most this many; None for all."""
    if train_samples is None or train_samples >= len(splits.train):
        return splits
    return replace(splits, train=splits.train.subset(list(range(train_samples))))


def run(task: Task, job: Job) -> dict[str, Any]:
    """Train and measure on the data that the task names; the result is the content of the run's file."""
    return run_on(_inputs_of(task), task, job)


def run_on(inputs: Inputs, task: Task, job: Job) -> dict[str, Any]:
    """Train and measure on this data; the result is the content of the run's file."""
    preprocessing = preprocessing_from_json(task.preprocessing, "the plan")
    outcome: dict[str, Any] = {"accuracy": None, "loss": None, "source": None, "curve": [], "failed": None}
    # Beside the artifacts, whose folder is removed at the end: so what a stopped worker leaves is removed, too.
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
            return {**outcome, "failed": str(error)}
        except UsageError as error:
            if job.rate:
                raise
            return {**outcome, "failed": str(error)}  # a head that cannot be fitted
        keys = ("epoch", "train_loss", "eval_loss", "eval_accuracy")
        outcome["curve"] = [{key: row.get(key) for key in keys} for row in rows]
        if job.validation:
            if rows[-1]["eval_loss"] is None:
                return {**outcome, "failed": _NOT_FINITE}
            return {**outcome, "accuracy": rows[-1]["eval_accuracy"], "loss": rows[-1]["eval_loss"]}
        try:
            adapted = open_trained(folder)
        except CheckError:  # a parameter
            return {**outcome, "failed": _NOT_FINITE}
    options: dict[str, Any] = {"preprocessing": preprocessing, "choices": task.choices, "threads": task.threads}
    try:  # the data was evaluated before any training, so an error is caused by the training
        after = evaluate(adapted, inputs.splits.for_evaluation, **options)
        old = None if inputs.source is None else evaluate(adapted, inputs.source, **options)
    except DataError:
        return {**outcome, "failed": _NOT_FINITE}
    outcome |= {"accuracy": after["accuracy"], "loss": after["loss"]}
    if old is not None:
        outcome["source"] = {"accuracy": old["accuracy"], "loss": old["loss"]}
    return outcome


def read(path: Path) -> dict[str, Any]:
    """Read the file of a run.

    Raises:
        RecordError: the file is damaged.
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
    """Run the trainings that have no file yet; each is yielded when its file has been written.

    Args:
        task: what the trainings have in common.
        jobs: the trainings.
        folder: folder of their files.
        processes: trainings at once; 1 for this process alone.
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
            for worker in set(active_children()) - others:  # else this process waits until they have trained
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                raise CheckError(
                    "a training process died, perhaps because memory ran out. Finished trainings are kept: start again "
                    "with fewer `processes` or a smaller `batch_size`."
                ) from error
            raise


def in_turn(jobs: Sequence[Job]) -> tuple[list[Job], dict[str, list[Job]]]:
    """Trainings to start with, and by name of each those that follow it, for which it computes the frozen part."""
    first: dict[Path, Job] = {}
    waiting: dict[str, list[Job]] = {}
    leaders = []
    for job in jobs:
        leader = job if job.features is None else first.setdefault(job.features, job)
        if leader is job:
            leaders.append(job)
        else:
            waiting.setdefault(leader.name, []).append(job)
    return leaders, waiting


def _leave_interrupts() -> None:
    """Ignore Ctrl-C in a worker: a terminal sends it to all processes, and the main process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
