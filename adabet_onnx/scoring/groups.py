"""How samples are grouped for scoring: what is forwarded together, and which points a Betti number is of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .. import seeds
from ..errors import DataError
from ..model.open import Model
from ..sizes import size_text
from .options import Scoring
from .passes import base_bytes, sample_bytes

GROUP = 128  # samples whose distances are taken together under the subsets estimator


@dataclass(frozen=True)
class SamplePlan:
    """How samples are grouped and how many subsets of each group are taken.

    Attributes:
        points: of one Betti number.
        group: samples whose distances are taken together.
        groups: how many.
        subsets: per group; None for as many as it takes (see `rounds`).
    """

    points: int
    group: int
    groups: int
    subsets: int | None


def make_plan(scoring: Scoring) -> SamplePlan:
    """The plan that options ask for."""
    if scoring.estimator == "batches":
        return SamplePlan(scoring.points, scoring.points, scoring.batches, 1)
    group = max(min(GROUP, scoring.samples), scoring.points)
    return SamplePlan(scoring.points, group, scoring.samples // group, scoring.subsets)


def fit_plan(
    plan: SamplePlan, estimator: str, samples: int, model: Model, limit: int | None, available: int
) -> tuple[SamplePlan, list[str], int]:
    """Keep to the samples there are and to the memory limit: (plan, notes, samples left out).

    Args:
        plan: as asked for.
        estimator: subsets or batches.
        samples: asked for, under subsets.
        model: to score.
        limit: bytes the forward pass of a whole group may take; None where groups are not forwarded as a whole.
        available: samples there are.

    Raises:
        DataError: there are too few samples, or the limit is too low.
    """
    notes: list[str] = []
    asked = plan.points * plan.groups if estimator == "batches" else samples
    usable = min(asked, available)
    if estimator == "subsets" and plan.points <= usable < plan.group:
        plan = SamplePlan(plan.points, usable, 1, plan.subsets)
    if usable < plan.points or (estimator == "batches" and usable < asked):
        needed, smaller = plan.points, "`subset_size`"
        if estimator == "batches":
            needed, smaller = asked, "`batches` or `Scoring(batch_size=...)`"
        raise DataError(
            f"scoring needs {needed} samples, but the data has {available}. Give more data, or a smaller {smaller}."
        )
    group = plan.group
    fits = group if limit is None else largest_group(model, plan.points, limit)
    if limit is not None and fits < group:
        parts = math.ceil(usable / fits)  # of equal size, so that as few samples as possible are left out
        group = usable // parts if usable // parts >= plan.points else fits
        notes.append(f"groups of {group} samples instead of {plan.group}, to keep within {size_text(limit)} of memory")
    if usable < asked:
        notes.append(f"the data has {available} samples, fewer than the {asked} asked for")
    groups = min(plan.groups, usable // group) if estimator == "batches" else usable // group
    possible = math.comb(group, plan.points)
    subsets = None if plan.subsets is None else min(plan.subsets, possible)
    plan = SamplePlan(plan.points, group, groups, subsets)
    left_out = usable - group * groups
    if left_out:
        notes.append(f"{left_out} samples that did not fill a group of {group} were left out")
    return plan, notes, left_out


def largest_group(model: Model, points: int, limit: int) -> int:
    """How many samples can be forwarded together within a limit.

    Args:
        model: with probes.
        points: at least so many must fit.
        limit: bytes.

    Raises:
        DataError: fewer than ``points`` fit.
    """
    base, one = base_bytes(model), sample_bytes(model)
    fits = (limit - base) // one
    if fits < points:
        need = base + one * points
        raise DataError(
            f"scoring {model.name} in groups of {points} needs about {size_text(need)}, over the limit of "
            f"{size_text(limit)}. Raise `Scoring(max_memory=...)`, or give a smaller `subset_size` (or "
            "`Scoring(batch_size=...)`)."
        )
    return fits


def draw(available: int, plan: SamplePlan, order: str, seed: int) -> list[np.ndarray]:
    """Indices of each group, in the order they are fed."""
    count = plan.group * plan.groups
    chosen = np.arange(available)
    if order == "shuffled":
        chosen = seeds.samples(seed).permutation(available)
    return list(chosen[:count].reshape(plan.groups, plan.group))


def draw_subsets(plan: SamplePlan, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Which points of a group each Betti number is of: everything, or seeded random subsets.

    Those of two calls are those of one for both, so the first subsets are the same however many there are.
    """
    if plan.points == plan.group:
        return [np.arange(plan.group)] * count
    return [np.sort(rng.choice(plan.group, plan.points, replace=False)) for _ in range(count)]
