"""Scores of single output channels, in a forward pass of their own over the samples that the layers were scored on.

The points of a channel are what each sample has in it: the elements of one feature map, or one feature of every token.
Their first Betti number is estimated as the layer's is, from the same subsets, and divided by points and elements
likewise. Channels are compared within their layer only, where the divisor is the same.

A channel with one element (of a Gemm after pooling, say) is a number for each sample: points on a line, which form no
loops. Such channels are not ranked, and neither are those of the head, which are the model's outputs, nor those of
layers whose parameters cannot be cut along channels. All of these layers are trained whole.

Distances are exact: samples are forwarded together, which takes more memory than sketches of layers do. Where a group
of samples does not fit, it is taken in equal parts that do, and subsets are drawn within them, as many in all.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from .. import seeds
from ..data.arithmetic import integer_data
from ..data.labels import align_classes
from ..data.preprocess import Arithmetic, arithmetic_for, preprocessing_from_json
from ..data.source import open_data
from ..errors import DataError, RecordError, UsageError
from ..model.channels import Channels, channels_of
from ..model.open import Model
from ..progress import Progress
from ..runtime import Threads
from ..sizes import size_text
from .betti import betti_numbers
from .forward import ProbedChannels
from .groups import SamplePlan, draw_subsets
from .passes import base_bytes, memory_limit, sample_bytes
from .record import ChannelScores, Scores

_BYTES = 1 << 28  # of Gram matrices that one forward pass leaves; more layers are taken in several passes


def rankable(model: Model, layers: Collection[str] | None = None) -> dict[str, Channels]:
    """The channels of the layers whose channels are ranked; see the module.

    Args:
        model: the opened model.
        layers: names of those that are looked at; None for all.
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
    """Add scores of channels to the scores of layers; labels are never looked at.

    Args:
        model: the opened model.
        data: what the layers were scored on.
        scores: of the layers.
        layers: names of the layers whose channels are looked at; None for all.
        preprocessing: in place of the one in the scores.
        max_memory: bytes that a forward pass and its matrices may take; None is three quarters of what is free. Where
            it is short, groups of samples are taken in parts, which a note of the scores then says.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The same scores, with those of channels.

    Raises:
        RecordError: the scores are of another model, or of more samples than there are.
        UsageError: an unknown layer.
        DataError: data that does not fit the model, activations that are NaN or infinite, or too low a limit.
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
    if preprocessing is None:
        stored = scores.preprocessing
        preprocessing = (
            arithmetic_for(model, integer_data(model, dataset), None)
            if stored is None
            else preprocessing_from_json(stored, "the scores")
        )
    plan = _plan(scores)
    wanted = rankable(model, names)
    samples, room, notes = _fitting(model, plan, wanted, memory_limit(max_memory))
    parts = [_split(plan, samples, scores, number) for number in range(plan.groups)]
    numbers: dict[str, list[np.ndarray]] = {}
    done, total = 0, sum(map(len, parts)) * sum(channels.count for channels in wanted.values())
    for together in _parts(wanted, samples, room):
        probed = ProbedChannels(model, preprocessing, together, group=samples, threads=threads)
        layer_of = {output: layer for layer, output in probed.outputs.items()}
        for indices, subsets in itertools.chain.from_iterable(parts):
            for output, grams in probed.forward(dataset, indices).items():
                of_part = []
                for gram in grams:
                    if progress is not None:
                        progress("scoring channels", done, total)
                    done += 1
                    of_part.append(betti_numbers(probed.distances(layer_of[output], gram), subsets))
                for layer, shared in probed.outputs.items():
                    if shared == output:
                        numbers.setdefault(layer, []).append(np.array(of_part))
    if progress is not None:
        progress("scoring channels", total, total)
    found = {
        name: ChannelScores(
            wanted[name].elements, tuple(float(mean) for mean in np.concatenate(each, axis=1).mean(axis=1))
        )
        for name, each in numbers.items()
    }
    rows = tuple(dataclasses.replace(layer, channels=found.get(layer.name)) for layer in scores.layers)
    noted = (*scores.notes, *(note for note in notes if note not in scores.notes))
    return dataclasses.replace(scores, layers=rows, channel_layers=tuple(names), notes=noted)


def _plan(scores: Scores) -> SamplePlan:
    """How samples were grouped."""
    group = len(scores.samples[0]) if scores.samples else 0
    subsets = scores.settings.get("subsets_per_group", 1)
    fits = group >= scores.points >= 4 and all(len(other) == group for other in scores.samples)
    if not fits or not isinstance(subsets, int) or subsets < 1:
        raise UsageError("the scores do not say how their samples were grouped: score again with `score`.")
    return SamplePlan(scores.points, group, len(scores.samples), subsets)


def _fitting(
    model: Model, plan: SamplePlan, channels: Mapping[str, Channels], limit: int
) -> tuple[int, int, tuple[str, ...]]:
    """(samples forwarded together, bytes that are left for their matrices, notes): a whole group, or an equal part.

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
    said = f"channels are scored from groups of {samples} samples instead of {plan.group}"
    return samples, room, (f"{said}, to keep within {size_text(limit)} of memory",)


def _split(plan: SamplePlan, samples: int, scores: Scores, number: int) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Parts of a group of so many samples, each with the subsets that are drawn in it; those without are left out."""
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
    """Bytes of the Gram matrices of so many channels."""
    return 4 * channels * samples**2


def _parts(channels: Mapping[str, Channels], group: int, most: int) -> Iterator[dict[str, Channels]]:
    """Layers together in one forward pass, so that their matrices take no more than so many bytes."""
    part: dict[str, Channels] = {}
    for name, each in channels.items():
        if part and _matrices(sum(c.count for c in (*part.values(), each)), group) > most:
            yield part
            part = {}
        part[name] = each
    if part:
        yield part
