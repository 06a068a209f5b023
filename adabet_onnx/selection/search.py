"""Find the best-scoring set of layers that fits a budget, where only whole sets can be tested.

The cost of a set of layers is not the sum of the costs of its layers: the earliest one decides how far the backward
pass goes, and memory is a maximum over time. So sets are only tested as a whole, which takes a prediction from their
training graphs and is slow. An answer (`Answer`) says more than yes or no: if the step takes too much, no superset fits
either; if the frozen pass takes too much, no subset fits, because subsets freeze more. A rejected set is therefore a
linear constraint (not all of these layers together; or at least one of those earlier layers), or excludes only itself.
The search is a small integer program that is solved again after every rejection: its optimum is never below the best
set's score, and once the optimum fits, it is the best set.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """Whether a set of layers fits, and what that implies for other sets.

    Attributes:
        fits: whether the set fits.
        larger: whether the set or a superset could fit.
        smaller: whether the set or a subset could fit.
    """

    fits: bool
    larger: bool
    smaller: bool


Ask = Callable[[frozenset[int]], Answer]
Dearer = Callable[[int, int], bool]
_MOST_NODES = 300_000
_SAME = 1e-9  # relative difference up to which scores are considered equal


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Attributes:
        chosen: the best set found, including the required layers; None if none fits.
        value: the sum of its scores.
        bound: upper bound of the sum for any set that fits.
    """

    chosen: frozenset[int] | None
    value: float
    bound: float

    @property
    def gap(self) -> float:
        """How far the set could be below the best one, as a share of the bound; 0 for an exact result."""
        return max(0.0, 1 - self.value / self.bound) if self.bound > 0 else 0.0


def best_set(
    values: dict[int, float],
    ask: Ask,
    *,
    count: int | None = None,
    required: frozenset[int] = frozenset(),
    weights: dict[int, int] | None = None,
    capacity: int | None = None,
    tries: int = 150,
) -> SearchResult:
    """Find the set with the highest sum of scores that fits.

    Args:
        values: the candidates and their scores, none negative.
        ask: tests whether a set (of candidates and required layers) fits.
        count: maximum number of candidates; None: any number.
        required: layers in every set; they are not counted and have no score, unless they are candidates as well.
        weights: the exact contribution of each layer, including required ones, to a limited resource.
        capacity: the limit of the sum of weights.
        tries: maximum number of sets to test.

    Returns:
        The best set; exact unless ``tries`` ran out, in which case there is a bound.
    """
    room = None if capacity is None or weights is None else capacity - sum(weights[i] for i in required)
    if room is not None and room < 0:
        return SearchResult(None, 0.0, 0.0)
    search = _Search(values, ask, count, required, weights, room, tries)
    best, bound = search.run()
    best = search.filled(best or frozenset())
    if not search.ask(best).fits or not best | required:
        return SearchResult(None, 0.0, 0.0)
    return SearchResult(best | required, search.value(best), bound)


