"""Scores of single output channels, in a separate forward pass over the samples that the layers were scored on.

A channel has one point per sample: the elements of one feature map, or one feature of every token. Its first Betti
number is estimated like the layer's, from the same subsets, and divided by points and elements in the same way.
Channels are only compared within their layer, where the divisor is the same.

A channel with one element (of a Gemm after pooling, for example) is one number per sample: points on a line, which form
no loops. Such channels are not ranked; nor are those of the head, which are the model's outputs, and those of layers
whose parameters cannot be split by channel. All of these layers are trained whole.

Distances are exact: samples are forwarded together, which takes more memory than sketches of layers. A group that does
not fit is split into equal parts, and subsets are drawn within them, with the same total number.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import seeds
from ..data.arithmetic import integer_data
from ..data.dataset import Dataset
from ..data.labels import align_classes
from ..data.preprocess import Arithmetic, arithmetic_for, preprocessing_from_json
from ..data.source import open_data
from ..errors import DataError, RecordError, UsageError
from ..model.channels import Channels, channels_of
from ..model.open import Model
from ..progress import Progress, silent
from ..runtime import Threads
from ..sizes import size_text
from .betti import betti_numbers
from .forward import ProbedChannels
from .groups import SamplePlan, draw_subsets
from .passes import base_bytes, memory_limit, sample_bytes
from .record import ChannelScores, Scores

_BYTES = 1 << 28  # of Gram matrices from one forward pass; more layers are processed in several passes


def rankable(model: Model, layers: Collection[str] | None = None) -> dict[str, Channels]:
    """Return the channels of the layers whose channels are ranked; see the module.

    Args:
        model: the opened model.
        layers: names of the layers to consider; None for all.
    """
    head = None if model.head is None else model.head.name
    return {
        name: channels
        for name, channels in channels_of(model).items()
        if name != head and channels.elements > 1 and channels.count > 1 and (layers is None or name in layers)
    }


def score_channels(
    model: Model,
    data: Any,
    scores: Scores,
    *,
    layers: Collection[str] | None = None,
    preprocessing: Arithmetic | None = None,
    max_memory: int | None = None,
    threads: Threads = None,
    progress: Progress | None = None,
) -> Scores:
    """Add scores of channels to the scores of layers; labels are never used.

    Args:
        model: the opened model.
        data: the data that the layers were scored on.
        scores: the scores of the layers.
        layers: names of the layers whose channels are scored; None for all.
        preprocessing: overrides the preprocessing stored in the scores.
        max_memory: bytes that a forward pass and its matrices may take; None: three quarters of the free memory. If it
            is too low for a group of samples, groups are split, which a note of the scores reports.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
        progress: called with a description, the steps done and the total number of steps.

    Returns:
        The same scores, with those of channels added.

    Raises:
        RecordError: the scores belong to another model, or to more samples than the data has.
        UsageError: a layer is unknown.
        DataError: the data does not fit the model, activations are NaN or infinite, or the memory limit is too low.
    """
    if scores.model_sha256 != model.sha256:
        raise RecordError(
            f"the scores are of another model (SHA-256 {scores.model_sha256[:12]}..., {model.name} has "
            f"{model.sha256[:12]}...). Score this model again."
        )
    names = [layer.name for layer in model.layers] if layers is None else [model.layer(name).name for name in layers]
    opened = open_data(data, model).train
    dataset = align_classes(opened, model.metadata("classes"))
    most = max(index for group in scores.samples for index in group)
    if most >= len(dataset):
        raise RecordError(f"the scores are of a sample {most}, but {dataset.name} has {len(dataset)}. Score again.")
    plan = _plan(scores)
    channels = rankable(model, names)
    samples, room, notes = _fit_to_memory(model, plan, channels, memory_limit(max_memory))
    groups = [_split(plan, samples, scores, number) for number in range(plan.groups)]
    run = _ChannelRun(
        model,
        dataset,
        preprocessing or _stored_preprocessing(model, dataset, scores),
        tuple(itertools.chain.from_iterable(groups)),
        threads,
    )
    numbers = run.betti_numbers(list(_parts(channels, samples, room)), samples, progress or silent)
    channel_scores = {
        name: ChannelScores(
            channels[name].elements, tuple(float(mean) for mean in np.concatenate(parts, axis=1).mean(axis=1))
        )
        for name, parts in numbers.items()
    }
    rows = tuple(dataclasses.replace(layer, channels=channel_scores.get(layer.name)) for layer in scores.layers)
    all_notes = (*scores.notes, *(note for note in notes if note not in scores.notes))
    return dataclasses.replace(scores, layers=rows, channel_layers=tuple(names), notes=all_notes)


@dataclasses.dataclass(frozen=True)
class _ChannelRun:
    """Computes Betti numbers of channels over fixed samples.

    Attributes:
        model: the opened model.
        dataset: the samples.
        preprocessing: converts samples to model input.
        parts: indices of samples that are forwarded together, each with its subsets.
        threads: number of threads for ONNX Runtime, or a `Runtime`.
    """

    model: Model
    dataset: Dataset
    preprocessing: Arithmetic
    parts: tuple[tuple[np.ndarray, list[np.ndarray]], ...]
    threads: Threads

    def betti_numbers(
        self, passes: Sequence[Mapping[str, Channels]], samples: int, progress: Progress
    ) -> dict[str, list[np.ndarray]]:
        """Return first Betti numbers by layer: for each part, an array (channels, subsets).

        Args:
            passes: the layers of each forward pass.
            samples: number of samples that are forwarded together.
            progress: receives the progress over channels.
        """
        numbers: dict[str, list[np.ndarray]] = {}
        done, total = 0, len(self.parts) * sum(each.count for layers in passes for each in layers.values())
        for layers in passes:
            probed = ProbedChannels(self.model, self.preprocessing, layers, group=samples, threads=self.threads)
            layer_of = {output: layer for layer, output in probed.outputs.items()}
            for indices, subsets in self.parts:
                for output, grams in probed.forward(self.dataset, indices).items():
                    of_part = []
                    for gram in grams:
                        progress("scoring channels", done, total)
                        done += 1
                        of_part.append(betti_numbers(probed.distances(layer_of[output], gram), subsets))
                    for layer, shared in probed.outputs.items():
                        if shared == output:
                            numbers.setdefault(layer, []).append(np.array(of_part))
        progress("scoring channels", total, total)
        return numbers


def _stored_preprocessing(model: Model, dataset: Dataset, scores: Scores) -> Arithmetic:
    """Return the preprocessing stored in the scores, or the default for the data."""
    if scores.preprocessing is None:
        return arithmetic_for(model, integer_data(model, dataset), None)
    return preprocessing_from_json(scores.preprocessing, "the scores")


def _plan(scores: Scores) -> SamplePlan:
    """Return how samples were grouped."""
    group = len(scores.samples[0]) if scores.samples else 0
    subsets = scores.settings.get("subsets_per_group", 1)
    fits = group >= scores.points >= 4 and all(len(other) == group for other in scores.samples)
    if not fits or not isinstance(subsets, int) or subsets < 1:
        raise UsageError("the scores do not say how their samples were grouped: score again with `score`.")
    return SamplePlan(scores.points, group, len(scores.samples), subsets)


def _fit_to_memory(
    model: Model, plan: SamplePlan, channels: Mapping[str, Channels], limit: int
) -> tuple[int, int, tuple[str, ...]]:
    """Fit groups into memory: return (samples forwarded together, bytes left for their matrices, notes).

    Raises:
        DataError: not even the points of one Betti number fit.
    """
    base, one = base_bytes(model), sample_bytes(model)
    widest = max((each.count for each in channels.values()), default=0)

    def needed(samples: int) -> int:
        return base + one * samples + _matrices(widest, samples)

    count = next((n for n in range(1, plan.group // plan.points + 1) if needed(plan.group // n) <= limit), None)
    if count is None:
        raise DataError(
            f"scoring channels of {model.name} from {plan.points} points needs about "
            f"{size_text(needed(plan.points))}, over the limit of {size_text(limit)}. Raise "
            "`Scoring(max_memory=...)`, or give a smaller `subset_size` (or `Scoring(batch_size=...)`)."
        )
    samples = plan.group // count
    room = min(_BYTES, limit - base - one * samples)
    if count == 1:
        return samples, room, ()
    note = f"channels are scored from groups of {samples} samples instead of {plan.group}"
    return samples, room, (f"{note}, to stay within {size_text(limit)} of memory",)


def _split(plan: SamplePlan, samples: int, scores: Scores, number: int) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Split a group into parts of this many samples, each with its subsets; parts without subsets are omitted."""
    group = np.array(scores.samples[number])
    count = plan.group // samples
    subsets = plan.subsets or 1
    rng = seeds.subsets(int(scores.settings.get("seed", 0)), number)
    part = dataclasses.replace(plan, group=samples)
    shares = [(subsets + count - 1 - index) // count for index in range(count)]
    return [
        (group[index * samples : (index + 1) * samples], draw_subsets(part, rng, share))
        for index, share in enumerate(shares)
        if share
    ]


def _matrices(channels: int, samples: int) -> int:
    """Return the bytes of the Gram matrices of this many channels."""
    return 4 * channels * samples**2


def _parts(channels: Mapping[str, Channels], group: int, most: int) -> Iterator[dict[str, Channels]]:
    """Yield the layers for each forward pass, so that their matrices take at most this many bytes."""
    part: dict[str, Channels] = {}
    for name, each in channels.items():
        if part and _matrices(sum(c.count for c in (*part.values(), each)), group) > most:
            yield part
            part = {}
        part[name] = each
    if part:
        yield part
