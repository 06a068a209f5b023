"""Scoring: forward passes over a sample of the data, and Betti numbers of every layer's activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import psutil

from ..data.arithmetic import integer_data
from ..data.feeder import Feeder
from ..data.labels import align_classes
from ..data.preprocess import Preprocessing, choose
from ..data.reading import Reading
from ..data.source import open_data
from ..errors import UsageError
from ..model.door import guarded
from ..model.open import Model
from ..progress import Progress
from .betti import betti_numbers
from .channels import score_channels
from .forward import Forwarded, Probed
from .groups import ORDERS, draw, draw_subsets, fit_plan, make_plan
from .record import LayerScore, Scores, standard_error
from .signals import Stored, signals

MEMORY_SHARE = 0.75  # of free memory, the default limit


@guarded("scoring")
def score(
    model: Model,
    data: Any,
    *,
    estimator: str = "subsets",
    samples: int = 128,
    subset_size: int = 32,
    subsets: int = 64,
    batch_size: int = 32,
    batches: int = 4,
    order: str = "shuffled",
    seed: int = 0,
    preset: str = "auto",
    preprocessing: Preprocessing | None = None,
    layout: str | Sequence[str] | Mapping[str, str] | None = None,
    allow_resize: bool = False,
    channels: bool = False,
    max_memory: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score every layer by forward passes alone; labels are never looked at.

    b1_hat = b1_mean / (N * D) with N the points of one Betti number and D the elements of one sample's activation
    (AdaBet, arXiv 2510.03101).

    Args:
        model: the opened model.
        data: the new domain, in any form `open_data` takes; training data where it is split.
        estimator: ``subsets`` forwards groups of up to 128 samples together and takes b1 of ``subsets`` seeded random
            ``subset_size``-subsets of each group; ``batches`` is the paper's, b1 of ``batches`` disjoint batches.
        samples: for subsets, how many samples in all.
        subset_size: for subsets, N.
        subsets: for subsets, how many per group.
        batch_size: for batches, N.
        batches: for batches, how many.
        order: ``shuffled`` draws samples at random, ``sequential`` takes the first ones.
        seed: of the drawing of samples and of subsets.
        preset: auto, unit, imagenet or none; see `data.preprocess.choose`.
        preprocessing: in place of a preset.
        layout: letters of the data's axes, such as ``NTC``, where its shape leaves them open; see `data.reading`.
        allow_resize: whether arrays may be resized where that is hardly meant; see `data.pictures.resizing_doubt`.
        channels: also score the output channels within each layer, which `select` needs for ``channel_rho`` (see
            `scoring.channels`).
        max_memory: bytes that the forward pass may take; None is three quarters of what is free. Groups are made
            smaller to keep to it, which the notes of the scores then say.
        threads: for ONNX Runtime; None is its own choice.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The scores of all layers, in model order.

    Raises:
        DataError: too few samples, data that does not fit the model, or activations that are NaN or infinite.
        UsageError: an unknown estimator or order, a size out of range, or a layout that does not fit.
    """
    plan = make_plan(estimator, samples, subset_size, subsets, batch_size, batches)
    if order not in ORDERS:
        raise UsageError(f"unknown order {order!r}: choose one of {', '.join(ORDERS)}.")
    wanted = samples if estimator == "subsets" else plan.group * plan.groups
    reading = Reading(layout, allow_resize)
    dataset = open_data(data, model, limit=wanted if order == "sequential" else None, reading=reading).train
    dataset = align_classes(dataset, model.metadata("classes"))
    if preprocessing is None:
        preprocessing = choose(model, preset=preset, integer_data=integer_data(model, dataset))
    taken = Feeder(model, preprocessing).taken(dataset)
    limit = max_memory if max_memory is not None else int(MEMORY_SHARE * psutil.virtual_memory().available)
    plan, notes, left_out = fit_plan(plan, estimator, samples, model, limit, len(dataset))
    probed = Probed(model, preprocessing, group=plan.group, threads=threads)
    indices = draw(len(dataset), plan, order, seed)
    groups: list[Forwarded] = []
    betti: dict[str, list[int]] = {layer.name: [] for layer in model.layers}
    total = plan.groups * (1 + len(model.layers))
    for number, group in enumerate(indices):
        if progress is not None:
            progress("scoring", number * (1 + len(model.layers)), total)
        forwarded = probed.forward(dataset, group)
        groups.append(forwarded)
        chosen = draw_subsets(plan, [seed, 3, number])
        for at, (layer, gram) in enumerate(forwarded.grams.items(), start=1):
            if progress is not None:
                progress("scoring", number * (1 + len(model.layers)) + at, total)
            betti[layer] += betti_numbers(probed.distances(layer, gram), chosen)
    if progress is not None:
        progress("scoring", total, total)
    head = model.head
    from ..training.preflight import untrainable_layers  # what can be trained is known further up

    lost = untrainable_layers(model)
    if lost:
        some = ", ".join(list(lost)[:3]) + (", ..." if len(lost) > 3 else "")
        notes = [*notes, f"{len(lost)} layers cannot be trained ({some}); `check_model` says why"]
    scored = layer_scores(model, betti, groups, probed.stored, plan.points)
    scores = Scores(
        model_sha256=model.sha256,
        estimator=estimator,
        points=plan.points,
        samples=tuple(tuple(int(index) for index in group) for group in indices),
        layers=tuple(replace(layer, untrainable=lost.get(layer.name)) for layer in scored),
        settings={
            "seed": seed,
            "order": order,
            "group": plan.group,
            "subsets_per_group": plan.subsets,
            "samples_left_out": left_out,
            "data": taken,
        },
        notes=tuple(notes),
        head=head.name if head else None,
        new_head=model.new_head,
        preprocessing=preprocessing.to_json(),
        classes=dataset.classes,
        model_file=None if model.name.startswith("<") else model.name,
        inputs=model.bound,
    )
    if channels:
        return score_channels(
            model,
            dataset,
            scores,
            preprocessing=preprocessing,
            max_memory=max_memory,
            threads=threads,
            progress=progress,
        )
    return scores


