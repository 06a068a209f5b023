"""Choosing: from scores to a selection, without gradients or labels, within a budget where there is one."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import os
from collections.abc import Mapping, Sequence

from ..errors import UsageError
from ..kendall import kendall_tau
from ..model.open import ModelSource, open_model
from ..options import typed, with_given
from ..scoring.record import LayerScore, Scores, is_scores_file, load_scores
from .budget import Costs, Spent
from .options import Choosing
from .rankings import DEFAULT_RHO, WITHOUT_RHO, Ranking, by_name, by_values, rank, top_count
from .record import Firmness, Selection
from .unscored import unscored
from .within import Fit

NEEDS_COSTS = ("auto",)  # strategies that keep to a share of all layers' memory when nothing else is said


@typed
def select(
    scores: Scores | ModelSource,
    *,
    strategy: str | None = None,
    rho: float | None = None,
    layers: str | Sequence[str] | None = None,
    choosing: Choosing | None = None,
    costs: Costs | None = None,
    values: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Selection:
    """Choose the layers to train.

    k = max(1, floor(rho * L)) of the L layers are chosen by the strategy. The head is the last parameterised
    Gemm, MatMul, Conv or ConvTranspose; see `Choosing` for whether it is selected.

    Layers that no backend can train (`LayerScore.untrainable`) are left out, and named in the selection.

    Within a budget, strategies with scores get the set of at most k layers with the highest sum of scores that keeps to
    every limit (`search.best_set`: exact, or with a bound on what was missed); the others get as many layers as fit, in
    the order they want them. What that cost is in the selection's ``budget``. With ``max_accumulate`` a batch may be
    cut into parts that are forwarded one after another, as few as let everything fit that is wanted.

    Args:
        scores: what `score` returned, or the path of a scores.json. For ``layers``, ``values`` and the strategies that
            need none (`unscored.UNSCORED`: head, last, first, random, norm-bias, all), a model will do.
        strategy: in place of that of ``choosing``: auto, adabet, size, b1, random, last, first, head, norm-bias or all.
        rho: the fraction of layers, in place of that of ``choosing``.
        layers: a shell pattern of layer names, or several, in place of that of ``choosing``.
        choosing: everything about the choice; None: the defaults of `Choosing`.
        costs: predicts what a training takes (`Predictor`); needed with a budget.
        values: a number of your own for each layer by name, in place of a strategy's; higher is selected first.
            ``strategy`` is then what to call it.
        seed: of the random strategy.

    Returns:
        The selection, layers in model order.

    Raises:
        UsageError: an unknown strategy, rho out of range, a pattern that matches no layer, nothing to select, a budget
            without ``costs``, or one that nothing fits.
        RecordError: the file holds no scores, or is damaged.

    Example:
        >>> from adabet_onnx import score, select
        >>> scores = score("model.onnx", "new_domain.npz")
        >>> len(select(scores, rho=0.2).layers), len(scores.layers)
        (3, 19)
    """
    if layers is not None and not len(layers):
        raise UsageError("`layers` names no layer. Give a pattern, or leave it out to choose by `strategy`.")
    called = strategy or "values" if values is not None else None
    how = with_given(choosing or Choosing(), strategy=strategy if called is None else None, rho=rho, layers=layers)
    return _select(_scores(scores, how, values), how, called or how.strategy, costs, values, seed)


def _scores(given: Scores | ModelSource, how: Choosing, values: Mapping[str, float] | None) -> Scores:
    """Scores, or what stands for them where a model is given."""
    if isinstance(given, Scores):
        return given
    if isinstance(given, str | os.PathLike) and is_scores_file(given):
        return load_scores(given)
    return unscored(open_model(given), how.strategy, layers=how.patterns, values=values, channel_rho=how.channel_rho)


@dataclasses.dataclass(frozen=True)
class _Pool:
    """The layers that may be selected.

    Attributes:
        layers: their indices.
        left_out: why others cannot be trained, by name.
        head_added: whether the head is selected in any case.
    """

    layers: list[int]
    left_out: dict[str, str]
    head_added: bool


def _select(
    scores: Scores,
    how: Choosing,
    strategy: str,
    costs: Costs | None,
    values: Mapping[str, float] | None,
    seed: int,
) -> Selection:
    pool = _pool(scores, how.head)
    if how.patterns:
        strategy = "layers"
        pool, ranking = _named(scores, how.patterns, pool)
    elif values is not None:
        ranking = by_values(scores, strategy, pool.layers, top_count(len(scores.layers), how.rho), values)
    elif strategy == "head" and scores.head in pool.left_out:
        raise UsageError(f"the head {scores.head!r} cannot be trained: {pool.left_out[scores.head or '']}")
    else:
        ranking = rank(scores, strategy, pool.layers, how.rho, seed)
    added = frozenset(i for i in pool.layers if pool.head_added and scores.layers[i].name == scores.head)
    needs_costs = strategy in NEEDS_COSTS and values is None
    chosen, spent = _affordable(scores, how, ranking, added, costs, strategy if needs_costs else None)
    picked = [scores.layers[i] for i in sorted(chosen)]
    numbers, free = ranking.values, how.rho is None and strategy == "auto"
    selection = Selection(
        model_sha256=scores.model_sha256,
        strategy=strategy,
        layers=tuple(layer.name for layer in picked),
        parameters=tuple(dict.fromkeys(name for layer in picked for name in layer.parameters)),
        rho=None if free or strategy in (*WITHOUT_RHO, "layers") else DEFAULT_RHO if how.rho is None else how.rho,
        seed=seed,
        head=how.head,
        scored=None if numbers is None else {scores.layers[i].name: numbers[i] for i in sorted(chosen) if i in numbers},
        firmness=None if spent is not None and spent.given_up else _firmness(scores, ranking),
        why=_why(scores, ranking, chosen, added, spent, pool.left_out, named=bool(how.patterns)),
        size_tau=size_agreement(scores.layers),
        estimator=scores.estimator_summary() if scores.samples else None,
        preprocessing=scores.preprocessing,
        classes=scores.classes,
        budget=spent,
        left_out=pool.left_out,
        inputs=scores.inputs,
    )
    return selection if how.channel_rho is None else with_channels(selection, scores, how.channel_rho)


def _pool(scores: Scores, head: str) -> _Pool:
    """What may be selected at all.

    Raises:
        UsageError: nothing.
    """
    rule = ("always" if scores.new_head else "pool") if head == "auto" else head
    allowed = [i for i, layer in enumerate(scores.layers) if rule != "never" or layer.name != scores.head]
    if not allowed:
        raise UsageError("the head is the only layer, and head='never' leaves it out: nothing to select.")
    pool = [i for i in allowed if scores.layers[i].untrainable is None]
    left_out = {layer.name: layer.untrainable for layer in scores.layers if layer.untrainable is not None}
    if not pool:
        raise UsageError(f"no layer can be trained, so nothing can be selected: {next(iter(left_out.values()))}")
    return _Pool(pool, left_out, rule == "always")


def _named(scores: Scores, patterns: Sequence[str], pool: _Pool) -> tuple[_Pool, Ranking]:
    """What patterns name of the pool.

    Raises:
        UsageError: nothing.
    """
    named = matching([layer.name for layer in scores.layers], patterns)
    kept, names = [i for i in named if i in pool.layers], {scores.layers[i].name for i in named}
    left_out = {name: reason for name, reason in pool.left_out.items() if name in names}
    if not kept and left_out:
        name, reason = next(iter(left_out.items()))
        raise UsageError(f"what {', '.join(patterns)} names cannot be trained. Layer {name!r}: {reason}")
    if not kept:
        raise UsageError(f"{', '.join(patterns)} matches the head alone, and head='never' leaves it out.")
    return dataclasses.replace(pool, left_out=left_out), by_name(kept, ", ".join(patterns))


def _affordable(
    scores: Scores, how: Choosing, ranking: Ranking, added: frozenset[int], costs: Costs | None, needing: str | None
) -> tuple[frozenset[int], Spent | None]:
    """The layers selected among those wanted and, where there is a budget, the cost of training them.

    Args:
        scores: of all layers.
        how: with the budget.
        ranking: what is wanted.
        added: what is selected in any case.
        costs: predicts.
        needing: the strategy, where it keeps to a budget of its own.

    Raises:
        UsageError: nothing fits, or nothing predicts.
    """
    if not how.budget and needing is None:
        return frozenset(ranking.chosen) | added, None
    if costs is None or not hasattr(costs, "divisible"):
        found = "" if costs is None else f", not {type(costs).__name__}"
        raise UsageError(
            f"{'a budget' if how.budget else f'the strategy {needing}'} needs predictions of what training costs: give "
            f"costs=Predictor(model, ...){found}."
        )
    unasked = 1 if needing is None else costs.batch_size
    fit = Fit(scores, ranking, added, costs, unasked if how.max_accumulate is None else how.max_accumulate)
    return fit.within(how.budget) if how.budget else fit.within_a_third()


def _why(
    scores: Scores,
    ranking: Ranking,
    chosen: frozenset[int],
    added: frozenset[int],
    spent: Spent | None,
    left_out: Mapping[str, str],
    *,
    named: bool,
) -> str:
    """The selection's reason, in a sentence."""
    why = ranking.why
    if added - set(ranking.chosen):
        why += ", and the head" + (", which is new" if scores.new_head else "")
    if spent is not None and spent.given_up:
        why += f", as far as the budget allows, which is {len(chosen)} in all"
    return why + (_without(left_out, ranking, len(scores.layers), named=named) if left_out else "")


