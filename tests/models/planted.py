"""Networks for planting wrong gradients: branches, square weights, shared and broadcast vectors."""

from __future__ import annotations

import numpy as np
import onnx
from models import tiny
from models.tiny import node


def residual(seed: int = 0, width: int = 6, blocks: int = 1) -> onnx.ModelProto:
    """Residual blocks of two convolutions with a gate, on (N, 3, 6, 6) images: every block sums two paths."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    values = {"stem.weight": normal(width, 3, 3, 3), "stem.bias": normal(width)}
    nodes = [node("Conv", ["input", "stem.weight", "stem.bias"], ["x0"], "/stem", pads=[1] * 4)]
    for i in range(blocks):
        for j in (1, 2):
            values |= {f"b{i}.c{j}.weight": normal(width, width, 3, 3, scale=0.15), f"b{i}.c{j}.bias": normal(width)}
        values[f"b{i}.gate.weight"] = normal(width, width)
        nodes += [
            node("Conv", [f"x{i}", f"b{i}.c1.weight", f"b{i}.c1.bias"], [f"a{i}"], f"/b{i}/c1", pads=[1] * 4),
            node("Relu", [f"a{i}"], [f"r{i}"], f"/b{i}/relu"),
            node("Conv", [f"r{i}", f"b{i}.c2.weight", f"b{i}.c2.bias"], [f"c{i}"], f"/b{i}/c2", pads=[1] * 4),
            node("GlobalAveragePool", [f"c{i}"], [f"p{i}"], f"/b{i}/pool"),
            node("Flatten", [f"p{i}"], [f"f{i}"], f"/b{i}/flat"),
            node("Gemm", [f"f{i}", f"b{i}.gate.weight"], [f"g{i}"], f"/b{i}/gate"),
            node("Sigmoid", [f"g{i}"], [f"s{i}"], f"/b{i}/sigmoid"),
            node("Reshape", [f"s{i}", "four"], [f"t{i}"], f"/b{i}/four"),
            node("Mul", [f"c{i}", f"t{i}"], [f"m{i}"], f"/b{i}/mul"),
            node("Add", [f"x{i}", f"m{i}"], [f"x{i + 1}"], f"/b{i}/add"),
        ]
    values |= {"four": np.array([0, width, 1, 1]), "fc.weight": normal(width, 5, scale=0.6), "fc.bias": normal(5)}
    nodes += [
        node("GlobalAveragePool", [f"x{blocks}"], ["pooled"], "/pool"),
        node("Flatten", ["pooled"], ["flat"], "/flat"),
        node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    return tiny.build(nodes, values, input_shape=("N", 3, 6, 6), output_shape=("N", 5))


NETWORKS = {
    "residual": residual,
    "conv_net": lambda seed: tiny.conv_net(seed=seed),
    "mlp": lambda seed: tiny.mlp(seed=seed),
    "attention": lambda seed: tiny.attention("four axes"),
    "recurrent": lambda seed: tiny.recurrent(steps=3),
}
