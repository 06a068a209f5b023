"""Choosing together: each client scores the layers on its own data, and the server combines the ranks.

What decides is the mean rank of each layer, weighted by the samples that clients have. A rank bounds what one client
can move, whatever numbers it sends. How far clients agree says Kendall's W; the mean b1_hat and shift signals stand
beside it for people to read.
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

STRATEGY = "fleet"  # what a selection by votes is called


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
    """What a client says of the layers; with too few samples it abstains.

    Args:
        client: its number.
        model: opened.
        data: its own.
        scoring: how; samples are forwarded and forgotten, sketches of activations are kept until distances are taken.
        preprocessing: by hand.
        seed: of the drawing of samples.
        threads: for ONNX Runtime.
    """
    if len(data) < scoring.needed:
        note = f"it has {len(data)} samples, and scoring needs {scoring.needed}"
        return Vote(client, model.sha256, len(data), note=note)
    found = score(
        model, Splits(data, None), preprocessing=preprocessing, scoring=scoring, seed=seed, threads=threads
    ).layers
    ranks = midranks([layer.b1_hat for layer in found])
    names = [layer.name for layer in found]
    return Vote(
        client,
        model.sha256,
        len(data),
        ranks=dict(zip(names, ranks.tolist(), strict=True)),
        b1_hat={layer.name: layer.b1_hat for layer in found},
        shift={layer.name: layer.shift for layer in found},
    )


@dataclass(frozen=True)
class LayerVote:
    """What was said of a layer.

    Attributes:
        name: of the layer.
        rank: the mean rank, weighted by samples.
        b1_hat: the mean, likewise.
        shift: likewise, of those who have one; None where nobody has.
    """

    name: str
    rank: float
    b1_hat: float
    shift: float | None


@dataclass(frozen=True)
class Poll:
    """The votes of all clients.

    Attributes:
        layers: in model order.
        agreement: Kendall's W of the ranks, weighted by samples: 1 for the same order everywhere; None of one vote.
        voters: clients that voted.
        abstained: clients that had too few samples.
        dropped: votes that do not count, and why.
    """

    layers: tuple[LayerVote, ...]
    agreement: float | None
    voters: tuple[int, ...]
    abstained: tuple[int, ...]
    dropped: tuple[Dropped, ...]

    @property
    def values(self) -> dict[str, float]:
        """By layer, the higher the better, for `select`."""
        return {layer.name: len(self.layers) + 1 - layer.rank for layer in self.layers}

    def to_json(self) -> dict[str, Any]:
        """For fleet.json."""
        return asdict(self)


def count(votes: Sequence[Vote], model: Model) -> Poll:
    """Combine votes.

    Args:
        votes: of the clients, in any order.
        model: that they should be of.

    Raises:
        DataError: nobody voted.
    """
    names = [layer.name for layer in model.layers]
    voters: list[Vote] = []
    abstained, dropped = [], []
    for vote in sorted(votes, key=lambda each: each.client):
        why = _problem(vote, names, model.sha256)
        if why is None and vote.note is None and vote.client in {other.client for other in voters}:
            why = "it has voted already"
        if why is not None:
            dropped.append(Dropped(vote.client, clipped(why, 300)))
        elif vote.note is not None:
            abstained.append(vote.client)
        else:
            voters.append(vote)
    if not voters:
        said = dropped[0].why if dropped else "all abstained, having too few samples"
        raise DataError(f"no client voted on the layers ({said}). Give clients more data, or a `strategy` without it.")
    weights = [float(vote.samples) for vote in voters]
    ranks = np.array([[vote.ranks[name] for name in names] for vote in voters])
    b1_hat = np.array([[vote.b1_hat[name] for name in names] for vote in voters])
    layers = []
    for at, name in enumerate(names):
        shifts = [(vote.shift.get(name), weight) for vote, weight in zip(voters, weights, strict=True)]
        shift = mean_of((float(shift), weight) for shift, weight in shifts if shift is not None)
        rank, mean = (float(np.average(of[:, at], weights=weights)) for of in (ranks, b1_hat))
        layers.append(LayerVote(name, rank, mean, shift))
    who = tuple(vote.client for vote in voters)
    return Poll(tuple(layers), kendall_w(ranks, weights), who, tuple(abstained), tuple(dropped))


def _problem(vote: Vote, names: Sequence[str], model_sha256: str) -> str | None:
    """What is wrong with a vote; None where nothing is."""
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
        return "its vote has numbers that are not finite"
    ranks = np.array([vote.ranks[name] for name in names])
    if ranks.min() < 1 or ranks.max() > len(names) or abs(ranks.sum() - len(names) * (len(names) + 1) / 2) > 1e-6:
        return f"its ranks are none of {len(names)} layers"
    return None
