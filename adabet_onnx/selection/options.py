"""What choosing may be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import UsageError
from ..options import check_fields
from ..showing import changed
from ..vocabulary import HEADS, STRATEGIES
from .budget import Budget


@dataclass(frozen=True)
class Choosing:
    """How layers are chosen.

    Attributes:
        strategy: auto (see `selection.auto`), adabet (b1_hat), size (1 / activation size), b1 (not normalised), random,
            last, first, head, norm-bias (scales and biases of all normalisations) or all.
        rho: fraction of layers, above 0 and at most 1; not used by head, norm-bias and all. None: 0.1; for auto, which
            it only caps, see there.
        head: whether the head is selected: ``always`` (on top of the others), in the ``pool`` like any layer, or
            ``never``; ``auto`` is ``always`` for a head marked as new, else ``pool``.
        layers: a shell pattern of layer names, or several; where given, they are the selection, and ``strategy`` and
            ``rho`` are not used. The rule for the head holds here too.
        channel_rho: in each layer train only this fraction of the output channels, above 0 and at most 1; needs scores
            of channels (``Scoring(channels=True)``). A budget is kept to as if layers were trained whole. None: all.
        budget: limits of memory, time and size of the training.
        max_accumulate: into how many parts a batch may be cut to keep to the budget; None: 1, and for auto as many as
            the batch has samples.

    Raises:
        UsageError: an unknown strategy or head rule, or a number out of range.

    Example:
        >>> from adabet_onnx import Budget, Choosing
        >>> Choosing(rho=0.2, layers="layer4.*", budget=Budget(max_memory="64MB")).layers
        ('layer4.*',)
    """

    strategy: str = "adabet"
    rho: float | None = None
    head: str = "auto"
    layers: str | Sequence[str] = ()
    channel_rho: float | None = None
    budget: Budget = field(default_factory=Budget)
    max_accumulate: int | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        if self.strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy {self.strategy!r}: choose one of {', '.join(STRATEGIES)}.")
        if self.head not in HEADS:
            raise UsageError(f"unknown head rule {self.head!r}: choose one of {', '.join(HEADS)}.")
        if self.rho is not None and not 0 < self.rho <= 1:
            raise UsageError(f"rho must be above 0 and at most 1 (a fraction of the layers), not {self.rho}.")
        if self.channel_rho is not None and not 0 < self.channel_rho <= 1:
            raise UsageError(
                "channel rho must be above 0 and at most 1 (a fraction of each layer's channels), not "
                f"{self.channel_rho}."
            )
        if self.max_accumulate is not None and self.max_accumulate < 1:
            raise UsageError(f"a batch is cut into at least 1 part, not {self.max_accumulate}.")
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        object.__setattr__(self, "layers", layers)

    @property
    def patterns(self) -> tuple[str, ...]:
        """``layers`` as several patterns."""
        return tuple(self.layers)
