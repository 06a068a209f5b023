"""The best-scoring set of layers that fits, where only a whole set can be asked whether it fits.

What a set of layers costs is not the sum of what its layers cost: the earliest one decides how far the backward pass
goes, and memory is a maximum over time. So a set is only ever asked as a whole, which takes a prediction from its
training graphs, and is slow. An answer (`Answer`) says more than yes or no: where the step takes too much, no set that
holds this one fits either; where the frozen pass takes too much, no set that this one holds does, for they freeze more.
So a refusal is a linear constraint (not all of these layers together; at least one of those earlier layers), or leaves
out one set alone, and the search is a small integer program, solved again with every refusal learnt: its optimum is
never below the best set's score, and once it fits, it is the best set.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """Whether a set of layers fits, and what that says of others.

    Attributes:
        fits: whether it does.
        larger: whether it or one that holds it could.
        smaller: whether it or one that it holds could.
    """

    fits: bool
    larger: bool
    smaller: bool


Ask = Callable[[frozenset[int]], Answer]
Dearer = Callable[[int, int], bool]
_MOST_NODES = 300_000
_SAME = 1e-9  # scores this close (relative to the best) are the same


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        chosen: the best set found, the required layers included; None if none fits.
        value: the sum of its scores.
        bound: no set that fits has a higher sum.
    """

    chosen: frozenset[int] | None
    value: float
    bound: float

    @property
    def gap(self) -> float:
        """By which share of the bound the set could be below the best one; 0 for an exact answer."""
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
) -> Found:
    """Find the set with the highest sum of scores that fits.

    Args:
        values: the candidates and their scores, none negative.
        ask: whether a set (of candidates and the required) fits.
        count: how many candidates at most; None: any number.
        required: what is in every set and is not counted (nor has a score), unless it is a candidate as well.
        weights: what each layer adds for certain to something limited, the required ones included.
        capacity: the limit of the sum of weights.
        tries: how many sets may be asked.

    Returns:
        The best set; exact unless ``tries`` ran out, and then with a bound.
    """
    room = None if capacity is None or weights is None else capacity - sum(weights[i] for i in required)
    if room is not None and room < 0:
        return Found(None, 0.0, 0.0)
    search = _Search(values, ask, count, required, weights, room, tries)
    best, bound = search.run()
    best = search.filled(best or frozenset())
    if not search.ask(best).fits or not best | required:
        return Found(None, 0.0, 0.0)
    return Found(best | required, search.value(best), bound)


class _Search:
    """What has been asked, and what was learnt from it. See `best_set` for the arguments."""

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
        self._learnt = _Learnt()

    def ask(self, layers: frozenset[int]) -> Answer:
        """Of these and the required ones."""
        if layers not in self._known:
            whole = layers | self._required
            self._known[layers] = self._ask(whole) if whole else Answer(fits=False, larger=True, smaller=False)
        return self._known[layers]

    def value(self, layers: frozenset[int]) -> float:
        """The sum of their scores."""
        return sum(self._values[i] for i in layers)

    def run(self) -> tuple[frozenset[int] | None, float]:
        """The best set found (None if there is none but the required ones), and a bound of what there may be."""
        best: frozenset[int] | None = None
        program = _Program(self._values, self._count, self._weights, self._room)
        proposals: set[frozenset[int]] = set()
        while True:
            proposed, bound = program.solve(self._learnt)
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
            if best is None:  # something to fall back on when tries run out, and to know early when a bound is reached
                best = self._greedy()

    @property
    def _left(self) -> int:
        return self._tries - len(self._known)

    def _learn(self, proposed: frozenset[int]) -> frozenset[int] | None:
        """Learn from a refusal. If layers without a score make the set fit: the set with them."""
        answer = self.ask(proposed)
        if not answer.larger:
            self._learnt.refused.append(_smallest_prefix(sorted(proposed), lambda layers: self.ask(layers).larger))
            return None
        if not answer.smaller:
            wanted = self._values.keys() - self._widest(proposed)
            free = sorted((i for i in wanted if self._values[i] <= 0), reverse=True)
            if not free:
                self._learnt.needed.append(frozenset(wanted))
                return None
            for layer in free if self._count is None or len(proposed) < self._count else ():
                if self._left > 0 and not self._too_heavy(proposed | {layer}) and self.ask(proposed | {layer}).fits:
                    return proposed | {layer}
        self._learnt.banned.add(proposed)
        return None

    def _widest(self, layers: frozenset[int]) -> frozenset[int]:
        """Of a set that freezes too much: with as many of the later layers as still leave too much frozen."""
        order = sorted(self._values, reverse=True)
        low, high = 0, len(order) + 1
        while high - low > 1:
            middle = (low + high) // 2
            more = layers.union(order[:middle])
            low, high = (low, middle) if self.ask(more).smaller else (middle, high)
        return layers.union(order[:low])

    def _greedy(self) -> frozenset[int] | None:
        """Go through the ranking and keep what fits, or may once earlier layers have come; else one that fits alone."""
        chosen, best = frozenset[int](), None
        for layer in self._order:
            if self._left <= 0 or (self._count is not None and len(chosen) >= self._count):
                break
            more = chosen | {layer}
            if self._too_heavy(more) or any(layers <= more for layers in self._learnt.refused):
                continue
            answer = self.ask(more)
            if answer.fits:
                best = more
            if answer.fits or (answer.larger and not answer.smaller):
                chosen = more
            elif not answer.larger:
                self._learnt.refused.append(more)
        alone = (frozenset({layer}) for layer in self._order) if best is None else ()
        return best or next((some for some in alone if self._left > 0 and self._fits_alone(some)), None)

    def _fits_alone(self, layers: frozenset[int]) -> bool:
        return not self._too_heavy(layers) and self.ask(layers).fits

    def _too_heavy(self, layers: frozenset[int]) -> bool:
        if self._room is None or self._weights is None:
            return False
        return sum(self._weights[i] for i in layers) > self._room

    def filled(self, best: frozenset[int]) -> frozenset[int]:
        """With layers without a score, which come last, but come."""
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
    """The longest beginning of a list that fits, and those of the rest that fit on top.

    Args:
        order: candidates, the most wanted first.
        ask: whether a set fits.
        required: what is in every set, and not counted.
        count: how many candidates at most; None: any number.
        more: how many of the rest are tried.
        dearer: whether a layer is known to take at least what another takes, on top of layers that all come later in
            the model. Where the other did not fit, it is not asked.

    Returns:
        The set, the required included; None if nothing fits.
    """
    most = len(order) if count is None else min(count, len(order))

    def beginning(length: int) -> Answer:
        return ask(frozenset(order[:length]) | required)

    if beginning(most).fits:
        return frozenset(order[:most]) | required
    length = _longest_beginning(beginning, most)
    chosen = frozenset(order[:length])
    refused = [] if beginning(length + 1).larger else [order[length]]  # on top of what is chosen
    for layer in order[length + 1 : length + 1 + more]:
        if len(chosen) == most:
            break
        first = min(chosen | required, default=layer + 1) > layer
        if first and any(dearer(layer, other) for other in refused):
            continue
        answer = ask(chosen | {layer} | required)
        if answer.fits:
            chosen |= {layer}
        elif not answer.larger:
            refused.append(layer)
    if chosen:
        return chosen | required
    if required and ask(required).fits:
        return required
    return _one(order, ask, required) if most else None


