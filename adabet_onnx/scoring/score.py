"""Scoring: forward passes over a sample of the data, and Betti numbers of every layer's activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from .. import seeds
from ..data.arithmetic import integer_data
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..data.labels import align_classes
from ..data.preprocess import Arithmetic, Preprocessing, arithmetic_for
from ..data.source import open_data
from ..model.error_context import guarded
from ..model.open import Model, ModelSource, open_model
from ..options import typed
from ..progress import Progress, silent
from ..runtime import Threads
from ..trainability.preflight import untrainable_layers
from .betti import loops_by_ripser
from .channel_scores import score_channels
from .forward import Forwarded, GramProbed, Probed, SketchProbed
from .groups import SamplePlan, draw, fit_plan, make_plan
from .options import Scoring
from .passes import Passes, memory_limit, plan_passes
from .record import LayerScore, Scores, standard_error
from .rounds import betti_numbers_of_layers
from .signals import StoredStatistics, signals


@typed
@guarded("scoring")
def score(
    model: ModelSource,
    data: Any,
    *,
    preset: str = "auto",
    preprocessing: Preprocessing | Arithmetic | None = None,
    scoring: Scoring | None = None,
    seed: int = 0,
    threads: Threads = None,
    progress: Progress | None = None,
) -> Scores:
    """Score every layer by forward passes alone; labels are never looked at.

    b1_hat = b1_mean / (N * D) with N the points of one Betti number and D the elements of one sample's activation
    (AdaBet, arXiv 2510.03101).

    Args:
        model: opened, or what `open_model` takes.
        data: of the new domain, in any form that `Data` describes; training data where it is split.
        preset: auto, unit, imagenet or none: how images become input (see `Preprocessing`).
        preprocessing: by hand, in place of a preset.
        scoring: estimator, number and order of samples, memory; None: the defaults of `Scoring`.
        seed: of the drawing of samples and of subsets.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The scores of all layers, in model order.

    Raises:
        DataError: too few samples, data that does not fit the model, or activations that are NaN or infinite.
        ModelError: the model cannot be opened or run.
        UsageError: a layout that does not fit, or a preset that does not.

    Example:
        >>> from adabet_onnx import score
        >>> scores = score("model.onnx", "new_domain.npz")
        >>> scores.points
        32
    """
    model, how = open_model(model), scoring or Scoring()
    plan = make_plan(how)
    wanted = how.samples if how.estimator == "subsets" else plan.group * plan.groups
    dataset = open_data(data, model, limit=wanted if how.order == "sequential" else None).train
    dataset = align_classes(dataset, model.metadata("classes"))
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    taken = Feeder(model, used).describe(dataset)
    lost = untrainable_layers(model)  # before there is a session: it takes copies of the weights
    limit = memory_limit(how.memory)
    together = None if how.sketching else limit
    plan, notes, left_out = fit_plan(plan, how.estimator, how.samples, model, together, len(dataset))
    probed: Probed
    if how.sketching:
        passes = plan_passes(model, plan.group, limit, how.sketch_size)
        notes += passes.notes
        probed = SketchProbed(model, used, passes, seed=seed, threads=threads)
    else:
        passes = None
        probed = GramProbed(model, used, group=plan.group, threads=threads)
    indices = draw(len(dataset), plan, how.order, seed)
    groups, betti, subsets = _measured(
        model, probed, dataset, indices, plan, seed, progress or silent, as_the_paper=how.estimator == "batches"
    )
    head = model.head
    if lost:
        some = ", ".join(list(lost)[:3]) + (", ..." if len(lost) > 3 else "")
        notes = [*notes, f"{len(lost)} layers cannot be trained ({some}); a check of the model says why"]
    scored = layer_scores(model, betti, groups, probed.stored, plan.points)
    scores = Scores(
        model_sha256=model.sha256,
        estimator=how.estimator,
        points=plan.points,
        samples=tuple(tuple(int(index) for index in group) for group in indices),
        layers=tuple(replace(layer, untrainable=lost.get(layer.name)) for layer in scored),
        settings={
            "seed": seed,
            "order": how.order,
            "group": plan.group,
            "subsets_per_group": subsets,
            "samples_left_out": left_out,
            "data": taken,
            **_sketched(passes),
        },
        notes=tuple(notes),
        head=head.name if head else None,
        new_head=model.new_head,
        preprocessing=used.to_json(),
        classes=dataset.classes,
        model_file=None if model.name.startswith("<") else model.name,
        inputs=model.bound,
    )
    if how.channels:
        return score_channels(
            model,
            dataset,
            scores,
            preprocessing=used,
            max_memory=how.memory,
            threads=threads,
            progress=progress,
        )
    return scores


def _sketched(passes: Passes | None) -> dict[str, Any]:
    """How sketches were made, for the settings."""
    if passes is None:
        return {"sketch": None}
    return {
        "sketch": passes.size,
        "sketch_half_precision": passes.half,
        "forwarded_at_once": passes.batch,
        "passes": len(passes.parts),
    }


def _measured(
    model: Model,
    probed: Probed,
    dataset: Dataset,
    indices: Sequence[np.ndarray],
    plan: SamplePlan,
    seed: int,
    say: Progress,
    *,
    as_the_paper: bool,
) -> tuple[list[Forwarded], dict[str, list[int]], int]:
    """What the forward passes of all groups left, the first Betti numbers of each layer, and how many of each group.

    Where no number of subsets is asked for, the first group finds one (see `rounds`), and the others take as many.
    """
    groups: list[Forwarded] = []
    betti: dict[str, list[int]] = {layer.name: [] for layer in model.layers}
    sizes = {layer.name: layer.activation_size or 1 for layer in model.layers}
    each = len(indices[0]) + len(model.layers)  # samples to forward, and layers
    total = len(indices) * each

    def distances(number: int) -> Iterator[tuple[str, np.ndarray]]:
        for at, (layer, gram) in enumerate(groups[number].grams.items(), start=1):
            say("scoring", number * each + len(indices[0]) + at, total)
            yield layer, probed.distances(layer, gram)

    for number, group in enumerate(indices):

        def forwarding(_: str, done: int, of: int, before: int = number * each, count: int = len(group)) -> None:
            say("scoring", before + done * count // of, total)

        groups.append(probed.forward(dataset, group, forwarding))
        if as_the_paper:
            found = {layer: [loops_by_ripser(matrix)] for layer, matrix in distances(number)}
        else:
            found = betti_numbers_of_layers(distances(number), sizes, plan, seeds.subsets(seed, number))
        plan = replace(plan, subsets=len(next(iter(found.values()))))
        for layer, numbers in found.items():
            betti[layer] += numbers
    say("scoring", total, total)
    return groups, betti, plan.subsets or 1


def layer_scores(
    model: Model,
    betti: Mapping[str, Sequence[int]],
    groups: Sequence[Forwarded],
    stored: Mapping[str, StoredStatistics],
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
