"""How firm rankings of layers are: whether other samples of the same domain would rank them alike.

The training data is shuffled (once per seed) and cut into disjoint groups of n samples; each group ranks the layers by
itself, and every two rankings of a seed are compared, by Kendall's tau and by the share of the top layers they have in
common. That is done for n = 32, 64, 128, ... One forward pass of each sample serves every n.

``stability.json``: format "adabet-onnx/stability", version 1, with
    model_sha256, model_file, preprocessing
    points          N of one Betti number
    rho, top        the fraction of layers, and how many layers it is
    seeds           how many shuffles
    layers          names, in model order
    agreements      a list with, for each measure and n: measure, samples (n), groups (per seed), pairs, tau, tau_sd,
                    tau_min, overlap, seeds_tau (between what two seeds would give; null for one seed)
    enough          by measure: the smallest n with an overlap of at least FIRM, or null if none of those tried has
    example         n, and for each layer the b1_hat of each group (seed 0), which the plot draws
    clusters        null, or a list with, for each layer: layer, clusters, noise, b1 (see `clusters`)
    notes           what is missing, and why (not in older files)

Measures: ``b1_hat`` (under the subsets estimator), ``b1_hat batches`` (the paper's), ``b1`` (not divided by size),
``size`` (1 / D: the control, the same for any sample), ``auto`` (see `selection.auto`), and ``fisher`` with labels.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from ..data.dataset import Dataset
from ..data.labels import align_classes
from ..data.preprocess import Preprocessing, choose
from ..data.source import open_data
from ..errors import DataError, ModelError, UsageError
from ..model.open import Model
from ..records import Entries, read_record, write_json
from ..scoring.betti import betti_numbers
from ..scoring.forward import Forwarded, Probed
from ..scoring.groups import GROUP, Plan, draw_subsets, largest_group
from ..scoring.record import Scores
from ..scoring.score import MEMORY_SHARE, layer_scores
from ..selection.rankings import rank, top_count
from .agreement import every_pair, kendall_tau
from .clusters import Clusters, clusters_of
from .fisher import Fisher

FORMAT, VERSION = "adabet-onnx/stability", 1
FIRM = 0.9  # of the top layers are the same
_MADE_BY = "adabet-onnx stability"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Agreement:
    """How far rankings by one measure from groups of so many samples agree; the attributes are those of the file."""

    measure: str
    samples: int
    groups: int
    pairs: int
    tau: float
    tau_sd: float
    tau_min: float
    overlap: float
    seeds_tau: float | None


@dataclass(frozen=True)
class Stability:
    """What `stability` found; the attributes are those of the file."""

    model_sha256: str
    model_file: str | None
    preprocessing: dict[str, Any]
    points: int
    rho: float
    top: int
    seeds: int
    layers: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    enough: dict[str, int | None]
    example_samples: int
    example: tuple[tuple[float, ...], ...]
    clusters: tuple[Clusters, ...] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())

    def sentence(self) -> str:
        """How many samples a firm choice needs, in words."""
        tried = max(row.samples for row in self.agreements)
        enough = self.enough.get("b1_hat")
        if enough is not None:
            return (
                f"{enough} samples give a firm choice: two disjoint groups of {enough} agree on at least "
                f"{FIRM:.0%} of the top {self.top} layers"
            )
        best = max((row for row in self.agreements if row.measure == "b1_hat"), key=lambda row: row.samples)
        return (
            f"no firm choice with up to {tried} samples: two disjoint groups of {best.samples} agree on "
            f"{best.overlap:.0%} of the top {self.top} layers"
        )


def stability(
    model: Model,
    data: Any,
    *,
    rho: float = 0.1,
    points: int = 32,
    subsets: int = 64,
    max_samples: int = 512,
    groups: int = 8,
    seeds: int = 2,
    fisher: bool = True,
    loss: str = "cross-entropy",
    embeddings: bool = False,
    preset: str = "auto",
    preprocessing: Preprocessing | None = None,
    max_memory: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Stability:
    """Rank layers by disjoint groups of samples, and say how far the rankings agree.

    Args:
        model: the opened model.
        data: the new domain, in any form `open_data` takes; training data where it is split.
        rho: the fraction of layers that a selection would take.
        points: N of one Betti number; the smallest groups have so many samples.
        subsets: of each group, under the subsets estimator.
        max_samples: the largest groups have at most so many; groups need two times as many.
        groups: at most so many of each size.
        seeds: how many shuffles.
        fisher: also Fisher information, where there are labels that fit the model and the loss.
        loss: of Fisher information: cross-entropy, mse, bce-with-logits or l1.
        embeddings: also clusters of UMAP embeddings (needs umap-learn).
        preset, preprocessing, max_memory, threads: as in `score`.
        progress: called with what is going on, steps done and steps in all.

    Raises:
        UsageError: a number out of range.
        DataError: too few samples for two groups, or data that does not fit the model.
        RuntimeMissingError: umap-learn is asked for and not installed.
    """
    for what, number, least in (("points", points, 4), ("groups", groups, 2), ("seeds", seeds, 1)):
        if number < least:
            raise UsageError(f"{what} must be at least {least}, not {number}.")
    if subsets < 1 or not 0 < rho <= 1:
        raise UsageError("subsets must be at least 1, and rho above 0 and at most 1.")
    dataset = align_classes(open_data(data, model).train, model.metadata("classes"))
    if preprocessing is None:
        preprocessing = choose(model, preset=preset, integer_data=dataset.rows.integer)
    sizes = group_sizes(len(dataset), points, max_samples)
    limit = max_memory if max_memory is not None else int(MEMORY_SHARE * psutil.virtual_memory().available)
    fits = min(GROUP, largest_group(model, points, limit), sizes[-1])
    block = points * 2 ** int(math.log2(max(1, fits // points)))
    probed = Probed(model, preprocessing, group=block, threads=threads)
    information = None
    notes = []
    if fisher and dataset.labels is not None:
        try:
            information = Fisher(model, dataset, preprocessing, loss=loss, threads=threads)
        except (DataError, ModelError) as error:  # such as labels of a new task, for which there is no head yet
            notes.append(f"Fisher information is left out: {error}")
    say = progress or (lambda what, done, total: None)
    runs = []
    for seed in range(seeds):
        ranker = _Ranker(model, dataset, probed, information, points, block, subsets, seed)
        runs.append(_run(ranker, sizes, groups, seed, seeds, say))
    top = top_count(len(model.layers), rho)
    agreements = [
        _agreement(measure, size, [run[size][measure] for run in runs], top)
        for measure in runs[0][sizes[0]]
        for size in sizes
    ]
    shown = max(size for size in sizes if size <= GROUP)
    found = None
    if embeddings:
        found = tuple(clusters_of(ranker.distances(), seed=0, progress=progress))
    return Stability(
        model_sha256=model.sha256,
        model_file=None if model.name.startswith("<") else model.name,
        preprocessing=preprocessing.to_json(),
        points=points,
        rho=rho,
        top=top,
        seeds=seeds,
        layers=tuple(layer.name for layer in model.layers),
        agreements=tuple(agreements),
        enough=_enough(agreements),
        example_samples=shown,
        example=tuple(tuple(float(value) for value in row) for row in np.transpose(runs[0][shown]["b1_hat"])),
        clusters=found,
        notes=tuple(notes),
    )


def group_sizes(available: int, points: int, max_samples: int) -> list[int]:
    """Doubling from ``points`` on, as long as there are two groups.

    Raises:
        DataError: there are not even two of the smallest.
    """
    sizes = [points]
    while sizes[-1] * 2 <= min(max_samples, available // 2):
        sizes.append(sizes[-1] * 2)
    if available < 2 * points:
        raise DataError(
            f"two disjoint groups of {points} samples need {2 * points}, but the data has {available}. Give more data, "
            "or a smaller --subset-size."
        )
    return sizes


Vectors = dict[int, dict[str, list[list[float]]]]  # by group size and measure: of each group, a score per layer


def _run(ranker: _Ranker, sizes: Sequence[int], most: int, seed: int, seeds: int, say: Progress) -> Vectors:
    """All rankings of one shuffle, the ``seed``-th of ``seeds``."""
    counts = {size: min(most, ranker.available // size) for size in sizes}
    done, total = 0, sum(size * count for size, count in counts.items())
    found: Vectors = {}
    for size, count in counts.items():
        found[size] = {}
        for index in range(count):
            say("ranking", seed * total + done, seeds * total)
            for measure, scores in ranker.measures(size, index).items():
                found[size].setdefault(measure, []).append(scores)
            done += size
    say("ranking", (seed + 1) * total, seeds * total)
    return found


class _Ranker:
    """Rankings by groups of one shuffle; what is computed once is kept.

    Samples are forwarded in blocks. A group of n samples is a part of a block, or several blocks.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        probed: Probed,
        information: Fisher | None,
        points: int,
        block: int,
        subsets: int,
        seed: int,
    ) -> None:
        self._model, self._dataset, self._probed, self._fisher = model, dataset, probed, information
        self._points, self._block, self._subsets, self._seed = points, block, subsets, seed
        self._order = np.random.default_rng(seed).permutation(len(dataset))
        self._blocks: dict[int, Forwarded] = {}
        self._betti: dict[tuple[int, int], dict[str, list[int]]] = {}
        self._information: dict[int, list[float]] = {}

    @property
    def available(self) -> int:
        """Samples in whole blocks, or in all where there is not even one."""
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
        found = {
            "b1_hat": [layer.b1_hat for layer in layers],
            "b1_hat batches": [
                float(np.mean([part[layer.name][0] for part in every])) / (self._points * layer.activation_size)
                for layer in layers
            ],
            "b1": [layer.b1_mean for layer in layers],
            "size": [1 / layer.activation_size for layer in layers],
            "auto": _wanted(scores),
        }
        if self._fisher is not None:
            chunks = [self._fisher_of(i) for i in self._chunks(size, index)]
            found["fisher"] = [float(value) for value in np.mean(chunks, axis=0)]
        return found

    def distances(self) -> dict[str, tuple[np.ndarray, int]]:
        """Of the first block: each layer's distances, and the first Betti number of all its points."""
        forwarded = self._forward(0)
        found = {name: self._probed.distances(name, gram) for name, gram in forwarded.grams.items()}
        everything = [np.arange(self._block)]
        return {name: (matrix, betti_numbers(matrix, everything)[0]) for name, matrix in found.items()}

    def _parts(self, size: int, index: int) -> list[tuple[int, int]]:
        """A group as (size, index) of groups no larger than a block."""
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
        """First Betti numbers of a group no larger than a block."""
        key = size, index
        if key not in self._betti:
            subsets = min(self._subsets, math.comb(size, self._points))
            chosen = draw_subsets(Plan(self._points, size, 1, subsets), [self._seed, 3, size, index])
            grams = self._part(size, index).grams
            self._betti[key] = {
                name: betti_numbers(self._probed.distances(name, gram), chosen) for name, gram in grams.items()
            }
        return self._betti[key]

    def _fisher_of(self, chunk: int) -> list[float]:
        """Of one batch of ``points``.

        With normalisations as they are stored samples do not meet, so the mean over batches is that of one large batch,
        but for a factor.
        """
        assert self._fisher is not None
        if chunk not in self._information:
            rows = self._order[chunk * self._points : (chunk + 1) * self._points]
            self._information[chunk] = list(self._fisher.of(rows).values())
        return self._information[chunk]


