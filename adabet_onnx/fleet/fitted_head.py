"""A new head fitted before the first round, to the data of all clients, of which nobody sees a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..portable.linear_head import NotLinearError
from ..training.head_rows import head_in_graph, kernel_of
from ..training.head_start import LEFT, settable_tensors
from .bench import Bench
from .checks import Dropped
from .grids import Grid
from .heads import RidgeHead, check_sums, fit, sums_bytes
from .messages import Sums, Task

_SCALES = np.geomspace(1, 256, 25)  # of logits: a regression on ones and zeros is not confident enough


@dataclass(frozen=True)
class FleetHead:
    """How a head was fitted, or why not.

    Attributes:
        head: its name.
        note: why it was not; None where it was.
        rows: that it was fitted to.
        strength: of the penalty.
        scale: that its outputs are multiplied by.
        bytes_up: what a client sent for it.
        dropped: sums that did not count, and why.
    """

    head: str
    note: str | None = None
    rows: int = 0
    strength: float = 0.0
    scale: float = 1.0
    bytes_up: int = 0
    dropped: tuple[Dropped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For fleet.json."""
        return asdict(self)


def fit_head(bench: Bench, grid: Grid, task: Task) -> tuple[dict[str, np.ndarray], FleetHead]:
    """Fit the head; values of its parameters, and what is to be said.

    Args:
        bench: of the artifacts.
        grid: the way to clients.
        task: with the values to begin with.

    Returns:
        No values where the head cannot be fitted.
    """
    head = bench.model.head
    assert head is not None
    try:
        return _fitted(bench, grid, task)
    except (NotLinearError, np.linalg.LinAlgError) as error:
        return {}, FleetHead(head.name, str(error))


def _fitted(bench: Bench, grid: Grid, task: Task) -> tuple[dict[str, np.ndarray], FleetHead]:
    layer = bench.model.head
    assert layer is not None
    tensors = settable_tensors(bench.manifest, layer)
    head, _ = head_in_graph(bench.manifest, tensors)
    outputs = head.outputs(tensors.shape)
    features = math.prod(tensors.shape) // outputs
    clients = sorted(grid.clients())
    good, dropped = _checked(grid.sums(clients, task), features, outputs)
    if not good:
        raise NotLinearError(dropped[0].why if dropped else "no client answered")
    found = fit(good, intercept=head.biased)

    def values(scale: float) -> dict[str, np.ndarray]:
        weight, bias = head.parameters(found.weight * scale, found.bias * scale, kernel_of(head, tensors))
        made = {tensors.weight: weight} | ({} if tensors.bias is None else {tensors.bias: bias})
        return {name: np.asarray(a, np.float32).reshape(task.tensors[name].shape) for name, a in made.items()}

    scale = 1.0
    if bench.manifest.loss_function == "cross-entropy":
        scale = _scale(grid, clients, replace(task, tensors={**task.tensors, **values(1.0)}), outputs)
    return values(scale), _said(layer.name, found, scale, sums_bytes(features, outputs), dropped)


def _said(name: str, found: RidgeHead, scale: float, size: int, dropped: list[Dropped]) -> FleetHead:
    return FleetHead(name, None, found.rows, found.strength, scale, size, tuple(dropped))


def _checked(answers: Any, features: int, outputs: int) -> tuple[list[Sums], list[Dropped]]:
    good, dropped = [], []
    for client, sums in sorted(answers, key=lambda answer: answer[0]):
        why = sums if isinstance(sums, str) else check_sums(sums, features, outputs)
        if why is None:
            good.append(sums)
        else:
            dropped.append(Dropped(client, why))
    return good, dropped


def _scale(grid: Grid, clients: Sequence[int], task: Task, classes: int) -> float:
    """The scale of logits with the lowest loss that leaves training something to do; see `training.head_start`."""
    parts = [found for _, found in grid.losses(clients, task, _SCALES) if found.shape == (len(_SCALES) + 1,)]
    total = np.sum([part for part in parts if np.isfinite(part).all()], axis=0) if parts else np.zeros(1)
    if not total[-1]:
        return 1.0
    losses = total[:-1] / total[-1]
    allowed = losses >= LEFT * math.log(max(classes, 2))
    best = int(np.argmin(losses))
    before = np.flatnonzero(allowed[: best + 1])
    return float(_SCALES[before[-1] if len(before) else 0])
