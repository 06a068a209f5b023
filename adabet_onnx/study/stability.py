"""How firm rankings of layers are: whether other samples of the same domain would rank them alike.

The training data is shuffled (once per seed) and cut into disjoint groups of n samples; each group ranks the layers by
itself, and every two rankings of a seed are compared, by Kendall's tau and by the share of the top layers they have in
common. That is done for n = 32, 64, 128, ... One forward pass of each sample serves every n.

Measures: ``b1_hat`` (under the subsets estimator), ``b1_hat batches`` (the paper's), ``b1`` (not divided by size),
``size`` (1 / D: the control, the same for any sample), ``auto`` (see `selection.auto`), and ``fisher`` with labels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psutil

from ..data.arithmetic import integer_data
from ..data.feeder import Feeder
from ..data.labels import align_classes
from ..data.preprocess import Preprocessing, choose
from ..data.reading import Reading
from ..data.source import open_data
from ..errors import DataError, ModelError, UsageError
from ..model.open import Model
from ..progress import Progress, silent
from ..scoring.forward import Probed
from ..scoring.groups import GROUP, largest_group
from ..scoring.score import MEMORY_SHARE
from ..selection.rankings import top_count
from .agreement import every_pair, kendall_tau
from .clusters import clusters_of
from .fisher import Fisher
from .ranker import Ranker
from .stability_record import FIRM, Agreement, Stability


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
    axis: int | None = None,
    ignore: int | None = None,
    embeddings: bool = False,
    preset: str = "auto",
    preprocessing: Preprocessing | None = None,
    layout: str | Sequence[str] | Mapping[str, str] | None = None,
    allow_resize: bool = False,
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
        axis: of the classes, for cross-entropy per pixel or token; None: as in `fisher_information`.
        ignore: a label per pixel or token that does not count, beside -100.
        embeddings: also clusters of UMAP embeddings (needs umap-learn).
        preset, preprocessing, layout, allow_resize, max_memory, threads: as in `score`.
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
    opened = open_data(data, model, reading=Reading(layout, allow_resize)).train
    dataset = align_classes(opened, model.metadata("classes"), ignore=ignore)
    if preprocessing is None:
        preprocessing = choose(model, preset=preset, integer_data=integer_data(model, dataset))
    taken = Feeder(model, preprocessing).taken(dataset)
    sizes = group_sizes(len(dataset), points, max_samples)
    limit = max_memory if max_memory is not None else int(MEMORY_SHARE * psutil.virtual_memory().available)
    fits = min(GROUP, largest_group(model, points, limit), sizes[-1])
    block = points * 2 ** int(math.log2(max(1, fits // points)))
    probed = Probed(model, preprocessing, group=block, threads=threads)
    information = None
    notes = []
    if fisher and dataset.labels is not None:
        try:
            information = Fisher(model, dataset, preprocessing, loss=loss, axis=axis, ignore=ignore, threads=threads)
        except (DataError, ModelError) as error:  # such as labels of a new task, for which there is no head yet
            notes.append(f"Fisher information is left out: {error}")
    say = progress or silent
    runs = []
    for seed in range(seeds):
        ranker = Ranker(model, dataset, probed, information, points, block, subsets, seed)
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
        data=taken,
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
            "or a smaller `subset_size`."
        )
    return sizes


Vectors = dict[int, dict[str, list[list[float]]]]  # by group size and measure: of each group, a score per layer


def _run(ranker: Ranker, sizes: Sequence[int], most: int, seed: int, seeds: int, say: Progress) -> Vectors:
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
