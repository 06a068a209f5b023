"""What changed in operators between opset 12 and 17: attributes became inputs, defaults changed."""

from __future__ import annotations

import onnx_ir as ir

from ..model.dims import dims_or_none
from .opset_edits import Edit, EditedNode, EditRule

_INPUTS_FOR_ATTRIBUTES = 13  # Squeeze, Unsqueeze, Split, ReduceSum
_SOFTMAX_OF_ONE_AXIS = 13
_NAMED_TRAINING_MODE = 14
_ROI_ALIGN_BY_PIXEL_CENTRE = 16


def _to_input(name: str) -> EditRule:
    def rule(node: ir.Node, opset: int) -> Edit | None:
        if opset >= _INPUTS_FOR_ATTRIBUTES or name not in node.attributes:
            return None
        return lambda edited: edited.attribute_to_input(name, 1)

    return rule


def _softmax(node: ir.Node, opset: int) -> Edit | str | None:
    """Before opset 13, all axes from the given one on (1 by default) were normalized together."""
    if opset >= _SOFTMAX_OF_ONE_AXIS:
        return None
    x = node.inputs[0]
    shape = None if x is None else x.shape
    if shape is None:
        return "has an input of unknown rank"
    rank = len(shape)
    axis = node.attributes.get_int("axis", 1) % rank
    others = [d for i, d in enumerate(shape) if i > axis]
    if all(d == 1 for d in others):
        return lambda edited: edited.set("axis", axis)
    known = dims_or_none(x) if x is not None else None
    if known is None:
        return "has an input of unknown shape"

    def edit(edited: EditedNode) -> None:
        build = edited.build
        flat = build.op("Flatten", edited.x(), axis=axis)
        result = build.op(node.op_type, flat, axis=1)
        shape_of_it = build.op("Shape", edited.x())
        edited.become("Reshape", result, shape_of_it)

    return edit


def _batch_normalization(node: ir.Node, opset: int) -> str | None:
    trains = opset < _NAMED_TRAINING_MODE and len(node.outputs) > 1
    return "is in training mode, in the form of before opset 14" if trains else None


def _roi_align(node: ir.Node, opset: int) -> Edit | None:
    if opset >= _ROI_ALIGN_BY_PIXEL_CENTRE or "coordinate_transformation_mode" in node.attributes:
        return None
    return lambda edited: edited.set("coordinate_transformation_mode", "output_half_pixel")


UPWARD: dict[str, EditRule] = {
    "BatchNormalization": _batch_normalization,
    "Hardmax": _softmax,
    "LogSoftmax": _softmax,
    "ReduceSum": _to_input("axes"),
    "RoiAlign": _roi_align,
    "Softmax": _softmax,
    "Split": _to_input("split"),
    "Squeeze": _to_input("axes"),
    "Unsqueeze": _to_input("axes"),
}
