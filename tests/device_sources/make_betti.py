"""Make betti-1000.bin: distances of points, and the first Betti numbers that ripser finds. README.md has the format.

    python tests/device_sources/make_betti.py [--out tests/device_sources/betti-1000.bin] [--seed 0]

The expected numbers come from ripser alone. One seed gives the same bytes on one machine; elsewhere the demo model's
activations may differ in their last bits.
"""

from __future__ import annotations

import argparse
import struct
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from ripser import ripser
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import pdist, squareform

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "adabet_onnx" / "demo"
COUNT = 1000
_Generator = np.random.Generator


def normal(rng: _Generator, n: int) -> np.ndarray:
    """Points of a normal distribution in 1 to 2000 dimensions."""
    return pdist(rng.standard_normal((n, rng.choice([1, 2, 3, 5, 10, 100, 2000]))))


@cache
def _activations() -> list[np.ndarray]:
    model = onnx.load(DEMO / "digits.onnx")
    names = [node.output[0] for node in model.graph.node]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.load(DEMO / "digits_shifted.npz")["x_train"].transpose(0, 3, 1, 2).astype(np.float32) / 255
    return [found.reshape(len(images), -1) for found in session.run(names, {"input": images})]


def digits(rng: _Generator, n: int) -> np.ndarray:
    """Activations of a layer of the demo's model for digits of the demo."""
    found = _activations()[rng.integers(len(_activations()))]
    return pdist(found[rng.permutation(len(found))[:n]].astype(np.float64))


def grid(rng: _Generator, n: int) -> np.ndarray:
    """Points with small integer coordinates: many equal distances, and repeated points."""
    return pdist(rng.integers(0, rng.integers(2, 7), (n, rng.choice([1, 2, 3, 10, 30]))).astype(float))


def rounded(rng: _Generator, n: int) -> np.ndarray:
    """Distances of normal points, rounded to a few values."""
    return np.round(pdist(rng.standard_normal((n, rng.choice([2, 3, 10])))) * rng.choice([1, 2, 5, 20]))


