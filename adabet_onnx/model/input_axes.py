"""Find the axis of an input that holds its channels, from the nodes that read it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization"})
_CHANNELS_LAST = frozenset({"MatMul", "Gemm", "LSTM", "GRU", "RNN", "LayerNormalization"})
_AXES_STAY = frozenset(
    {"Identity", "Cast", "Dropout", "Relu", "Clip", "Pad", "QuantizeLinear", "DequantizeLinear"}
    | {"Add", "Sub", "Mul", "Div", "BatchNormalization", "InstanceNormalization", "LayerNormalization"}
)


def channel_axis(graph: ir.Model, name: str) -> int | None:
    """The axis of an input that holds channels (features), counted with the batch; None if it cannot be determined.

    It is axis 1 of what a convolution or a BatchNormalization or InstanceNormalization reads, and the last axis of what
    a MatMul, Gemm, recurrent layer or LayerNormalization reads as its data. Elementwise arithmetic and Transpose are
    followed. The axis is undetermined if the input reaches none of these (because it is flattened or averaged first,
    for example) or if readers disagree.

    Args:
        graph: the graph.
        name: name of one of its inputs.
    """
    for value in graph.graph.inputs:
        if value.name == name and value.shape is not None and len(value.shape) > 1:
            axes = set(_read_as_channels(value, tuple(range(len(value.shape))), set()))
            return axes.pop() if len(axes) == 1 else None
    return None


def _read_as_channels(value: ir.Value, axes: tuple[int, ...], seen: set[tuple[int, tuple[int, ...]]]) -> Iterator[int]:
    """Axes of the input that readers of a value treat as channels; ``axes`` maps the value's axes to the input's."""
    if (id(value), axes) in seen:
        return
    seen.add((id(value), axes))
    for use in value.uses():
        node, index = use.node, use.idx
        if node.op_type in _CHANNELS_FIRST and index == 0:
            yield axes[1]
        elif node.op_type in _CHANNELS_LAST and index == 0:
            yield axes[-1]
        elif node.op_type == "Transpose":
            attribute = node.attributes.get("perm")
            order = tuple(reversed(range(len(axes)))) if attribute is None else tuple(attribute.as_ints())
            yield from _read_as_channels(node.outputs[0], tuple(axes[i] for i in order), seen)
        elif node.op_type in _AXES_STAY and _same_rank(node.outputs[0], len(axes)):
            yield from _read_as_channels(node.outputs[0], axes, seen)


def _same_rank(value: ir.Value, rank: int) -> bool:
    return value.shape is None or len(value.shape) == rank
