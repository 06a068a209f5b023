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
from ..options import with_given
from ..scoring.record import LayerScore, Scores, is_scores_file, load_scores
from .budget import AUTO_SHARE, Budget, Costs, Meter, Spent, impossible, least_use, smallest_sets
from .options import Choosing
from .rankings import DEFAULT_RHO, WITHOUT_RHO, Ranking, by_name, by_values, rank, top_count
from .record import Firmness, Selection
from .search import best_set, longest
from .unscored import unscored

NEEDS_COSTS = ("auto",)  # strategies that keep to a share of all layers' memory when nothing else is said


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


def _select(
    scores: Scores,
    how: Choosing,
    strategy: str,
    costs: Costs | None,
    values: Mapping[str, float] | None,
    seed: int,
) -> Selection:
    layers, rho, head, budget, channel_rho = how.patterns, how.rho, how.head, how.budget, how.channel_rho
    max_accumulate = how.max_accumulate
    rule = ("always" if scores.new_head else "pool") if head == "auto" else head
    allowed = [i for i, layer in enumerate(scores.layers) if rule != "never" or layer.name != scores.head]
    if not allowed:
        raise UsageError("the head is the only layer, and head='never' leaves it out: nothing to select.")
    pool = [i for i in allowed if scores.layers[i].untrainable is None]
    left_out = {layer.name: layer.untrainable for layer in scores.layers if layer.untrainable is not None}
    if not pool:
        raise UsageError(f"no layer can be trained, so nothing can be selected: {next(iter(left_out.values()))}")

    if layers:
        strategy = "layers"
        named = matching([layer.name for layer in scores.layers], layers)
        kept = [i for i in named if i in pool]
        left_out = {name: reason for name, reason in left_out.items() if name in {scores.layers[i].name for i in named}}
        if not kept and left_out:
            name, reason = next(iter(left_out.items()))
            raise UsageError(f"what {', '.join(layers)} names cannot be trained. Layer {name!r}: {reason}")
        if not kept:
            raise UsageError(f"{', '.join(layers)} matches the head alone, and head='never' leaves it out.")
        ranking = by_name(kept, ", ".join(layers))
    elif strategy == "head" and values is None and scores.head in left_out:
        raise UsageError(f"the head {scores.head!r} cannot be trained: {left_out[scores.head or '']}")
    elif values is not None:
        ranking = by_values(scores, strategy, pool, top_count(len(scores.layers), rho), values)
    else:
        ranking = rank(scores, strategy, pool, rho, seed)
    added = frozenset(i for i in pool if rule == "always" and scores.layers[i].name == scores.head)
    chosen, spent = frozenset(ranking.chosen) | added, None
    needed = strategy in NEEDS_COSTS and not layers and values is None
    if (budget or needed) and costs is None:
        raise UsageError(
            f"{'a budget' if budget else f'the strategy {strategy}'} needs predictions of what training costs: give "
            "costs=Predictor(model, ...)."
        )
    if costs is not None and (budget or needed):
        most = (costs.batch_size if needed else 1) if max_accumulate is None else max_accumulate
        cuts = _cuts(costs, most)
        if budget:
            chosen, spent = _within(scores, ranking, added, budget, costs, cuts)
        else:
            chosen, spent = _within_a_quarter(scores, ranking, added, costs, cuts)
    why = ranking.why
    if added - set(ranking.chosen):
        why += ", and the head" + (", which is new" if scores.new_head else "")
    if spent is not None and spent.given_up:
        why += f", as far as the budget allows, which is {len(chosen)} in all"
    if left_out:
        why += _without(left_out, ranking, len(scores.layers), named=bool(layers))
    picked = [scores.layers[i] for i in sorted(chosen)]
    numbers = ranking.values
    selection = Selection(
        model_sha256=scores.model_sha256,
        strategy=strategy,
        layers=tuple(layer.name for layer in picked),
        parameters=tuple(dict.fromkeys(name for layer in picked for name in layer.parameters)),
        rho=None if layers or strategy in WITHOUT_RHO else DEFAULT_RHO if rho is None and strategy != "auto" else rho,
        seed=seed,
        head=head,
        scored=None if numbers is None else {scores.layers[i].name: numbers[i] for i in sorted(chosen) if i in numbers},
        firmness=None if spent is not None and spent.given_up else _firmness(scores, ranking),
        why=why,
        size_tau=size_agreement(scores.layers),
        estimator=scores.estimator_summary() if scores.samples else None,
        preprocessing=scores.preprocessing,
        classes=scores.classes,
        budget=spent,
        left_out=left_out,
        inputs=scores.inputs,
    )
    return selection if channel_rho is None else with_channels(selection, scores, channel_rho)


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
    first. Layers whose channels are not ranked, such as the head, are trained whole; `scoring.channels` says which.

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


def _cuts(costs: Costs, most: int) -> list[int]:
    """Into how many parts a batch may be cut: 1 and powers of two that divide it, the fewest first."""
    if not costs.divisible:
        return [1]
    found = [1]
    while found[-1] * 2 <= most and costs.batch_size % (found[-1] * 2) == 0:
        found.append(found[-1] * 2)
    return found


