"""The way to clients: what a server asks, and clients in its own process that answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from ..errors import AdabetError
from ..portable.linear_head import NotLinearError
from ..scoring.options import Scoring
from .client import Client
from .messages import Reply, Sums, Task, Vote


class Grid(Protocol):
    """The way to clients. Who does not answer in time is missing among the answers."""

    def clients(self) -> Sequence[int]:
        """Numbers of those that can be asked now, ascending."""
        ...

    def train(self, clients: Sequence[int], task: Task) -> Iterable[Reply]:
        """What became of the task's values, in any order."""
        ...

    def votes(self, clients: Sequence[int], scoring: Scoring) -> Iterable[Vote]:
        """Votes on the layers."""
        ...

    def sums(self, clients: Sequence[int], task: Task) -> Iterable[tuple[int, Sums | str]]:
        """Sums that a head is fitted from, or why there are none, by client."""
        ...

    def losses(self, clients: Sequence[int], task: Task, scales: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
        """Summed losses with logits times each scale, and how many labels that is of, by client."""
        ...


class InProcess:
    """Clients in this process, one after another.

    Args:
        clients: that are asked.
    """

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = {client.number: client for client in clients}

    def clients(self) -> list[int]:
        """All of them."""
        return sorted(self._clients)

    def train(self, clients: Sequence[int], task: Task) -> Iterator[Reply]:
        """See `Grid`."""
        for number in clients:
            yield self._clients[number].train(task)

    def votes(self, clients: Sequence[int], scoring: Scoring) -> Iterator[Vote]:
        """See `Grid`."""
        for number in clients:
            yield self._clients[number].vote(scoring)

    def sums(self, clients: Sequence[int], task: Task) -> Iterator[tuple[int, Sums | str]]:
        """See `Grid`."""
        for number in clients:
            try:
                yield number, self._clients[number].sums(task)
            except (AdabetError, NotLinearError) as error:
                yield number, str(error)

    def losses(self, clients: Sequence[int], task: Task, scales: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `Grid`."""
        for number in clients:
            yield number, self._clients[number].losses(task, scales)
