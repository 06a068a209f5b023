"""The head, and the ConvTranspose layers after it that only upsample its outputs, as in segmentation networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .layers import HEAD_OPERATORS, Layer

_AS_IT_IS = frozenset({"Identity", "Dropout", "Slice", "Pad"})


def head_of(layers: Sequence[Layer], graph: ir.Graph) -> Layer | None:
    """The last layer that produces the outputs: a Gemm, MatMul, Conv or ConvTranspose with parameters.

    A ConvTranspose that only upsamples another layer's outputs is skipped, see `head_and_upsampling`.
    """
    return head_and_upsampling(layers, graph)[0]


def head_and_upsampling(layers: Sequence[Layer], graph: ir.Graph) -> tuple[Layer | None, tuple[Layer, ...]]:
    """The head and the ConvTranspose layers after it that upsample its outputs, the last first.

    A ConvTranspose counts as upsampling if it has as many output channels as input channels and reads another such
    layer's activation, possibly cropped or padded: with no nonlinearity between them it computes no new classes.
    """
    candidates = [layer for layer in layers if layer.op_type in HEAD_OPERATORS]
    if not candidates:
        return None, ()
    by_activation = {layer.activation: layer for layer in candidates}
    head, upsampling = candidates[-1], []
    while head.op_type == "ConvTranspose" and head.applied == 1:
        node = next(node for node in graph if node.name == head.node)
        before = by_activation.get(_source(node).name or "")
        if before is None or before is head or not is_upsampling(node, head):
            break
        upsampling.append(head)
        head = before
    return head, tuple(upsampling)


def _source(node: ir.Node) -> ir.Value:
    """The value that a node reads, before cropping and padding."""
    value = node.inputs[0]
    assert value is not None
    while (
        (producer := value.producer()) is not None and producer.op_type in _AS_IT_IS and producer.inputs[0] is not None
    ):
        value = producer.inputs[0]
    return value


def is_upsampling(node: ir.Node, layer: Layer) -> bool:
    """Whether a ConvTranspose has as many output channels as input channels, dense or depthwise."""
    shape, groups = layer.parameters[0].shape, node.attributes.get_int("group", 1)
    channels = shape[0]
    return layer.parameters[0].position == 1 and shape[1] * groups == channels and groups in (1, channels)


def upsampling_weight(node: ir.Node, old: np.ndarray, classes: int) -> np.ndarray:
    """The weight of an upsampling ConvTranspose for a new number of channels.

    Every channel is upsampled separately with the same kernel: that of the old weight if it worked this way, else
    linear interpolation.

    Args:
        node: the ConvTranspose; a depthwise one gets as many groups as there are classes.
        old: its weight, float32 (channels, channels / groups, ...).
        classes: the new number of channels.

    Returns:
        float32 (classes, classes / groups, ...).
    """
    kernel = _common_kernel(old)
    if kernel is None:
        kernel = _interpolation(old.shape[2:], node.attributes.get_ints("strides", [1] * (old.ndim - 2)))
    if old.shape[1] == 1:
        node.attributes["group"] = ir.AttrInt64("group", classes)
        return np.repeat(kernel[np.newaxis, np.newaxis], classes, axis=0)
    weight = np.zeros((classes, classes, *kernel.shape), np.float32)
    weight[np.arange(classes), np.arange(classes)] = kernel
    return weight


def _common_kernel(old: np.ndarray) -> np.ndarray | None:
    """The kernel common to all channels; None if the kernels differ or channels are mixed."""
    if old.shape[1] == 1:
        own, mixed = old[:, 0], False
    else:
        channels = np.arange(len(old))
        own, off_diagonal = old[channels, channels], old.copy()
        off_diagonal[channels, channels] = 0
        mixed = bool(off_diagonal.any())
    common = not mixed and bool((own == own[:1]).all())
    return np.array(own[0], np.float32) if common else None


def _interpolation(size: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """Kernel of linear interpolation, scaled so that constants are preserved."""
    kernel = np.ones((1,) * len(size))
    for axis, (extent, stride) in enumerate(zip(size, strides, strict=True)):
        factor = (extent + 1) // 2
        middle = factor - 1 if extent % 2 else factor - 0.5
        line = 1 - np.abs(np.arange(extent) - middle) / factor
        line *= stride / line.sum()
        kernel = kernel * line.reshape([-1 if i == axis else 1 for i in range(len(size))])
    assert math.prod(size) == kernel.size
    return kernel.astype(np.float32)
