"""Noticing that an exporter has merged normalisations into convolutions, where they can no longer be chosen."""

from __future__ import annotations

from collections.abc import Sequence

from .layers import Layer

_LEAST = 3  # convolutions that make a network one of convolutions


def folded_note(layers: Sequence[Layer]) -> str | None:
    """What to say of a network of convolutions that all have a bias, and no normalisation; else None."""
    convolutions = [layer for layer in layers if layer.op_type == "Conv"]
    biased = [layer for layer in convolutions if len(layer.parameters) > 1]
    if len(convolutions) < _LEAST or len(biased) < len(convolutions) or any(layer.is_norm for layer in layers):
        return None
    return (
        f"all {len(convolutions)} convolutions have a bias and there is no normalisation: if the network had batch "
        "normalisations, they were folded. To keep them as layers of their own, export with "
        "torch.onnx.export(..., optimize=False), or in its older form with training=TrainingMode.PRESERVE and "
        "do_constant_folding=False"
    )
