"""Noticing that an exporter has merged normalisations into convolutions, where they can no longer be chosen."""

from __future__ import annotations

from collections.abc import Sequence

from .layers import Layer
from .producer import keep_normalisations

_LEAST = 3  # convolutions that make a network one of convolutions


def folded_note(layers: Sequence[Layer], producer: str | None) -> str | None:
    """What to say of a network of convolutions that all have a bias, and no normalisation; else None.

    Args:
        layers: of the network.
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
