"""Rankings of layers by the groups of each shuffle: one shuffle after the other, or each in a Ray task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ..data.dataset import Dataset
from ..data.preprocess import Arithmetic
from ..model.open import Model, open_model
from ..progress import Progress, silent
from ..runtime import Threads, on
from ..scoring.forward import GramProbed, Probed, SketchProbed
from ..scoring.passes import Passes
from ..trainability.choices import Choices
from .fisher import Fisher
from .ranker import Ranker
from .ray_cluster import connect
from .repeats import Repeats
from .shared_rows import shared

Rankings = dict[int, dict[str, list[list[float]]]]  # by group size and measure: of each group, a score per layer


@dataclass(frozen=True)
class Grouping:
    """How samples are shuffled, grouped and forwarded; the same for every shuffle.

    Attributes:
        dataset: the samples.
        used: how they become input.
        repeats: sizes and numbers of groups.
        choices: the loss of Fisher information.
        threads: for ONNX Runtime.
        passes: how sketches are made; None: distances are exact.
        block: samples that are forwarded together.
        sizes: of the groups.
        fisher: whether layers are also ranked by Fisher information.
    """

    dataset: Dataset
    used: Arithmetic
    repeats: Repeats
    choices: Choices
    threads: Threads
    passes: Passes | None
    block: int
    sizes: tuple[int, ...]
    fisher: bool


class Shuffles:
    """Rankings by the groups of each shuffle.

    Args:
        model: the opened model.
        grouping: of its samples.

    Raises:
        DataError: Fisher information needs labels that fit the model and the loss.
        ModelError: the model has no gradients for it.
    """

    def __init__(self, model: Model, grouping: Grouping) -> None:
        self._model, self.grouping = model, grouping
        given = grouping.dataset, grouping.used, grouping.choices
        self._fisher = Fisher(model, *given, threads=grouping.threads) if grouping.fisher else None

    @cached_property
    def _probed(self) -> Probed:
        grouping = self.grouping
        if grouping.passes is None:
            return GramProbed(self._model, grouping.used, group=grouping.block, threads=grouping.threads)
        return SketchProbed(self._model, grouping.used, grouping.passes, threads=grouping.threads)

    def ranker(self, seed: int) -> Ranker:
        """The rankings of one shuffle, computed when they are asked for."""
        grouping = self.grouping
        points, subsets = grouping.repeats.points, grouping.repeats.subsets
        return Ranker(self._model, grouping.dataset, self._probed, self._fisher, points, grouping.block, subsets, seed)

    def rank(self, seed: int, report: Progress = silent) -> Rankings:
        """All rankings of one shuffle."""
        grouping, ranker = self.grouping, self.ranker(seed)
        seeds = grouping.repeats.seeds
        counts = {size: min(grouping.repeats.groups, ranker.available // size) for size in grouping.sizes}
        done, total = 0, sum(size * count for size, count in counts.items())
        rankings: Rankings = {}
        for size, count in counts.items():
            rankings[size] = {}
            for index in range(count):
                report("ranking", seed * total + done, seeds * total)
                for measure, scores in ranker.measures(size, index).items():
                    rankings[size].setdefault(measure, []).append(scores)
                done += size
        report("ranking", (seed + 1) * total, seeds * total)
        return rankings


def ranked_on_ray(model: Model, grouping: Grouping, address: str, report: Progress) -> list[Rankings]:
    """All rankings of every shuffle, each shuffle a Ray task; the model and the data go to the object store once.

    Args:
        model: the opened model.
        grouping: of its samples.
        address: of the cluster, see `connect`.
        report: told of finished shuffles.

    Raises:
        UsageError, RuntimeMissingError, CheckError: see `connect` and `Cluster.result`.
    """
    seeds = grouping.repeats.seeds
    threads = on(grouping.threads)
    if threads.threads is None:
        threads = replace(threads, threads=1)
    with connect(address) as cluster:
        sent = replace(grouping, dataset=shared(grouping.dataset, cluster), threads=threads)
        arguments = cluster.put(model.proto().SerializeToString()), cluster.put(sent)
        pending = {cluster.submit(_rank, *arguments, seed, cpus=threads.threads or 1): seed for seed in range(seeds)}
        rankings: dict[int, Rankings] = {}
        try:
            while pending:
                report("ranking", len(rankings), seeds)
                reference = cluster.next_done(list(pending))
                rankings[pending.pop(reference)] = cluster.result(reference, "ranking a shuffle")
        finally:
            cluster.cancel(list(pending))
    report("ranking", seeds, seeds)
    return [rankings[seed] for seed in range(seeds)]


def _rank(model: bytes, grouping: Grouping, seed: int) -> Rankings:
    """In a process of a node."""
    return Shuffles(open_model(model), grouping).rank(seed)
