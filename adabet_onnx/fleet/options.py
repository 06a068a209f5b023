"""Options of a fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import UsageError
from ..options import check_fields, check_word
from ..showing import changed
from ..sizes import parse_size
from ..training.settings import Settings
from ..vocabulary import AGGREGATIONS
from .partitions import Partition, parse_partition

OWN = ("fedavg", "fedprox")  # aggregations that do not need Flower


@dataclass(frozen=True)
class Fleet:
    """Options of a fleet's training.

    Attributes:
        clients: number of clients in a simulation.
        per_round: number of clients asked per round; None: all.
        rounds: number of rounds.
        partition: how a simulation distributes the data: ``iid``, ``dirichlet:A`` (the smaller A, the more clients
            differ) or ``by-class:K`` (K classes each).
        aggregation: ``fedavg``, ``fedprox``, or one of Flower's: ``fedavgm``, ``fedadam``, ``fedmedian``, ``krum``.
        local_epochs: passes of a client over its data per round.
        local_steps: training steps per round, instead of ``local_epochs``.
        proximal: FedProx's mu, the weight of the term that keeps clients near the server's values; None: 0.1 with
            fedprox, else 0.
        server_rate: learning rate of the server with fedavgm (default 1) and fedadam (default 0.01).
        malicious: number of malicious clients that krum tolerates.
        privacy_clip: differential privacy by Flower: updates are clipped to this norm; requires ``privacy_noise``.
        privacy_noise: noise added to the aggregate, as a multiple of ``privacy_clip`` per client.
        personal: shell patterns of layer names, whose parameters stay with each client.
        client_memory: memory of the clients for a training step, such as ``"8MB"``, assigned in turn; a client in which
            not all selected layers fit trains those that do. Empty: no limit.
        minimum: minimum number of replies per round; a round with fewer is repeated.
        retries: number of repetitions before the run ends with an error.
        max_norm: largest Euclidean distance of a reply from the values that were sent; None: 10 times their norm.

    Raises:
        UsageError: a value is unknown or out of range, or two options exclude each other.

    Example:
        >>> from adabet_onnx import Fleet
        >>> Fleet(clients=20, per_round=5, partition="dirichlet:0.3").asked
        5
    """

    clients: int = 20
    per_round: int | None = None
    rounds: int = 20
    partition: str = "iid"
    aggregation: str = "fedavg"
    local_epochs: int = 1
    local_steps: int | None = None
    proximal: float | None = None
    server_rate: float | None = None
    malicious: int = 0
    privacy_clip: float | None = None
    privacy_noise: float | None = None
    personal: tuple[str, ...] = ()
    client_memory: tuple[str, ...] = ()
    minimum: int = 1
    retries: int = 2
    max_norm: float | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        check_word("aggregation", self.aggregation, AGGREGATIONS)
        for name in ("clients", "per_round", "local_epochs", "local_steps", "minimum"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` must be at least 1, not {value}.")
        for name in ("rounds", "retries", "malicious"):
            if getattr(self, name) < 0:
                raise UsageError(f"`{name}` must be at least 0, not {getattr(self, name)}.")
        if self.asked > self.clients or self.minimum > self.asked:
            raise UsageError(
                f"{self.asked} of {self.clients} clients are asked per round, and {self.minimum} must reply "
                "(`per_round`, `clients`, `minimum`): `per_round` must be at most `clients`, and `minimum` at most "
                "`per_round`."
            )
        self._check_numbers()
        if self.server_rate is not None and self.aggregation not in ("fedavgm", "fedadam"):
            raise UsageError(f"`aggregation='{self.aggregation}'` has no `server_rate`: leave it out.")
        if (self.privacy_clip is None) != (self.privacy_noise is None):
            raise UsageError("differential privacy needs both `privacy_clip` and `privacy_noise`.")
        if self.client_memory and not self.own:
            raise UsageError(
                "with `client_memory` some clients train only a part of the layers, which "
                f"`aggregation='{self.aggregation}'` and `privacy_noise` do not support. Use {' or '.join(OWN)} "
                "without noise."
            )
        _ = self.shared_out, self.memory_of(0)
        object.__setattr__(self, "partition", str(self.shared_out))

    def _check_numbers(self) -> None:
        for name in ("proximal", "privacy_noise"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"`{name}` must be at least 0, not {value}.")
        for name in ("max_norm", "server_rate", "privacy_clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"`{name}` must be above 0, not {value}.")

    @property
    def own(self) -> bool:
        """Whether replies are aggregated without Flower."""
        return self.aggregation in OWN and self.privacy_noise is None

    @property
    def asked(self) -> int:
        """Number of clients per round."""
        return self.clients if self.per_round is None else self.per_round

    @property
    def shared_out(self) -> Partition:
        """The partition."""
        return parse_partition(self.partition)

    @property
    def mu(self) -> float:
        """FedProx's mu; 0: no proximal term."""
        if self.proximal is None:
            return 0.1 if self.aggregation == "fedprox" else 0.0
        return self.proximal

    def memory_of(self, client: int) -> int | None:
        """Return the bytes that a client has for a training step; None: no limit."""
        if not self.client_memory:
            return None
        return parse_size(self.client_memory[client % len(self.client_memory)], "client_memory")


def fixed_rate(settings: Settings) -> float | None:
    """Return the learning rate of the clients' steps; None for the usual one of the optimizer.

    Raises:
        UsageError: a search was requested.
    """
    if settings.learning_rate is None:
        return None
    if settings.searched:
        raise UsageError(
            "a fleet cannot search for a learning rate, since no one has all its data. Give `learning_rate` a number, "
            "or leave it out for the usual one of the optimizer."
        )
    return settings.rate
