"""The grouping of samples for scoring: which are forwarded together, and which points a Betti number uses."""

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

GROUP = 128  # samples whose distances are computed together by the subsets estimator


@dataclass(frozen=True)
class SamplePlan:
    """The grouping of samples, and the number of subsets of each group.

    Attributes:
        points: number of points of a Betti number.
        group: samples whose distances are computed together.
        groups: number of groups.
        subsets: number per group; None: as many as needed (see `rounds`).
    """

    points: int
    group: int
    groups: int
    subsets: int | None


def make_plan(scoring: Scoring) -> SamplePlan:
    """Return the plan for scoring options."""
    if scoring.estimator == "batches":
        return SamplePlan(scoring.points, scoring.points, scoring.batches, 1)
    group = max(min(GROUP, scoring.samples), scoring.points)
    return SamplePlan(scoring.points, group, scoring.samples // group, scoring.subsets)


def fit_plan(
    plan: SamplePlan, estimator: str, samples: int, model: Model, limit: int | None, available: int
) -> tuple[SamplePlan, list[str], int]:
    """Adapt a plan to the available samples and the memory limit; return (plan, notes, samples left out).

    Args:
        plan: the requested plan.
        estimator: subsets or batches.
        samples: requested number of samples, for subsets.
        model: the model to score.
        limit: bytes that the forward pass of a whole group may take; None if groups are not forwarded as a whole.
        available: number of available samples.

    Raises:
        DataError: there are too few samples, or the limit is too low.
    """
    notes: list[str] = []
    requested = plan.points * plan.groups if estimator == "batches" else samples
    usable = min(requested, available)
    if estimator == "subsets" and plan.points <= usable < plan.group:
        plan = SamplePlan(plan.points, usable, 1, plan.subsets)
    if usable < plan.points or (estimator == "batches" and usable < requested):
        needed, smaller = plan.points, "`subset_size`"
        if estimator == "batches":
            needed, smaller = requested, "`batches` or `Scoring(batch_size=...)`"
        raise DataError(
            f"scoring needs {needed} samples, but the data has {available}. Give more data, or a smaller {smaller}."
        )
    group = plan.group
    fits = group if limit is None else largest_group(model, plan.points, limit)
    if limit is not None and fits < group:
        parts = math.ceil(usable / fits)  # of equal size, to leave out as few samples as possible
        group = usable // parts if usable // parts >= plan.points else fits
        notes.append(f"groups of {group} samples instead of {plan.group}, to stay within {size_text(limit)} of memory")
    if usable < requested:
        notes.append(f"the data has {available} samples, fewer than the {requested} requested")
    groups = min(plan.groups, usable // group) if estimator == "batches" else usable // group
    possible = math.comb(group, plan.points)
    subsets = None if plan.subsets is None else min(plan.subsets, possible)
    plan = SamplePlan(plan.points, group, groups, subsets)
    left_out = usable - group * groups
    if left_out:
        notes.append(f"{left_out} samples that did not fill a group of {group} were left out")
    return plan, notes, left_out


def largest_group(model: Model, points: int, limit: int) -> int:
    """Return how many samples can be forwarded together within a memory limit.

    Args:
        model: the model to score.
        points: the least number that must fit.
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
    """Draw the sample indices of each group, in feeding order."""
    count = plan.group * plan.groups
    chosen = np.arange(available)
    if order == "shuffled":
        chosen = seeds.samples(seed).permutation(available)
    return list(chosen[:count].reshape(plan.groups, plan.group))


def draw_subsets(plan: SamplePlan, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Draw the points for each Betti number of a group: all of them, or seeded random subsets.

    Two consecutive calls draw the same subsets as one call for both, so the first subsets do not depend on the total
    number.
    """
    if plan.points == plan.group:
        return [np.arange(plan.group)] * count
    return [np.sort(rng.choice(plan.group, plan.points, replace=False)) for _ in range(count)]
