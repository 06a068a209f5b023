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
    """Score every layer with forward passes only; labels are never used.

    b1_hat = b1_mean / (N * D), where N is the number of points of a Betti number and D the number of elements of one
    sample's activation (AdaBet, arXiv 2510.03101).

    Args:
        model: an opened model, or anything `open_model` accepts.
        data: data of the new domain, in any form that `Data` describes; its training part is used if it is split.
        preset: auto, unit, imagenet or none: how images are converted to input (see `Preprocessing`).
        preprocessing: explicit preprocessing, instead of a preset.
        scoring: estimator, number and order of samples, memory; None: the defaults of `Scoring`.
        seed: random seed for drawing samples and subsets.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime
            decides.
        progress: called with a description, the steps done and the total number of steps.

    Returns:
        The scores of all layers, in model order.

    Raises:
        DataError: there are too few samples, the data does not fit the model, or activations are NaN or infinite.
        ModelError: the model cannot be opened or run.
        UsageError: a layout or a preset does not fit the model.

    Example:
        >>> from adabet_onnx import score
        >>> scores = score("model.onnx", "new_domain.npz")
        >>> scores.points
        32
    """
    model, options = open_model(model), scoring or Scoring()
    plan = make_plan(options)
    sample_limit = options.samples if options.estimator == "subsets" else plan.group * plan.groups
    dataset = open_data(data, model, limit=sample_limit if options.order == "sequential" else None).train
    dataset = align_classes(dataset, model.metadata("classes"))
    used = arithmetic_for(model, integer_data(model, dataset), preprocessing, preset=preset)
    data_summary = Feeder(model, used).describe(dataset)
    untrainable = untrainable_layers(model)  # before a session exists, because this copies the weights
    limit = memory_limit(options.memory)
    group_limit = None if options.sketching else limit
    plan, notes, left_out = fit_plan(plan, options.estimator, options.samples, model, group_limit, len(dataset))
    probed, passes = _probed(model, used, plan, options, limit, seed, threads)
    notes += () if passes is None else passes.notes
    indices = draw(len(dataset), plan, options.order, seed)
    exact = options.estimator == "batches"
    groups, betti, subsets = _measure(
        model, probed, dataset, indices, plan, seed, progress or silent, as_in_paper=exact
    )
    notes += _untrainable_notes(untrainable)
    scored = layer_scores(model, betti, groups, probed.stored, plan.points)
    scores = Scores(
        model_sha256=model.sha256,
        estimator=options.estimator,
        points=plan.points,
        samples=tuple(tuple(int(index) for index in group) for group in indices),
        layers=tuple(replace(layer, untrainable=untrainable.get(layer.name)) for layer in scored),
        settings={
            **_plan_settings(options, plan, seed, subsets, left_out),
            "data": data_summary,
            **_sketch_settings(passes),
        },
        notes=tuple(notes),
        head=model.head.name if model.head else None,
        new_head=model.new_head,
        preprocessing=used.to_json(),
        classes=dataset.classes,
        model_file=model.file,
        inputs=model.bound,
    )
    if not options.channels:
        return scores
    return score_channels(
        model, dataset, scores, preprocessing=used, max_memory=options.memory, threads=threads, progress=progress
    )


def _probed(
    model: Model,
    preprocessing: Arithmetic,
    plan: SamplePlan,
    options: Scoring,
    limit: int,
    seed: int,
    threads: Threads,
) -> tuple[Probed, Passes | None]:
    """Add probes to the model; return it with the plan of its sketch passes (None without sketches)."""
    if not options.sketching:
        return GramProbed(model, preprocessing, group=plan.group, threads=threads), None
    passes = plan_passes(model, plan.group, limit, options.sketch_size)
    return SketchProbed(model, preprocessing, passes, seed=seed, threads=threads), passes


def _untrainable_notes(untrainable: Mapping[str, str]) -> list[str]:
    """Return a note about layers that no backend can train, if there are any."""
    if not untrainable:
        return []
    examples = ", ".join(list(untrainable)[:3]) + (", ..." if len(untrainable) > 3 else "")
    return [f"{len(untrainable)} layers cannot be trained ({examples}); a check of the model says why"]


def _plan_settings(options: Scoring, plan: SamplePlan, seed: int, subsets: int, left_out: int) -> dict[str, Any]:
    """Return how samples were drawn and grouped, for the settings."""
    return {
        "seed": seed,
        "order": options.order,
        "group": plan.group,
        "subsets_per_group": subsets,
        "samples_left_out": left_out,
    }


def _sketch_settings(passes: Passes | None) -> dict[str, Any]:
    """Return how sketches were made, for the settings."""
    if passes is None:
        return {"sketch": None}
    return {
        "sketch": passes.size,
        "sketch_half_precision": passes.half,
        "forwarded_at_once": passes.batch,
        "passes": len(passes.parts),
    }


def _measure(
    model: Model,
    probed: Probed,
    dataset: Dataset,
    indices: Sequence[np.ndarray],
    plan: SamplePlan,
    seed: int,
    report: Progress,
    *,
    as_in_paper: bool,
) -> tuple[list[Forwarded], dict[str, list[int]], int]:
    """Forward all groups; return the results, the first Betti numbers of each layer, and the subsets per group.

    If no number of subsets is given, the first group determines it (see `rounds`), and the others use the same number.
    """
    groups: list[Forwarded] = []
    betti: dict[str, list[int]] = {layer.name: [] for layer in model.layers}
    sizes = {layer.name: layer.activation_size or 1 for layer in model.layers}
    steps_per_group = len(indices[0]) + len(model.layers)  # samples to forward, and layers
    total = len(indices) * steps_per_group

    def distances(number: int) -> Iterator[tuple[str, np.ndarray]]:
        for index, (layer, gram) in enumerate(groups[number].grams.items(), start=1):
            report("scoring", number * steps_per_group + len(indices[0]) + index, total)
            yield layer, probed.distances(layer, gram)

    for number, group in enumerate(indices):

        def forwarding(
            _: str, done: int, of: int, before: int = number * steps_per_group, count: int = len(group)
        ) -> None:
            report("scoring", before + done * count // of, total)

        groups.append(probed.forward(dataset, group, forwarding))
        if as_in_paper:
            betti_of_group = {layer: [loops_by_ripser(matrix)] for layer, matrix in distances(number)}
        else:
            betti_of_group = betti_numbers_of_layers(distances(number), sizes, plan, seeds.subsets(seed, number))
        plan = replace(plan, subsets=len(next(iter(betti_of_group.values()))))
        for layer, numbers in betti_of_group.items():
            betti[layer] += numbers
    report("scoring", total, total)
    return groups, betti, plan.subsets or 1


def layer_scores(
    model: Model,
    betti: Mapping[str, Sequence[int]],
    groups: Sequence[Forwarded],
    stored: Mapping[str, StoredStatistics],
    points: int,
) -> tuple[LayerScore, ...]:
    """Compute the score of every layer, in model order.

    Args:
        model: the opened model.
        betti: first Betti numbers of each layer, over all groups.
        groups: the results of the forward passes.
        stored: stored statistics, by layer.
        points: number of points of a Betti number.
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
