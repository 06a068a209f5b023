"""A client: what it does with its own data when a server asks.

Its optimizer's state and its personal layers stay with it, by round, so that a round which is asked for again begins
where it began before. What comes before the trained layers is computed once for all rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import seeds
from ..data.dataset import Dataset
from ..data.labels import counted
from ..errors import AdabetError, DataError, TrainingError
from ..files import temporary_folder
from ..portable.checkpoint import TrainingState
from ..portable.linear_head import NotLinearError
from ..progress import silent
from ..runtime import on
from ..scoring.options import Scoring
from ..training.epochs import Accuracy
from ..training.exact_loss import loss_of
from ..training.features import Computed, FeatureSource, Place, micro_batch, open_features
from ..training.head_rows import HeadRows
from ..training.head_start import settable_tensors
from ..training.settings import Settings
from ..training.training_data import TrainingData, open_training_data
from .bench import Bench
from .heads import sums_of
from .messages import Local, Reply, Sums, Task, Vote
from .parts import layers_within, make_part
from .votes import cast_vote

States = MutableMapping[int, TrainingState]  # by the round after which it was so
_BATCH = 64


@dataclass(frozen=True)
class Own:
    """What is a client's own.

    Attributes:
        number: by which the server knows it.
        data: labelled samples.
        folder: where it may keep what is computed once.
        states: of its training, by round.
        validation: the share of the data that is not trained on, and by which it judges the model.
        memory: bytes that a training step may take; None: as many as it takes.
        seed: of what it keeps for validation.
        preprocessing: by hand; None: the artifacts'.
        keep_features: leave the file of what is computed once in the folder, for the next process.
    """

    number: int
    data: Dataset
    folder: Path
    states: States
    validation: float = 0.0
    memory: int | None = None
    seed: int = 0
    preprocessing: Any = None
    keep_features: bool = False


class Client:
    """Answers a server.

    Args:
        own: its data and what it keeps.
        bench: with the graphs that it trains, which several clients of one process may share.
    """

    def __init__(self, own: Own, bench: Bench) -> None:
        self.number, self._own, self._bench = own.number, own, bench
        self._source: FeatureSource | None = None
        self._fed: TrainingData | None = None
        self._within: dict[int, tuple[str, ...] | None] = {}  # by batch size

    # --- scoring ---

    def vote(self, scoring: Scoring) -> Vote:
        """Say which layers its own data would have trained."""
        own = self._own
        how = {"preprocessing": own.preprocessing, "seed": own.seed, "threads": self._bench.threads}
        return cast_vote(self.number, self._bench.model, own.data, scoring, **how)

    # --- training ---

    def train(self, task: Task) -> Reply:
        """Train from the server's values, and send what became of them; an error becomes one of the reply."""
        try:
            return self._trained(task)
        except AdabetError as error:
            return self._failed(task, str(error))

    def _trained(self, task: Task) -> Reply:
        self._check(task)
        state, local = self._state_before(task.number), task.local
        layers = self._fitting(local.batch_size)
        if layers is None:
            used = self._data(local)
            return self._run(self._bench, used, self._features(used, local), task, state, partial=False)
        with temporary_folder() as folder:
            initial = self._bench.initial().tensors
            values = {name: task.tensors.get(name, state.tensors.get(name, initial[name])) for name in initial}
            made = make_part(self._bench.manifest, self._bench.model, layers, values, {}, folder / "part")
            part = Bench(made.folder, threads=self._bench.threads)
            used = self._opened(part, local)
            source = features_of(part, used, self._settings(local, keep=False), folder)
            return self._run(part, used, source, task, state, partial=True)

    def _fitting(self, batch_size: int) -> tuple[str, ...] | None:
        """The layers that its memory allows; None: all that are selected."""
        if self._own.memory is None:
            return None
        if batch_size not in self._within:
            bench = self._bench
            self._within[batch_size] = layers_within(bench.manifest, bench.model, self._own.memory, batch_size)
        return self._within[batch_size]

    def _run(
        self,
        bench: Bench,
        used: TrainingData,
        source: FeatureSource,
        task: Task,
        state: TrainingState,
        *,
        partial: bool,
    ) -> Reply:
        local, session = task.local, bench.session
        bench.put(state, task.tensors)
        total, weight = 0.0, 0.0
        for batch in self._batches(used, task):
            labels = used.labels(batch)
            loss = self._step(bench, source, batch, labels, task)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"its loss became {loss} in round {task.number}. Lower the learning rate from "
                    f"{local.learning_rate:g} (`learning_rate`)."
                )
            each = counted(labels, bench.manifest.class_weights)
            total, weight = total + loss * (each or 1), weight + (each or 1)
        shared = [name for name in bench.trained if name in task.tensors]
        after = session.state()
        self._keep(task.number, TrainingState(state.tensors | after.tensors, after.step))
        figures = {"loss": total / weight if weight else None, **judged(bench, used, source, used.held_out)}
        tensors = bench.values(shared)
        return Reply(self.number, task.number, task.model_sha256, tensors, len(used.training), partial, figures)

    def _step(self, bench: Bench, source: FeatureSource, batch: np.ndarray, labels: np.ndarray, task: Task) -> float:
        local, session = task.local, bench.session
        feeds = source.of(batch)
        if not local.proximal:
            return session.step(feeds, labels, local.learning_rate)[0]
        loss, _ = session.gradients(feeds, labels)
        away = 0.0
        for name in bench.manifest.parameters:
            if name in task.tensors:  # personal layers are near nothing
                difference = session.parameter(name) - task.tensors[name]
                session.add_gradient(name, np.float32(local.proximal) * difference)
                away += float((difference.astype(np.float64) ** 2).sum())
        if math.isfinite(loss):
            session.update(local.learning_rate)
        return loss + local.proximal / 2 * away

    def _batches(self, used: TrainingData, task: Task) -> Iterator[np.ndarray]:
        local, rows, done, epoch = task.local, used.training, 0, 0
        while local.steps is not None or epoch < local.epochs:
            order = rows[
                seeds.local_order(local.seed, self.number, task.number, epoch).permutation(len(rows))
            ]  # of each epoch of each round another
            for start in range(0, len(order), local.batch_size):
                if done == local.steps:
                    return
                yield order[start : start + local.batch_size]
                done += 1
            epoch += 1

    # --- the head ---

    def sums(self, task: Task) -> Sums:
        """What a linear head is fitted from, of its own rows.

        Raises:
            NotLinearError: the head is none that can be fitted so.
        """
        rows = self._head_rows(task)
        found = rows.all(self._own.seed, silent)
        chosen = found.where(np.isin(found.samples, self._data(task.local).training))
        targets = chosen.targets
        if self._bench.manifest.class_axis is not None:
            targets = (targets[:, None] == np.arange(rows.outputs)).astype(np.float64)
        return sums_of(chosen.features, targets)

    def losses(self, task: Task, scales: np.ndarray) -> np.ndarray:
        """The summed cross-entropy of its samples with all logits times each scale; the last number is how many."""
        self._check(task)
        used = self._data(task.local)
        source, manifest = self._features(used, task.local), self._bench.manifest
        self._bench.put(self._state_before(task.number), task.tensors)
        found = np.zeros(len(scales) + 1)
        for start in range(0, len(used.training), _BATCH):
            batch = used.training[start : start + _BATCH]
            labels = used.labels(batch)
            _, logits = self._bench.session.evaluate(source.of(batch), labels)
            seen = counted(labels, manifest.class_weights)
            losses = [
                loss_of(
                    manifest.loss_function,
                    logits * scale,
                    labels,
                    class_axis=manifest.class_axis,
                    weights=manifest.class_weights,
                )
                for scale in scales
            ]
            found += [*(seen * loss for loss in losses), seen] if seen else 0.0
        return found

    def _head_rows(self, task: Task) -> HeadRows:
        self._check(task)
        bench = self._bench
        head = bench.model.head
        if head is None:
            raise NotLinearError("the model has no head")
        used = self._data(task.local)
        source = self._features(used, task.local)
        bench.put(self._state_before(task.number), task.tensors)
        tensors = settable_tensors(bench.manifest, head)
        return HeadRows(bench.manifest, bench.session, used, source, tensors, bench.threads)

    # --- data and state ---

    def close(self) -> None:
        """Let go of what was computed once."""
        if self._source is not None:
            self._source.close(keep=self._own.keep_features)
            self._source = None

    def _data(self, local: Local) -> TrainingData:
        if self._fed is None:
            self._fed = self._opened(self._bench, local)
        return self._fed

    def _settings(self, local: Local, *, keep: bool) -> Settings:
        own = self._own
        return Settings(batch_size=local.batch_size, validation=own.validation, seed=own.seed, keep_features=keep)

    def _opened(self, bench: Bench, local: Local) -> TrainingData:
        if not len(self._own.data):
            raise DataError(f"client {self.number} has no data.")
        return open_fed(bench, self._own.data, self._settings(local, keep=False), self._own.preprocessing)

    def _features(self, used: TrainingData, local: Local) -> FeatureSource:
        if self._source is None:
            settings = self._settings(local, keep=self._own.keep_features)
            self._source = features_of(self._bench, used, settings, self._own.folder)
        return self._source

    def _check(self, task: Task) -> None:
        """See that what a server sent is for the model that is here.

        Raises:
            TrainingError: it is not.
        """
        bench = self._bench
        if task.model_sha256 != bench.model_sha256:
            raise TrainingError(
                f"the server's parameters are of another model, with the SHA-256 {task.model_sha256}: that of "
                f"{bench.manifest.folder} is {bench.model_sha256}."
            )
        wanted = bench.initial_values()
        for name, value in wanted.items():
            given = task.tensors.get(name)
            if given is None or given.shape != value.shape or not np.isfinite(given).all():
                raise TrainingError(
                    f"the server's parameters do not fit {bench.manifest.folder}: {name!r} is missing, not finite, or "
                    f"of another shape than {list(value.shape)}. Use the artifacts that the server has."
                )
        strange = [name for name in task.tensors if name not in wanted]
        if strange:
            raise TrainingError(f"the server sent {strange[0]!r}, which is not shared here.")

    def _state_before(self, number: int) -> TrainingState:
        """What is kept of the last round before this one."""
        earlier = [each for each in self._own.states if each < number]
        return self._own.states[max(earlier)] if earlier else TrainingState({})

    def _keep(self, number: int, state: TrainingState) -> None:
        """Keep what stays: not what is sent anew in every round, and of the rounds before but the last."""
        shared, states = set(self._bench.shared), self._own.states
        states[number] = TrainingState(
            {name: array for name, array in state.tensors.items() if name not in shared}, state.step
        )
        for each in sorted(each for each in states if each <= number)[:-2]:
            del states[each]
        for each in [each for each in states if each > number]:
            del states[each]

    def _failed(self, task: Task, why: str) -> Reply:
        return Reply(self.number, task.number, task.model_sha256, {}, 0, error=why)