def _within_a_quarter(
    scores: Scores, ranking: Ranking, added: frozenset[int], costs: Costs, cuts: Sequence[int]
) -> tuple[frozenset[int], Spent]:
    """Within a quarter of the step memory of training all layers.

    Where nothing keeps to that (weights alone take as much), within a quarter of what training all layers takes beyond
    inference; where nothing keeps to that either (small networks, in which the runtime takes most), within the least
    that training anything takes.
    """
    found = _fitting(scores, ranking, added, Budget(max_memory_share=AUTO_SHARE), costs, cuts)
    if found is None:
        everything, forward = costs.everything().memory_bytes, costs.inference().memory_bytes
        share = (forward + AUTO_SHARE * max(0, everything - forward)) / everything
        found = _fitting(scores, ranking, added, Budget(max_memory_share=share), costs, cuts)
    if found is not None:
        return found
    meters = _extremes(scores, Budget(max_memory_share=1), costs, cuts)
    least = least_use(meters, "max_memory_share", smallest_sets(_rest(ranking, added), added))
    return _within(scores, ranking, added, Budget(max_memory_share=least.value), costs, cuts)


def _within(
    scores: Scores, ranking: Ranking, added: frozenset[int], budget: Budget, costs: Costs, cuts: Sequence[int]
) -> tuple[frozenset[int], Spent]:
    """The best of what fits, and what it takes.

    Raises:
        UsageError: nothing fits.
    """
    found = _fitting(scores, ranking, added, budget, costs, cuts)
    if found is None:
        sets = smallest_sets(_rest(ranking, added), added)
        raise impossible(_extremes(scores, budget, costs, cuts), sets, most_parts=_cuts(costs, costs.batch_size)[-1])
    return found


def _fitting(
    scores: Scores, ranking: Ranking, added: frozenset[int], budget: Budget, costs: Costs, cuts: Sequence[int]
) -> tuple[frozenset[int], Spent] | None:
    """The best of what fits, and what it takes; None if nothing fits.

    Args:
        scores: of all layers.
        ranking: what is wanted.
        added: what is selected in any case.
        budget: the limits.
        costs: predicts.
        cuts: into how many parts a batch may be cut, the fewest first.
    """
    meters = [Meter(scores.layers, budget, costs, parts) for parts in cuts]
    wanted = frozenset(ranking.chosen) | added
    meter = next((meter for meter in meters if meter.fits(wanted)), None)
    found, gap = (wanted, 0.0) if meter is not None else (None, 0.0)
    if meter is None:
        extremes = _extremes(scores, budget, costs, cuts)
        for meter in sorted(extremes, key=lambda meter: meter.predict(wanted).memory_bytes):
            found, gap = _search(scores, ranking, added, meter)
            if found is not None:
                break
    if meter is None or found is None:
        return None
    # What was found with many parts may fit with fewer.
    meter = next((fewer for fewer in meters if fewer.fits(found)), meter)
    share, values = None, ranking.values
    if values is not None:
        total = sum(values.get(i, 0.0) for i in wanted)
        share = sum(values.get(i, 0.0) for i in found) / total if total > 0 else None
    names = [scores.layers[i].name for i in sorted(wanted - found)]
    return found, meter.spent(found, given_up=names, score_share=share, gap=gap)


def _extremes(scores: Scores, budget: Budget, costs: Costs, cuts: Sequence[int]) -> list[Meter]:
    """With a batch as a whole and in the most parts: one of them takes the least of anything.

    More parts take less for activations, but gathering gradients takes something. Only memory depends on them.
    """
    memory = budget.max_memory is not None or budget.max_memory_share is not None
    parts = dict.fromkeys((cuts[0], cuts[-1])) if memory else (cuts[0],)
    return [Meter(scores.layers, budget, costs, count) for count in parts]


def _rest(ranking: Ranking, added: frozenset[int]) -> list[int]:
    """What may be selected besides what is selected in any case."""
    return [i for i in ranking.order if i not in added]


def _search(
    scores: Scores, ranking: Ranking, added: frozenset[int], meter: Meter
) -> tuple[frozenset[int] | None, float]:
    """Of sets smaller than what is wanted: the best that fits (None if none does), and `search.Found.gap`."""
    # A layer that is added counts as one of the k where it is among them without a budget too.
    count = None if ranking.count is None else ranking.count - len(added.intersection(ranking.chosen))
    values = ranking.values
    if values is not None:
        limit = meter.limits.get("max_update")
        weights = {i: 4 * layer.parameter_count for i, layer in enumerate(scores.layers)}
        candidates = {i: value for i, value in values.items() if i not in added}
        best = best_set(
            candidates,
            meter.fits,
            count=count,
            required=added,
            weights=weights if limit is not None else None,
            capacity=None if limit is None else int(limit),
        )
        return best.chosen, best.gap
    rest = _rest(ranking, added)
    return longest(rest, meter.fits, required=added, count=count, dearer=meter.dearer), 0.0


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
