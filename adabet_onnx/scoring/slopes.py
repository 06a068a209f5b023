"""Detection of BatchNormalizations that can replace the probe of the Conv before them.

A BatchNormalization y = slope * x + offset (per channel) that is the only user of a Conv's output x keeps the
information in x, so x need not be probed, which would prevent onnxruntime from fusing the two. That is exact up to
rounding in channels whose slope is well above the rounding of the offset. Trained networks also have channels where it
is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_SOUND = 1e-2  # a slope (times the deviation) must exceed this fraction of the offset


@dataclass(frozen=True)
class Pair:
    """A Conv and the BatchNormalization after it.

    Attributes:
        conv: name of the Conv's layer.
        slopes: slopes of the BatchNormalization's channels, float64 (C,).
        sound: for each channel, whether the Conv's output can be computed from the BatchNormalization's, bool (C,).
    """

    conv: str
    slopes: np.ndarray
    sound: np.ndarray


def pairs(activations: Mapping[str, ir.Value]) -> dict[str, Pair]:
    """Find layers that are a BatchNormalization after a Conv that is also a layer and has no other user.

    Args:
        activations: the activation of each layer.
    """
    layer_of = {value: name for name, value in activations.items()}
    conv_pairs: dict[str, Pair] = {}
    for name, value in activations.items():
        slopes = _slopes(value)
        node = value.producer()
        if slopes is not None and node is not None and node.inputs[0] in layer_of:
            conv_pairs[name] = Pair(layer_of[node.inputs[0]], *slopes)
    return conv_pairs


def _slopes(value: ir.Value) -> tuple[np.ndarray, np.ndarray] | None:
    """Return each channel's slope, and whether it is sound, if a BatchNormalization after a Conv computes ``value``."""
    node = value.producer()
    if node is None or node.op_type != "BatchNormalization" or _trains(node):
        return None
    x = node.inputs[0]
    conv = x.producer() if x is not None else None
    if x is None or conv is None or conv.op_type != "Conv" or x.is_graph_output() or len(x.uses()) != 1:
        return None
    tensors = [None if given is None else ir.convenience.get_const_tensor(given) for given in node.inputs[1:5]]
    arrays = [tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None]
    if len(arrays) < 4:
        return None
    scale, bias, mean, var = arrays
    deviation = np.sqrt(np.maximum(var, 0))
    slopes = scale / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
    sound = (np.abs(slopes) * deviation > _SOUND * np.abs(bias)) & (deviation > _SOUND * np.abs(mean))
    return slopes, sound & (np.abs(slopes) > 1e-12)


def _trains(node: ir.Node) -> bool:
    """Whether a BatchNormalization uses the batch's own statistics."""
    mode: int = node.attributes.get_int("training_mode", 0)
    return mode == 1
