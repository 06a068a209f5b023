"""Fit of a new head before the first round to the data of all clients, without samples leaving the clients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..portable.linear_head import NotLinearError
from ..training.head_rows import head_in_graph, kernel_of
from ..training.head_start import LEFT, settable_tensors
from .checks import Dropped
from .client_artifacts import ClientArtifacts
from .grids import ClientGrid
from .heads import RidgeHead, check_sums, fit, sums_bytes
from .messages import RidgeSums, RoundTask

_SCALES = np.geomspace(1, 256, 25)  # scales of logits: a regression on ones and zeros gives too small logits


@dataclass(frozen=True)
class FleetHead:
    """How a head was fitted, or why it was not.

    Attributes:
        head: name of the head.
        note: the reason why it was not fitted; None if it was.
        rows: number of rows that it was fitted to.
        strength: strength of the penalty.
        scale: factor that its outputs are multiplied by.
        bytes_up: bytes that a client sent for it.
        dropped: rejected sums, with the reason.
    """

    head: str
    note: str | None = None
    rows: int = 0
    strength: float = 0.0
    scale: float = 1.0
    bytes_up: int = 0
    dropped: tuple[Dropped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that fleet.json holds."""
        return asdict(self)


def fit_head(artifacts: ClientArtifacts, grid: ClientGrid, task: RoundTask) -> tuple[dict[str, np.ndarray], FleetHead]:
    """Fit the head.

    Args:
        artifacts: the artifacts of the client.
        grid: access to the clients.
        task: a task with the initial values.

    Returns:
        The values of its parameters (empty if the head cannot be fitted), and a description of the fit.
    """
    head = artifacts.model.head
    assert head is not None
    try:
        return _fitted(artifacts, grid, task)
    except (NotLinearError, np.linalg.LinAlgError) as error:
        return {}, FleetHead(head.name, str(error))


def _fitted(artifacts: ClientArtifacts, grid: ClientGrid, task: RoundTask) -> tuple[dict[str, np.ndarray], FleetHead]:
    layer = artifacts.model.head
    assert layer is not None
    tensors = settable_tensors(artifacts.manifest, layer)
    head, _ = head_in_graph(artifacts.manifest, tensors)
    outputs = head.outputs(tensors.shape)
    features = math.prod(tensors.shape) // outputs
    clients = sorted(grid.clients())
    good, dropped = _checked(grid.sums(clients, task), features, outputs)
    if not good:
        raise NotLinearError(dropped[0].why if dropped else "no client answered")
    ridge = fit(good, intercept=head.biased)

    def values(scale: float) -> dict[str, np.ndarray]:
        weight, bias = head.parameters(ridge.weight * scale, ridge.bias * scale, kernel_of(head, tensors))
        made = {tensors.weight: weight} | ({} if tensors.bias is None else {tensors.bias: bias})
        return {name: np.asarray(a, np.float32).reshape(task.tensors[name].shape) for name, a in made.items()}

    scale = 1.0
    if artifacts.manifest.loss_function == "cross-entropy":
        scale = _scale(grid, clients, replace(task, tensors={**task.tensors, **values(1.0)}), outputs)
    return values(scale), _fleet_head(layer.name, ridge, scale, sums_bytes(features, outputs), dropped)


def _fleet_head(name: str, ridge: RidgeHead, scale: float, size: int, dropped: list[Dropped]) -> FleetHead:
    return FleetHead(name, None, ridge.rows, ridge.strength, scale, size, tuple(dropped))


def _checked(answers: Any, features: int, outputs: int) -> tuple[list[RidgeSums], list[Dropped]]:
    good, dropped = [], []
    for client, sums in sorted(answers, key=lambda answer: answer[0]):
        why = sums if isinstance(sums, str) else check_sums(sums, features, outputs)
        if why is None:
            good.append(sums)
        else:
            dropped.append(Dropped(client, why))
    return good, dropped


def _scale(grid: ClientGrid, clients: Sequence[int], task: RoundTask, classes: int) -> float:
    """Return the best scale of logits whose loss still leaves room for training; see `training.head_start`."""
    parts = [
        losses_of_client
        for _, losses_of_client in grid.losses(clients, task, _SCALES)
        if losses_of_client.shape == (len(_SCALES) + 1,)
    ]
    total = np.sum([part for part in parts if np.isfinite(part).all()], axis=0) if parts else np.zeros(1)
    if not total[-1]:
        return 1.0
    losses = total[:-1] / total[-1]
    allowed = losses >= LEFT * math.log(max(classes, 2))
    best = int(np.argmin(losses))
    before = np.flatnonzero(allowed[: best + 1])
    return float(_SCALES[before[-1] if len(before) else 0])
