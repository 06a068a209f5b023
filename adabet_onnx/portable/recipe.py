"""What a training graph computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from .optimizers import Optimizer


@dataclass(frozen=True)
class Recipe:
    """What a training graph computes.

    Attributes:
        loss: one of vocabulary.LOSSES.
        label_smoothing: for cross-entropy.
        class_weights: for cross-entropy: see `losses.build_loss`.
        class_axis: axis of the classes in the logits; None: see `losses.class_axis`.
        optimizer: the update.
        allowed: operators that may be used; None for all.
        batch_norm: ``frozen``, or ``batch``: selected BatchNormalizations normalise by the batch and update their
            running statistics.
        recompute: recompute activations in the backward pass rather than keep them.
        frozen_precision: precision of the frozen part: auto (that of the model file), float32 or int8.
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
        """Whether the frozen part must end at values of the original model, so that its quantised form can replace it.

        Args:
            quantised: whether the model file is quantised.
        """
        return self.frozen_precision == "int8" or (self.frozen_precision == "auto" and quantised)