def _longest_beginning(beginning: Callable[[int], Answer], most: int) -> int:
    """How many of a list fit, the first ones. All of them do not."""
    low, high = 0, most if not beginning(most).larger else most + 1  # `high` and all that are longer do not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if beginning(middle).larger else (low, middle)
    while low > 0 and not beginning(low).fits:
        low = low - 1 if beginning(low).smaller else 0
    return low


def _one(order: Sequence[int], ask: Ask, required: frozenset[int]) -> frozenset[int] | None:
    """A layer that fits, with the required ones; the latest, where the frozen pass of later ones takes too much."""
    backwards = sorted(order, reverse=True)

    def asked(at: int) -> Answer:
        return ask(required | {backwards[at]})

    low, high = -1, len(backwards)
    while high - low > 1:  # up to `low` too much is frozen
        middle = (low + high) // 2
        low, high = (low, middle) if asked(middle).smaller else (middle, high)
    for at in range(high, len(backwards)):
        if asked(at).fits:
            return required | {backwards[at]}
        if not asked(at).larger:
            return None
    return None


def _smallest_prefix(layers: Sequence[int], larger: Callable[[frozenset[int]], bool]) -> frozenset[int]:
    """Of a set that no set fits which holds it, the shortest beginning (in the model's order) of which that is true."""
    low, high = 0, len(layers)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if larger(frozenset(layers[:middle])) else (low, middle)
    return frozenset(layers[:high])


@dataclass
class _Learnt:
    """What is known of sets that do not fit.

    Attributes:
        refused: no set fits that holds one of these.
        needed: every set that fits has a layer of each of these.
        banned: do not fit themselves.
    """

    refused: list[frozenset[int]] = field(default_factory=list)
    needed: list[frozenset[int]] = field(default_factory=list)
    banned: set[frozenset[int]] = field(default_factory=set)


class _Program:
    """The candidates' sets in falling order of their score, by branch and bound, those with something refused left out.

    A solver of integer programs would do as well; scipy's writes to stdout on some of these, where results belong.
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

    def solve(self, learnt: _Learnt) -> tuple[frozenset[int] | None, float]:
        """The best set that may fit (None: only the empty one is left), and a bound of its score.

        They differ only where the search is stopped for having taken too long.
        """
        masks = [self._mask(layers) for layers in learnt.refused if layers <= self._bit.keys()]
        needed = [self._mask(layers) for layers in learnt.needed]
        banned = {self._mask(layers) for layers in learnt.banned}
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
                found = self._bound(at + 1, more, taken + 1, left)
                heapq.heappush(heap, (-found, at + 1, with_it, more, taken + 1, left))
            if all(mask & chosen or mask >> at + 1 for mask in needed):
                heapq.heappush(heap, (-self._bound(at + 1, value, taken, room), at + 1, chosen, value, taken, room))
        bound, _, chosen, *_ = heap[0]
        return (frozenset(layer for layer in self._order if chosen & self._bit[layer]) or None), -bound

    def _mask(self, layers: frozenset[int]) -> int:
        return sum(self._bit[i] for i in layers)

    def _bound(self, at: int, value: float, taken: int, room: float) -> float:
        """No set that begins so scores higher: the best rest by number, or by weight with one layer taken in part."""
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
        """(score, weight) of the candidates from here on, the most score for its weight first."""
        if at not in self._ranked:
            pairs = zip(self._gain[at:], self._weight[at:], strict=True)
            self._ranked[at] = sorted(pairs, key=lambda pair: -pair[0] / max(pair[1], 1e-9))
        return self._ranked[at]