def few_lengths(rng: _Generator, n: int) -> np.ndarray:
    """No metric: many triangles have two or three equal edges."""
    return rng.integers(1, rng.integers(2, 8), n * (n - 1) // 2).astype(float)


def few_lengths_and_zero(rng: _Generator, n: int) -> np.ndarray:
    """No metric: points at distance 0 that differ in their distances to others."""
    return rng.integers(0, rng.integers(2, 8), n * (n - 1) // 2).astype(float)


def given_twice(rng: _Generator, n: int) -> np.ndarray:
    """Repeated points."""
    return pdist(rng.standard_normal((n, 5))[rng.integers(0, max(2, n // 2), n)])


def collinear(rng: _Generator, n: int) -> np.ndarray:
    """Points on a line, evenly spaced or not: no loops except those due to rounding."""
    places = np.arange(n) * rng.choice([0.1, 1.0]) if rng.random() < 0.5 else rng.random(n)
    return pdist(places[:, np.newaxis] * rng.standard_normal(3))


def all_equal(rng: _Generator, n: int) -> np.ndarray:
    """One length, at times 0."""
    return np.full(n * (n - 1) // 2, rng.choice([0, 1, 0.1, 1e30]))


def circle(rng: _Generator, n: int) -> np.ndarray:
    """Evenly spaced: every length occurs n times, except for rounding."""
    angles = 2 * np.pi * np.arange(n) / n
    return pdist(np.round(np.stack([np.cos(angles), np.sin(angles)], 1), rng.choice([3, 8, 16])))


def torus(rng: _Generator, n: int) -> np.ndarray:
    """Points of a torus in three dimensions, or a grid on a flat one."""
    if rng.random() < 0.5:
        a, b = 2 * np.pi * rng.random((2, n))
        return pdist(np.stack([(2 + np.cos(b)) * np.cos(a), (2 + np.cos(b)) * np.sin(a), np.sin(b)], 1))
    side = int(np.ceil(np.sqrt(n)))
    places = np.stack(np.divmod(np.arange(n), side), 1)
    steps = np.abs(places[:, np.newaxis] - places)
    return squareform(np.minimum(steps, side - steps).sum(2).astype(float))


def graph(rng: _Generator, n: int) -> np.ndarray:
    """Steps along the edges of a random connected graph."""
    links = rng.random((n, n)) < rng.uniform(0, 3) / n
    links[np.arange(n - 1), np.arange(1, n)] = True
    return squareform(shortest_path(links | links.T, unweighted=True))


def huge(rng: _Generator, n: int) -> np.ndarray:
    """Near the largest float32, some beyond: those are infinite."""
    return pdist(rng.standard_normal((n, 3))) * 10.0 ** rng.uniform(37, 38.6)


def infinite(rng: _Generator, n: int) -> np.ndarray:
    """Distances of which some are infinite: unconnected groups of points, and others."""
    found = pdist(rng.standard_normal((n, 2)))
    return np.where(rng.random(found.shape) < rng.uniform(0, 1), np.inf, found)


def tiny(rng: _Generator, n: int) -> np.ndarray:
    """About the smallest float32, normal and subnormal, some rounded to 0."""
    return pdist(rng.standard_normal((n, 3))) * 10.0 ** rng.uniform(-45.5, -36)


def doubles(rng: _Generator, n: int) -> np.ndarray:
    """float64 lengths that differ, but are equal as float32."""
    if n < 5:
        return pdist(rng.standard_normal((n, 3)))
    while True:
        found = 1 + 1e-8 * rng.integers(1, 60) * rng.random(n * (n - 1) // 2)
        _, ranks = np.unique(found, return_inverse=True)
        if by_ripser(squareform(ranks + 1.0)) != by_ripser(squareform(found)):
            return found


# How many of each.
KINDS: dict[Callable[[_Generator, int], np.ndarray], int] = {
    normal: 120,
    digits: 120,
    grid: 90,
    rounded: 80,
    few_lengths: 60,
    few_lengths_and_zero: 60,
    given_twice: 60,
    collinear: 50,
    all_equal: 30,
    circle: 60,
    torus: 60,
    graph: 70,
    huge: 40,
    infinite: 20,
    tiny: 40,
    doubles: 40,
}


def by_ripser(distance: np.ndarray) -> int:
    """The number of bars in dimension 1 with death > birth."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "overflow encountered in cast")
        warnings.filterwarnings("ignore", "The input point cloud has more columns than rows")
        bars = ripser(distance, maxdim=1, distance_matrix=True)["dgms"][1]
    return int(np.count_nonzero(bars[:, 1] > bars[:, 0])) if len(bars) else 0


def sizes() -> list[int]:
    """The number of points of each matrix: every number from 1 to 23 about forty times, and 80 larger ones."""
    found = [1 + k % 23 for k in range(COUNT)]
    found[6::25] = np.linspace(24, 63, 40).round().astype(int).tolist()
    found[18::25] = np.linspace(64, 128, 40).round().astype(int).tolist()
    return found


def record(kind: Callable[[_Generator, int], np.ndarray], rng: _Generator, n: int) -> bytes:
    """A matrix and its number, in the file's format."""
    with np.errstate(over="ignore"):
        lengths = (kind(rng, n) if n > 1 else np.zeros(0)).astype("<f8" if kind is doubles else "<f4")
    number = by_ripser(squareform(lengths.astype(np.float64))) if n > 1 else 0
    return struct.pack("<HHI", n, lengths.itemsize, number) + lengths.tobytes()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "betti-1000.bin")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    order = rng.permutation(COUNT)
    records = [record(kinds[k], rng, n) for k, n in zip(order, sizes(), strict=True)]
    options.out.write_bytes(b"BET1" + struct.pack("<I", COUNT) + b"".join(records))


if __name__ == "__main__":
    main()
