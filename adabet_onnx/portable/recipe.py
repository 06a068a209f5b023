"""What a training graph is to compute."""

from __future__ import annotations

from dataclasses import dataclass, field

from .optimizers import Optimizer


@dataclass(frozen=True)
class Recipe:
    """What a training graph computes.

    Attributes:
        loss: one of vocabulary.LOSSES.
        label_smoothing: of cross-entropy.
        class_weights: of cross-entropy: see `losses.build_loss`.
        class_axis: of the logits; None: see `losses.class_axis`.
        optimizer: the update.
        allowed: operators that may be used; None: all.
        batch_norm: ``frozen``, or ``batch``: selected BatchNormalizations normalise by the batch and move their
            statistics.
        recompute: compute activations again in the backward pass rather than keep them.
        frozen_precision: of the frozen part: auto (as the model came), float32 or int8.
    """

    loss: str = "cross-entropy"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    class_axis: int | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    allowed: frozenset[str] | None = None
    batch_norm: str = "frozen"
    recompute: bool = False
    frozen_precision: str = "auto"

    def keeps_values(self, *, quantised: bool) -> bool:
        """Whether the frozen part has to end at values of the model, in which its quantised form then takes its place.

        Args:
            quantised: whether the model came so.
        """
        return self.frozen_precision == "int8" or (self.frozen_precision == "auto" and quantised)
