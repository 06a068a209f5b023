"""Scoring: forward passes over a sample of the data, and Betti numbers of every layer's activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import psutil

from .. import runtime
from ..data.labels import align_classes
from ..data.layout import Feeder
from ..data.preprocess import Preprocessing, choose
from ..data.source import open_data
from ..errors import DataError, UsageError
from ..model.liveness import forward_bytes, weight_bytes
from ..model.open import Model
from .betti import distances, first_betti_number
from .probes import add_probes
from .record import LayerScore, Scores, standard_error
from .signals import Statistics

ESTIMATORS = ("subsets", "batches")
ORDERS = ("shuffled", "sequential")
GROUP = 128  # samples forwarded together under the subsets estimator
MEMORY_SHARE = 0.75  # of free memory, the default limit
# ONNX Runtime's arena rounds up and keeps freed blocks: what it takes over the liveness prediction.
_ARENA_FACTOR = 1.5
_SESSION_BYTES = 20_000_000  # a session of a small model and the code it runs

Progress = Callable[[str, int, int], None]  # what is going on, steps done, steps in all


@dataclass(frozen=True)
class _Plan:
    """How samples are grouped and how many subsets of each group are taken."""

    points: int  # of one Betti number
    group: int  # samples forwarded together
    groups: int
    subsets: int  # per group


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
        max_memory: bytes that the forward pass may take; None is three quarters of what is free. Groups are made
            smaller to keep to it, which the notes of the scores then say.
        threads: for ONNX Runtime; None is its own choice.
        progress: called with what is going on, steps done and steps in all.

    Returns:
        The scores of all layers, in model order.

    Raises:
        DataError: too few samples, data that does not fit the model, or activations that are NaN or infinite.
        UsageError: an unknown estimator or order, or a size out of range.
    """
    plan = _plan(estimator, samples, subset_size, subsets, batch_size, batches)
    if order not in ORDERS:
        raise UsageError(f"unknown order {order!r}: choose one of {', '.join(ORDERS)}.")
    wanted = samples if estimator == "subsets" else plan.group * plan.groups
    dataset = open_data(data, model, limit=wanted if order == "sequential" else None).train
    dataset = align_classes(dataset, model.metadata("classes"))
    if preprocessing is None:
        preprocessing = choose(model, preset=preset, integer_data=dataset.rows.integer)
    limit = max_memory if max_memory is not None else int(MEMORY_SHARE * psutil.virtual_memory().available)
    plan, notes, left_out = _fit(plan, estimator, samples, model, limit, len(dataset))
    probed, outputs = add_probes(model, "gram", group=plan.group)
    statistics = Statistics(model, probed, outputs)
    indices = _draw(len(dataset), plan, order, seed)

    session = runtime.inference_session(
        ir.to_proto(probed).SerializeToString(), f"{model.name} with probes", probing_options(threads)
    )
    feeder = Feeder(model, preprocessing)
    names = [*outputs.values(), *statistics.outputs]
    betti: dict[str, list[int]] = {layer.name: [] for layer in model.layers}
    total = plan.groups * (1 + len(model.layers))
    done = 0
    for number, group in enumerate(indices):
        values = runtime.run_session(session, names, feeder.feeds(dataset, group), model.name)
        grams = values[: len(outputs)]
        statistics.add(dict(zip(names, values, strict=True)), dict(zip(outputs, grams, strict=True)))
        done += 1
        chosen = _subsets(plan, seed, number)
        for layer, gram in zip(model.layers, grams, strict=True):
            if progress is not None:
                progress("scoring", done, total)
            try:
                matrix = distances(gram)
            except DataError as error:
                raise DataError(
                    f"layer {layer.name!r}: {error}. Is the preprocessing right ({preprocessing.to_json()})?"
                ) from error
            betti[layer.name] += [first_betti_number(matrix[np.ix_(subset, subset)]) for subset in chosen]
            done += 1
    if progress is not None:
        progress("scoring", total, total)
    head = model.head
    return Scores(
        model_sha256=model.sha256,
        estimator=estimator,
        points=plan.points,
        samples=tuple(tuple(int(index) for index in group) for group in indices),
        layers=_ranked(model, betti, plan, statistics),
        settings={
            "seed": seed,
            "order": order,
            "group": plan.group,
            "subsets_per_group": plan.subsets,
            "samples_left_out": left_out,
        },
        notes=tuple(notes),
        head=head.name if head else None,
        new_head=model.new_head,
        preprocessing=preprocessing.to_json(),
        classes=dataset.classes,
        model_file=None if model.name.startswith("<") else model.name,
    )


