"""Choose a selection from scores, without gradients or labels, optionally within a budget."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from ..errors import UsageError
from ..model.open import ModelSource, open_model
from ..options import typed, with_given
from ..scoring.record import Scores, is_scores_file, load_scores
from .budget import BudgetUse, Costs
from .explanation import firmness, reason, size_agreement
from .options import Choosing
from .pool import layer_pool, named_layers
from .rankings import DEFAULT_RHO, WITHOUT_RHO, Ranking, by_values, rank, top_count
from .record import Selection
from .unscored import unscored
from .within import BudgetFit

NEEDS_COSTS = ("auto",)  # strategies with a default budget, a share of all layers' memory


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

    Layers that no backend can train (`LayerScore.untrainable`) are left out and listed in the selection.

    Within a budget, strategies with scores select the set of at most k layers with the highest sum of scores that stays
    within every limit (`search.best_set`: exact, or with a bound on the difference); the others select as many layers
    as fit, in their order of preference. The use of the budget is in the selection's ``budget``. With
    ``max_accumulate`` a batch may be split into micro-batches: the smallest number that lets all preferred layers fit.

    Args:
        scores: the result of `score`, or the path of a scores.json. For ``layers``, ``values`` and the strategies that
            need no scores (`unscored.UNSCORED`: head, last, first, random, norm-bias, all), a model is sufficient.
        strategy: replaces that of ``choosing``: auto, adabet, size, b1, random, last, first, head, norm-bias or all.
        rho: the fraction of layers, replaces that of ``choosing``.
        layers: a shell pattern of layer names, or several, replaces that of ``choosing``.
        choosing: all options for the choice; None: the defaults of `Choosing`.
        costs: predicts the cost of training (`Predictor`); needed with a budget.
        values: your own number for each layer by name, instead of a strategy's; higher is selected first.
            ``strategy`` is then the name for these numbers.
        seed: seed of the random strategy.

    Returns:
        The selection, layers in model order.

    Raises:
        UsageError: the strategy is unknown, rho is out of range, a pattern matches no layer, there is nothing to
            select, or a budget is given without ``costs`` or cannot be met.
        RecordError: the file is not a scores file or is damaged.

    Example:
        >>> from adabet_onnx import score, select
        >>> scores = score("model.onnx", "new_domain.npz")
        >>> len(select(scores, rho=0.2).layers), len(scores.layers)
        (3, 19)
    """
    if layers is not None and not len(layers):
        raise UsageError("`layers` names no layer. Give a pattern, or leave it out to choose by `strategy`.")
    label = strategy or "values" if values is not None else None
    options = with_given(choosing or Choosing(), strategy=strategy if label is None else None, rho=rho, layers=layers)
    return _select(_scores(scores, options, values), options, label or options.strategy, costs, values, seed)


def _scores(given: Scores | ModelSource, options: Choosing, values: Mapping[str, float] | None) -> Scores:
    """Scores, or a substitute for them if a model is given."""
    if isinstance(given, Scores):
        return given
    if isinstance(given, str | os.PathLike) and is_scores_file(given):
        return load_scores(given)
    return unscored(
        open_model(given), options.strategy, layers=options.patterns, values=values, channel_rho=options.channel_rho
    )


