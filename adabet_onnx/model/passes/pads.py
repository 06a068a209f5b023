"""Replace auto_pad by explicit pads: onnxruntime-training's gradient of Conv ignores auto_pad and is wrong.

Also merge a Pad with zeros into the Conv after it. ONNX Runtime does that itself in a forward pass, but not if the
backward pass reads the padded image too.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...errors import ModelError
from ..uses import input_of

_OPERATORS = frozenset({"Conv", "MaxPool", "AveragePool"})


class ExplicitPads(ir.passes.InPlacePass):
    """Replace auto_pad of Conv, MaxPool and AveragePool by the corresponding pads.

    Args:
        shapes: static shapes of values; the spatial extents of an input are needed if auto_pad is SAME_*.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        modified = False
        for node in model.graph:
            mode = node.attributes.get_string("auto_pad", "NOTSET")
            if node.op_type not in _OPERATORS or mode == "NOTSET":
                continue
            if mode != "VALID":
                node.attributes["pads"] = ir.AttrInt64s("pads", self._same(node, upper=mode == "SAME_UPPER"))
                node.attributes.pop("ceil_mode", None)  # SAME_* already rounds up, to exactly these pads
            else:
                node.attributes.pop("pads", None)
            del node.attributes["auto_pad"]
            modified = True
        return ir.passes.PassResult(model, modified)

    def _same(self, node: ir.Node, *, upper: bool) -> list[int]:
        x = node.inputs[0]
        assert x is not None
        shape = self._shapes.get(x.name or "")
        if shape is None:
            raise ModelError(
                f"node {node.name!r} has auto_pad, and the shape of its input {x.name!r} is unknown, so its pads "
                "cannot be computed. Export the model with explicit pads or with static height and width."
            )
        extents = shape[2:]
        kernel = node.attributes.get_ints("kernel_shape", []) or self._kernel(node)
        strides = node.attributes.get_ints("strides", [1] * len(extents))
        dilations = node.attributes.get_ints("dilations", [1] * len(extents))
        if node.op_type != "Conv" and any(d > 1 < k for k, d in zip(kernel, dilations, strict=True)):
            raise ModelError(
                f"node {node.name!r} is a dilated {node.op_type} with auto_pad, which onnxruntime pads as if it were "
                "not dilated. Export the model with explicit pads."
            )
        begins, ends = [], []
        for extent, size, stride, dilation in zip(extents, kernel, strides, dilations, strict=True):
            outputs = -(-extent // stride)
            total = (outputs - 1) * stride + (size - 1) * dilation + 1 - extent
            if total < -1:
                raise ModelError(
                    f"node {node.name!r} ({node.op_type}) has auto_pad and strides {list(strides)} much larger than "
                    f"its kernel {list(kernel)}; onnxruntime then places the windows in a nonstandard way. Export the "
                    "model with explicit pads."
                )
            total = max(0, total)
            small, large = total // 2, total - total // 2
            begins.append(small if upper else large)
            ends.append(large if upper else small)
        return [*begins, *ends]

    def _kernel(self, node: ir.Node) -> list[int]:
        weight = node.inputs[1]
        assert weight is not None
        return list(self._shapes[weight.name or ""][2:])


class MergePads(ir.passes.InPlacePass):
    """Let every Conv after a Pad that puts zeros around the image read the Pad's input, with the pads in the Conv."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place; a Pad that nothing reads any more is not removed."""
        modified = False
        for node in model.graph:
            pads = _zeros_around(node) if node.op_type == "Pad" and not node.domain else None
            if pads is None:
                continue
            for conv, place in list(node.outputs[0].uses()):
                modified |= place == 0 and _merge(conv, node, pads)
        return ir.passes.PassResult(model, modified)


def _merge(conv: ir.Node, pad: ir.Node, pads: Sequence[int]) -> bool:
    """Merge the pads of a node's input into it, if it is a Conv with explicit pads."""
    if conv.op_type != "Conv" or conv.domain or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    own = conv.attributes.get_ints("pads", [0] * len(pads))
    conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
    conv.replace_input_with(0, pad.inputs[0])
    return True


def _zeros_around(node: ir.Node) -> list[int] | None:
    """The number of zeros a Pad puts before and after each spatial axis; None if it does anything else."""
    pads_input, value = input_of(node, 1), input_of(node, 2)
    if node.attributes.get_string("mode", "constant") != "constant" or input_of(node, 3) is not None:
        return None
    if value is not None and (value.const_value is None or value.const_value.numpy().any()):
        return None
    if pads_input is None:  # before opset 11
        pads = list(node.attributes.get_ints("pads", []))
        if node.attributes.get_float("value", 0.0) != 0:
            return None
    elif pads_input.const_value is None:
        return None
    else:
        pads = pads_input.const_value.numpy().reshape(-1).tolist()
    rank = len(pads) // 2
    begins, ends = pads[:rank], pads[rank:]
    if rank < 3 or any((*begins[:2], *ends[:2])) or min(pads) < 0:
        return None
    return [*begins[2:], *ends[2:]]
