"""Rankings of layers by disjoint groups of samples, by every measure; each sample is forwarded once."""

from __future__ import annotations

import math

import numpy as np

from .. import seeds
from ..data.dataset import Dataset
from ..model.open import Model
from ..scoring.betti import first_betti_number
from ..scoring.forward import Forwarded, Probed
from ..scoring.groups import SamplePlan
from ..scoring.record import Scores
from ..scoring.rounds import betti_numbers_of_layers
from ..scoring.score import layer_scores
from ..selection.rankings import rank
from .fisher import Fisher


class Ranker:
    """Rankings by the groups of one shuffle; intermediate results are cached.

    Samples are forwarded in blocks. A group of n samples is part of a block, or consists of several blocks.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        probed: Probed,
        information: Fisher | None,
        points: int,
        block: int,
        subsets: int | None,
        seed: int,
    ) -> None:
        self._model, self._dataset, self._probed, self._fisher = model, dataset, probed, information
        self._points, self._block, self._subsets, self._seed = points, block, subsets, seed
        self._taken: dict[int, int] = {}  # number of subsets of a group, by its size
        self._order = seeds.samples(seed).permutation(len(dataset))
        self._blocks: dict[int, Forwarded] = {}
        self._betti: dict[tuple[int, int], dict[str, list[int]]] = {}
        self._information: dict[int, list[float]] = {}

    @property
    def available(self) -> int:
        """Number of samples in whole blocks."""
        return len(self._order) // self._block * self._block

    def measures(self, size: int, index: int) -> dict[str, list[float]]:
        """Scores of every layer by every measure, from the ``index``-th group of ``size`` samples."""
        parts = self._parts(size, index)
        numbers = [self._numbers(*part) for part in parts]
        betti = {name: [b1 for part in numbers for b1 in part[name]] for name in numbers[0]}
        forwarded = [self._part(*part) for part in parts]
        layers = layer_scores(self._model, betti, forwarded, self._probed.stored, self._points)
        every = [self._numbers(self._points, i) for i in self._chunks(size, index)]
        head = self._model.head
        scores = Scores(self._model.sha256, "subsets", self._points, (), layers, head=head.name if head else None)
        measures = {
            "b1_hat": [layer.b1_hat for layer in layers],
            "b1_hat batches": [
                float(np.mean([part[layer.name][0] for part in every])) / (self._points * layer.activation_size)
                for layer in layers
            ],
            "b1": [layer.b1_mean for layer in layers],
            "size": [1 / layer.activation_size for layer in layers],
            "auto": _auto_scores(scores),
        }
        if self._fisher is not None:
            chunks = [self._fisher_of(i) for i in self._chunks(size, index)]
            measures["fisher"] = [float(value) for value in np.mean(chunks, axis=0)]
        return measures

    def distances(self) -> dict[str, tuple[np.ndarray, int]]:
        """Each layer's distances in the first block, and the first Betti number of all its points."""
        forwarded = self._forward(0)
        matrices = {name: self._probed.distances(name, gram) for name, gram in forwarded.grams.items()}
        return {name: (matrix, first_betti_number(matrix)) for name, matrix in matrices.items()}

    def _parts(self, size: int, index: int) -> list[tuple[int, int]]:
        """Split a group into groups no larger than a block, as (size, index)."""
        if size <= self._block:
            return [(size, index)]
        count = size // self._block
        return [(self._block, index * count + i) for i in range(count)]

    def _chunks(self, size: int, index: int) -> range:
        """The groups of ``points`` samples that a group consists of."""
        count = size // self._points
        return range(index * count, (index + 1) * count)

    def _forward(self, number: int) -> Forwarded:
        if number not in self._blocks:
            rows = self._order[number * self._block : (number + 1) * self._block]
            self._blocks[number] = self._probed.forward(self._dataset, rows)
        return self._blocks[number]

    def _part(self, size: int, index: int) -> Forwarded:
        number, start = divmod(size * index, self._block)
        whole = self._forward(number)
        return whole if size == self._block else whole.of(np.arange(start, start + size))

    def _numbers(self, size: int, index: int) -> dict[str, list[int]]:
        """First Betti numbers of a group no larger than a block; the first of its size sets the number of subsets."""
        key = size, index
        if key not in self._betti:
            asked = None if self._subsets is None else min(self._subsets, math.comb(size, self._points))
            plan = SamplePlan(self._points, size, 1, self._taken.get(size, asked))
            grams = self._part(size, index).grams
            numbers = betti_numbers_of_layers(
                ((name, self._probed.distances(name, gram)) for name, gram in grams.items()),
                {layer.name: layer.activation_size or 1 for layer in self._model.layers},
                plan,
                seeds.subsets(self._seed, size, index),
            )
            self._taken[size] = len(next(iter(numbers.values())))
            self._betti[key] = numbers
        return self._betti[key]

    def _fisher_of(self, chunk: int) -> list[float]:
        """Fisher information of one batch of ``points``.

        Normalisations use stored statistics, so samples do not interact, and the mean over batches equals that of one
        large batch up to a factor.
        """
        assert self._fisher is not None
        if chunk not in self._information:
            rows = self._order[chunk * self._points : (chunk + 1) * self._points]
            self._information[chunk] = list(self._fisher.of(rows).values())
        return self._information[chunk]


def _auto_scores(scores: Scores) -> list[float]:
    """The order of ``auto`` as scores: the first layer has the highest, layers that are not selected have 0."""
    order = rank(scores, "auto", list(range(len(scores.layers))), None, 0).order
    values = [0.0] * len(scores.layers)
    for place, layer in enumerate(order):
        values[layer] = float(len(order) - place)
    return values