def _without(left_out: Mapping[str, str], ranking: Ranking, layers: int, *, named: bool) -> str:
    """What the reason says of layers that cannot be trained."""
    if named:
        return f", without {len(left_out)} that cannot be trained"
    able = layers - len(left_out)
    more = ranking.count is not None and ranking.count > able
    which = f"only {able} of the {layers} layers can be trained"
    return f"; {which}, and {ranking.count} were asked for" if more else f"; {which}"


def with_channels(selection: Selection, scores: Scores, channel_rho: float) -> Selection:
    """The same layers, of each only the best output channels.

    max(1, floor(channel_rho C)) of a layer's C channels are taken, by their own first Betti numbers; of equals the
    first. Layers whose channels are not ranked, such as the head, are trained whole; see `scoring.channel_scores`.

    Args:
        selection: of layers.
        scores: with those of the channels of these layers.
        channel_rho: fraction of channels, above 0 and at most 1; 1 is the selection itself.

    Raises:
        UsageError: channel_rho is out of range, or the channels were not scored.
    """
    Choosing(channel_rho=channel_rho)  # says what is wrong with it
    if channel_rho == 1:
        return selection
    known = {layer.name: layer.channels for layer in scores.layers}
    unknown = [name for name in selection.layers if name not in (scores.channel_layers or ())]
    if unknown:
        raise UsageError(
            f"the channels of layer {unknown[0]!r} were not scored, and a channel rho of {channel_rho:g} needs that: "
            "score again with `channels=True`."
        )
    found = {}
    for name in selection.layers:
        channels = known.get(name)
        if (
            channels is not None
            and name != scores.head
            and len(best := channels.top(channel_rho)) < len(channels.b1_mean)
        ):
            found[name] = best
    return dataclasses.replace(selection, channel_rho=channel_rho, channels=found or None)


def size_agreement(layers: Sequence[LayerScore]) -> float | None:
    """Kendall's tau-b between b1_hat and 1 / activation size; 1 means the scores say no more than size does.

    None where it is undefined (fewer than two layers, or all equal).
    """
    return kendall_tau([layer.b1_hat for layer in layers], [1 / layer.activation_size for layer in layers])


def _firmness(scores: Scores, ranking: Ranking) -> Firmness | None:
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
