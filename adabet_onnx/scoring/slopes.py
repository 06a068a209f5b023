"""Where a BatchNormalization stands for the Conv before it.

A BatchNormalization y = slope * x + offset (per channel) that is the only user of a Conv's output x keeps all that x
holds, so x need not be probed, which would keep onnxruntime from merging the two. That is exact up to rounding unless y
has lost what x had: each slope must be well above the rounding of its offset.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

_SOUND = 1e-2  # a slope (times the deviation) must exceed this share of the offset


def pairs(activations: Mapping[str, ir.Value]) -> dict[str, tuple[str, np.ndarray]]:
    """For the layer of each BatchNormalization that may stand for its Conv, the layer of that Conv, and slopes.

    Args:
        activations: of each layer.
    """
    layer_of = {value: name for name, value in activations.items()}
    found: dict[str, tuple[str, np.ndarray]] = {}
    for name, value in activations.items():
        slopes = _slopes(value)
        node = value.producer()
        if slopes is not None and node is not None and node.inputs[0] in layer_of:
            found[name] = (layer_of[node.inputs[0]], slopes)
    return found


def _slopes(value: ir.Value) -> np.ndarray | None:
    """Slope per channel if a BatchNormalization makes ``value`` and its input follows from it, else None."""
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
    return slopes if bool(np.all(sound & (np.abs(slopes) > 1e-12))) else None


def _trains(node: ir.Node) -> bool:
    """Whether a BatchNormalization uses the batch's own statistics."""
    mode: int = node.attributes.get_int("training_mode", 0)
    return mode == 1