class _Search:
    """The state of a search: sets that were tested and the resulting constraints. See `best_set` for the arguments."""

    def __init__(
        self,
        values: dict[int, float],
        ask: Ask,
        count: int | None,
        required: frozenset[int],
        weights: dict[int, int] | None,
        room: int | None,
        tries: int,
    ) -> None:
        self._values, self._ask, self._count, self._required = values, ask, count, required
        self._weights, self._room, self._tries = weights, room, tries
        self._order = sorted(values, key=lambda i: -values[i])
        self._known: dict[frozenset[int], Answer] = {}
        self._constraints = _Constraints()

    def ask(self, layers: frozenset[int]) -> Answer:
        """Test these layers together with the required ones."""
        if layers not in self._known:
            whole = layers | self._required
            self._known[layers] = self._ask(whole) if whole else Answer(fits=False, larger=True, smaller=False)
        return self._known[layers]

    def value(self, layers: frozenset[int]) -> float:
        """The sum of their scores."""
        return sum(self._values[i] for i in layers)

    def run(self) -> tuple[frozenset[int] | None, float]:
        """Search: the best set found (None if there is none apart from the required layers), and an upper bound."""
        best: frozenset[int] | None = None
        program = _Program(self._values, self._count, self._weights, self._room)
        proposals: set[frozenset[int]] = set()
        while True:
            proposed, bound = program.solve(self._constraints)
            if proposed is None:
                return best, bound if best is None else self.value(best)
            if best is not None and bound <= self.value(best) * (1 + _SAME):
                return best, self.value(best)
            if self._left <= 0 or proposed in proposals:
                return best, bound
            if self.ask(proposed).fits:
                return proposed, bound
            proposals.add(proposed)
            reaching = self._learn(proposed)
            if reaching is not None:
                return reaching, bound
            if best is None:  # a fallback if tries run out, and a way to notice early that the bound is reached
                best = self._greedy()

    @property
    def _left(self) -> int:
        return self._tries - len(self._known)

    def _learn(self, proposed: frozenset[int]) -> frozenset[int] | None:
        """Add a constraint after a rejection. If layers without a score make the set fit, return the set with them."""
        answer = self.ask(proposed)
        if not answer.larger:
            self._constraints.rejected.append(
                _smallest_prefix(sorted(proposed), lambda layers: self.ask(layers).larger)
            )
            return None
        if not answer.smaller:
            needed = self._values.keys() - self._widest(proposed)
            free = sorted((i for i in needed if self._values[i] <= 0), reverse=True)
            if not free:
                self._constraints.needed.append(frozenset(needed))
                return None
            for layer in free if self._count is None or len(proposed) < self._count else ():
                if self._left > 0 and not self._too_heavy(proposed | {layer}) and self.ask(proposed | {layer}).fits:
                    return proposed | {layer}
        self._constraints.banned.add(proposed)
        return None

    def _widest(self, layers: frozenset[int]) -> frozenset[int]:
        """Extend a set that freezes too much by as many of the last layers as still leave too much frozen."""
        order = sorted(self._values, reverse=True)
        low, high = 0, len(order) + 1
        while high - low > 1:
            middle = (low + high) // 2
            more = layers.union(order[:middle])
            low, high = (low, middle) if self.ask(more).smaller else (middle, high)
        return layers.union(order[:low])

    def _greedy(self) -> frozenset[int] | None:
        """Go through the ranking and keep layers that fit, or may fit with earlier ones; else one that fits alone."""
        chosen, best = frozenset[int](), None
        for layer in self._order:
            if self._left <= 0 or (self._count is not None and len(chosen) >= self._count):
                break
            more = chosen | {layer}
            if self._too_heavy(more) or any(layers <= more for layers in self._constraints.rejected):
                continue
            answer = self.ask(more)
            if answer.fits:
                best = more
            if answer.fits or (answer.larger and not answer.smaller):
                chosen = more
            elif not answer.larger:
                self._constraints.rejected.append(more)
        alone = (frozenset({layer}) for layer in self._order) if best is None else ()
        return best or next((layers for layers in alone if self._left > 0 and self._fits_alone(layers)), None)

    def _fits_alone(self, layers: frozenset[int]) -> bool:
        return not self._too_heavy(layers) and self.ask(layers).fits

    def _too_heavy(self, layers: frozenset[int]) -> bool:
        if self._room is None or self._weights is None:
            return False
        return sum(self._weights[i] for i in layers) > self._room

    def filled(self, best: frozenset[int]) -> frozenset[int]:
        """Add layers without a score, as far as they fit."""
        for layer in self._order:
            more = best | {layer}
            if self._values[layer] <= 0 and (self._count is None or len(best) < self._count) and self._left > 0:
                best = more if not self._too_heavy(more) and self.ask(more).fits else best
        return best


def longest(
    order: Sequence[int],
    ask: Ask,
    *,
    required: frozenset[int] = frozenset(),
    count: int | None = None,
    more: int = 20,
    dearer: Dearer = lambda layer, other: False,
) -> frozenset[int] | None:
    """The longest prefix of a list that fits, and those of the remaining layers that fit in addition.

    Args:
        order: candidates in order of preference.
        ask: tests whether a set fits.
        required: layers in every set, not counted.
        count: maximum number of candidates; None: any number.
        more: how many of the remaining layers are tried.
        dearer: whether a layer is known to cost at least as much as another, in addition to layers that all come later
            in the model. If the other did not fit, the layer is not tested.

    Returns:
        The set, including the required layers; None if nothing fits.
    """
    most = len(order) if count is None else min(count, len(order))

    def prefix(length: int) -> Answer:
        return ask(frozenset(order[:length]) | required)

    if prefix(most).fits:
        return frozenset(order[:most]) | required
    length = _longest_prefix(prefix, most)
    chosen = frozenset(order[:length])
    rejected = [] if prefix(length + 1).larger else [order[length]]  # in addition to the chosen layers
    for layer in order[length + 1 : length + 1 + more]:
        if len(chosen) == most:
            break
        first = min(chosen | required, default=layer + 1) > layer
        if first and any(dearer(layer, other) for other in rejected):
            continue
        answer = ask(chosen | {layer} | required)
        if answer.fits:
            chosen |= {layer}
        elif not answer.larger:
            rejected.append(layer)
    if chosen:
        return chosen | required
    if required and ask(required).fits:
        return required
    return _one(order, ask, required) if most else None


def _longest_prefix(prefix: Callable[[int], Answer], most: int) -> int:
    """The length of the longest prefix that fits. The whole list does not fit."""
    low, high = 0, most if not prefix(most).larger else most + 1  # `high` and all longer prefixes do not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if prefix(middle).larger else (low, middle)
    while low > 0 and not prefix(low).fits:
        low = low - 1 if prefix(low).smaller else 0
    return low


