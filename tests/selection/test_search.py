"""The search for the best set that fits, against trying all sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from adabet_onnx.selection import search
from adabet_onnx.selection.search import Answer


def _plain(fits: bool) -> Answer:
    return Answer(fits, larger=fits, smaller=True)


def best_set(values, fits, **options):
    """The best set, if no superset of a set that does not fit fits."""
    return search.best_set(values, lambda chosen: _plain(fits(chosen)), **options)


def longest(order, fits, **options):
    """Likewise."""
    return search.longest(order, lambda chosen: _plain(fits(chosen)), **options)


class Device:
    """Memory as in training: a backward pass to the earliest layer, a maximum over time, and state for each layer."""

    def __init__(self, rng: np.random.Generator, layers: int, limit: float) -> None:
        self.activation = rng.uniform(1, 10, layers) * np.linspace(3, 1, layers)
        self.state = rng.uniform(0, 6, layers)
        self.limit, self.asked = limit, 0

    def memory(self, chosen: frozenset[int]) -> float:
        if not chosen:
            return 0.0
        back = 0.3 * self.activation[min(chosen) :].sum()
        saved = self.activation[list(chosen)].sum()
        return max(back + saved, 2 * self.state[list(chosen)].sum()) + self.state[list(chosen)].sum()

    def fits(self, chosen: frozenset[int]) -> bool:
        self.asked += 1
        return self.memory(chosen) <= self.limit


def best_by_trying(values, fits, count, required, room, weights):
    sets = (
        frozenset(chosen)
        for size in range(1, count + 1)
        for chosen in itertools.combinations(sorted(values), size)
        if room is None or sum(weights[i] for i in (*chosen, *required)) <= room
    )
    fitting = [chosen for chosen in sets if fits(chosen | required)]
    return max((sum(values[i] for i in chosen) for chosen in fitting), default=None)


class Cut(Device):
    """Memory with a frozen pass before the step, which holds the weights of all layers before the earliest one.

    The inputs of steps are held by the caller, and may be smaller if an earlier layer is trained too.
    """

    def __init__(self, rng: np.random.Generator, layers: int, limit: float) -> None:
        super().__init__(rng, layers, limit)
        self.weights = rng.uniform(0, 12, layers)
        self.kept = rng.uniform(0, 4, layers)

    def frozen(self, chosen: frozenset[int]) -> float:
        return self.weights[: min(chosen)].sum()

    def step(self, chosen: frozenset[int]) -> float:
        return self.memory(chosen) + self.kept[min(chosen)]

    def fits_both(self, chosen: frozenset[int]) -> bool:
        self.asked += 1
        return not chosen or max(self.step(chosen), self.frozen(chosen)) <= self.limit

    def answer(self, chosen: frozenset[int]) -> Answer:
        return Answer(self.fits_both(chosen), self.memory(chosen) <= self.limit, self.frozen(chosen) <= self.limit)


@pytest.mark.parametrize("seed", range(60))
def test_the_best_set_is_found_where_late_layers_freeze_too_much(seed):
    rng = np.random.default_rng(seed)
    layers, count = 10, int(rng.integers(1, 6))
    device = Cut(rng, layers, limit=float(rng.uniform(15, 70)))
    values = {i: float(v) if rng.random() < 0.8 else 0.0 for i, v in enumerate(rng.uniform(0, 1, layers))}
    required = frozenset({layers - 1}) if seed % 3 == 0 else frozenset()
    values = {i: value for i, value in values.items() if i not in required}
    expected = best_by_trying(values, device.fits_both, count, required, None, None)
    device.asked = 0
    found = search.best_set(values, device.answer, count=count, required=required, tries=10_000)
    alone = required and device.fits_both(required)
    if expected is None:
        assert found.chosen == (required if alone else None)
        return
    assert found.chosen is not None
    assert device.fits_both(found.chosen)
    assert required <= found.chosen
    assert len(found.chosen - required) <= count
    assert found.value == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found.gap <= 1e-5
    assert device.asked < 2**layers / 4
    refused = search.best_set(values, device.answer, count=count, required=required, tries=15)
    if refused.chosen is not None:
        assert device.fits_both(refused.chosen)
        assert refused.value <= expected * (1 + 1e-9) <= refused.bound * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(60))
def test_the_longest_beginning_that_fits_where_late_layers_freeze_too_much(seed):
    rng = np.random.default_rng(seed)
    device = Cut(rng, 12, limit=float(rng.uniform(15, 70)))
    order = [int(i) for i in rng.permutation(12)] if seed % 3 else list(range(11, -1, -1))
    required = frozenset({11}) if seed % 2 else frozenset()
    order = [layer for layer in order if layer not in required]
    found = search.longest(order, device.answer, required=required, more=12)
    sets = [frozenset(order[:n]) | required for n in range(1, len(order) + 1)]
    fitting = [chosen for chosen in sets if device.fits_both(chosen)]
    alone = [i for i in order if device.fits_both(frozenset({i}) | required)]
    if found is None:
        assert not fitting
        assert not alone
        return
    assert device.fits_both(found)
    assert required <= found
    assert not fitting or found >= fitting[-1]


@pytest.mark.parametrize("seed", range(60))
def test_the_best_set_is_found(seed):
    rng = np.random.default_rng(seed)
    layers, count = 11, int(rng.integers(1, 6))
    device = Device(rng, layers, limit=float(rng.uniform(5, 90)))
    values = {
        i: float(v) for i, v in enumerate(rng.choice([rng.uniform(0, 1, layers), 10 ** rng.uniform(-4, 0, layers)]))
    }
    required = frozenset({layers - 1}) if seed % 3 == 0 else frozenset()
    values = {i: value for i, value in values.items() if i not in required}
    weights = {i: int(rng.integers(1, 50)) for i in range(layers)}
    room = int(rng.integers(20, 150)) if seed % 2 else None
    expected = best_by_trying(values, lambda s: device.memory(s) <= device.limit, count, required, room, weights)
    found = best_set(values, device.fits, count=count, required=required, weights=weights, capacity=room, tries=10_000)
    if expected is None:
        nothing = required and device.memory(required) <= device.limit
        assert found.chosen == (required if nothing and (room is None or weights[layers - 1] <= room) else None)
        return
    assert found.chosen is not None
    assert device.memory(found.chosen) <= device.limit
    assert required <= found.chosen
    assert found.value == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found.gap <= 1e-5


def test_a_search_that_is_cut_short_says_how_far_off_it_may_be():
    rng = np.random.default_rng(5)
    device = Device(rng, 16, limit=45.0)
    values = {i: float(v) for i, v in enumerate(rng.uniform(0.5, 1, 16))}
    exact = best_set(values, device.fits, count=6, tries=100_000)
    device.asked = 0
    short = best_set(values, device.fits, count=6, tries=12)
    assert device.asked <= 12 + 10  # the reason for an error is determined completely
    assert short.chosen is not None
    assert device.memory(short.chosen) <= 45
    assert short.value <= exact.value * (1 + 1e-9) <= short.bound * (1 + 1e-6)
    assert 0 < short.gap < 1


def test_layers_without_a_score_are_taken_last_but_taken():
    found = best_set({0: 0.0, 1: 1.0, 2: 0.0}, lambda chosen: len(chosen) <= 2, count=3)
    assert found.chosen is not None
    assert 1 in found.chosen
    assert len(found.chosen) == 2


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_beginning_that_fits(seed):
    rng = np.random.default_rng(seed)
    device = Device(rng, 12, limit=float(rng.uniform(5, 80)))
    order = [int(i) for i in rng.permutation(12)]
    found = longest(order, device.fits, more=12)
    lengths = [n for n in range(1, 13) if device.memory(frozenset(order[:n])) <= device.limit]
    if not lengths:
        assert found is None or device.memory(found) <= device.limit
        return
    assert found is not None
    assert device.memory(found) <= device.limit
    assert found >= frozenset(order[: max(lengths)])
    for layer in set(order) - found:
        assert device.memory(found | {layer}) > device.limit


def test_a_layer_that_takes_at_least_what_a_refused_one_takes_is_not_asked():
    asked = []

    def fits(chosen):
        asked.append(chosen)
        return sum(10 - layer for layer in chosen) <= 6  # the earlier, the dearer; but 2 takes nothing

    def fits_but(chosen):
        return fits(chosen - {2})

    order = [9, 8, 7, 4, 3, 2, 1]
    slow = longest(order, fits_but)
    plain, asked[:] = len(asked), []
    assert longest(order, fits_but, dearer=lambda layer, other: layer < other and layer != 2) == slow == {9, 8, 7, 2}
    assert len(asked) == plain - 2  # 3 and 1


def test_a_layer_before_which_another_is_chosen_is_asked():
    def fits(chosen):
        return chosen != {0, 5, 9} and len(chosen) <= 3

    assert longest([9, 5, 4], fits, required=frozenset({0}), dearer=lambda layer, other: True) == {0, 9, 4}


def test_the_longest_beginning_keeps_to_a_count():
    assert longest([4, 3, 2, 1], lambda chosen: 3 not in chosen, count=2) == {4, 2}
    assert longest([4, 3, 2, 1], lambda chosen: True, count=3, required=frozenset({9})) == {4, 3, 2, 9}
    assert longest([4, 3], lambda chosen: chosen == {9}, required=frozenset({9})) == {9}
    assert longest([4, 3], lambda chosen: False) is None
