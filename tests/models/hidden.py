"""Networks of convolutions followed by a BatchNormalization that hides some channels behind tiny scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from . import tiny
from .tiny import node


def norm_net(
    *,
    extents: tuple[int, ...] = (9, 8),
    channels: int = 4,
    made: int = 8,
    hidden: dict[int, float] | None = None,
    offset: float = 0.0,
    norm: bool = True,
    opset: int = 17,
    first: str = "",
    seed: int = 0,
    **conv: Any,
) -> onnx.ModelProto:
    """conv - bn - Relu - GlobalAveragePool - fc on (N, channels, *extents).

    Args:
        extents: of the input.
        channels: of the input.
        made: by the Conv.
        hidden: slopes of some channels of the BatchNormalization; those of others are 0.5 to 2.
        offset: of the BatchNormalization's output; without one, of the Conv's.
        norm: whether there is a BatchNormalization.
        opset: of the model.
        first: an operator before the Conv, such as one that can return NaN.
        seed: of the weights.
        **conv: attributes of the Conv, whose kernel has 3 positions along each axis; padding is 1 unless given.
    """
    rng, axes = np.random.default_rng(seed), len(extents)
    if "auto_pad" not in conv:
        conv.setdefault("pads", [1] * (2 * axes))
    scale = rng.uniform(0.5, 2, made)
    scale *= rng.choice([-1, 1], made)
    for channel, slope in (hidden or {}).items():
        scale[channel] = slope
    values = {
        "conv.weight": rng.standard_normal((made, channels // conv.get("group", 1), *[3] * axes)),
        "conv.bias": rng.standard_normal(made) + (0 if norm else offset),
        "fc.weight": rng.standard_normal((made, 3)),
    }
    nodes = [node(first, ["input"], ["x"], "/first")] if first else []
    nodes += [node("Conv", ["x" if first else "input", "conv.weight", "conv.bias"], ["c"], "/conv", **conv)]
    if norm:
        values |= {
            "bn.scale": scale,
            "bn.bias": rng.standard_normal(made) + offset,
            "bn.mean": rng.standard_normal(made),
            "bn.var": rng.uniform(2, 8, made),
        }
        nodes.append(node("BatchNormalization", ["c", *list(values)[3:]], ["b"], "/bn"))
    nodes += [
        node("Relu", ["b" if norm else "c"], ["r"], "/relu"),
        node("GlobalAveragePool", ["r"], ["pooled"], "/pool"),
        node("Flatten", ["pooled"], ["flat"], "/flatten"),
        node("MatMul", ["flat", "fc.weight"], ["logits"], "/fc"),
    ]
    stored = {name: value.astype(np.float32) for name, value in values.items()}
    return tiny.build(nodes, stored, input_shape=("N", channels, *extents), output_shape=("N", 3), opset=opset)
