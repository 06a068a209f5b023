"""Joint choice of layers: each client scores the layers on its own data, and the server combines the ranks.

Layers are chosen by their mean rank, weighted by the clients' numbers of samples. Ranks limit the influence of a single
client, whatever values it sends. Kendall's W measures the agreement of clients; the mean b1_hat and shift are recorded
for information.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data.dataset import Dataset, Splits
from ..errors import DataError
from ..kendall import kendall_w, midranks
from ..model.open import Model
from ..runtime import Threads
from ..scoring.options import Scoring
from ..scoring.score import score
from ..showing import clipped
from .aggregation import mean_of
from .checks import Dropped, samples_problem
from .messages import Vote

STRATEGY = "fleet"  # the strategy recorded in a selection by votes


def cast_vote(
    client: int,
    model: Model,
    data: Dataset,
    scoring: Scoring,
    *,
    preprocessing: Any = None,
    seed: int = 0,
    threads: Threads = None,
) -> Vote:
    """Return the vote of a client; with too few samples it abstains.

    Args:
        client: number of the client.
        model: the opened model.
        data: data of the client.
        scoring: options of scoring; samples are not kept, sketches of activations only until distances are computed.
        preprocessing: preprocessing that replaces that of the model.
        seed: random seed of the choice of samples.
        threads: threads for ONNX Runtime.
    """
    if len(data) < scoring.needed:
        note = f"it has {len(data)} samples, and scoring needs {scoring.needed}"
        return Vote(client, model.sha256, len(data), note=note)
    scores = score(
        model, Splits(data, None), preprocessing=preprocessing, scoring=scoring, seed=seed, threads=threads
    ).layers
    ranks = midranks([layer.b1_hat for layer in scores])
    names = [layer.name for layer in scores]
    return Vote(
        client,
        model.sha256,
        len(data),
        ranks=dict(zip(names, ranks.tolist(), strict=True)),
        b1_hat={layer.name: layer.b1_hat for layer in scores},
        shift={layer.name: layer.shift for layer in scores},
    )


@dataclass(frozen=True)
class LayerVote:
    """The combined votes on a layer.

    Attributes:
        name: name of the layer.
        rank: mean rank, weighted by samples.
        b1_hat: mean b1_hat, weighted by samples.
        shift: mean shift, weighted by samples, over the clients that have one; None if no client has.
    """

    name: str
    rank: float
    b1_hat: float
    shift: float | None


@dataclass(frozen=True)
class Poll:
    """The combined votes of all clients.

    Attributes:
        layers: the layers in model order.
        agreement: Kendall's W of the ranks, weighted by samples: 1 for identical orders; None for a single vote.
        voters: clients that voted.
        abstained: clients that had too few samples.
        dropped: rejected votes, with the reason.
    """

    layers: tuple[LayerVote, ...]
    agreement: float | None
    voters: tuple[int, ...]
    abstained: tuple[int, ...]
    dropped: tuple[Dropped, ...]

    @property
    def values(self) -> dict[str, float]:
        """A value for each layer, the higher the better, for `select`."""
        return {layer.name: len(self.layers) + 1 - layer.rank for layer in self.layers}

    def to_json(self) -> dict[str, Any]:
        """Return the object that fleet.json holds."""
        return asdict(self)


def count(votes: Sequence[Vote], model: Model) -> Poll:
    """Combine votes.

    Args:
        votes: votes of the clients, in any order.
        model: the model that was voted on.

    Raises:
        DataError: no client voted.
    """
    names = [layer.name for layer in model.layers]
    voters: list[Vote] = []
    abstained, dropped = [], []
    for vote in sorted(votes, key=lambda each: each.client):
        why = _problem(vote, names, model.sha256)
        if why is None and vote.note is None and vote.client in {other.client for other in voters}:
            why = "it has already voted"
        if why is not None:
            dropped.append(Dropped(vote.client, clipped(why, 300)))
        elif vote.note is not None:
            abstained.append(vote.client)
        else:
            voters.append(vote)
    if not voters:
        reason = dropped[0].why if dropped else "all abstained because they have too few samples"
        raise DataError(
            f"no client voted on the layers ({reason}). Give clients more data, or a `strategy` that needs no votes."
        )
    weights = [float(vote.samples) for vote in voters]
    ranks = np.array([[vote.ranks[name] for name in names] for vote in voters])
    b1_hat = np.array([[vote.b1_hat[name] for name in names] for vote in voters])
    layers = []
    for at, name in enumerate(names):
        shifts = [(vote.shift.get(name), weight) for vote, weight in zip(voters, weights, strict=True)]
        shift = mean_of((float(shift), weight) for shift, weight in shifts if shift is not None)
        rank, mean = (float(np.average(values[:, at], weights=weights)) for values in (ranks, b1_hat))
        layers.append(LayerVote(name, rank, mean, shift))
    voter_numbers = tuple(vote.client for vote in voters)
    return Poll(tuple(layers), kendall_w(ranks, weights), voter_numbers, tuple(abstained), tuple(dropped))


def _problem(vote: Vote, names: Sequence[str], model_sha256: str) -> str | None:
    """Return the reason to reject a vote, or None."""
    if vote.error is not None:
        return vote.error
    if vote.model_sha256 != model_sha256:
        return f"its vote is on another model, with the SHA-256 {clipped(vote.model_sha256)}, expected {model_sha256}"
    wrong = samples_problem(vote.samples)
    if wrong is not None or vote.note is not None:
        return wrong
    if set(vote.ranks) != set(names) or set(vote.b1_hat) != set(names):
        return f"its vote is on {len(vote.ranks)} layers, expected the {len(names)} of the model"
    numbers = [*vote.ranks.values(), *vote.b1_hat.values(), *(s for s in vote.shift.values() if s is not None)]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        return "its vote has values that are not finite"
    ranks = np.array([vote.ranks[name] for name in names])
    if ranks.min() < 1 or ranks.max() > len(names) or abs(ranks.sum() - len(names) * (len(names) + 1) / 2) > 1e-6:
        return f"its ranks are not a valid ranking of {len(names)} layers"
    return None
