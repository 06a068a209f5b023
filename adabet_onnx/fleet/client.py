"""A client of a fleet, which scores and trains on its own data when a server asks.

It keeps its optimizer's state and its personal layers by round, so that a repeated round starts from the same state.
The part of the model before the trained layers is computed once for all rounds.
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
from .client_artifacts import ClientArtifacts
from .heads import sums_of
from .messages import Local, Reply, RidgeSums, RoundTask, Vote
from .parts import layers_within, make_part
from .votes import cast_vote

States = MutableMapping[int, TrainingState]  # by the round after which it was saved
_BATCH = 64


@dataclass(frozen=True)
class ClientSetup:
    """Number, data and settings of a client.

    Attributes:
        number: number by which the server identifies it.
        data: labelled samples.
        folder: folder for stored features.
        states: states of its training, by round.
        validation: share of the data that is held out to evaluate the model.
        memory: bytes that a training step may use; None: no limit.
        seed: random seed of the validation split.
        preprocessing: preprocessing that replaces that of the artifacts; None: the artifacts'.
        keep_features: keep the feature file in the folder for the next process.
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
    """A client that answers the requests of a server.

    Args:
        own: its data and settings.
        artifacts: the artifacts that it trains, which several clients in one process may share.
    """

    def __init__(self, own: ClientSetup, artifacts: ClientArtifacts) -> None:
        self.number, self._own, self._artifacts = own.number, own, artifacts
        self._source: FeatureSource | None = None
        self._fed: TrainingData | None = None
        self._within: dict[int, tuple[str, ...] | None] = {}  # by batch size

    # --- scoring ---

    def vote(self, scoring: Scoring) -> Vote:
        """Vote on the layers to train, based on its own data."""
        own = self._own
        options = {"preprocessing": own.preprocessing, "seed": own.seed, "threads": self._artifacts.threads}
        return cast_vote(self.number, self._artifacts.model, own.data, scoring, **options)

    # --- training ---

    def train(self, task: RoundTask) -> Reply:
        """Train, starting from the server's values, and return the result; an error is returned in the reply."""
        try:
            return self._trained(task)
        except AdabetError as error:
            return self._failed(task, str(error))

    def _trained(self, task: RoundTask) -> Reply:
        self._check(task)
        state, local = self._state_before(task.number), task.local
        layers = self._fitting(local.batch_size)
        if layers is None:
            used = self._data(local)
            return self._run(self._artifacts, used, self._features(used, local), task, state, partial=False)
        with temporary_folder() as folder:
            initial = self._artifacts.initial().tensors
            values = {name: task.tensors.get(name, state.tensors.get(name, initial[name])) for name in initial}
            made = make_part(self._artifacts.manifest, self._artifacts.model, layers, values, {}, folder / "part")
            part = ClientArtifacts(made.folder, threads=self._artifacts.threads)
            used = self._opened(part, local)
            source = features_of(part, used, self._settings(local, keep=False), folder)
            return self._run(part, used, source, task, state, partial=True)

    def _fitting(self, batch_size: int) -> tuple[str, ...] | None:
        """Return the layers that fit into its memory; None: all selected layers."""
        if self._own.memory is None:
            return None
        if batch_size not in self._within:
            artifacts = self._artifacts
            self._within[batch_size] = layers_within(artifacts.manifest, artifacts.model, self._own.memory, batch_size)
        return self._within[batch_size]

    def _run(
        self,
        artifacts: ClientArtifacts,
        used: TrainingData,
        source: FeatureSource,
        task: RoundTask,
        state: TrainingState,
        *,
        partial: bool,
    ) -> Reply:
        local, session = task.local, artifacts.session
        artifacts.put(state, task.tensors)
        total, weight = 0.0, 0.0
        for batch in self._batches(used, task):
            labels = used.labels(batch)
            loss = self._step(artifacts, source, batch, labels, task)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"its loss became {loss} in round {task.number}. Lower the learning rate from "
                    f"{local.learning_rate:g} (`learning_rate`)."
                )
            each = counted(labels, artifacts.manifest.class_weights)
            total, weight = total + loss * (each or 1), weight + (each or 1)
        shared = [name for name in artifacts.trained if name in task.tensors]
        after = session.state()
        self._keep(task.number, TrainingState(state.tensors | after.tensors, after.step))
        figures = {"loss": total / weight if weight else None, **metrics_on(artifacts, used, source, used.held_out)}
        tensors = artifacts.values(shared)
        return Reply(self.number, task.number, task.model_sha256, tensors, len(used.training), partial, figures)

    def _step(
        self, artifacts: ClientArtifacts, source: FeatureSource, batch: np.ndarray, labels: np.ndarray, task: RoundTask
    ) -> float:
        local, session = task.local, artifacts.session
        feeds = source.of(batch)
        if not local.proximal:
            return session.step(feeds, labels, local.learning_rate)[0]
        loss, _ = session.gradients(feeds, labels)
        squared_distance = 0.0
        for name in artifacts.manifest.parameters:
            if name in task.tensors:  # personal layers have no reference values
                difference = session.parameter(name) - task.tensors[name]
                session.add_gradient(name, np.float32(local.proximal) * difference)
                squared_distance += float((difference.astype(np.float64) ** 2).sum())
        if math.isfinite(loss):
            session.update(local.learning_rate)
        return loss + local.proximal / 2 * squared_distance

    def _batches(self, used: TrainingData, task: RoundTask) -> Iterator[np.ndarray]:
        local, rows, done, epoch = task.local, used.training, 0, 0
        while local.steps is not None or epoch < local.epochs:
            # The order differs in each epoch of each round.
            order = rows[seeds.local_order(local.seed, self.number, task.number, epoch).permutation(len(rows))]
            for start in range(0, len(order), local.batch_size):
                if done == local.steps:
                    return
                yield order[start : start + local.batch_size]
                done += 1
            epoch += 1

    # --- the head ---

    def sums(self, task: RoundTask) -> RidgeSums:
        """Return the sums over its own rows that a linear head is fitted from.

        Raises:
            NotLinearError: the head cannot be fitted this way.
        """
        rows = self._head_rows(task)
        head_rows = rows.all(self._own.seed, silent)
        chosen = head_rows.where(np.isin(head_rows.samples, self._data(task.local).training))
        targets = chosen.targets
        if self._artifacts.manifest.class_axis is not None:
            targets = (targets[:, None] == np.arange(rows.outputs)).astype(np.float64)
        return sums_of(chosen.features, targets)

    def losses(self, task: RoundTask, scales: np.ndarray) -> np.ndarray:
        """Return the summed cross-entropy of its samples with logits times each scale, then the number of labels."""
        self._check(task)
        used = self._data(task.local)
        source, manifest = self._features(used, task.local), self._artifacts.manifest
        self._artifacts.put(self._state_before(task.number), task.tensors)
        totals = np.zeros(len(scales) + 1)
        for start in range(0, len(used.training), _BATCH):
            batch = used.training[start : start + _BATCH]
            labels = used.labels(batch)
            _, logits = self._artifacts.session.evaluate(source.of(batch), labels)
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
            totals += [*(seen * loss for loss in losses), seen] if seen else 0.0
        return totals

    def _head_rows(self, task: RoundTask) -> HeadRows:
        self._check(task)
        artifacts = self._artifacts
        head = artifacts.model.head
        if head is None:
            raise NotLinearError("the model has no head")
        used = self._data(task.local)
        source = self._features(used, task.local)
        artifacts.put(self._state_before(task.number), task.tensors)
        tensors = settable_tensors(artifacts.manifest, head)
        return HeadRows(artifacts.manifest, artifacts.session, used, source, tensors, artifacts.threads)

    # --- data and state ---

    def close(self) -> None:
        """Release the stored features."""
        if self._source is not None:
            self._source.close(keep=self._own.keep_features)
            self._source = None

    def _data(self, local: Local) -> TrainingData:
        if self._fed is None:
            self._fed = self._opened(self._artifacts, local)
        return self._fed

    def _settings(self, local: Local, *, keep: bool) -> Settings:
        own = self._own
        return Settings(batch_size=local.batch_size, validation=own.validation, seed=own.seed, keep_features=keep)

    def _opened(self, artifacts: ClientArtifacts, local: Local) -> TrainingData:
        if not len(self._own.data):
            raise DataError(f"client {self.number} has no data.")
        return open_fed(artifacts, self._own.data, self._settings(local, keep=False), self._own.preprocessing)

    def _features(self, used: TrainingData, local: Local) -> FeatureSource:
        if self._source is None:
            settings = self._settings(local, keep=self._own.keep_features)
            self._source = features_of(self._artifacts, used, settings, self._own.folder)
        return self._source

    def _check(self, task: RoundTask) -> None:
        """Check that the values sent by the server fit this client's model.

        Raises:
            TrainingError: they do not fit.
        """
        artifacts = self._artifacts
        if task.model_sha256 != artifacts.model_sha256:
            raise TrainingError(
                f"the server's parameters are of another model, with the SHA-256 {task.model_sha256}: that of "
                f"{artifacts.manifest.folder} is {artifacts.model_sha256}."
            )
        expected = artifacts.initial_values()
        for name, value in expected.items():
            given = task.tensors.get(name)
            if given is None or given.shape != value.shape or not np.isfinite(given).all():
                raise TrainingError(
                    f"the server's parameters do not fit {artifacts.manifest.folder}: {name!r} is missing, not finite, "
                    f"or of another shape than {list(value.shape)}. Use the artifacts that the server has."
                )
        unexpected = [name for name in task.tensors if name not in expected]
        if unexpected:
            raise TrainingError(f"the server sent {unexpected[0]!r}, which is not shared here.")

    def _state_before(self, number: int) -> TrainingState:
        """Return the state kept from the last round before this one."""
        earlier = [each for each in self._own.states if each < number]
        return self._own.states[max(earlier)] if earlier else TrainingState({})

    def _keep(self, number: int, state: TrainingState) -> None:
        """Keep the state of the personal tensors and the optimizer, for this round and the one before."""
        shared, states = set(self._artifacts.shared), self._own.states
        states[number] = TrainingState(
            {name: array for name, array in state.tensors.items() if name not in shared}, state.step
        )
        for each in sorted(each for each in states if each <= number)[:-2]:
            del states[each]
        for each in [each for each in states if each > number]:
            del states[each]

    def _failed(self, task: RoundTask, why: str) -> Reply:
        return Reply(self.number, task.number, task.model_sha256, {}, 0, error=why)


