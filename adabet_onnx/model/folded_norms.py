"""Detect that an exporter folded normalisations into convolutions, so that they cannot be selected any more."""

from __future__ import annotations

from collections.abc import Sequence

from .layers import Layer
from .producer import keep_normalisations

_LEAST = 3  # fewest convolutions of a convolutional network


def folded_note(layers: Sequence[Layer], producer: str | None) -> str | None:
    """A note on a network whose convolutions all have a bias and that has no normalisation; None for others.

    Args:
        layers: the layers of the network.
        producer: the file's ``producer_name``.
    """
    convolutions = [layer for layer in layers if layer.op_type == "Conv"]
    biased = [layer for layer in convolutions if len(layer.parameters) > 1]
    if len(convolutions) < _LEAST or len(biased) < len(convolutions) or any(layer.is_norm for layer in layers):
        return None
    return (
        f"all {len(convolutions)} convolutions have a bias and there is no normalisation: if the network had batch "
        f"normalisations, they were folded. To keep them as layers of their own, {keep_normalisations(producer)}"
    )
