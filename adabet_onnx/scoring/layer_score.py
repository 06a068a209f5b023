"""The measurements of one layer; a part of the scores file, see `record`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..showing import clipped, counted, one_line


@dataclass(frozen=True)
class ChannelScores:
    """Scores of a layer's output channels; the attributes match the file."""

    elements: int
    b1_mean: tuple[float, ...]

    def top(self, rho: float) -> tuple[int, ...]:
        """Return the max(1, floor(rho C)) of C channels with the highest scores, ascending; the first on a tie."""
        count = max(1, math.floor(rho * len(self.b1_mean) + 1e-9))
        order = sorted(range(len(self.b1_mean)), key=lambda i: -self.b1_mean[i])
        return tuple(sorted(order[:count]))

    def __repr__(self) -> str:
        highest = max(self.b1_mean)
        best = f"highest b1_mean {highest:.3g}, of channel {self.b1_mean.index(highest)}"
        return one_line(self, f"{counted(len(self.b1_mean), 'channel')} of {counted(self.elements, 'element')}", best)


@dataclass(frozen=True)
class LayerScore:
    """One layer's score; the attributes match the file."""

    name: str
    op_type: str
    parameters: tuple[str, ...]
    parameter_count: int
    activation_size: int
    is_norm: bool
    b1: tuple[int, ...]
    b1_mean: float
    b1_hat: float
    stderr: float
    rank: int
    shift: float | None = None
    dead: float | None = None
    effective_rank: float | None = None
    untrainable: str | None = None
    channels: ChannelScores | None = None

    def __repr__(self) -> str:
        # Without measurements there are no Betti numbers, and no rank.
        measured = f"b1_hat {self.b1_hat:.2e} ± {self.stderr:.0e}, rank {self.rank}" if self.b1 else "not scored"
        trainable = None if self.untrainable is None else "cannot be trained"
        size = f"D {self.activation_size:,}"
        return one_line(self, repr(clipped(self.name)), self.op_type, measured, size, trainable)
