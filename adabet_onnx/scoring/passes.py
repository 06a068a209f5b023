"""Planning of sketch passes within a memory limit: samples per batch, sketch size, and layers per pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from ..errors import DataError
from ..model.liveness import forward_bytes, weight_bytes
from ..model.open import Model
from ..sizes import size_text
from .sketch import MOST, SKETCH
from .slopes import pairs

_SHARE = 0.75  # of free memory, the default limit
# ONNX Runtime's arena rounds up and keeps freed blocks: the factor by which it exceeds the liveness prediction.
ARENA_FACTOR = 1.5
SESSION_BYTES = 20_000_000  # a session of a small model and its code
_FULL_BYTES = 256_000_000  # larger sketches are kept in half precision
_AT_ONCE = 64_000_000  # bytes of activations per batch: more do not make it faster
_MOST = 32  # most samples at a time
_SMALLEST = 1024  # smallest sketch if memory is short
_PASSES = 8  # more passes would cost more time than small sketches cost accuracy


@dataclass(frozen=True)
class Passes:
    """The plan of sketch passes.

    Attributes:
        batch: samples at a time.
        size: k, the most numbers of one sketch.
        half: whether sketches are kept in half precision.
        parts: names of the layers of each pass over the samples; usually there is one pass.
        notes: remarks for users.
    """

    batch: int
    size: int
    half: bool
    parts: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def memory_limit(given: int | None) -> int:
    """Return the bytes that scoring may take: the given limit, or a share of the free memory."""
    return given if given is not None else int(_SHARE * psutil.virtual_memory().available)


def base_bytes(model: Model) -> int:
    """Return the memory of a scoring process apart from activations and sketches.

    Weights are in memory in the opened model, in the probed copy, as serialised bytes, and twice while the session is
    created.
    """
    return SESSION_BYTES + 5 * weight_bytes(model.graph)


def sample_bytes(model: Model) -> int:
    """Return the memory of one sample's forward pass; a probe may copy its activation to another layout."""
    one = forward_bytes(model.graph, batch=1) + 4 * max(layer.activation_size or 0 for layer in model.layers)
    return max(1, int(ARENA_FACTOR * one))


def plan_passes(model: Model, samples: int, limit: int, size: int | None = None) -> Passes:
    """Stay within a memory limit: first by fewer samples at a time, then half precision, more passes, smaller sketches.

    Args:
        model: the opened model.
        samples: number of samples whose distances are computed together.
        limit: the limit in bytes.
        size: k, or None for the default.

    Raises:
        DataError: the limit is too low for one sample.
    """
    base, one = base_bytes(model), sample_bytes(model)
    room = limit - base - one
    if room <= 0:
        raise DataError(
            f"scoring {model.name} one sample at a time needs about {size_text(base + one)}, over the limit of "
            f"{size_text(limit)}. Raise `Scoring(max_memory=...)`."
        )
    requested, k = size or SKETCH, size or SKETCH
    units, notes = _units(model), list[str]()
    while True:
        needed = {layer.name: 4 * samples * min(int(MOST * k), layer.activation_size or 0) for layer in model.layers}
        half = sum(needed.values()) > min(_FULL_BYTES, room)
        if half:
            needed = {name: count // 2 for name, count in needed.items()}
        parts = _parts(units, needed, room)
        if len(parts) <= _PASSES or k <= _SMALLEST:
            break
        k = max(_SMALLEST, k // 2)
    if max(needed.values()) > room:
        raise DataError(
            f"scoring {model.name} with {samples} samples needs about {size_text(base + one + max(needed.values()))}, "
            f"over the limit of {size_text(limit)}. Raise `Scoring(max_memory=...)`, or score fewer `samples`."
        )
    if k < requested:
        notes.append(f"sketches of {k} numbers instead of {requested}, to stay within {size_text(limit)} of memory")
    if len(parts) > 1:
        notes.append(f"{len(parts)} passes over the samples, to stay within {size_text(limit)} of memory")
    left = limit - base - max(sum(needed[name] for name in part) for part in parts)
    batch = max(1, min(_MOST, samples, left // one, _AT_ONCE // one))
    return Passes(batch, k, half, parts, tuple(notes))


def _units(model: Model) -> list[tuple[str, ...]]:
    """Return layers in model order; a Conv and the BatchNormalization after it form one unit, sketched together."""
    values = {value.name: value for node in model.graph.graph for value in node.outputs}
    activations = {layer.name: values[layer.activation] for layer in model.layers}
    norms = {pair.conv: norm for norm, pair in pairs(activations).items()}
    covered = set(norms.values())
    return [(name, norms[name]) if name in norms else (name,) for name in activations if name not in covered]


def _parts(units: Sequence[tuple[str, ...]], needed: Mapping[str, int], room: int) -> tuple[tuple[str, ...], ...]:
    """Distribute units over as few parts as possible; a unit that does not fit is split."""
    parts: list[list[str]] = [[]]
    taken = 0
    for unit in units:
        fits = sum(needed[name] for name in unit) <= room
        for names in [unit] if fits else [(name,) for name in unit]:
            count = sum(needed[name] for name in names)
            if parts[-1] and taken + count > room:
                parts.append([])
                taken = 0
            parts[-1] += names
            taken += count
    return tuple(map(tuple, parts))
