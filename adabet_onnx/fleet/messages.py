"""What a server and its clients say to each other: plain values, whatever carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Local:
    """What a client does in a round.

    Attributes:
        epochs: passes over its data; not looked at where ``steps`` are given.
        steps: steps, in place of epochs; None: none.
        batch_size: samples of a step.
        learning_rate: of every step.
        proximal: FedProx's mu: half of it, times the squared distance from what the server sent, is added to the
            loss; 0: nothing is.
        seed: of the order of samples.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    proximal: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """What a server sends.

    Attributes:
        number: of the round, from 1 on; 0 before.
        model_sha256: of the model that the artifacts were made from.
        tensors: shared parameters and statistics by name, float32.
        local: what to do.
    """

    number: int
    model_sha256: str
    tensors: Tensors
    local: Local = field(default_factory=Local)

    @property
    def bytes(self) -> int:
        """Of the tensors."""
        return sum(array.nbytes for array in self.tensors.values())


@dataclass(frozen=True)
class Reply:
    """What a client sends after a round. A server takes nothing in it for granted.

    Attributes:
        client: its number.
        number: of the round.
        model_sha256: of the model that it trained.
        tensors: what it trained, by name, float32.
        samples: it trained on, by which it counts.
        partial: whether it could train but a part of the parameters.
        figures: ``loss`` (mean over its steps), ``eval_loss``, ``eval_accuracy`` and ``eval_samples`` (of what it keeps
            for validation), None or absent where there is none.
        error: why it could not do what was asked, in a sentence; None where it could.
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
        """Of the tensors, as far as they are arrays."""
        return sum(int(getattr(array, "nbytes", 0)) for array in self.tensors.values())


@dataclass(frozen=True)
class Vote:
    """What a client says of the layers by its own data; never an activation.

    Attributes:
        client: its number.
        model_sha256: of the model that it scored.
        samples: it has.
        ranks: of each layer, 1 for the highest b1_hat, equal ones sharing their places; empty where it abstains.
        b1_hat: of each layer.
        shift: of each layer that has stored statistics, else None.
        note: why it abstains; None where it does not.
        error: why it could not vote, in a sentence; None where it could.
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
class Sums:
    """What a linear head is fitted from: sums over a client's rows, in float64.

    Attributes:
        rows: how many.
        inputs: (D,), the sum of what the head is given.
        outputs: (K,), the sum of what it should give.
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
        """Of the arrays."""
        return sum(array.nbytes for array in (self.inputs, self.outputs, self.squares, self.products))
