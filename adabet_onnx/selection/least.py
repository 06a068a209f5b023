"""The least that a selection can take, and what to say where a budget is below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .budget import MEMORY_LIMITS, Meter, limit_text


def smallest_sets(meter: Meter, candidates: Sequence[int], required: frozenset[int]) -> list[frozenset[int]]:
    """Sets of which one takes the least of anything: what is required alone, else each candidate.

    Where it is the frozen pass that takes memory, what is required takes less with an earlier layer: the one from which
    on a step takes more than the frozen pass, or the next one.

    Args:
        meter: predicts.
        candidates: what may be selected besides what is required.
        required: what is selected in any case.
    """
    if not required:
        return [frozenset({i}) for i in candidates]

    def frozen(layers: frozenset[int]) -> bool:
        predicted = meter.predict(layers)
        return predicted.frozen_bytes > predicted.tail_bytes

    if not frozen(required):
        return [required]
    backwards = sorted((i for i in candidates if i < min(required)), reverse=True)
    low, high = -1, len(backwards)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if frozen(required | {backwards[middle]}) else (low, middle)
    return [required, *(required | {backwards[at]} for at in (low, high) if 0 <= at < len(backwards))]


@dataclass(frozen=True)
class Least:
    """The least of something limited that any selection takes.

    Attributes:
        value: bytes or a share.
        chosen: the layers that take it.
        meter: with the parts that a batch is then cut into.
    """

    value: float
    chosen: frozenset[int]
    meter: Meter


def least_use(meters: Sequence[Meter], key: str, sets: Sequence[frozenset[int]]) -> Least:
    """The least of what one limit is on.

    Args:
        meters: of all numbers of parts that are tried, the fewest first.
        key: of the limit, one of the meters'.
        sets: from `smallest_sets`.
    """
    found = (Least(meter.uses(chosen)[key], chosen, meter) for meter in meters for chosen in sets)
    return min(found, key=lambda least: least.value)


def impossible(meters: Sequence[Meter], sets: Sequence[frozenset[int]], *, most_parts: int) -> UsageError:
    """What to say when nothing fits: the smallest budget that something fits.

    Args:
        meters: of all numbers of parts that are tried, the fewest first.
        sets: from `smallest_sets`.
        most_parts: into how many parts a batch can be cut.
    """
    limits = meters[0].limits
    parts: list[str] = []
    leasts = {key: least_use(meters, key, sets) for key in limits}
    for key, least in leasts.items():
        if least.value > limits[key]:
            wanted, found = limit_text(key, limits[key]), limit_text(key, _up(least.value))
            at = f", {least.meter.part} at a time" if least.meter.parts > 1 else ""
            parts.append(f"`{key}` {wanted}: the least is {found}, with {least.meter.names(least.chosen)}{at}")
    if len(limits) > 1 and len({(least.chosen, least.meter.parts) for least in leasts.values()}) > 1:
        meter, chosen = min(
            ((meter, chosen) for meter in meters for chosen in sets),
            key=lambda pair: max(value / limits[key] for key, value in pair[0].uses(pair[1]).items()),
        )
        enough = {key: _up(max(limits[key], value)) for key, value in meter.uses(chosen).items()}
        parts.append(f"what would do for all together is {_all(enough)}, with {meter.names(chosen)}")
    memory = set(MEMORY_LIMITS) & limits.keys()
    how = f" at batch size {meters[0].batch_size}" if memory else ""
    other = ", or lower `batch_size`"
    if meters[-1].parts < most_parts:
        other = ", or cut batches into parts with `max_accumulate`"
    return UsageError(
        f"no selection fits the budget{how}. {'; '.join(parts)}. Raise the limit" + (f"{other}." if how else ".")
    )


def _up(value: float) -> float:
    """Rounded up to three digits, so that what is read off a message is enough."""
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / digit * (1 - 1e-12)) * digit


def _all(limits: dict[str, float]) -> str:
    return ", ".join(f"`{key}` {limit_text(key, value)}" for key, value in limits.items())
