"""From the replies of a round to new values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from .messages import Reply, Tensors


class Aggregation(Protocol):
    """What makes new values of replies; it may have a memory of earlier rounds."""

    partial: bool  # whether replies may have but a part of the tensors

    def aggregate(self, number: int, current: Tensors, replies: Sequence[Reply]) -> dict[str, np.ndarray]:
        """New values, float32, by name in the order of the current ones.

        Args:
            number: of the round.
            current: values that were sent.
            replies: that were checked, by client.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Its memory, float32, by name."""
        ...

    def restore(self, state: Tensors) -> None:
        """Take up what `state` gave."""
        ...


class WeightedMean:
    """Federated averaging, by parameter: each is the mean of those who trained it, weighted by their samples.

    What nobody trained stays as it was. Sums are made in float64, in the order of the clients: the result does not
    depend on the order in which replies came.
    """

    partial = True

    def aggregate(self, number: int, current: Tensors, replies: Sequence[Reply]) -> dict[str, np.ndarray]:
        """New values, see `Aggregation`."""
        return weighted_mean(current, [(float(reply.samples), reply.tensors) for reply in replies])

    def state(self) -> dict[str, np.ndarray]:
        """Nothing is remembered."""
        return {}

    def restore(self, state: Tensors) -> None:
        """Nothing is remembered."""


def weighted_mean(current: Tensors, given: Sequence[tuple[float, Tensors]]) -> dict[str, np.ndarray]:
    """Of each tensor the weighted mean over those that have it.

    Args:
        current: values of what nobody has.
        given: weights and tensors.
    """
    found = {}
    for name, old in current.items():
        parts = [(weight, tensors[name]) for weight, tensors in given if name in tensors]
        if not parts:
            found[name] = np.array(old, np.float32)
            continue
        total = np.zeros(old.shape)
        for weight, array in parts:
            total += weight * array.astype(np.float64)
        found[name] = (total / sum(weight for weight, _ in parts)).astype(np.float32)
    return found


def mean_of(pairs: Iterable[tuple[float, float]]) -> float | None:
    """The weighted mean of values with their weights; None where nothing has weight."""
    known = [(value, weight) for value, weight in pairs if weight > 0]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None
