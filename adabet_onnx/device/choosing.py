"""Which entry of a package is trained: the most worth by the scores that the memory allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from ..errors import DataError, UsageError
from ..sizes import size_text


class Choice(Protocol):
    """What choosing reads of an entry."""

    @property
    def name(self) -> str:
        """Of the entry."""

    @property
    def layers(self) -> Sequence[str]:
        """That are trained."""

    @property
    def memory(self) -> Sequence[tuple[int, int]]:
        """(batch, bytes), batches ascending."""


_Choice = TypeVar("_Choice", bound=Choice)


def needed_bytes(memory: Sequence[tuple[int, int]], batch_size: int) -> int:
    """What training takes at a batch size: of the next larger batch that is known, beyond the last in proportion.

    Args:
        memory: (batch, bytes), batches ascending.
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
    """The sum of layers' scores, added in their order; a layer without one counts 0."""
    total = 0.0
    for layer in layers:
        total += scores.get(layer, 0.0)
    return total


def choose(
    entries: Sequence[_Choice], scores: Mapping[str, float], *, batch_size: int, max_memory: int | None = None
) -> _Choice:
    """The entry with the most worth that needs no more than the memory there is.

    Of equal ones it is that which needs less, of equal ones of these the first.

    Args:
        entries: of a package.
        scores: by layer.
        batch_size: samples of a training step.
        max_memory: bytes that training may take; None: as many as it needs.

    Raises:
        UsageError: no entry fits, or there is none.
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