def open_fed(artifacts: ClientArtifacts, data: Dataset, settings: Settings, preprocessing: Any) -> TrainingData:
    """Prepare labelled data as input of the graphs.

    Args:
        artifacts: the artifacts of the client.
        data: labelled data.
        settings: settings with the batch size and the validation share.
        preprocessing: preprocessing that replaces that of the artifacts; None: the artifacts'.

    Raises:
        DataError: the data does not fit, or has no samples or labels.
    """
    return open_training_data(
        artifacts.manifest, artifacts.model, data, settings, preprocessing=preprocessing, resumed=None
    )


def features_of(artifacts: ClientArtifacts, used: TrainingData, settings: Settings, folder: Path) -> FeatureSource:
    """Compute the features that training steps start from, once.

    Args:
        artifacts: the artifacts of the client.
        used: the prepared data.
        settings: settings with the batch size, and whether the feature file is kept.
        folder: folder for that file.
    """
    micro = micro_batch(artifacts.manifest, settings.size, len(used.data))
    computed = Computed(artifacts.session, used.feeder, used.data, micro, used.views, on(artifacts.threads))
    return open_features(computed, artifacts.manifest, used, settings, Place(folder, own=True), None)


def metrics_on(
    artifacts: ClientArtifacts, used: TrainingData, source: FeatureSource, rows: np.ndarray | None
) -> dict[str, Any]:
    """Return loss and accuracy of the session's values on samples; an empty dict if there are none.

    Args:
        artifacts: with the session.
        used: the prepared data.
        source: the features that steps start from.
        rows: indices of the samples.
    """
    if rows is None:
        return {}
    loss, right, seen = 0.0, Accuracy(artifacts.manifest), 0.0
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        labels = used.labels(batch)
        each, logits = artifacts.session.evaluate(source.of(batch), labels)
        weight = counted(labels, artifacts.manifest.class_weights)
        loss, seen = loss + each * (weight or 1), seen + weight
        right.add(logits, labels)
    return {"eval_loss": loss / seen if seen else None, "eval_accuracy": right.share, "eval_samples": len(rows)}
