"""Find the best selection of the preferred layers that stays within a budget."""

from __future__ import annotations

from collections.abc import Sequence

from ..scoring.record import Scores
from .budget import AUTO_SHARE, Budget, BudgetUse, Costs, Meter
from .least import impossible, least_use, smallest_sets
from .rankings import Ranking
from .search import best_set, longest


class BudgetFit:
    """Fits the layers that a strategy prefers into budgets.

    Args:
        scores: scores of all layers.
        ranking: the strategy's preferences.
        added: layers that are always selected.
        costs: predicts costs.
        most: maximum number of micro-batches that a batch may be split into.
        allowed: the layers that any strategy may select, which an error considers; None: those of the ranking.
    """

    def __init__(
        self,
        scores: Scores,
        ranking: Ranking,
        added: frozenset[int],
        costs: Costs,
        most: int,
        allowed: Sequence[int] | None = None,
    ) -> None:
        self._scores, self._ranking, self._added, self._costs = scores, ranking, added, costs
        self._allowed = ranking.order if allowed is None else allowed
        self._splits = _splits(costs, most)
        self._preferred = frozenset(ranking.chosen) | added

    def within(self, budget: Budget, auto_limit: str | None = None) -> tuple[frozenset[int], BudgetUse]:
        """The best set that fits, and its use of the budget.

        Args:
            budget: the limits.
            auto_limit: which of `AUTO_LIMITS` they are; None: they were given by the user.

        Raises:
            UsageError: nothing fits.
        """
        result = self._fitting(budget, auto_limit)
        if result is None:
            most = _splits(self._costs, self._costs.batch_size)[-1]
            divided = self._meter(budget, most) if most > self._splits[-1] else None
            others = self._smallest(budget, self._allowed) if set(self._allowed) - set(self._rest) - self._added else ()
            raise impossible(self._extremes(budget), self._smallest(budget, self._rest), others, divided=divided)
        return result

    def within_a_third(self) -> tuple[frozenset[int], BudgetUse]:
        """The best set within a third of the step memory of training all layers.

        If nothing fits (because weights or the runtime alone take as much), use inference memory plus a third of what
        training all layers takes beyond it; if nothing fits that either (very small networks, where the runtime
        dominates), use the minimum that any training takes.
        """
        result = self._fitting(Budget(max_memory_share=AUTO_SHARE), "third")
        if result is None:
            everything, forward = self._costs.everything().memory_bytes, self._costs.inference().memory_bytes
            share = (forward + AUTO_SHARE * max(0, everything - forward)) / everything
            result = self._fitting(Budget(max_memory_share=share), "third-of-rest")
        if result is not None:
            return result
        any_share = Budget(max_memory_share=1)
        least = least_use(self._extremes(any_share), "max_memory_share", self._smallest(any_share, self._rest))
        return self.within(Budget(max_memory_share=least.value), "least")

    def _fitting(self, budget: Budget, auto_limit: str | None = None) -> tuple[frozenset[int], BudgetUse] | None:
        """The best set that fits, and its use of the budget; None if nothing fits."""
        meters = [self._meter(budget, parts) for parts in self._splits]
        meter = next((meter for meter in meters if meter.fits(self._preferred)), None)
        chosen, gap = (self._preferred, 0.0) if meter is not None else (None, 0.0)
        if meter is None:
            for meter in sorted(self._extremes(budget), key=lambda meter: meter.predict(self._preferred).memory_bytes):
                chosen, gap = self._search(meter)
                if chosen is not None:
                    break
        if meter is None or chosen is None:
            return None
        # A set found with many micro-batches may fit with fewer.
        meter = next((fewer for fewer in meters if fewer.fits(chosen)), meter)
        names = [self._scores.layers[i].name for i in sorted(self._preferred - chosen)]
        share = self._share(chosen)
        return chosen, meter.budget_use(chosen, given_up=names, score_share=share, gap=gap, auto_limit=auto_limit)

    def _meter(self, budget: Budget, parts: int) -> Meter:
        return Meter(self._scores.layers, budget, self._costs, parts)

    def _extremes(self, budget: Budget) -> list[Meter]:
        """Meters for the fewest and the most micro-batches: one of them has the lowest use of any resource.

        More micro-batches take less memory for activations, but accumulating gradients takes some. Only memory depends
        on their number.
        """
        memory = budget.max_memory is not None or budget.max_memory_share is not None
        parts = dict.fromkeys((self._splits[0], self._splits[-1])) if memory else (self._splits[0],)
        return [self._meter(budget, count) for count in parts]

    def _smallest(self, budget: Budget, candidates: Sequence[int]) -> list[frozenset[int]]:
        meters = self._extremes(budget)
        rest = [i for i in candidates if i not in self._added]
        sets = (chosen for meter in meters for chosen in smallest_sets(meter, rest, self._added))
        return list(dict.fromkeys(sets))

    @property
    def _rest(self) -> list[int]:
        """The layers that may be selected in addition to those that always are."""
        return [i for i in self._ranking.order if i not in self._added]

    def _share(self, chosen: frozenset[int]) -> float | None:
        """The sum of the chosen layers' scores as a share of that of the preferred layers."""
        values = self._ranking.values
        if values is None:
            return None
        total = sum(values.get(i, 0.0) for i in self._preferred)
        return sum(values.get(i, 0.0) for i in chosen) / total if total > 0 else None

    def _search(self, meter: Meter) -> tuple[frozenset[int] | None, float]:
        """The best set that fits (None if none does) among subsets of the candidates, and `SearchResult.gap`."""
        ranking, added = self._ranking, self._added
        # An added layer counts as one of the k if it is among them without a budget as well.
        count = None if ranking.count is None else ranking.count - len(added.intersection(ranking.chosen))
        if ranking.values is None:
            return longest(self._rest, meter.answer, required=added, count=count, dearer=meter.dearer), 0.0
        limit = meter.limits.get("max_update")
        weights = {i: 4 * layer.parameter_count for i, layer in enumerate(self._scores.layers)}
        best = best_set(
            {i: value for i, value in ranking.values.items() if i not in added},
            meter.answer,
            count=count,
            required=added,
            weights=weights if limit is not None else None,
            capacity=None if limit is None else int(limit),
        )
        return best.chosen, best.gap


def _splits(costs: Costs, most: int) -> Sequence[int]:
    """Numbers of micro-batches to try: 1 and powers of two that divide the batch, in ascending order."""
    splits = [1]
    while costs.divisible and splits[-1] * 2 <= most and costs.batch_size % (splits[-1] * 2) == 0:
        splits.append(splits[-1] * 2)
    return splits
