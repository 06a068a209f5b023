"""Aggregation of the replies of a round into new values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from .messages import Reply, Tensors


class Aggregation(Protocol):
    """A method that computes new values from replies; it may keep state between rounds."""

    partial: bool  # whether replies may have only some of the tensors

    def aggregate(self, number: int, current: Tensors, replies: Sequence[Reply]) -> dict[str, np.ndarray]:
        """Return the new values, float32, by name in the order of the current ones.

        Args:
            number: number of the round.
            current: the values that were sent.
            replies: checked replies, in the order of clients.
        """
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Return the state kept between rounds, float32, by name."""
        ...

    def restore(self, state: Tensors) -> None:
        """Restore the result of `state`."""
        ...


class WeightedMean:
    """Federated averaging: each parameter is the mean over the clients that trained it, weighted by their samples.

    Parameters that no client trained are unchanged. Sums are computed in float64, in the order of clients, so that the
    result does not depend on the order in which replies arrive.
    """

    partial = True

    def aggregate(self, number: int, current: Tensors, replies: Sequence[Reply]) -> dict[str, np.ndarray]:
        """Return the new values, see `Aggregation`."""
        return weighted_mean(current, [(float(reply.samples), reply.tensors) for reply in replies])

    def state(self) -> dict[str, np.ndarray]:
        """Return nothing: there is no state."""
        return {}

    def restore(self, state: Tensors) -> None:
        """Do nothing: there is no state."""


def weighted_mean(current: Tensors, given: Sequence[tuple[float, Tensors]]) -> dict[str, np.ndarray]:
    """Return the weighted mean of each tensor over the replies that have it.

    Args:
        current: values of the tensors that no reply has.
        given: weight and tensors of each reply.
    """
    means = {}
    for name, old in current.items():
        parts = [(weight, tensors[name]) for weight, tensors in given if name in tensors]
        if not parts:
            means[name] = np.array(old, np.float32)
            continue
        total = np.zeros(old.shape)
        for weight, array in parts:
            total += weight * array.astype(np.float64)
        means[name] = (total / sum(weight for weight, _ in parts)).astype(np.float32)
    return means


def mean_of(pairs: Iterable[tuple[float, float]]) -> float | None:
    """Return the weighted mean of (value, weight) pairs; None if no weight is above 0."""
    known = [(value, weight) for value, weight in pairs if weight > 0]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None
