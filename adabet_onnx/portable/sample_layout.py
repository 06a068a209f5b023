"""Where the samples are in a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..model.dims import Dims


@dataclass(frozen=True)
class SampleLayout:
    """Where the samples are in a value that is computed for each of them from its own part of the inputs.

    Attributes:
        axis: the axis that is the batch, or that the batch is merged into.
        before: size of the index before the sample's in the merged axis: T of (T*N, C).
        after: size of the index after it: T of (N*T, C).
    """

    axis: int
    before: int = 1
    after: int = 1


class Kind(Enum):
    """The kinds of values that have no samples."""

    CONSTANT = "depends on constants alone"
    SIZE = "depends on the batch size alone"
    TAIL = "depends on what changes in training, on several samples, or on chance"


Place = SampleLayout | Kind


def batch_axes(extents: Dims | None) -> list[int] | None:
    """The axes that grow with the batch; None for an unknown shape."""
    return None if extents is None else [axis for axis, d in enumerate(extents) if isinstance(d, str)]
