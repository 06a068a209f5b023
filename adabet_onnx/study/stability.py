"""How stable rankings of layers are: whether other samples of the same domain would give the same ranking.

The training data is shuffled (once per seed) and split into disjoint groups of n samples. Each group gives a ranking,
and every two rankings of a seed are compared by Kendall's tau and by the share of the top layers they have in common.
That is done for n = 32, 64, 128, ... A single forward pass of each sample is used for every n.

Measures: ``b1_hat`` (under the subsets estimator), ``b1_hat batches`` (the paper's), ``b1`` (not divided by size),
``size`` (1 / D: the control, the same for any sample), ``auto`` (see `selection.auto`), and ``fisher`` with labels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data.arithmetic import integer_data
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.labels import align_classes
from ..data.preprocess import Arithmetic, Preprocessing, arithmetic_for
from ..data.source import open_data
from ..errors import DataError, ModelError
from ..model.open import Model, ModelSource, open_model
from ..options import typed
from ..progress import Progress, silent
from ..runtime import Threads
from ..scoring.groups import GROUP, largest_group
from ..scoring.passes import memory_limit, plan_passes
from ..selection.rankings import top_count
from ..trainability.choices import Choices
from .agreement import every_pair, same_order
from .agreements import FIRM, Agreement
from .clusters import clusters_of
from .repeats import Repeats
from .shuffles import Grouping, Shuffles, ranked_on_ray
from .stability_record import Stability


@typed
def stability(
    model: ModelSource,
    data: Any,
    *,
    preset: str = "auto",
    preprocessing: Preprocessing | Arithmetic | None = None,
    repeats: Repeats | None = None,
    choices: Choices | None = None,
    threads: Threads = None,
    progress: Progress | None = None,
) -> Stability:
    """Rank layers by disjoint groups of samples, and measure how far the rankings agree.

    Args:
        model: the model, opened or anything that `open_model` accepts.
        data: data of the new domain, in any form that `Data` describes; if it is split, the training data is used.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        preprocessing: explicit preprocessing, instead of a preset.
        repeats: sizes and numbers of groups, and what is compared; None for the defaults of `Repeats`.
        choices: the loss of Fisher information, the axis of the classes and the label to ignore; None for the
            defaults of `Choices`.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice, 1 on Ray.
        progress: called with the current activity, the number of finished steps and the total.

    Returns:
        How far rankings agree, by measure and group size.

    Raises:
        UsageError: a preset or a layout does not fit.
        DataError: there are too few samples for two groups, or the data does not fit the model.
        RuntimeMissingError: umap-learn or Ray is needed and not installed.

    Example:
        >>> from adabet_onnx import Repeats, stability
        >>> agreement = stability("model.onnx", "new_domain.npz", repeats=Repeats(groups=2, seeds=1, max_samples=32))
        >>> agreement.points
        32
    """
    model, how, choices = open_model(model), repeats or Repeats(), choices or Choices()
    dataset = align_classes(open_data(data, model).train, model.metadata("classes"), ignore=choices.ignore_label)
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    taken = Feeder(model, used).describe(dataset)
    shuffles, notes = _shuffles(model, dataset, used, how, choices, threads)
    report, sizes = progress or silent, shuffles.grouping.sizes
    if how.ray is None:
        runs = [shuffles.rank(seed, report) for seed in range(how.seeds)]
    else:
        runs = ranked_on_ray(model, shuffles.grouping, how.ray, report)
    top = top_count(len(model.layers), how.rho)
    agreements = [
        _agreement(measure, size, [run[size][measure] for run in runs], top)
        for measure in runs[0][sizes[0]]
        for size in sizes
    ]
    shown = max(size for size in sizes if size <= GROUP)
    clusters = None
    if how.embeddings:
        clusters = tuple(clusters_of(shuffles.ranker(how.seeds - 1).distances(), seed=0, progress=progress))
    return Stability(
        model_sha256=model.sha256,
        model_file=model.file,
        preprocessing=used.to_json(),
        points=how.points,
        rho=how.rho,
        top=top,
        seeds=how.seeds,
        layers=tuple(layer.name for layer in model.layers),
        agreements=tuple(agreements),
        enough=_enough(agreements),
        example_samples=shown,
        example=tuple(tuple(float(value) for value in row) for row in np.transpose(runs[0][shown]["b1_hat"])),
        clusters=clusters,
        notes=tuple(notes),
        data=taken,
    )


def _shuffles(
    model: Model, dataset: Dataset, used: Arithmetic, how: Repeats, choices: Choices, threads: Threads
) -> tuple[Shuffles, list[str]]:
    """The shuffles of samples, and notes on how they are ranked."""
    sizes, limit = group_sizes(len(dataset), how.points, how.max_samples), memory_limit(how.memory)
    most = sizes[-1] if how.sketching else min(sizes[-1], largest_group(model, how.points, limit))
    block = how.points * 2 ** int(math.log2(max(1, min(GROUP, most) // how.points)))
    notes: list[str] = []
    passes = None
    if how.sketching:
        passes = plan_passes(model, block, limit, how.sketch_size)
        notes += passes.notes
    fisher = how.fisher and dataset.labels is not None
    grouping = Grouping(dataset, used, how, choices, threads, passes, block, tuple(sizes), fisher)
    try:
        return Shuffles(model, grouping), notes
    except (DataError, ModelError) as error:  # such as labels of a new task, for which there is no head yet
        if not fisher:
            raise
        notes.append(f"Fisher information is left out: {error}")
        return Shuffles(model, replace(grouping, fisher=False)), notes


def group_sizes(available: int, points: int, max_samples: int) -> list[int]:
    """Group sizes, doubling from ``points``, as long as there are samples for two groups.

    Raises:
        DataError: there are too few samples for two groups of the smallest size.
    """
    sizes = [points]
    while sizes[-1] * 2 <= min(max_samples, available // 2):
        sizes.append(sizes[-1] * 2)
    if available < 2 * points:
        raise DataError(
            f"two disjoint groups of {points} samples need {2 * points}, but the data has {available}. Give more data, "
            "or fewer `points`."
        )
    return sizes


def _agreement(measure: str, size: int, seeds: Sequence[Sequence[Sequence[float]]], top: int) -> Agreement:
    pairs = [pair for groups in seeds for pair in every_pair(groups, top)]
    taus = [tau for tau, _ in pairs]
    first = [groups[0] for groups in seeds]
    between_seeds = [same_order(a, b) for i, a in enumerate(first) for b in first[i + 1 :]]
    return Agreement(
        measure=measure,
        samples=size,
        groups=len(seeds[0]),
        pairs=len(pairs),
        tau=statistics.fmean(taus),
        tau_sd=statistics.stdev(taus) if len(taus) > 1 else 0.0,
        tau_min=min(taus),
        overlap=statistics.fmean(share for _, share in pairs),
        seeds_tau=statistics.fmean(between_seeds) if between_seeds else None,
    )


def _enough(agreements: Sequence[Agreement]) -> dict[str, int | None]:
    enough: dict[str, int | None] = {}
    for row in agreements:
        if enough.setdefault(row.measure, None) is None and row.overlap >= FIRM:
            enough[row.measure] = row.samples
    return enough
