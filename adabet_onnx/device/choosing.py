"""Choose the entry of a package to train: the one with the highest scores that fits into memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from ..errors import DataError, UsageError
from ..sizes import size_text


class Choice(Protocol):
    """The properties of an entry that choosing needs."""

    @property
    def name(self) -> str:
        """Name of the entry."""

    @property
    def layers(self) -> Sequence[str]:
        """The layers that are trained."""

    @property
    def memory(self) -> Sequence[tuple[int, int]]:
        """(batch, bytes), in ascending order of batches."""


_Choice = TypeVar("_Choice", bound=Choice)


def needed_bytes(memory: Sequence[tuple[int, int]], batch_size: int) -> int:
    """Memory that training takes at a batch size: that of the next larger known batch, or scaled up from the last one.

    Args:
        memory: (batch, bytes), in ascending order of batches.
        batch_size: samples of a step.

    Example:
        >>> from adabet_onnx.device.choosing import needed_bytes
        >>> [needed_bytes([(1, 100), (8, 501)], size) for size in (1, 2, 8, 9)]
        [100, 501, 501, 564]
    """
    for batch, size in memory:
        if batch >= batch_size:
            return size
    batch, size = memory[-1]
    return -(-size * batch_size // batch)


def worth(layers: Sequence[str], scores: Mapping[str, float]) -> float:
    """The sum of the layers' scores, added in their order; a layer without a score counts as 0."""
    total = 0.0
    for layer in layers:
        total += scores.get(layer, 0.0)
    return total


def choose(
    entries: Sequence[_Choice], scores: Mapping[str, float], *, batch_size: int, max_memory: int | None = None
) -> _Choice:
    """Choose the entry with the highest worth that fits into memory.

    Ties are broken by lower memory, then by order.

    Args:
        entries: the entries of a package.
        scores: scores by layer.
        batch_size: samples of a training step.
        max_memory: bytes that training may take; None: no limit.

    Raises:
        UsageError: no entry fits, or there are none.
        DataError: a score is not finite.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size must be at least 1, not {batch_size}.")
    for layer, value in scores.items():
        if not math.isfinite(value):
            raise DataError(f"the score of layer {layer!r} is {value}, expected a finite number. Score again.")
    if not entries:
        raise UsageError("there are no entries to choose from.")
    needs = [needed_bytes(entry.memory, batch_size) for entry in entries]
    fitting = [i for i, size in enumerate(needs) if max_memory is None or size <= max_memory]
    if not fitting:
        least = min(range(len(needs)), key=needs.__getitem__)
        raise UsageError(
            f"no entry fits into {size_text(max_memory or 0)} at batch size {batch_size}: the smallest, "
            f"{entries[least].name!r}, needs {size_text(needs[least])} ({needs[least]} bytes). Allow more memory or "
            "smaller batches."
        )
    return entries[min(fitting, key=lambda i: (-worth(entries[i].layers, scores), needs[i], i))]
