"""First Betti numbers: counted without persistence, and equal to ripser's to the integer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ripser import ripser
from scipy.spatial.distance import pdist, squareform

from adabet_onnx.scoring.betti import Loops, betti_numbers, distances, first_betti_number

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # ripser's own, of huge distances


def by_ripser(distance: np.ndarray) -> int:
    """The bars themselves, by another program."""
    bars = ripser(distance, maxdim=1, distance_matrix=True)["dgms"][1]
    return int(np.count_nonzero(bars[:, 1] > bars[:, 0]))


def of_points(points: np.ndarray) -> np.ndarray:
    return squareform(pdist(points))


def normal(rng, n):
    return of_points(rng.standard_normal((n, rng.choice([1, 2, 3, 10, 100, 2000]))))


def integers(rng, n):
    return of_points(rng.integers(0, rng.integers(2, 6), (n, rng.choice([1, 2, 3, 10, 30]))).astype(float))


def circle(rng, n):
    """Evenly spaced: every length occurs n times, except for rounding."""
    angles = 2 * np.pi * np.arange(n) / n
    return of_points(np.round(np.stack([np.cos(angles), np.sin(angles)], 1), rng.choice([3, 8, 16])))


def one_hot(rng, n):
    return of_points(np.eye(n)[rng.integers(0, n, n)])


def given_twice(rng, n):
    return of_points(rng.standard_normal((n, 5))[rng.integers(0, max(2, n // 2), n)])


def given_twice_rounded(rng, n):
    """As in scores: from a float32 Gram matrix, which may give equal points a small distance."""
    points = rng.standard_normal((n, 30))[rng.integers(0, max(2, n // 2), n)].astype(np.float32)
    points -= points.mean(0)
    return distances(points @ points.T)


def few_lengths(rng, n):
    """No metric: of the triangles many have two or three equal edges."""
    return squareform(rng.integers(1, rng.integers(2, 8), n * (n - 1) // 2)).astype(float)


def few_lengths_and_zero(rng, n):
    """Points at distance 0 that differ in their distances to others."""
    return squareform(rng.integers(0, rng.integers(2, 8), n * (n - 1) // 2)).astype(float)


def equal_in_float32(rng, n):
    return squareform(1 + 1e-8 * rng.integers(1, 60) * rng.random(n * (n - 1) // 2))


def any_scale(rng, n):
    return of_points(rng.standard_normal((n, 3))) * 10.0 ** rng.uniform(-48, 39)


KINDS = [
    normal,
    integers,
    circle,
    one_hot,
    given_twice,
    given_twice_rounded,
    few_lengths,
    few_lengths_and_zero,
    equal_in_float32,
    any_scale,
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_numbers_are_those_of_ripser(kind, rng):
    sizes = [*range(4, 24)] * 8 + [32] * 40 + [48, 63, 64, 65, 100, 127, 128]
    for n in sizes:
        distance = kind(rng, n)
        assert first_betti_number(distance) == by_ripser(distance)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("n", "points"), [(20, 8), (64, 16), (65, 32), (128, 32)])
def test_numbers_of_subsets_are_those_of_ripser(kind, n, points, rng):
    distance = kind(rng, n)
    subsets = [rng.permutation(n)[:points] for _ in range(70)]
    expected = [by_ripser(distance[np.ix_(subset, subset)]) for subset in subsets]
    assert betti_numbers(distance, subsets) == expected
    assert len(set(expected)) > 1 or kind in (one_hot, any_scale, circle, equal_in_float32)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 4), min_size=6, max_size=66))
def test_any_lengths_give_the_number_of_ripser(lengths):
    """Symmetric matrices of few different lengths, which need not satisfy the triangle inequality."""
    n = int((1 + np.sqrt(1 + 8 * len(lengths))) / 2)  # points with no more pairs than lengths
    distance = squareform(np.array(lengths[: n * (n - 1) // 2], float))
    assert first_betti_number(distance) == by_ripser(distance)


def test_a_large_group_in_one_piece(rng):
    distance = of_points(rng.standard_normal((300, 20)))
    assert first_betti_number(distance) == by_ripser(distance) > 300
    distance = of_points(rng.integers(0, 2, (300, 7)).astype(float))  # at most 128 different points
    assert first_betti_number(distance) == by_ripser(distance)


def test_few_points_and_equal_points_form_no_loops(rng):
    for n in range(1, 4):
        assert first_betti_number(of_points(rng.standard_normal((n, 2)))) == 0
    for n in (4, 32, 128):
        assert first_betti_number(np.zeros((n, n))) == 0
        assert first_betti_number(np.ones((n, n)) - np.eye(n)) == 0


def test_a_point_twice_in_a_subset_is_one_point(rng):
    distance = of_points(rng.standard_normal((12, 3)))
    loops = Loops(distance)
    every = np.arange(12)
    assert loops.count([[*every, 3, 3]]) == loops.count([every]) == [by_ripser(distance)]


def test_what_is_below_the_diagonal_does_not_count(rng):
    distance = of_points(rng.standard_normal((40, 10)))
    assert first_betti_number(np.triu(distance)) == first_betti_number(distance)
