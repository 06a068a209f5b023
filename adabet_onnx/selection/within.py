"""The best of what is wanted that keeps to a budget."""

from __future__ import annotations

from collections.abc import Sequence

from ..scoring.record import Scores
from .budget import AUTO_SHARE, Budget, Costs, Meter, Spent
from .least import impossible, least_use, smallest_sets
from .rankings import Ranking
from .search import best_set, longest


class Fit:
    """Fits what is wanted into budgets.

    Args:
        scores: of all layers.
        ranking: what is wanted.
        added: what is selected in any case.
        costs: predicts.
        most: into how many parts a batch may be cut.
    """

    def __init__(self, scores: Scores, ranking: Ranking, added: frozenset[int], costs: Costs, most: int) -> None:
        self._scores, self._ranking, self._added, self._costs = scores, ranking, added, costs
        self._cuts = _cuts(costs, most)
        self._wanted = frozenset(ranking.chosen) | added

    def within(self, budget: Budget) -> tuple[frozenset[int], Spent]:
        """The best set that fits, and its cost.

        Raises:
            UsageError: nothing fits.
        """
        found = self._fitting(budget)
        if found is None:
            most = _cuts(self._costs, self._costs.batch_size)[-1]
            raise impossible(self._extremes(budget), self._smallest(budget), most_parts=most)
        return found

    def within_a_third(self) -> tuple[frozenset[int], Spent]:
        """Within a third of the step memory of training all layers.

        Where nothing keeps to that (weights alone take as much), within a third of what training all layers takes
        beyond inference; where nothing keeps to that either (small networks, in which the runtime takes most), within
        the least that training anything takes.
        """
        found = self._fitting(Budget(max_memory_share=AUTO_SHARE))
        if found is None:
            everything, forward = self._costs.everything().memory_bytes, self._costs.inference().memory_bytes
            share = (forward + AUTO_SHARE * max(0, everything - forward)) / everything
            found = self._fitting(Budget(max_memory_share=share))
        if found is not None:
            return found
        any_share = Budget(max_memory_share=1)
        least = least_use(self._extremes(any_share), "max_memory_share", self._smallest(any_share))
        return self.within(Budget(max_memory_share=least.value))

    def _fitting(self, budget: Budget) -> tuple[frozenset[int], Spent] | None:
        """The best set that fits, and its cost; None if nothing fits."""
        meters = [self._meter(budget, parts) for parts in self._cuts]
        meter = next((meter for meter in meters if meter.fits(self._wanted)), None)
        found, gap = (self._wanted, 0.0) if meter is not None else (None, 0.0)
        if meter is None:
            for meter in sorted(self._extremes(budget), key=lambda meter: meter.predict(self._wanted).memory_bytes):
                found, gap = self._search(meter)
                if found is not None:
                    break
        if meter is None or found is None:
            return None
        # What was found with many parts may fit with fewer.
        meter = next((fewer for fewer in meters if fewer.fits(found)), meter)
        names = [self._scores.layers[i].name for i in sorted(self._wanted - found)]
        return found, meter.spent(found, given_up=names, score_share=self._share(found), gap=gap)

    def _meter(self, budget: Budget, parts: int) -> Meter:
        return Meter(self._scores.layers, budget, self._costs, parts)

    def _extremes(self, budget: Budget) -> list[Meter]:
        """With a batch as a whole and in the most parts: one of them takes the least of anything.

        More parts take less for activations, but gathering gradients takes something. Only memory depends on them.
        """
        memory = budget.max_memory is not None or budget.max_memory_share is not None
        parts = dict.fromkeys((self._cuts[0], self._cuts[-1])) if memory else (self._cuts[0],)
        return [self._meter(budget, count) for count in parts]

    def _smallest(self, budget: Budget) -> list[frozenset[int]]:
        meters = self._extremes(budget)
        found = (chosen for meter in meters for chosen in smallest_sets(meter, self._rest, self._added))
        return list(dict.fromkeys(found))

    @property
    def _rest(self) -> list[int]:
        """What may be selected besides what is selected in any case."""
        return [i for i in self._ranking.order if i not in self._added]

    def _share(self, found: frozenset[int]) -> float | None:
        """The scores of what was found over those of what is wanted."""
        values = self._ranking.values
        if values is None:
            return None
        total = sum(values.get(i, 0.0) for i in self._wanted)
        return sum(values.get(i, 0.0) for i in found) / total if total > 0 else None

    def _search(self, meter: Meter) -> tuple[frozenset[int] | None, float]:
        """Of sets smaller than what is wanted: the best that fits (None if none does), and `search.Found.gap`."""
        ranking, added = self._ranking, self._added
        # A layer that is added counts as one of the k where it is among them without a budget too.
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


def _cuts(costs: Costs, most: int) -> Sequence[int]:
    """Into how many parts a batch may be cut: 1 and powers of two that divide it, the fewest first."""
    found = [1]
    while costs.divisible and found[-1] * 2 <= most and costs.batch_size % (found[-1] * 2) == 0:
        found.append(found[-1] * 2)
    return found