def _select(
    scores: Scores,
    options: Choosing,
    strategy: str,
    costs: Costs | None,
    values: Mapping[str, float] | None,
    seed: int,
) -> Selection:
    pool = layer_pool(scores, options.head)
    allowed = pool.layers
    if options.patterns:
        strategy = "layers"
        pool, ranking = named_layers(scores, options.patterns, pool)
    elif values is not None:
        ranking = by_values(scores, strategy, pool.layers, top_count(len(scores.layers), options.rho), values)
    elif strategy == "head" and scores.head in pool.left_out:
        raise UsageError(f"the head {scores.head!r} cannot be trained: {pool.left_out[scores.head or '']}")
    else:
        ranking = rank(scores, strategy, pool.layers, options.rho, seed)
    added = frozenset(i for i in pool.layers if pool.head_added and scores.layers[i].name == scores.head)
    needs_costs = strategy in NEEDS_COSTS and values is None
    chosen, use = _within_budget(scores, options, ranking, added, costs, strategy if needs_costs else None, allowed)
    picked = [scores.layers[i] for i in sorted(chosen)]
    numbers, free = ranking.values, options.rho is None and strategy == "auto"
    selection = Selection(
        model_sha256=scores.model_sha256,
        strategy=strategy,
        layers=tuple(layer.name for layer in picked),
        parameters=tuple(dict.fromkeys(name for layer in picked for name in layer.parameters)),
        rho=None
        if free or strategy in (*WITHOUT_RHO, "layers")
        else DEFAULT_RHO
        if options.rho is None
        else options.rho,
        seed=seed,
        head=options.head,
        scored=None if numbers is None else {scores.layers[i].name: numbers[i] for i in sorted(chosen) if i in numbers},
        firmness=None if use is not None and use.given_up else firmness(scores, ranking),
        why=reason(scores, ranking, chosen, added, use, pool.left_out, named=bool(options.patterns)),
        size_tau=size_agreement(scores.layers),
        estimator=scores.estimator_summary() if scores.samples else None,
        preprocessing=scores.preprocessing,
        classes=scores.classes,
        budget=use,
        left_out=pool.left_out,
        inputs=scores.inputs,
    )
    return selection if options.channel_rho is None else with_channels(selection, scores, options.channel_rho)


def _within_budget(
    scores: Scores,
    options: Choosing,
    ranking: Ranking,
    added: frozenset[int],
    costs: Costs | None,
    needing: str | None,
    allowed: Sequence[int],
) -> tuple[frozenset[int], BudgetUse | None]:
    """The layers to select from a ranking and, with a budget, the use of it.

    Args:
        scores: scores of all layers.
        options: the options, with the budget.
        ranking: the strategy's preferences.
        added: layers that are always selected.
        costs: predicts costs.
        needing: the strategy, if it has a default budget.
        allowed: the layers that may be selected by any strategy.

    Raises:
        UsageError: nothing fits, or ``costs`` is missing.
    """
    if not options.budget and needing is None:
        return frozenset(ranking.chosen) | added, None
    if costs is None or not hasattr(costs, "divisible"):
        given = "" if costs is None else f", not {type(costs).__name__}"
        raise UsageError(
            f"{'a budget' if options.budget else f'the strategy {needing}'} needs predictions of what training costs: "
            f"give costs=Predictor(model, ...){given}."
        )
    default = 1 if needing is None else costs.batch_size
    most = default if options.max_accumulate is None else options.max_accumulate
    fit = BudgetFit(scores, ranking, added, costs, most, allowed)
    return fit.within(options.budget) if options.budget else fit.within_a_third()


def with_channels(selection: Selection, scores: Scores, channel_rho: float) -> Selection:
    """The same layers, restricted to their best output channels.

    max(1, floor(channel_rho C)) of a layer's C channels are selected, by their own first Betti numbers; ties are broken
    by channel order. Layers whose channels are not ranked, such as the head, are trained completely; see
    `scoring.channel_scores`.

    Args:
        selection: the selected layers.
        scores: scores that include the channels of these layers.
        channel_rho: fraction of channels, above 0 and at most 1; 1 returns the selection unchanged.

    Raises:
        UsageError: channel_rho is out of range, or the channels were not scored.
    """
    Choosing(channel_rho=channel_rho)  # raises an error if it is out of range
    if channel_rho == 1:
        return selection
    known = {layer.name: layer.channels for layer in scores.layers}
    unknown = [name for name in selection.layers if name not in (scores.channel_layers or ())]
    if unknown:
        raise UsageError(
            f"the channels of layer {unknown[0]!r} were not scored, and a channel rho of {channel_rho:g} needs that: "
            "score again with `channels=True`."
        )
    best_channels = {}
    for name in selection.layers:
        channels = known.get(name)
        if (
            channels is not None
            and name != scores.head
            and len(best := channels.top(channel_rho)) < len(channels.b1_mean)
        ):
            best_channels[name] = best
    return dataclasses.replace(selection, channel_rho=channel_rho, channels=best_channels or None)