def _plan(estimator: str, samples: int, subset_size: int, subsets: int, batch_size: int, batches: int) -> _Plan:
    if estimator not in ESTIMATORS:
        raise UsageError(f"unknown estimator {estimator!r}: choose one of {', '.join(ESTIMATORS)}.")
    given = {"samples": samples, "subset size": subset_size, "subsets": subsets, "batch size": batch_size}
    given["batches"] = batches
    for what, number in given.items():
        if number < 1:
            raise UsageError(f"the number of {what} must be at least 1, not {number}.")
    points = subset_size if estimator == "subsets" else batch_size
    if points < 4:
        raise UsageError(f"{points} points always have a first Betti number of 0; take at least 4, better 32.")
    if estimator == "batches":
        return _Plan(points, points, batches, 1)
    if samples < points:
        raise UsageError(
            f"{samples} samples are fewer than one subset of {points}; raise --samples or lower --subset-size."
        )
    group = max(min(GROUP, samples), points)
    return _Plan(points, group, samples // group, subsets)


def _fit(
    plan: _Plan, estimator: str, samples: int, model: Model, limit: int, available: int
) -> tuple[_Plan, list[str], int]:
    """Keep to the samples there are and to the memory limit: (plan, notes, samples left out)."""
    notes: list[str] = []
    asked = plan.points * plan.groups if estimator == "batches" else samples
    usable = min(asked, available)
    if estimator == "subsets" and plan.points <= usable < plan.group:
        plan = _Plan(plan.points, usable, 1, plan.subsets)
    if usable < plan.points or (estimator == "batches" and usable < asked):
        raise DataError(
            f"scoring needs {asked if estimator == 'batches' else plan.points} samples, but the data has "
            f"{available}. Give "
            f"more data, or a smaller {'--batches or --batch-size' if estimator == 'batches' else '--subset-size'}."
        )
    # A probe may copy the activation it reads into another layout.
    one = forward_bytes(model.graph, batch=1) + 4 * max(layer.activation_size or 0 for layer in model.layers)
    # Weights are in memory as they were opened, in the probed copy, as bytes, and twice in the session being made.
    base = _SESSION_BYTES + 5 * weight_bytes(model.graph)
    fits = int((limit - base) / (_ARENA_FACTOR * max(1, one)))
    if fits < plan.points:
        need = int(base + _ARENA_FACTOR * one * plan.points)
        raise DataError(
            f"scoring {model.name} in groups of {plan.points} needs about {_mb(need)}, over the limit of "
            f"{_mb(limit)}. Raise "
            "--scoring-memory, or give a smaller --subset-size (or --batch-size)."
        )
    group = plan.group
    if fits < group:
        parts = math.ceil(usable / fits)  # of equal size, so that as few samples as possible are left out
        group = usable // parts if usable // parts >= plan.points else fits
        notes.append(f"groups of {group} samples instead of {plan.group}, to keep within {_mb(limit)} of memory")
    if usable < asked:
        notes.append(f"the data has {available} samples, fewer than the {asked} asked for")
    groups = min(plan.groups, usable // group) if estimator == "batches" else usable // group
    possible = math.comb(group, plan.points)
    plan = _Plan(plan.points, group, groups, min(plan.subsets, possible))
    left_out = usable - group * groups
    if left_out:
        notes.append(f"{left_out} samples that did not fill a group of {group} were left out")
    return plan, notes, left_out


def _draw(available: int, plan: _Plan, order: str, seed: int) -> list[np.ndarray]:
    """Indices of each group, in the order they are fed."""
    count = plan.group * plan.groups
    chosen = np.arange(available)
    if order == "shuffled":
        chosen = np.random.default_rng(seed).permutation(available)
    return list(chosen[:count].reshape(plan.groups, plan.group))


def _subsets(plan: _Plan, seed: int, group: int) -> list[np.ndarray]:
    """Which points of a group each Betti number is of: everything, or seeded random subsets."""
    if plan.subsets == 1 and plan.points == plan.group:
        return [np.arange(plan.group)]
    rng = np.random.default_rng([seed, 3, group])
    return [np.sort(rng.choice(plan.group, plan.points, replace=False)) for _ in range(plan.subsets)]


def probing_options(threads: int | None = None) -> Any:
    """Session options for a graph with Gram probes, which take much less memory this way.

    Memory patterns help the 1.19.2 of the training package and harm the newest stock runtime; both were measured
    (tests/benchmarks/bench_scoring.py).
    """
    options = runtime.session_options(threads)
    options.enable_mem_pattern = bool(runtime.installed().training)
    return options


def _ranked(model: Model, betti: dict[str, list[int]], plan: _Plan, statistics: Statistics) -> tuple[LayerScore, ...]:
    rows = []
    for layer in model.layers:
        numbers = np.array(betti[layer.name], np.int64)
        size = layer.activation_size
        assert size is not None
        scale = plan.points * size
        error = standard_error(numbers, plan.points, plan.group * plan.groups)
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
            **asdict(statistics.signals(layer.name)),
        )
        for index, (layer, numbers, mean, b1_hat, error, size) in enumerate(rows)
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