def _one(order: Sequence[int], ask: Ask, required: frozenset[int]) -> frozenset[int] | None:
    """A layer that fits with the required ones: the latest one whose frozen pass does not take too much."""
    backwards = sorted(order, reverse=True)

    def answer(at: int) -> Answer:
        return ask(required | {backwards[at]})

    low, high = -1, len(backwards)
    while high - low > 1:  # up to `low` too much is frozen
        middle = (low + high) // 2
        low, high = (low, middle) if answer(middle).smaller else (middle, high)
    for at in range(high, len(backwards)):
        if answer(at).fits:
            return required | {backwards[at]}
        if not answer(at).larger:
            return None
    return None


def _smallest_prefix(layers: Sequence[int], larger: Callable[[frozenset[int]], bool]) -> frozenset[int]:
    """The shortest prefix (in model order) of a set without a fitting superset that has no fitting superset either."""
    low, high = 0, len(layers)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if larger(frozenset(layers[:middle])) else (low, middle)
    return frozenset(layers[:high])


@dataclass
class _Constraints:
    """What is known about sets that do not fit.

    Attributes:
        rejected: no superset of any of these fits.
        needed: every set that fits contains a layer of each of these.
        banned: sets that do not fit.
    """

    rejected: list[frozenset[int]] = field(default_factory=list)
    needed: list[frozenset[int]] = field(default_factory=list)
    banned: set[frozenset[int]] = field(default_factory=set)


class _Program:
    """Enumerates sets of candidates by descending score with branch and bound, without those that are excluded.

    A general integer solver would work as well, but scipy's writes to stdout, which is reserved for results.
    """

    def __init__(
        self, values: dict[int, float], count: int | None, weights: dict[int, int] | None, room: int | None
    ) -> None:
        self._order = sorted((i for i in values if values[i] > 0), key=lambda i: (-values[i], i))
        self._gain = [values[i] for i in self._order]
        self._count = len(self._order) if count is None else min(count, len(self._order))
        self._weight = [0 if weights is None else weights[i] for i in self._order]
        self._room = math.inf if room is None else room
        self._ranked: dict[int, list[tuple[float, int]]] = {}
        self._bit = {layer: 1 << at for at, layer in enumerate(self._order)}

    def solve(self, constraints: _Constraints) -> tuple[frozenset[int] | None, float]:
        """The best set that may fit (None: only the empty set is left), and an upper bound of its score.

        The score is below the bound only if the search was stopped because it took too long.
        """
        masks = [self._mask(layers) for layers in constraints.rejected if layers <= self._bit.keys()]
        needed = [self._mask(layers) for layers in constraints.needed]
        banned = {self._mask(layers) for layers in constraints.banned}
        heap = [(-self._bound(0, 0.0, 0, self._room), 0, 0, 0.0, 0, self._room)]
        for _ in range(_MOST_NODES):
            if not heap:
                return None, 0.0
            bound, at, chosen, value, taken, room = heapq.heappop(heap)
            if at == len(self._order) or taken == self._count:
                if not chosen:
                    return None, 0.0
                if chosen in banned or not all(mask & chosen for mask in needed):
                    continue
                return frozenset(layer for layer in self._order if chosen & self._bit[layer]), -bound
            with_it, weight = chosen | 1 << at, self._weight[at]
            if weight <= room and not any(mask & with_it == mask for mask in masks if mask >> at & 1):
                more, left = value + self._gain[at], room - weight
                upper = self._bound(at + 1, more, taken + 1, left)
                heapq.heappush(heap, (-upper, at + 1, with_it, more, taken + 1, left))
            if all(mask & chosen or mask >> at + 1 for mask in needed):
                heapq.heappush(heap, (-self._bound(at + 1, value, taken, room), at + 1, chosen, value, taken, room))
        bound, _, chosen, *_ = heap[0]
        return (frozenset(layer for layer in self._order if chosen & self._bit[layer]) or None), -bound

    def _mask(self, layers: frozenset[int]) -> int:
        return sum(self._bit[i] for i in layers)

    def _bound(self, at: int, value: float, taken: int, room: float) -> float:
        """Upper bound of the score with this prefix: the best rest by count, or by weight with one fractional layer."""
        by_number = value + sum(self._gain[at : at + self._count - taken])
        if room == math.inf:
            return by_number
        by_weight = value
        for gain, weight in self._dense(at):
            if weight > room:
                by_weight += gain * room / weight
                break
            by_weight, room = by_weight + gain, room - weight
        return min(by_number, by_weight)

    def _dense(self, at: int) -> list[tuple[float, int]]:
        """(score, weight) of the candidates from here on, by descending ratio of score to weight."""
        if at not in self._ranked:
            pairs = zip(self._gain[at:], self._weight[at:], strict=True)
            self._ranked[at] = sorted(pairs, key=lambda pair: -pair[0] / max(pair[1], 1e-9))
        return self._ranked[at]
