"""Rankings: the order in which each strategy prefers layers, and how many it selects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

from .. import seeds
from ..errors import UsageError
from ..scoring.record import Scores
from .auto import preferred_layers


@dataclass(frozen=True)
class Ranking:
    """The preferences of a strategy.

    Attributes:
        order: indices of the layers that may be selected, in order of preference.
        count: number of layers to select; None: all of ``order``.
        why: the reason, as text.
        values: each layer's score, if the strategy has scores; the best selection has the highest sum.
        errors: standard errors of the scores.
    """

    order: list[int]
    count: int | None
    why: str
    values: dict[int, float] | None = None
    errors: dict[int, float] | None = None

    @property
    def chosen(self) -> list[int]:
        """The layers that are selected without a budget."""
        return self.order[: self.count]


def _by_b1_hat(scores: Scores) -> list[tuple[float, float]]:
    return [(layer.b1_hat, layer.stderr) for layer in scores.layers]


def _by_size(scores: Scores) -> list[tuple[float, float]]:
    return [(1 / layer.activation_size, 0.0) for layer in scores.layers]


def _by_b1(scores: Scores) -> list[tuple[float, float]]:
    # b1_hat = b1 / (points * D), so the error of b1 is that of b1_hat times points * D.
    factor = [scores.points * layer.activation_size for layer in scores.layers]
    return [(layer.b1_mean, layer.stderr * by) for layer, by in zip(scores.layers, factor, strict=True)]


# Strategies that rank layers by a number: (score, its standard error), higher first, ties in model order.
_SCORED: dict[str, tuple[Callable[[Scores], list[tuple[float, float]]], str]] = {
    "adabet": (_by_b1_hat, "the highest first Betti numbers per element of activation"),
    "size": (_by_size, "the smallest activations"),
    "b1": (_by_b1, "the highest first Betti numbers, not divided by activation size"),
}
WITHOUT_RHO = ("head", "norm-bias", "all")


DEFAULT_RHO = 0.1  # for strategies that use rho, except auto


def rank(scores: Scores, strategy: str, pool: list[int], rho: float | None, seed: int) -> Ranking:
    """Rank the layers in ``pool`` by a strategy.

    Args:
        scores: scores of all layers.
        strategy: one of vocabulary.STRATEGIES.
        pool: indices of the layers that may be selected, in model order.
        rho: strategies that use it select max(1, floor(rho L)) layers; None: DEFAULT_RHO, and for auto no cap.
        seed: seed of the random strategy.

    Raises:
        UsageError: the strategy finds no layer to select in this model.
    """
    layers = len(scores.layers)
    if strategy == "auto":
        return Ranking(*preferred_layers(scores, pool, rho))
    count = top_count(layers, rho)
    if strategy in _SCORED:
        score, reason = _SCORED[strategy]
        pairs = score(scores)
        order = sorted(pool, key=lambda i: -pairs[i][0])  # sorted() is stable: ties stay in model order
        return Ranking(
            order,
            count,
            f"{min(count, len(pool))} of {layers} layers with {reason}",
            {i: pairs[i][0] for i in pool},
            {i: pairs[i][1] for i in pool},
        )
    if strategy == "random":
        rng = seeds.layers(seed)
        picks = [int(i) for i in rng.choice(len(pool), size=min(count, len(pool)), replace=False)]
        rest = [int(i) for i in rng.permutation(len(pool)) if i not in picks]
        return Ranking(
            [pool[i] for i in (*picks, *rest)],
            count,
            f"{len(picks)} of {layers} layers, drawn at random with seed {seed}",
        )
    if strategy in ("last", "first"):
        order = pool[::-1] if strategy == "last" else list(pool)
        return Ranking(order, count, f"the {strategy} {min(count, len(pool))} of {layers} layers")
    if strategy == "all":
        return Ranking(pool[::-1], None, "all layers")
    return _head(scores, pool) if strategy == "head" else _norms(scores, pool)


def top_count(layers: int, rho: float | None) -> int:
    """k = max(1, floor(rho L))."""
    return max(1, math.floor((DEFAULT_RHO if rho is None else rho) * layers + 1e-9))


def by_values(scores: Scores, strategy: str, pool: list[int], count: int, values: Mapping[str, float]) -> Ranking:
    """Rank layers by given numbers, such as Fisher information.

    Raises:
        UsageError: a layer has no number, or one that is negative or not finite.
    """
    for i in pool:
        value = values.get(scores.layers[i].name)
        if not isinstance(value, Real) or not (math.isfinite(value) and value >= 0):
            raise UsageError(
                f"layer {scores.layers[i].name!r} needs a number of at least 0 to be ranked by {strategy}, found "
                f"{value!r}."
            )
    numbers = {i: float(values[scores.layers[i].name]) for i in pool}
    order = sorted(pool, key=lambda i: -numbers[i])
    selected = f"{min(count, len(pool))} of {len(scores.layers)} layers"
    measure = "rank in the votes of the clients" if strategy == "fleet" else strategy
    return Ranking(order, count, f"{selected} with the highest {measure}", numbers)


def by_name(chosen: list[int], patterns: str) -> Ranking:
    """A ranking of the layers that the user named."""
    return Ranking(chosen, None, f"named by {patterns}")


def _head(scores: Scores, pool: list[int]) -> Ranking:
    heads = [i for i, layer in enumerate(scores.layers) if layer.name == scores.head]
    if heads and heads[0] not in pool:
        raise UsageError("the strategy head selects the head, and head='never' leaves it out: nothing to select.")
    if not heads:
        raise UsageError(
            "the model has no head (a Gemm, MatMul, Conv or ConvTranspose with parameters); choose another strategy."
        )
    return Ranking(heads, None, "the head alone")


def _norms(scores: Scores, pool: list[int]) -> Ranking:
    norms = [i for i in reversed(pool) if scores.layers[i].is_norm]
    if not norms:
        raise UsageError(
            "the model has no normalisation layers (were they folded into the convolutions on export?), so norm-bias "
            "selects nothing. Export with normalisations kept, or choose another strategy."
        )
    return Ranking(norms, None, "scales and biases of all normalisations")
