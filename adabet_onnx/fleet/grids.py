"""Access to clients: the requests of a server, and clients in its own process that answer them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from ..errors import AdabetError
from ..portable.linear_head import NotLinearError
from ..scoring.options import Scoring
from .client import Client
from .messages import Reply, RidgeSums, RoundTask, Vote


class ClientGrid(Protocol):
    """Access to clients. A client that does not answer in time is missing from the answers."""

    def clients(self) -> Sequence[int]:
        """Return the numbers of the available clients, ascending."""
        ...

    def train(self, clients: Sequence[int], task: RoundTask) -> Iterable[Reply]:
        """Have clients train, and return their replies in any order."""
        ...

    def votes(self, clients: Sequence[int], scoring: Scoring) -> Iterable[Vote]:
        """Collect votes on the layers."""
        ...

    def sums(self, clients: Sequence[int], task: RoundTask) -> Iterable[tuple[int, RidgeSums | str]]:
        """Collect, by client, the sums that a head is fitted from, or the reason why there are none."""
        ...

    def losses(self, clients: Sequence[int], task: RoundTask, scales: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
        """Collect, by client, the summed losses with logits times each scale, and the number of labels."""
        ...


class InProcess:
    """Clients in this process, asked one after another.

    Args:
        clients: the clients.
    """

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = {client.number: client for client in clients}

    def clients(self) -> list[int]:
        """Return the numbers of all clients."""
        return sorted(self._clients)

    def train(self, clients: Sequence[int], task: RoundTask) -> Iterator[Reply]:
        """See `ClientGrid`."""
        for number in clients:
            yield self._clients[number].train(task)

    def votes(self, clients: Sequence[int], scoring: Scoring) -> Iterator[Vote]:
        """See `ClientGrid`."""
        for number in clients:
            yield self._clients[number].vote(scoring)

    def sums(self, clients: Sequence[int], task: RoundTask) -> Iterator[tuple[int, RidgeSums | str]]:
        """See `ClientGrid`."""
        for number in clients:
            try:
                yield number, self._clients[number].sums(task)
            except (AdabetError, NotLinearError) as error:
                yield number, str(error)

    def losses(self, clients: Sequence[int], task: RoundTask, scales: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `ClientGrid`."""
        for number in clients:
            yield number, self._clients[number].losses(task, scales)
