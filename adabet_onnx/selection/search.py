"""The best-scoring set of layers that fits, where only a whole set can be asked whether it fits.

What a set of layers costs is not the sum of what its layers cost: the earliest one decides how far the backward pass
goes, and memory is a maximum over time. So a set is only ever asked as a whole (`fits`), which takes a prediction from
its training graph, and is slow. One thing is known: a set that holds one that does not fit does not fit either. So
each refusal is a linear constraint (not all of these layers together), and the search a small integer program, solved
again with every refusal learnt: its optimum is never below the best set's score, and once it fits, it is the best set.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Fits = Callable[[frozenset[int]], bool]
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
    fits: Fits,
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
        fits: whether a set (of candidates and the required) fits.
        count: how many candidates at most; None: any number.
        required: what is in every set and is not counted (nor has a score), unless it is a candidate as well.
        weights: what each layer adds for certain to something limited, the required ones included.
        capacity: the limit of the sum of weights.
        tries: how many sets may be asked.

    Returns:
        The best set; exact unless ``tries`` ran out, and then with a bound.
    """
    order = sorted(values, key=lambda i: -values[i])
    asked: dict[frozenset[int], bool] = {}
    room = None if capacity is None or weights is None else capacity - sum(weights[i] for i in required)

    def ask(layers: frozenset[int]) -> bool:
        if layers not in asked:
            asked[layers] = fits(layers | required)
        return asked[layers]

    def value(layers: frozenset[int]) -> float:
        return sum(values[i] for i in layers)

    if room is not None and room < 0:
        return Found(None, 0.0, 0.0)
    best: frozenset[int] | None = None
    refused: list[frozenset[int]] = []
    bound = sum(sorted((values[i] for i in order), reverse=True)[:count])
    program = _Program(values, count, weights, room)
    while True:
        proposed, bound = program.solve(refused)
        if proposed is None:
            break
        if best is not None and bound <= value(best) * (1 + _SAME):
            bound = value(best)
            break
        if len(asked) >= tries:
            break
        if ask(proposed):
            best = proposed
            break
        culprit = _smallest_prefix(sorted(proposed), ask)
        refused.append(culprit)
        if best is None:  # something to fall back on when tries run out, and to know early when a bound is reached
            best = _greedy(order, count, weights, room, ask, refused, tries - len(asked))
    if best is None:
        best = frozenset()
    for layer in order:  # those without a score come last, but come
        if values[layer] <= 0 and (count is None or len(best) < count) and len(asked) < tries:
            more = best | {layer}
            best = more if ask(more) else best
    if not best | required or (not best and not (required and fits(required))):
        return Found(None, 0.0, 0.0)
    return Found(best | required, value(best), bound)


def longest(
    order: Sequence[int],
    fits: Fits,
    *,
    required: frozenset[int] = frozenset(),
    count: int | None = None,
    more: int = 20,
    dearer: Dearer = lambda layer, other: False,
) -> frozenset[int] | None:
    """The longest beginning of a list that fits, and those of the rest that fit on top.

    Args:
        order: candidates, the most wanted first.
        fits: whether a set fits.
        required: what is in every set, and not counted.
        count: how many candidates at most; None: any number.
        more: how many of the rest are tried.
        dearer: whether a layer is known to take at least what another takes, on top of layers that all come later in
            the model. Where the other did not fit, it is not asked.

    Returns:
        The set, the required included; None if nothing fits.
    """
    most = len(order) if count is None else min(count, len(order))

    def ask(length: int) -> bool:
        return fits(frozenset(order[:length]) | required)

    if ask(most):
        return frozenset(order[:most]) | required
    low, high = 0, most  # `high` does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ask(middle) else (low, middle)
    chosen = frozenset(order[:low])
    refused = [order[low]]  # on top of what is chosen
    for layer in order[low + 1 : low + 1 + more]:
        if len(chosen) == most:
            break
        first = min(chosen | required, default=layer + 1) > layer
        if first and any(dearer(layer, other) for other in refused):
            continue
        if fits(chosen | {layer} | required):
            chosen |= {layer}
        else:
            refused.append(layer)
    if chosen:
        return chosen | required
    return required if required and fits(required) else None


def _smallest_prefix(layers: Sequence[int], ask: Callable[[frozenset[int]], bool]) -> frozenset[int]:
    """Of a set that does not fit, the shortest beginning (in the model's order) that does not fit either."""
    low, high = 0, len(layers)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ask(frozenset(layers[:middle])) else (low, middle)
    return frozenset(layers[:high])


def _greedy(
    order: Sequence[int],
    count: int | None,
    weights: dict[int, int] | None,
    room: int | None,
    ask: Callable[[frozenset[int]], bool],
    refused: list[frozenset[int]],
    tries: int,
) -> frozenset[int] | None:
    """Go through the ranking and keep what fits."""
    chosen: frozenset[int] = frozenset()
    for layer in order:
        if tries <= 0 or (count is not None and len(chosen) >= count):
            break
        more = chosen | {layer}
        too_much = room is not None and weights is not None and sum(weights[i] for i in more) > room
        if too_much or any(layers <= more for layers in refused):
            continue
        tries -= 1
        if ask(more):
            chosen = more
        else:
            refused.append(more)
    return chosen or None


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

    def solve(self, refused: Sequence[frozenset[int]]) -> tuple[frozenset[int] | None, float]:
        """The best set that holds nothing refused (None: only the empty one is left), and a bound of its score.

        They differ only where the search is stopped for having taken too long.
        """
        masks = [sum(self._bit[i] for i in layers) for layers in refused if layers <= self._bit.keys()]
        heap = [(-self._bound(0, 0.0, 0, self._room), 0, 0, 0.0, 0, self._room)]
        for _ in range(_MOST_NODES):
            if not heap:
                return None, 0.0
            bound, at, chosen, value, taken, room = heapq.heappop(heap)
            if at == len(self._order) or taken == self._count:
                if not chosen:
                    return None, 0.0
                return frozenset(layer for layer in self._order if chosen & self._bit[layer]), -bound
            with_it, weight = chosen | 1 << at, self._weight[at]
            if weight <= room and not any(mask & with_it == mask for mask in masks if mask >> at & 1):
                more, left = value + self._gain[at], room - weight
                found = self._bound(at + 1, more, taken + 1, left)
                heapq.heappush(heap, (-found, at + 1, with_it, more, taken + 1, left))
            heapq.heappush(heap, (-self._bound(at + 1, value, taken, room), at + 1, chosen, value, taken, room))
        bound, _, chosen, *_ = heap[0]
        return (frozenset(layer for layer in self._order if chosen & self._bit[layer]) or None), -bound

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
