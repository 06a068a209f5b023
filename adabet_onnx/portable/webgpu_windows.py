"""Making the attributes of convolutions and pools explicit for WebGPU, in place.

The provider of onnxruntime-web's default bundle does not accept a Conv that omits strides, dilations and pads, computes
a ConvTranspose wrongly if its pads follow from output_shape or SAME_LOWER, and does not support ceil_mode.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..errors import UsageError
from ..model.dims import dims_or_none
from .opset_edits import ints


def explicit_convolution(node: ir.Node) -> None:
    """Set kernel_shape, strides, dilations, pads and group of a Conv or ConvTranspose if they are omitted.

    An unknown kernel_shape remains omitted, as do pads beside an auto_pad that depends on the input's size: both
    providers find these themselves.

    Raises:
        UsageError: the number of axes is unknown.
    """
    kernel = ints(node, "kernel_shape") or _known(node.inputs[1])
    rank = len(kernel) if kernel is not None else _rank(node)
    if kernel is not None:
        _set(node, "kernel_shape", kernel)
    for name in ("strides", "dilations"):
        _set(node, name, ints(node, name) or [1] * rank)
    if node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        valid = node.attributes.get_string("auto_pad", "NOTSET") == "VALID"
        node.attributes.pop("auto_pad", None)
        _set(node, "pads", [0] * 2 * rank if valid else ints(node, "pads") or [0] * 2 * rank)
    node.attributes["group"] = ir.AttrInt64("group", node.attributes.get_int("group", 1))


def explicit_transposed(node: ir.Node) -> None:
    """Do the same for a ConvTranspose, including the pads that follow from its output_shape or auto_pad.

    Raises:
        UsageError: they cannot be computed.
    """
    explicit_convolution(node)
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    given = ints(node, "output_shape")
    if mode == "NOTSET" and given is None:
        return
    strides, dilations = ints(node, "strides") or [], ints(node, "dilations") or []
    rank = len(strides)
    size, kernel = _known(node.inputs[0]), ints(node, "kernel_shape")
    if size is None or kernel is None:
        raise UsageError(_unknown(node, "its pads follow from the size of its input"))
    extra = list(ints(node, "output_padding") or [0] * rank)
    out = list(given[-rank:]) if given is not None else [n * s for n, s in zip(size, strides, strict=True)]
    begins, ends = [], []
    for axis, (n, o, k, s, d) in enumerate(zip(size, out, kernel, strides, dilations, strict=True)):
        total = (n - 1) * s + (k - 1) * d + 1 + extra[axis] - o
        if total < 0:  # elements after the last window, which contain only the bias
            extra[axis], total = extra[axis] - total, 0
        less, more = total // 2, total - total // 2
        begins.append(less if mode == "SAME_UPPER" else more)
        ends.append(more if mode == "SAME_UPPER" else less)
    _set(node, "pads", [*begins, *ends])
    _set(node, "output_padding", extra)
    for name in ("auto_pad", "output_shape"):
        node.attributes.pop(name, None)


def without_ceil(node: ir.Node) -> None:
    """Give a pool with ceil_mode the pads that its last windows need, and round down instead.

    Raises:
        UsageError: its shapes are unknown, or such pads would change the result.
    """
    if not node.attributes.get_int("ceil_mode", 0):
        return
    size, out, kernel = _known(node.inputs[0]), _known(node.outputs[0]), ints(node, "kernel_shape")
    if size is None or out is None or kernel is None:
        raise UsageError(_unknown(node, "it has ceil_mode, whose pads follow from the size of its input"))
    rank = len(kernel)
    strides, dilations = ints(node, "strides") or [1] * rank, ints(node, "dilations") or [1] * rank
    pads = list(ints(node, "pads") or [0] * 2 * rank)
    counts = node.op_type == "AveragePool" and bool(node.attributes.get_int("count_include_pad", 0))
    for axis, (n, o, k, s, d) in enumerate(zip(size, out, kernel, strides, dilations, strict=True)):
        end = (o - 1) * s + (k - 1) * d + 1 - n - pads[axis]
        if end > pads[rank + axis] and (counts or end >= k or (o - 1) * s >= n + pads[axis]):
            raise UsageError(
                f"node {node.name!r} ({node.op_type}) has ceil_mode, and its last window reaches over the padding, "
                "which the profile webgpu does not have. Export the model without ceil_mode, or leave the profile out."
            )
        pads[rank + axis] = max(end, pads[rank + axis])
    _set(node, "pads", pads)
    del node.attributes["ceil_mode"]


def _unknown(node: ir.Node, why: str) -> str:
    return (
        f"node {node.name!r} ({node.op_type}) cannot be written for the profile webgpu: {why}, which is unknown. "
        "Export the model with a fixed size and explicit pads, or leave the profile out."
    )


def _set(node: ir.Node, name: str, values: Sequence[int]) -> None:
    node.attributes[name] = ir.AttrInt64s(name, list(values))


def _known(value: ir.Value | None) -> list[int] | None:
    """The spatial sizes of an image or kernel if they are numbers, else None."""
    shape = None if value is None else dims_or_none(value)
    extents = [] if shape is None else [extent for extent in shape[2:] if isinstance(extent, int)]
    return extents if shape is not None and len(extents) == len(shape) - 2 else None


def _rank(node: ir.Node) -> int:
    """The number of spatial axes of a convolution."""
    for value in (*node.inputs[:2], *node.outputs):
        if value is not None and value.shape is not None:
            return len(value.shape) - 2
    for name in ("strides", "dilations"):
        if (values := ints(node, name)) is not None:
            return len(values)
    raise UsageError(_unknown(node, "its attributes follow from the number of its axes"))
