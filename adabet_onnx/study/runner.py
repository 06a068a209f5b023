"""Where the trainings of a comparison run and costs are measured: on this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..cost.measure import Cost, measure_training
from . import runs


@dataclass(frozen=True)
class Measurement:
    """A training step whose cost is to be measured.

    Attributes:
        label: tells it from others.
        artifacts: the folder of the training.
        batch_size: samples of an update.
        accumulate: micro-batches of an update.
        threads: for ONNX Runtime.
    """

    label: str
    artifacts: Path
    batch_size: int
    accumulate: int
    threads: int | None


class Runner(Protocol):
    """Runs the trainings of one comparison, and measures their costs."""

    def run_all(self, jobs: Sequence[runs.Job], folder: Path) -> Iterator[runs.Job]:
        """Do the trainings that have no file in a folder yet; each is yielded when its file is written.

        Raises:
            CheckError: the process of a training died.
        """
        ...

    def measure(self, steps: Sequence[Measurement]) -> Iterator[tuple[Measurement, Cost]]:
        """Measure the cost of steps, each in a process of its own with no other beside it.

        Raises:
            CheckError: a step could not be measured.
        """
        ...

    def close(self) -> None:
        """Remove what was kept for the comparison outside its folder."""
        ...


class LocalRunner:
    """A `Runner` on this machine.

    Args:
        task: what the trainings share.
        processes: trainings at once; 1: in this process.
    """

    def __init__(self, task: runs.Task, processes: int) -> None:
        self._task, self._processes = task, processes

    def run_all(self, jobs: Sequence[runs.Job], folder: Path) -> Iterator[runs.Job]:
        """As `Runner` says."""
        return runs.run_all(self._task, jobs, folder, self._processes)

    def measure(self, steps: Sequence[Measurement]) -> Iterator[tuple[Measurement, Cost]]:
        """As `Runner` says."""
        for step in steps:
            yield (
                step,
                measure_training(
                    step.artifacts, batch_size=step.batch_size, accumulate=step.accumulate, threads=step.threads
                ),
            )

    def close(self) -> None:
        """As `Runner` says: nothing is kept elsewhere."""