def _wanted(scores: Scores) -> list[float]:
    """The order of ``auto`` as scores: higher is wanted more, 0 not at all."""
    order = rank(scores, "auto", list(range(len(scores.layers))), None, 0).order
    found = [0.0] * len(scores.layers)
    for place, layer in enumerate(order):
        found[layer] = float(len(order) - place)
    return found


def _agreement(measure: str, size: int, seeds: Sequence[Sequence[Sequence[float]]], top: int) -> Agreement:
    pairs = [pair for groups in seeds for pair in every_pair(groups, top)]
    taus = [tau for tau, _ in pairs]
    first = [groups[0] for groups in seeds]
    between = [kendall_tau(a, b) for i, a in enumerate(first) for b in first[i + 1 :]]
    return Agreement(
        measure=measure,
        samples=size,
        groups=len(seeds[0]),
        pairs=len(pairs),
        tau=statistics.fmean(taus),
        tau_sd=statistics.stdev(taus) if len(taus) > 1 else 0.0,
        tau_min=min(taus),
        overlap=statistics.fmean(share for _, share in pairs),
        seeds_tau=statistics.fmean(between) if between else None,
    )


def _enough(agreements: Sequence[Agreement]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for row in agreements:
        if found.setdefault(row.measure, None) is None and row.overlap >= FIRM:
            found[row.measure] = row.samples
    return found


def load_stability(path: str | os.PathLike[str]) -> Stability:
    """Read a stability file.

    Raises:
        RecordError: it is not one, or is damaged.
    """
    record = Entries(read_record(path, FORMAT, VERSION, _MADE_BY), str(path), _MADE_BY)
    nothing = type(None)
    rows = []
    for i, entry in enumerate(record.take_list("agreements", dict)):
        row = Entries(entry, f"{path}, agreement {i},", _MADE_BY)
        rows.append(
            Agreement(
                measure=row.take("measure", str),
                samples=row.take("samples", int),
                groups=row.take("groups", int),
                pairs=row.take("pairs", int),
                tau=float(row.take("tau", float)),
                tau_sd=float(row.take("tau_sd", float)),
                tau_min=float(row.take("tau_min", float)),
                overlap=float(row.take("overlap", float)),
                seeds_tau=row.take("seeds_tau", float, nothing),
            )
        )
    layers = record.names("layers")
    example = record.take_list("example", list)
    if (
        not {"b1_hat"} <= {row.measure for row in rows}
        or len(example) != len(layers)
        or any(not isinstance(value, int | float) for line in example for value in line)
    ):
        raise record.damaged("its agreements or its example are not as they should be")
    clusters = None
    if record.take_if_there("clusters", None, list, nothing) is not None:
        entries = [Entries(entry, f"{path}, clusters,", _MADE_BY) for entry in record.take_list("clusters", dict)]
        clusters = tuple(
            Clusters(entry.take("layer", str), *(entry.take(key, int) for key in ("clusters", "noise", "b1")))
            for entry in entries
        )
    enough = record.inside("enough")
    return Stability(
        model_sha256=record.take("model_sha256", str),
        model_file=record.take("model_file", str, nothing),
        preprocessing=record.take("preprocessing", dict),
        points=record.take("points", int),
        rho=float(record.take("rho", float)),
        top=record.take("top", int),
        seeds=record.take("seeds", int),
        layers=layers,
        agreements=tuple(rows),
        enough={row.measure: enough.take(row.measure, int, nothing) for row in rows},
        example_samples=record.take("example_samples", int),
        example=tuple(tuple(float(value) for value in line) for line in example),
        clusters=clusters,
        notes=tuple(record.take_list("notes", str)) if record.take_if_there("notes", None, list) is not None else (),
    )
