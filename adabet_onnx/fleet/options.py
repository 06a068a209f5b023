"""What a fleet may be told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import UsageError
from ..options import check_fields, check_word
from ..showing import changed
from ..sizes import parse_size
from ..vocabulary import AGGREGATIONS
from .partitions import Partition, parse_partition

OWN = ("fedavg", "fedprox")  # what needs no Flower


@dataclass(frozen=True)
class Fleet:
    """How a fleet trains.

    Attributes:
        clients: how many there are in a simulation.
        per_round: how many are asked in a round; None: all.
        rounds: how many.
        partition: how a simulation shares out the data: ``iid``, ``dirichlet:A`` (the smaller A, the more clients
            differ) or ``by-class:K`` (K classes each).
        aggregation: ``fedavg``, ``fedprox``, or one of Flower's: ``fedavgm``, ``fedadam``, ``fedmedian``, ``krum``.
        local_epochs: passes of a client over its data in a round.
        local_steps: steps, in place of ``local_epochs``.
        proximal: FedProx's mu, how strongly clients are held to what the server sent; None: 0.1 with fedprox, else 0.
        server_rate: of the server's own steps with fedavgm (1) and fedadam (0.01).
        malicious: how many clients krum expects to be hostile.
        privacy_clip: differential privacy by Flower: how long an update may be, longer ones being cut; with
            ``privacy_noise``.
        privacy_noise: the noise that is added to what is aggregated, in multiples of that by client.
        personal: shell patterns of layer names, whose parameters stay with each client.
        client_memory: what clients have for a training step, such as ``"8MB"``: of the first, the second, ..., and
            from the first on again; where not all selected layers fit, a client trains those that do. Empty: enough.
        minimum: replies that a round needs; with fewer it is repeated.
        retries: how often, before the run ends with an error.
        max_norm: how far a reply may be from what was sent, as a Euclidean norm; None: 10 times the norm of that.

    Raises:
        UsageError: something is unknown or out of range, or two things exclude each other.

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
                f"of {self.clients} clients {self.asked} are asked in a round, of which {self.minimum} must reply "
                "(`clients`, `per_round`, `minimum`): each of these must be at most the one before."
            )
        self._check_numbers()
        if self.server_rate is not None and self.aggregation not in ("fedavgm", "fedadam"):
            raise UsageError(f"`aggregation='{self.aggregation}'` has no `server_rate`: leave it out.")
        if (self.privacy_clip is None) != (self.privacy_noise is None):
            raise UsageError("differential privacy needs both `privacy_clip` and `privacy_noise`.")
        if self.client_memory and not self.own:
            raise UsageError(
                f"with `client_memory` some clients train but a part, which `aggregation='{self.aggregation}'` and "
                f"`privacy_noise` cannot take in. Use {' or '.join(OWN)} without it."
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
        """Clients of a round."""
        return self.clients if self.per_round is None else self.per_round

    @property
    def shared_out(self) -> Partition:
        """The partition."""
        return parse_partition(self.partition)

    @property
    def mu(self) -> float:
        """Of FedProx; 0: nothing is added to the loss."""
        if self.proximal is None:
            return 0.1 if self.aggregation == "fedprox" else 0.0
        return self.proximal

    def memory_of(self, client: int) -> int | None:
        """Bytes that a client has for a training step; None: enough."""
        if not self.client_memory:
            return None
        return parse_size(self.client_memory[client % len(self.client_memory)], "client_memory")
