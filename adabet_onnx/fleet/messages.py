"""Messages between a server and its clients, as plain values that are independent of the transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Local:
    """The training of a client in a round.

    Attributes:
        epochs: passes over its data; ignored if ``steps`` is given.
        steps: number of steps instead of epochs, or None.
        batch_size: samples per step.
        learning_rate: learning rate of every step.
        proximal: FedProx's mu: half of it, times the squared distance from the server's values, is added to the loss;
            0: no such term.
        seed: random seed of the order of samples.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    proximal: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class RoundTask:
    """A request of the server to train.

    Attributes:
        number: number of the round, from 1 on; 0 before the first.
        model_sha256: SHA-256 of the model that the artifacts were made from.
        tensors: shared parameters and statistics by name, float32.
        local: the training to do.
    """

    number: int
    model_sha256: str
    tensors: Tensors
    local: Local = field(default_factory=Local)

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return sum(array.nbytes for array in self.tensors.values())


@dataclass(frozen=True)
class Reply:
    """The reply of a client after a round, which the server does not trust.

    Attributes:
        client: number of the client.
        number: number of the round.
        model_sha256: SHA-256 of the model that it trained.
        tensors: trained tensors by name, float32.
        samples: number of samples that it trained on, its weight in the aggregation.
        partial: whether it could train only some of the parameters.
        figures: ``loss`` (mean over its steps), ``eval_loss``, ``eval_accuracy`` and ``eval_samples`` (on its
            validation data), None or absent if unknown.
        error: a sentence that says why it could not do the task; None after success.
    """

    client: int
    number: int
    model_sha256: str
    tensors: Tensors
    samples: Any
    partial: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensors, as far as they are arrays."""
        return sum(int(getattr(array, "nbytes", 0)) for array in self.tensors.values())


@dataclass(frozen=True)
class Vote:
    """A client's ranking of the layers on its own data; it contains no activations.

    Attributes:
        client: number of the client.
        model_sha256: SHA-256 of the model that it scored.
        samples: number of its samples.
        ranks: rank of each layer, 1 for the highest b1_hat, equal ones sharing the mean rank; empty if it abstains.
        b1_hat: b1_hat of each layer.
        shift: shift of each layer that has stored statistics, else None.
        note: the reason why it abstains, or None.
        error: a sentence that says why it could not vote; None after success.
    """

    client: int
    model_sha256: str
    samples: Any
    ranks: Mapping[str, float] = field(default_factory=dict)
    b1_hat: Mapping[str, float] = field(default_factory=dict)
    shift: Mapping[str, float | None] = field(default_factory=dict)
    note: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class RidgeSums:
    """Sums over a client's rows, in float64, from which a linear head is fitted.

    Attributes:
        rows: number of rows.
        inputs: (D,), the sum of the head's inputs.
        outputs: (K,), the sum of its target outputs.
        squares: (D (D + 1) / 2,), the lower triangle of X'X, row by row.
        products: (D, K), X'Y.
        output_squares: the sum of the squares of Y.
    """

    rows: int
    inputs: np.ndarray
    outputs: np.ndarray
    squares: np.ndarray
    products: np.ndarray
    output_squares: float

    @property
    def bytes(self) -> int:
        """Size of the arrays."""
        return sum(array.nbytes for array in (self.inputs, self.outputs, self.squares, self.products))
