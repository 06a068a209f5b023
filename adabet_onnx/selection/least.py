"""The minimum cost of any selection, and the error if a budget is below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..showing import counted
from .budget import MEMORY_LIMITS, Meter, limit_text


def smallest_sets(meter: Meter, candidates: Sequence[int], required: frozenset[int]) -> list[frozenset[int]]:
    """Sets that include the one with the lowest use of any resource: the required layers alone, else each candidate.

    If the frozen pass determines memory, adding an earlier layer to the required ones takes less: the first one from
    which a step takes more than the frozen pass, or the one next to it.

    Args:
        meter: predicts costs.
        candidates: layers that may be selected in addition to the required ones.
        required: layers that are always selected.
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
    """The lowest use of a limited resource by any selection.

    Attributes:
        value: bytes or a share.
        chosen: the layers with that use.
        meter: the meter that predicted it, with its number of micro-batches.
    """

    value: float
    chosen: frozenset[int]
    meter: Meter


def least_use(meters: Sequence[Meter], key: str, sets: Sequence[frozenset[int]]) -> Least:
    """The lowest use of the resource that one limit applies to.

    Args:
        meters: one meter per number of micro-batches, in ascending order.
        key: name of the limit.
        sets: candidates from `smallest_sets`.
    """
    uses = (Least(meter.uses(chosen)[key], chosen, meter) for meter in meters for chosen in sets)
    return min(uses, key=lambda least: least.value)


def impossible(
    meters: Sequence[Meter],
    sets: Sequence[frozenset[int]],
    others: Sequence[frozenset[int]] = (),
    *,
    divided: Meter | None = None,
) -> UsageError:
    """The error if nothing fits; it names the smallest budget that works, and only advice that helps.

    Args:
        meters: one meter per number of micro-batches, in ascending order.
        sets: candidates from `smallest_sets`.
        others: candidates from all layers that can be trained, if the strategy considers only some.
        divided: a meter for more micro-batches than the limit allows; None if there cannot be more.
    """
    limits = meters[0].limits
    parts: list[str] = []
    leasts = {key: least_use(meters, key, sets) for key in limits}
    exceeded = {key: least for key, least in leasts.items() if least.value > limits[key]}
    for key, least in exceeded.items():
        limit, minimum = limit_text(key, limits[key]), limit_text(key, _up(least.value))
        text = f"`{key}` {limit}: the minimum is {minimum}, with {least.meter.names(least.chosen)}{_at_a_time(least)}"
        parts.append(text + _smaller(meters, key, least, others))
    if len(limits) > 1 and len({(least.chosen, least.meter.parts) for least in leasts.values()}) > 1:
        meter, chosen = min(
            ((meter, chosen) for meter in meters for chosen in sets),
            key=lambda pair: max(value / limits[key] for key, value in pair[0].uses(pair[1]).items()),
        )
        enough = {key: _up(max(limits[key], value)) for key, value in meter.uses(chosen).items()}
        parts.append(f"limits that work together are {_all(enough)}, with {meter.names(chosen)}")
    memory = set(MEMORY_LIMITS) & limits.keys()
    at = f" at batch size {meters[0].batch_size}" if memory else ""
    advice = {_advice(key, least, sets, divided) for key, least in exceeded.items() if key in MEMORY_LIMITS}
    return UsageError(
        f"no selection fits the budget{at}. {'; '.join(parts)}. Raise the limit{''.join(sorted(advice))}."
    )


def _at_a_time(least: Least) -> str:
    return f", {counted(least.meter.part, 'sample')} at a time" if least.meter.parts > 1 else ""


def _smaller(meters: Sequence[Meter], key: str, least: Least, others: Sequence[frozenset[int]]) -> str:
    """A clause on other layers with a lower use, if there are any."""
    other = least_use(meters, key, others) if others else least
    if other.value >= least.value:
        return ""
    minimum, names = limit_text(key, _up(other.value)), other.meter.names(other.chosen)
    return f" (among all layers it is {minimum}, with {names}{_at_a_time(other)}: name them with `layers`)"


def _advice(key: str, least: Least, sets: Sequence[frozenset[int]], divided: Meter | None) -> str:
    """What lowers the memory, as the end of a sentence; empty if nothing does."""
    if divided is not None and least_use([divided], key, sets).value < least.value:
        return ", or split batches into micro-batches with `max_accumulate`"
    return ", or lower `batch_size`" if least.meter.part > 1 else ""


def _up(value: float) -> float:
    """Round up to three digits, so that the number in a message is sufficient."""
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / digit * (1 - 1e-12)) * digit


def _all(limits: dict[str, float]) -> str:
    return ", ".join(f"`{key}` {limit_text(key, value)}" for key, value in limits.items())
