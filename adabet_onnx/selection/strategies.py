"""Strategies: from scores to a selection, none of them with gradients or labels."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import UsageError
from ..scoring.record import LayerScore, Scores, load_scores
from .record import Firmness, Selection

HEADS = ("auto", "always", "pool", "never")


def _by_b1_hat(scores: Scores) -> list[tuple[float, float]]:
    return [(layer.b1_hat, layer.stderr) for layer in scores.layers]


def _by_size(scores: Scores) -> list[tuple[float, float]]:
    return [(1 / layer.activation_size, 0.0) for layer in scores.layers]


def _by_b1(scores: Scores) -> list[tuple[float, float]]:
    # b1_hat = b1 / (points * D), so the error of b1 is that of b1_hat times the same.
    factor = [scores.points * layer.activation_size for layer in scores.layers]
    return [(layer.b1_mean, layer.stderr * by) for layer, by in zip(scores.layers, factor, strict=True)]


# Strategies that rank layers by a number: (score, its standard error), higher first, ties in model order.
_RANKED: dict[str, tuple[Callable[[Scores], list[tuple[float, float]]], str]] = {
    "adabet": (_by_b1_hat, "the highest first Betti numbers per element of activation"),
    "size": (_by_size, "the smallest activations"),
    "b1": (_by_b1, "the highest first Betti numbers, not divided by activation size"),
}
STRATEGIES = (*_RANKED, "random", "last", "first", "head", "norm-bias", "all")


def select(
    scores: Scores | str | os.PathLike[str],
    *,
    strategy: str = "adabet",
    rho: float = 0.1,
    head: str = "auto",
    layers: Sequence[str] = (),
    seed: int = 0,
) -> Selection:
    """Choose the layers to train.

    k = max(1, floor(rho * L)) of the L layers are chosen by the strategy. The head is the last parameterised
    Gemm, MatMul or Conv: with ``head="pool"`` it competes like any layer, with ``"always"`` it comes on top of the
    k if it is not among them, with ``"never"`` it is left out; ``"auto"`` is ``"always"`` for a head marked as new,
    else ``"pool"``.

    Args:
        scores: what `score` returned, or the path of a scores.json.
        strategy: adabet (b1_hat), size (1 / activation size), b1 (not normalised), random, last, first, head,
            norm-bias (scales and biases of all normalisations) or all.
        rho: fraction of layers, above 0 and at most 1; not used by head, norm-bias and all.
        head: auto, always, pool or never.
        layers: shell patterns of layer names; where given, they are the selection and ``strategy`` and ``rho`` are not
            used. The rule for the head holds here too.
        seed: of the random strategy.

    Returns:
        The selection, layers in model order.

    Raises:
        UsageError: an unknown strategy or head rule, rho out of range, a pattern that matches no layer, or nothing
            to select.
    """
    if not isinstance(scores, Scores):
        scores = load_scores(scores)
    check_choices(strategy, rho, head)
    rule = ("always" if scores.new_head else "pool") if head == "auto" else head
    count = max(1, math.floor(rho * len(scores.layers) + 1e-9))
    pool = [i for i, layer in enumerate(scores.layers) if rule != "never" or layer.name != scores.head]
    if not pool:
        raise UsageError("the head is the only layer, and head='never' leaves it out: nothing to select.")

    scored: dict[str, float] | None = None
    firmness: Firmness | None = None
    used_rho: float | None = rho
    if layers:
        strategy, used_rho = "layers", None
        named = matching([layer.name for layer in scores.layers], layers)
        chosen = [i for i in named if i in pool]
        if not chosen:
            raise UsageError(f"{', '.join(layers)} matches the head alone, and head='never' leaves it out.")
        why = f"named by {', '.join(layers)}"
    elif strategy in _RANKED:
        rank, reason = _RANKED[strategy]
        chosen, firmness, scored = _top(scores, rank(scores), pool, count)
        why = f"{count} of {len(scores.layers)} layers with {reason}"
    elif strategy == "random":
        picks = np.random.default_rng(seed).choice(len(pool), size=min(count, len(pool)), replace=False)
        chosen, why = [pool[i] for i in picks], f"{count} layers drawn at random with seed {seed}"
    elif strategy in ("last", "first"):
        chosen = pool[-count:] if strategy == "last" else pool[:count]
        why = f"the {strategy} {count} of {len(scores.layers)} layers"
    else:
        used_rho = None
        chosen, why = _whole(scores, strategy, pool)
    if rule == "always" and scores.head is not None:
        at = next(i for i, layer in enumerate(scores.layers) if layer.name == scores.head)
        if at not in chosen:
            chosen = [*chosen, at]
            why += ", and the head" + (", which is new" if scores.new_head else "")
    picked = [scores.layers[i] for i in sorted(chosen)]
    return Selection(
        model_sha256=scores.model_sha256,
        strategy=strategy,
        layers=tuple(layer.name for layer in picked),
        parameters=tuple(dict.fromkeys(name for layer in picked for name in layer.parameters)),
        rho=used_rho,
        seed=seed,
        head=head,
        scored=scored,
        firmness=firmness,
        why=why,
        size_tau=size_agreement(scores.layers),
        estimator=scores.estimator_summary(),
        preprocessing=scores.preprocessing,
        classes=scores.classes,
    )


def check_choices(strategy: str, rho: float, head: str) -> None:
    """Raise UsageError for an unknown strategy or head rule, or rho out of range."""
    if strategy not in STRATEGIES:
        raise UsageError(f"unknown strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}.")
    if head not in HEADS:
        raise UsageError(f"unknown head rule {head!r}: choose one of {', '.join(HEADS)}.")
    if not 0 < rho <= 1:
        raise UsageError(f"rho must be above 0 and at most 1 (a fraction of the layers), not {rho}.")


def size_agreement(layers: Sequence[LayerScore]) -> float | None:
    """Kendall's tau-b between b1_hat and 1 / activation size; 1 means the scores say no more than size does.

    Source: M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945). None where it is
    undefined (fewer than two layers, or all equal).
    """
    from scipy.stats import kendalltau  # slow to import

    if len(layers) < 2:
        return None
    ours, sizes = [layer.b1_hat for layer in layers], [1 / layer.activation_size for layer in layers]
    if len(set(ours)) < 2 or len(set(sizes)) < 2:
        return None
    return float(kendalltau(ours, sizes).statistic)


def _top(
    scores: Scores, values: list[tuple[float, float]], pool: list[int], count: int
) -> tuple[list[int], Firmness | None, dict[str, float]]:
    ranking = sorted(pool, key=lambda i: -values[i][0])  # sorted() is stable: ties stay in model order
    chosen, rest = ranking[:count], ranking[count:]
    names = [layer.name for layer in scores.layers]
    scored = {names[i]: values[i][0] for i in sorted(chosen)}
    if not rest:
        return chosen, None, scored
    last, following = chosen[-1], rest[0]
    margin = values[last][0] - values[following][0]
    error = math.hypot(values[last][1], values[following][1])
    equal = [names[i] for i in ranking if values[i][0] == values[last][0]]
    return (
        chosen,
        Firmness(
            last=names[last],
            next=names[following],
            margin=margin,
            margin_stderr=margin / error if error > 0 else None,
            ties=equal if margin == 0 else [],
        ),
        scored,
    )


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[int]:
    """Indices of the layers that shell patterns name, in the patterns' order.

    Raises:
        UsageError: a pattern that matches none.
    """
    chosen: list[int] = []
    for pattern in patterns:
        found = [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            some = ", ".join(names[-3:])
            raise UsageError(f"no layer matches {pattern!r}. Layers are called, for example, {some}.")
        chosen += [i for i in found if i not in chosen]
    return chosen


def _whole(scores: Scores, strategy: str, pool: list[int]) -> tuple[list[int], str]:
    """Strategies that ignore rho."""
    if strategy == "all":
        return pool, "all layers"
    if strategy == "head":
        at = [i for i, layer in enumerate(scores.layers) if layer.name == scores.head]
        if at and at[0] not in pool:
            raise UsageError("the strategy head selects the head, and head='never' leaves it out: nothing to select.")
        if not at:
            raise UsageError("the model has no head (a Gemm, MatMul or Conv with parameters); choose another strategy.")
        return at, "the head alone"
    norms = [i for i in pool if scores.layers[i].is_norm]
    if not norms:
        raise UsageError(
            "the model has no normalisation layers (they were folded into the convolutions on export?), so "
            "norm-bias selects nothing. Export with normalisations kept, or choose another strategy."
        )
    return norms, "scales and biases of all normalisations"