def open_fed(bench: Bench, data: Dataset, settings: Settings, preprocessing: Any) -> TrainingData:
    """Labelled data as the graphs take it.

    Args:
        bench: of the artifacts.
        data: labelled.
        settings: with the batch size and what is kept for validation.
        preprocessing: by hand; None: the artifacts'.

    Raises:
        DataError: it does not fit, or has no samples or labels.
    """
    return open_training_data(bench.manifest, bench.model, data, settings, preprocessing=preprocessing, resumed=None)


def features_of(bench: Bench, used: TrainingData, settings: Settings, folder: Path) -> FeatureSource:
    """What steps begin with, computed once.

    Args:
        bench: of the artifacts.
        used: the data.
        settings: with the batch size, and whether a file of it stays.
        folder: for that file.
    """
    micro = micro_batch(bench.manifest, settings.size, len(used.data))
    computed = Computed(bench.session, used.feeder, used.data, micro, used.views, on(bench.threads))
    return open_features(computed, bench.manifest, used, settings, Place(folder, own=True), None)


def judged(bench: Bench, used: TrainingData, source: FeatureSource, rows: np.ndarray | None) -> dict[str, Any]:
    """Loss and accuracy of the session's values on samples; nothing where there are none.

    Args:
        bench: with the session.
        used: the data.
        source: what steps begin with.
        rows: which samples.
    """
    if rows is None:
        return {}
    loss, right, seen = 0.0, Accuracy(bench.manifest), 0.0
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        labels = used.labels(batch)
        each, logits = bench.session.evaluate(source.of(batch), labels)
        weight = counted(labels, bench.manifest.class_weights)
        loss, seen = loss + each * (weight or 1), seen + weight
        right.add(logits, labels)
    return {"eval_loss": loss / seen if seen else None, "eval_accuracy": right.share, "eval_samples": len(rows)}
