"""Scores of single output channels, in a forward pass of their own over the samples that the layers were scored on.

The points of a channel are what each sample has in it: the elements of one feature map, or one feature of every token.
Their first Betti number is estimated as the layer's is, from the same subsets, and divided by points and elements
likewise. Channels are compared within their layer only, where the divisor is the same.

A channel with one element (of a Gemm after pooling, say) is a number for each sample: points on a line, which form no
loops. Such channels are not ranked, and neither are those of the head, which are the model's outputs, nor those of
layers whose parameters cannot be cut along channels. All of these layers are trained whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from .. import seeds
from ..data.arithmetic import integer_data
from ..data.labels import align_classes
from ..data.preprocess import Arithmetic, arithmetic_for, preprocessing_from_json
from ..data.source import open_data
from ..errors import RecordError, UsageError
from ..model.channels import Channels, channels_of
from ..model.open import Model
from ..progress import Progress
from ..runtime import Threads
from .betti import betti_numbers
from .forward import ProbedChannels
from .groups import Plan, draw_subsets
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
        max_memory: bytes; the matrices of a forward pass take at most a quarter of it, or those of one layer. The pass
            itself takes no more than the one that scored the layers.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The same scores, with those of channels.

    Raises:
        RecordError: the scores are of another model, or of more samples than there are.
        UsageError: an unknown layer.
        DataError: data that does not fit the model, or activations that are NaN or infinite.
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
    numbers: dict[str, list[np.ndarray]] = {}
    wanted = rankable(model, names)
    done, total = 0, plan.groups * sum(channels.count for channels in wanted.values())
    for part in _parts(wanted, plan.group, _BYTES if max_memory is None else min(_BYTES, max_memory // 4)):
        probed = ProbedChannels(model, preprocessing, part, group=plan.group, threads=threads)
        layer_of = {output: layer for layer, output in probed.outputs.items()}
        for number, group in enumerate(scores.samples):
            rng = seeds.subsets(int(scores.settings.get("seed", 0)), number)
            subsets = draw_subsets(plan, rng, plan.subsets or 1)
            for output, grams in probed.forward(dataset, np.array(group)).items():
                of_group = []
                for gram in grams:
                    if progress is not None:
                        progress("scoring channels", done, total)
                    done += 1
                    of_group.append(betti_numbers(probed.distances(layer_of[output], gram), subsets))
                for layer, shared in probed.outputs.items():
                    if shared == output:
                        numbers.setdefault(layer, []).append(np.array(of_group))
    if progress is not None:
        progress("scoring channels", total, total)
    found = {
        name: ChannelScores(
            wanted[name].elements, tuple(float(mean) for mean in np.concatenate(each, axis=1).mean(axis=1))
        )
        for name, each in numbers.items()
    }
    rows = tuple(dataclasses.replace(layer, channels=found.get(layer.name)) for layer in scores.layers)
    return dataclasses.replace(scores, layers=rows, channel_layers=tuple(names))


def _plan(scores: Scores) -> Plan:
    """How samples were grouped."""
    group = len(scores.samples[0]) if scores.samples else 0
    subsets = scores.settings.get("subsets_per_group", 1)
    fits = group >= scores.points >= 4 and all(len(other) == group for other in scores.samples)
    if not fits or not isinstance(subsets, int) or subsets < 1:
        raise UsageError("the scores do not say how their samples were grouped: score again with `score`.")
    return Plan(scores.points, group, len(scores.samples), subsets)


def _parts(channels: Mapping[str, Channels], group: int, most: int) -> Iterator[dict[str, Channels]]:
    """Layers together in one forward pass, so that their matrices take no more than so many bytes."""
    part: dict[str, Channels] = {}
    for name, each in channels.items():
        if part and 4 * group**2 * sum(c.count for c in (*part.values(), each)) > most:
            yield part
            part = {}
        part[name] = each
    if part:
        yield part
