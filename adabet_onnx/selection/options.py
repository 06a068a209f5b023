"""The options for choosing layers."""

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
        rho: fraction of layers, above 0 and at most 1; not used by head, norm-bias and all. None: 0.1; for auto, where
            it is only a cap, see `selection.auto`.
        head: whether the head is selected: ``always`` (in addition to the others), in the ``pool`` like any layer, or
            ``never``; ``auto`` means ``always`` for a head marked as new, else ``pool``.
        layers: a shell pattern of layer names, or several; if given, the matching layers are selected, and ``strategy``
            and ``rho`` are not used. The rule for the head still applies.
        channel_rho: in each layer train only this fraction of the output channels, above 0 and at most 1; needs scores
            of channels (``Scoring(channels=True)``). Budgets are checked as if all channels were trained. None: all.
        budget: limits on memory, time and size of the training.
        max_accumulate: maximum number of micro-batches that a batch may be split into to stay within the budget;
            None: 1, and for auto the number of samples in the batch.

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
            raise UsageError(f"a batch is split into at least 1 micro-batch, not {self.max_accumulate}.")
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        object.__setattr__(self, "layers", layers)

    @property
    def patterns(self) -> tuple[str, ...]:
        """``layers`` as a tuple of patterns."""
        return tuple(self.layers)
