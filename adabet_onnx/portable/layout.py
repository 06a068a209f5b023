"""Where samples lie in a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..model.dims import Dims


@dataclass(frozen=True)
class SampleLayout:
    """Where the samples lie in a value, each of which is computed from its own part of the inputs.

    Attributes:
        axis: that is the batch, or that the batch is merged into.
        before: index in the merged axis that goes before the sample's: T of (T*N, C).
        after: index that goes after it: T of (N*T, C).
    """

    axis: int
    before: int = 1
    after: int = 1


class Kind(Enum):
    """A value that has no samples."""

    CONSTANT = "depends on constants alone"
    SIZE = "depends on the batch size alone"
    TAIL = "depends on what changes in training, on several samples, or on chance"


Place = SampleLayout | Kind


def batch_axes(extents: Dims | None) -> list[int] | None:
    """The axes that grow with the batch; None for an unknown shape."""
    return None if extents is None else [axis for axis, d in enumerate(extents) if isinstance(d, str)]