def layer_scores(
    model: Model,
    betti: Mapping[str, Sequence[int]],
    groups: Sequence[Forwarded],
    stored: Mapping[str, Stored],
    points: int,
) -> tuple[LayerScore, ...]:
    """What is known of every layer, in model order.

    Args:
        model: the opened model.
        betti: first Betti numbers of each layer, over all groups.
        groups: what the forward passes left.
        stored: statistics of the layers that have them.
        points: of one Betti number.
    """
    samples = sum(len(next(iter(group.grams.values()))) for group in groups)
    rows = []
    for layer in model.layers:
        numbers = np.array(betti[layer.name], np.int64)
        size = layer.activation_size
        assert size is not None
        scale = points * size
        error = standard_error(numbers, points, samples)
        rows.append((layer, numbers, float(numbers.mean()), float(numbers.mean()) / scale, error / scale, size))
    ranking = sorted(range(len(rows)), key=lambda i: -rows[i][3])
    ranks = {index: rank for rank, index in enumerate(ranking, start=1)}
    return tuple(
        LayerScore(
            name=layer.name,
            op_type=layer.op_type,
            parameters=tuple(dict.fromkeys(parameter.name for parameter in layer.parameters)),
            parameter_count=layer.parameter_count,
            activation_size=size,
            is_norm=layer.is_norm,
            b1=tuple(int(number) for number in numbers),
            b1_mean=mean,
            b1_hat=b1_hat,
            stderr=error,
            rank=ranks[index],
            **asdict(
                signals(
                    [group.grams[layer.name] for group in groups],
                    [group.sums[layer.name] for group in groups if layer.name in group.sums],
                    stored.get(layer.name),
                )
            ),
        )
        for index, (layer, numbers, mean, b1_hat, error, size) in enumerate(rows)
    )
