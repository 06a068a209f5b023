"""A network that may have had normalisations, folded into its convolutions."""

from __future__ import annotations

import onnx

from . import tiny
from .tiny import node, normal


def folded(opset: int = 17) -> onnx.ModelProto:
    """Three convolutions with biases, and pooling."""
    nodes, values, value = [], {}, "input"
    for index in range(3):
        values |= {f"c{index}.weight": (index + 1) * normal(3, 3, 1, 1), f"c{index}.bias": normal(3)}
        nodes.append(node("Conv", [value, f"c{index}.weight", f"c{index}.bias"], [f"v{index}"], f"/c{index}"))
        value = f"v{index}"
    nodes.append(node("GlobalAveragePool", [value], ["logits"], "/pool"))
    return tiny.build(nodes, values, output_shape=("N", 3, 1, 1), opset=opset)
