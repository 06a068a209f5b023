"""Residual networks of any depth: a stem, blocks of two convolutions with normalisations, a classifier."""

from __future__ import annotations

import numpy as np
import onnx

from .tiny import build, node


def residual(blocks: int, *, width: int = 16, size: int = 16, classes: int = 10) -> onnx.ModelProto:
    """A network of 4 * blocks + 2 layers with random weights, for images of 3 x size x size."""
    rng = np.random.default_rng(blocks)
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def conv(value: str, name: str, channels: int) -> str:
        scale = np.sqrt(2 / (9 * channels))
        weights[f"{name}.weight"] = (scale * rng.standard_normal((width, channels, 3, 3))).astype(np.float32)
        nodes.append(node("Conv", [value, f"{name}.weight"], [name], name, pads=[1] * 4, kernel_shape=[3, 3]))
        return name

    def norm(value: str, name: str) -> str:
        names = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        for key, middle in zip(names, (0.5, 0.0, 0.0, 1.0), strict=True):
            weights[key] = (middle + 0.1 * rng.random(width)).astype(np.float32)
        nodes.append(node("BatchNormalization", [value, *names], [name], name))
        return name

    value = conv("input", "stem", 3)
    for block in range(blocks):
        name = f"blocks.{block}"
        first = norm(conv(value, f"{name}.conv1", width), f"{name}.bn1")
        nodes.append(node("Relu", [first], [f"{name}.relu1"], f"{name}.relu1"))
        second = norm(conv(f"{name}.relu1", f"{name}.conv2", width), f"{name}.bn2")
        nodes.append(node("Add", [value, second], [f"{name}.sum"], f"{name}.add"))
        nodes.append(node("Relu", [f"{name}.sum"], [name], f"{name}.relu2"))
        value = name
    weights["fc.weight"] = (0.1 * rng.standard_normal((classes, width))).astype(np.float32)
    weights["fc.bias"] = np.zeros(classes, np.float32)
    nodes.append(node("GlobalAveragePool", [value], ["pooled"], "pool"))
    nodes.append(node("Flatten", ["pooled"], ["flat"], "flatten"))
    nodes.append(node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1))
    return build(nodes, weights, input_shape=("N", 3, size, size), output_shape=("N", classes))
