"""The trainings of a comparison, and the measuring of their costs, as tasks of a Ray cluster.

The model, the data and each folder of artifacts are copied to the object store once. A node keeps the artifacts and the
features of its trainings in a temporary folder, which is removed when the comparison ends.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cost.measure import Cost, measure_training
from ..data.dataset import Dataset, Splits
from ..errors import CheckError
from ..files import make_folder
from ..runtime import on
from . import runs
from .ray_cluster import Cluster, Node, Reference
from .runner import Measurement
from .shared_rows import shared

Files = dict[str, np.ndarray]  # bytes by path inside a folder


class ClusterRunner:
    """A `Runner` on a cluster.

    Args:
        cluster: that is connected.
        task: what the trainings share.
        splits: their data, with no more training samples than are used.
        source: the data of the old domain, or None.
    """

    def __init__(self, cluster: Cluster, task: runs.Task, splits: Splits, source: Dataset | None) -> None:
        test = None if splits.test is None else shared(splits.test, cluster)
        parts = Splits(shared(splits.train, cluster), test)
        old = None if source is None else shared(source, cluster)
        self._cluster = cluster
        self._token = task.token
        self._cpus = _cpus(task)
        # Data and paths of this machine stay here.
        sent = replace(task, model=Path(task.model.name), data=None, source=None, pictures=None)
        self._task = cluster.put(sent)
        self._inputs = cluster.put(runs.Inputs(task.token, parts, old))
        self._files: dict[Path, Reference] = {}

    def run_all(self, jobs: Sequence[runs.Job], folder: Path) -> Iterator[runs.Job]:
        """Do the trainings that have no file yet; each is yielded when its file is written.

        Args:
            jobs: the trainings.
            folder: of their files.

        Raises:
            CheckError: a training was lost each time that it was started.
        """
        first, followers = runs.in_turn(runs.missing_runs(jobs, folder))
        waiting, pending = deque(first), dict[Reference, runs.Job]()
        try:
            while waiting or pending:
                while waiting and len(pending) < self._cluster.at_once:
                    job = waiting.popleft()
                    pending[self._submit(job)] = job
                reference = self._cluster.next_done(list(pending))
                job = pending.pop(reference)
                outcome = self._cluster.result(reference, f"a training ({job.what})")
                waiting.extend(followers.pop(job.name, ()))
                runs.write_run(folder, job, outcome)
                yield job
        finally:
            self._cluster.cancel(list(pending))

    def measure(self, steps: Sequence[Measurement]) -> Iterator[tuple[Measurement, Cost]]:
        """Measure the cost of steps, one at a time on each node, with nothing else of Ray's beside it.

        Times are compared with each other, so only nodes that are alike take part: the largest group of them.

        Raises:
            CheckError: a step could not be measured.
        """
        free, waiting = deque(comparable(self._cluster.alive())), deque(steps)
        if not free:
            raise CheckError("the Ray cluster has lost all of its nodes. Start it again, then run the command again.")
        pending: dict[Reference, tuple[Measurement, Node]] = {}
        try:
            while waiting or pending:
                while waiting and free:
                    step, node = waiting.popleft(), free.popleft()
                    files = self._artifacts(step.artifacts)
                    reference = self._cluster.submit_alone(_measure, replace(step, artifacts=Path()), files, node=node)
                    pending[reference] = step, node
                reference = self._cluster.next_done(list(pending))
                step, node = pending.pop(reference)
                cost = self._measured(reference, node, others=bool(free or pending))
                if cost is None:
                    waiting.append(step)
                    continue
                free.append(node)
                yield step, cost
        finally:
            self._cluster.cancel(list(pending))

    def _measured(self, reference: Reference, node: Node, *, others: bool) -> Cost | None:
        """The cost that a task measured; None if its node was lost and other nodes can measure it."""
        try:
            cost: Cost = self._cluster.result(reference, "measuring a training step")
            return cost
        except CheckError:
            if not others or node in self._cluster.alive():
                raise
            return None

    def close(self) -> None:
        """Remove what the nodes keep for this comparison."""
        self._cluster.on_every_node(_remove, self._token)

    def _submit(self, job: runs.Job) -> Reference:
        features = None if job.features is None else Path(job.features.name)
        sent = replace(job, artifacts=Path(job.artifacts.name), features=features)
        return self._cluster.submit(
            _train, self._inputs, self._task, sent, self._artifacts(job.artifacts), cpus=self._cpus
        )

    def _artifacts(self, folder: Path) -> Reference:
        if folder not in self._files:
            self._files[folder] = self._cluster.put(_packed(folder))
        return self._files[folder]


def comparable(nodes: Sequence[Node]) -> list[Node]:
    """The largest group of nodes with the same machine; of several such groups, the first."""
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(node.machine, []).append(node)
    return max(groups.values(), key=len, default=[])


def _cpus(task: runs.Task) -> float:
    return float(on(task.threads).threads or 1)


def _packed(folder: Path) -> Files:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in paths}


# --- on a node -------------------------------------------------------------------------------------------------------


def _train(inputs: runs.Inputs, task: runs.Task, job: runs.Job, files: Files) -> dict[str, Any]:
    """One training, in a process of a node."""
    scratch = _scratch(task.token)
    features = None if job.features is None else scratch / "features" / job.features
    local = replace(job, artifacts=_unpacked(scratch / "artifacts" / job.artifacts, files), features=features)
    if features is not None:
        make_folder(features.parent)
    return runs.run_on(inputs, task, local)


def _measure(step: Measurement, files: Files) -> Cost:
    with tempfile.TemporaryDirectory(prefix="adabet-onnx-") as folder:
        return measure_training(
            _unpacked(Path(folder) / "artifacts", files),
            batch_size=step.batch_size,
            accumulate=step.accumulate,
            threads=step.threads,
        )


def _remove(token: str) -> None:
    shutil.rmtree(_scratch(token), ignore_errors=True)


def _scratch(token: str) -> Path:
    """The folder that a node keeps for a comparison."""
    return Path(tempfile.gettempdir()) / f"adabet-onnx-{token}"


def _unpacked(folder: Path, files: Files) -> Path:
    """Write files into a folder, unless another process of this node has; it is whole as soon as it exists."""
    if folder.is_dir():
        return folder
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as part:
        made = Path(part) / "files"
        for name, content in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            content.tofile(made / name)
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder
