"""Explain a selection: its reason, how reliable it is, and how far its scores agree with activation size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..kendall import kendall_tau
from ..scoring.record import LayerScore, Scores
from ..showing import counted
from .budget import BudgetUse
from .rankings import Ranking
from .record import Firmness


def reason(
    scores: Scores,
    ranking: Ranking,
    chosen: frozenset[int],
    added: frozenset[int],
    use: BudgetUse | None,
    left_out: Mapping[str, str],
    *,
    named: bool,
) -> str:
    """The reason for a selection, in a sentence."""
    why = ranking.why
    if added - set(ranking.chosen):
        why += ", and the head" + (", which is new" if scores.new_head else "")
    if use is not None and use.given_up:
        why += f"; {use.name} limits this to {counted(len(chosen), 'layer')}"
    return why + (_without(left_out, ranking, len(scores.layers), named=named) if left_out else "")


def _without(left_out: Mapping[str, str], ranking: Ranking, layers: int, *, named: bool) -> str:
    """The part of the reason about layers that cannot be trained."""
    if named:
        return f", without {len(left_out)} that cannot be trained"
    trainable = layers - len(left_out)
    more = ranking.count is not None and ranking.count > trainable
    which = f"only {trainable} of the {layers} layers can be trained"
    return f"; {which}, and {ranking.count} were requested" if more else f"; {which}"


def firmness(scores: Scores, ranking: Ranking) -> Firmness | None:
    """How far the last chosen layer is from the first that was left out."""
    values, errors = ranking.values, ranking.errors
    rest = ranking.order[len(ranking.chosen) :]
    if values is None or errors is None or not rest:
        return None
    names = [layer.name for layer in scores.layers]
    last, following = ranking.chosen[-1], rest[0]
    margin = values[last] - values[following]
    error = math.hypot(errors[last], errors[following])
    equal = [names[i] for i in ranking.order if values[i] == values[last]]
    return Firmness(
        last=names[last],
        next=names[following],
        margin=margin,
        margin_stderr=margin / error if error > 0 else None,
        ties=equal if margin == 0 else [],
    )


def size_agreement(layers: Sequence[LayerScore]) -> float | None:
    """Kendall's tau-b between b1_hat and 1 / activation size; 1 means the scores rank layers exactly as size does.

    None if it is undefined (fewer than two layers, or all equal).
    """
    return kendall_tau([layer.b1_hat for layer in layers], [1 / layer.activation_size for layer in layers])
